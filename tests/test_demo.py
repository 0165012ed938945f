"""The command line, and the demo from the files to the picture."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gpuload

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("typer")

ROOT = Path(gpuload.__file__).parents[1]
COLOUR = ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "GITHUB_ACTIONS", "PY_COLORS")


def gpuload_command(*arguments: str, first: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a shell without a terminal would, after the Python statements `first`."""
    inherited = {key: value for key, value in os.environ.items() if key not in (*COLOUR, "GPULOAD_DEVICE")}
    path = os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", f"{first}\nfrom gpuload.cli import main\nmain()", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        env=inherited | {"PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"} | environment,
    )


def without(module: str) -> str:
    """Python statements after which importing the module fails as it does where it is not installed."""
    return f"import sys; sys.modules[{module!r}] = None"


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpg")}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "not" / "there" / "yet"


@pytest.fixture(scope="module")
def finished(out: Path) -> subprocess.CompletedProcess[str]:
    """One whole run of the demo."""
    return gpuload_command("demo", "--out", str(out), "--device", "cpu")


def test_demo_learns(finished: subprocess.CompletedProcess[str]) -> None:
    assert finished.returncode == 0, finished.stderr
    found = re.search(r"accuracy\W+([\d.]+)% of 360 held-out images", finished.stdout)
    assert found, finished.stdout
    assert float(found[1]) > 95


def test_demo_output_is_plain_where_there_is_no_terminal(finished: subprocess.CompletedProcess[str], out: Path) -> None:
    said = finished.stdout + finished.stderr
    assert "Traceback" not in said
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said)
    assert re.findall(r"^epoch (\d)/8   loss [\d.]+   [\d,]+ images/s$", said, re.MULTILINE) == list("12345678")
    assert re.search(r"device\W+cpu\b", said)
    assert re.search(r"engine\W+(dali|numpy)\b", said)
    assert re.search(r"waiting for data\W+[\d.]+% of the training time", said)
    assert str(out / "augmented.png") in said


@pytest.mark.usefixtures("finished")
def test_demo_writes_the_digits_by_part_and_class(out: Path) -> None:
    files = [path.relative_to(out / "digits").parts for path in times(out)]
    assert [len([parts for parts in files if parts[0] == part]) for part in ("train", "test")] == [1437, 360]
    # Stratified: the data set has 174 to 183 images of each digit, a fifth of them is for the test.
    counts = [len([parts for parts in files if parts[:2] == ("test", str(digit))]) for digit in range(10)]
    assert all(34 <= count <= 38 for count in counts)
    assert len({parts[2] for parts in files}) == 1797
    with Image.open(out / "digits" / Path(*files[0])) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "L", (32, 32))
    assert sorted(path.name for path in out.iterdir()) == ["augmented.png", "digits"]


@pytest.mark.usefixtures("finished")
def test_demo_draws_a_picture(out: Path) -> None:
    with Image.open(out / "augmented.png") as picture:
        assert picture.format == "PNG"
        assert all(800 <= side <= 2000 for side in picture.size)
        levels = np.asarray(picture.convert("L"))
    assert np.mean(levels < 50) > 0.1
    assert np.mean(levels > 250) > 0.1


@pytest.mark.usefixtures("finished")
def test_further_runs_reuse_the_files_and_repeat_themselves(out: Path) -> None:
    from gpuload.demo import Moment, Result, run

    def again(moments: list[Moment]) -> Result:
        return run(out, epochs=1, batch_size=100, device="cpu", engine="numpy", seed=3, watch=moments.append)

    before = times(out)
    first: list[Moment] = []
    second: list[Moment] = []
    result = again(first)
    assert again(second).accuracy == result.accuracy
    assert [moment.loss for moment in first] == [moment.loss for moment in second]
    assert times(out) == before
    assert [(moment.epoch, moment.batch, moment.batches) for moment in first] == [(1, n, 15) for n in range(1, 16)]
    assert first[-1].loss < first[0].loss
    assert (result.device, result.engine, result.held_out) == ("cpu", "numpy", 360)
    assert 0 < result.waiting < 1
    assert result.start_up > 0
    assert result.images_per_second > 0
    assert (result.files, result.picture) == (out / "digits", out / "augmented.png")


def test_an_interrupted_run_leaves_no_folder_that_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpuload.demo import write_digits

    save = Image.Image.save
    saved: list[Path] = []

    def interrupted(image: Image.Image, path: Path, **options: Any) -> None:
        if len(saved) == 1000:
            raise KeyboardInterrupt
        saved.append(path)
        save(image, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_digits(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(times(write_digits(tmp_path))) == 1797


def test_the_clock_tells_waiting_from_working() -> None:
    from gpuload.demo import Clock

    source = gpuload.ImageArray(np.zeros((10, 4, 4, 1), np.uint8), labels=np.arange(10))
    augment = gpuload.Augment(color="grayscale")
    with gpuload.Loader(source, augment, batch_size=4, device="cpu", engine="numpy") as loader:
        clock = Clock()
        for _ in range(2):
            assert [len(images) for images, _ in clock.batches(loader)] == [4, 4, 2]
    assert clock.images == 20
    assert clock.start_up > 0
    assert 0 < clock.waited < clock.seconds


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (
            ["--device", "cuda"],
            {"CUDA_VISIBLE_DEVICES": ""},
            "device='cuda' needs NVIDIA GPU number 0, but the driver shows none: "
            "pass device='cpu', or device='auto' to take what is there",
        ),
        (["--epochs", "0"], {}, "epochs must be an integer of at least 1, not 0"),
    ],
)
@pytest.mark.usefixtures("finished")
def test_a_mistake_is_one_line(out: Path, arguments: list[str], environment: dict[str, str], message: str) -> None:
    ended = gpuload_command("demo", "--out", str(out), *arguments, **environment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"gpuload: {message}\n")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("typer", "typer"),
        ("rich", "rich"),
        ("torch", "torch"),
        ("sklearn", "scikit-learn"),
        ("matplotlib", "matplotlib"),
    ],
)
def test_a_missing_package_is_named_with_what_to_install(tmp_path: Path, module: str, name: str) -> None:
    ended = gpuload_command("demo", "--out", str(tmp_path), first=without(module))
    message = f"gpuload: this needs {name}, which is not installed: pip install 'gpuload[demo]'\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", message)
    assert list(tmp_path.iterdir()) == []


def test_a_message_of_several_lines_becomes_one() -> None:
    from gpuload.cli import one_line

    error = gpuload.SampleError([gpuload.BadSample(7, "a.jpg", "broken\nin two lines")], batch_size=2)
    assert one_line(error).startswith("cannot read 'a.jpg' (sample 7): broken in two lines. ")
    assert one_line(RuntimeError()) == "RuntimeError"


def test_version_and_help() -> None:
    version = gpuload_command("--version")
    assert (version.returncode, version.stdout, version.stderr) == (0, f"gpuload {gpuload.__version__}\n", "")
    help_text = gpuload_command("demo", "--help")
    assert help_text.returncode == 0
    for option in ("--out", "--epochs", "--batch-size", "--device", "--engine", "--seed"):
        assert option in help_text.stdout
    assert "demo" in gpuload_command().stdout + gpuload_command().stderr
