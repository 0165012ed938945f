"""The command line, and the demo from the files to the picture."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import gpuload

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("statsmodels")
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


def said_by_main(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the program in this process, which has imported what takes longest."""
    from gpuload.cli import main

    monkeypatch.setattr(sys, "argv", ["gpuload", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, *capfd.readouterr()


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
    assert re.search(r"decoder\W+(dali|pillow)\b", said)
    assert re.search(r"engine\W+(numba|numpy)\b", said)
    assert re.search(r"waiting for data\W+[\d.]+% of training time", said)
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
    from gpuload.demo.images import Result, run
    from gpuload.demo.training import Moment

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
    training = result.training
    assert (training.loader.device, training.loader.engine, training.samples) == ("cpu", "numpy", 1437)
    assert 0 < training.waiting < 1
    assert training.start_up > 0
    assert training.samples_per_second > 0
    assert (result.files, result.picture) == (out / "digits", out / "augmented.png")


def test_an_interrupted_run_leaves_no_folder_that_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpuload.demo.images import write_digits

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


@pytest.mark.parametrize(("making", "using"), [(0.05, 0.0), (0.0, 0.05)])
def test_waiting_is_told_from_working(making: float, using: float) -> None:
    import torch

    from gpuload.demo.training import fit

    class Slow:
        """A loader of two batches of 3, which takes its time for each."""

        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Iterator[tuple[torch.Tensor]]:
            for _ in range(2):
                time.sleep(making)
                yield (torch.ones(3, 1),)

    network = torch.nn.Linear(1, 1)

    def loss(inputs: torch.Tensor) -> torch.Tensor:
        time.sleep(using)
        return network(inputs).sum()

    training = fit(network, Slow(), epochs=2, rate=0.1, loss=loss)  # type: ignore[arg-type]
    assert training.samples == 12
    assert making <= training.start_up
    assert (training.waiting > 0.5) == (making > using)
    # Three waits after the first batch, or four uses.
    assert 0 < training.samples_per_second < 12 / (3 * making + 4 * using)


@pytest.fixture(scope="module")
def forecast(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One whole run of the demo of series, and its folder. It needs nothing that only the other demo needs."""
    out = tmp_path_factory.mktemp("series") / "not" / "there" / "yet"
    ended = gpuload_command("demo", "--series", "--out", str(out), "--device", "cpu", first=without("sklearn"))
    return ended, out


def naive_errors(values: pd.Series, *, season: int, held_out: int) -> tuple[int, float, float]:
    """How many forecasts of a season lie in the last `held_out` values, and what the naive ones err on average.

    Of the last value and of the season before, by pandas, step by step.
    """
    last, season_before = [], []
    filled = values.ffill()
    firsts = range(len(values) - held_out, len(values) - season + 1)
    for first in firsts:
        truth = values.iloc[first : first + season]
        last.append((truth - filled.iloc[first - 1]).abs())
        season_before.append((truth - filled.shift(season).iloc[first : first + season]).abs())
    return len(firsts), pd.concat(last).mean(), pd.concat(season_before).mean()


def weekly_co2() -> pd.Series:
    from statsmodels.datasets import co2

    return co2.load_pandas().data["co2"]


def yearly_sunspots() -> pd.Series:
    from statsmodels.datasets import sunspots

    return sunspots.load_pandas().data["SUNACTIVITY"]


def test_forecasts_beat_the_naive_ones_whose_errors_pandas_confirms(
    forecast: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    ended, _ = forecast
    assert ended.returncode == 0, ended.stderr

    def figures(title: str) -> list[float]:
        line = re.search(rf"{title} +│ ([\d.,]+)[^│]*│ ([\d.,]+)[^│]*│$", ended.stdout, re.MULTILINE)
        assert line, ended.stdout
        return [float(found.replace(",", "")) for found in line.groups()]

    co2, sunspots = (
        naive_errors(weekly_co2(), season=52, held_out=468),
        naive_errors(yearly_sunspots(), season=11, held_out=66),
    )
    # Windows of the training, by hand: the length of what they show and of their targets fits that often.
    assert figures("trained on") == [2284 - 468 - (104 + 52) + 1, 309 - 66 - (22 + 11) + 1]
    assert figures("tested on") == [co2[0], sunspots[0]]
    assert figures("of the last value") == [round(co2[1], 2), round(sunspots[1], 1)]
    assert figures("of a season before") == [round(co2[2], 2), round(sunspots[2], 1)]
    errors = figures("mean absolute error")
    # It was 0.5 against 1.7 ppm, and 24 against 29: room for another PyTorch, whose random numbers are others.
    assert errors[0] < co2[2] / 2
    assert errors[1] < sunspots[2]


def test_demo_of_series_prints_plain_lines(forecast: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    ended, out = forecast
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said)
    epochs = re.findall(r"^(.+): epoch (\d+)/15   loss [\d.]+   [\d,]+ windows/s$", said, re.MULTILINE)
    assert epochs == [(name, str(number)) for name in ("CO2", "sunspot number") for number in range(1, 16)]
    assert re.search(r"device +│ cpu +│ cpu +│", said)
    assert re.search(r"engine +│ numpy +│ numpy +│", said)
    assert len(re.findall(r"[\d.]+% of training time", said)) == 2
    assert f"Picture  {out / 'forecast.png'}\n" in said
    assert [path.name for path in out.iterdir()] == ["forecast.png"]


def test_demo_of_series_draws_a_picture(forecast: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    with Image.open(forecast[1] / "forecast.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (1000, 780))
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    for colour in ((0xE8, 0x59, 0x0C), (0x1C, 0x7E, 0xD6)):  # The network's forecasts, and those of a season before.
        rows = np.flatnonzero((abs(pixels - colour).max(axis=2) < 40).sum(axis=1) > 2)
        assert rows.min() < 390 < rows.max()  # In both halves.


def test_forecasts_are_in_the_unit_of_the_series_and_stand_where_they_say() -> None:
    from gpuload.demo.records import records
    from gpuload.demo.series import learn

    for record, values in zip(records(), (weekly_co2(), yearly_sunspots()), strict=True):
        found = learn(record, epochs=1, batch_size=100, device="cpu", engine="numpy", seed=0)
        first = len(values) - record.held_out
        np.testing.assert_array_equal(found.rows, range(first, len(values) - record.horizon + 1))
        np.testing.assert_array_equal(found.truth[0], values[first : first + record.horizon])
        filled = values.ffill().to_numpy()
        before = filled[first - record.season : first - record.season + record.horizon]
        # float32 windows, about means of up to 400.
        np.testing.assert_allclose(found.season_before[0], before, rtol=0, atol=1e-3)
        np.testing.assert_allclose(found.last_value[0], filled[first - 1], rtol=0, atol=1e-3)
        error = found.error("network")
        assert error == pytest.approx(np.nanmean(abs(found.network - found.truth)))
        assert error < found.error("last_value")
        assert str(record.times[0]) == ("1958-03-29" if record.unit else "1700-01-01")


def test_training_does_not_see_what_is_held_out_and_repeats_itself() -> None:
    from gpuload.demo.records import records
    from gpuload.demo.series import learn
    from gpuload.demo.training import Moment

    for record in records():
        values = record.values.copy()
        values[-record.held_out :] = 1e6
        losses = []
        for known in (record, record, replace(record, values=values)):
            moments: list[Moment] = []
            learn(known, epochs=2, batch_size=64, device="cpu", engine="numpy", seed=3, watch=moments.append)
            losses.append([moment.loss for moment in moments])
        assert losses[0] == losses[1] == losses[2]
        assert np.isfinite(losses[0]).all()
        assert losses[0][-1] < losses[0][0]


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    ended = gpuload_command("demo", "--out", str(tmp_path), "--device", "cuda", CUDA_VISIBLE_DEVICES="")
    message = (
        "device='cuda' needs NVIDIA GPU number 0, but the driver shows none: "
        "pass device='cpu', or device='auto' to take what is there"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"gpuload: {message}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "epochs must be an integer of at least 1, not 0"),
        (["--series", "--epochs", "0"], "epochs must be an integer of at least 1, not 0"),
        (
            ["--series", "--engine", "dali"],
            "engine must be one of auto, cupy, numpy for windows, not 'dali': DALI decodes images, a Series needs no "
            "decoder; leave engine out",
        ),
    ],
)
def test_other_mistakes(
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    said = said_by_main(monkeypatch, capfd, "demo", "--out", str(tmp_path), *arguments)
    assert said == (1, "", f"gpuload: {message}\n")


def missing(name: str) -> str:
    return f"gpuload: this needs {name}, which is not installed: pip install 'gpuload[demo]'\n"


@pytest.mark.parametrize("module", ["typer", "torch"])
def test_a_missing_package_is_named_with_what_to_install(tmp_path: Path, module: str) -> None:
    """Before anything that takes long is imported."""
    ended = gpuload_command("demo", "--out", str(tmp_path), first=without(module))
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", missing(module))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("rich", "rich", []),
        ("sklearn", "scikit-learn", []),
        ("matplotlib", "matplotlib", []),
        ("statsmodels", "statsmodels", ["--series"]),
    ],
)
def test_other_missing_packages(
    tmp_path: Path,
    module: str,
    name: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # Neither what belongs to the package nor the demo, which imports it, may be there from before.
    for there in [*sys.modules]:
        if there.startswith((f"{module}.", "gpuload.demo")):
            monkeypatch.delitem(sys.modules, there)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delattr(gpuload, "demo", raising=False)
    said = said_by_main(monkeypatch, capfd, "demo", "--out", str(tmp_path), *arguments)
    assert said == (1, "", missing(name))
    assert list(tmp_path.iterdir()) == []


def test_a_message_of_several_lines_becomes_one() -> None:
    from gpuload.cli import one_line

    error = gpuload.SampleError([gpuload.BadSample(7, "a.jpg", "broken\nin two lines")], batch_size=2)
    assert one_line(error).startswith("cannot read 'a.jpg' (sample 7): broken in two lines. ")
    assert one_line(RuntimeError()) == "RuntimeError"


@pytest.mark.parametrize("module", ["gpuload", "gpuload.cli"])
def test_python_runs_the_package(module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"gpuload {gpuload.__version__}\n", "")


def test_the_command_line_imports_no_package_before_a_command_needs_it() -> None:
    heavy = {"torch", "matplotlib", "statsmodels", "sklearn"}
    first = f"import atexit, sys\natexit.register(lambda: print(*({heavy} & {{*sys.modules}})))"
    shown = gpuload_command("--version", first=first)
    assert shown.stdout == f"gpuload {gpuload.__version__}\n\n", shown.stderr


def test_version_and_help() -> None:
    version = gpuload_command("--version")
    assert (version.returncode, version.stdout, version.stderr) == (0, f"gpuload {gpuload.__version__}\n", "")
    help_text = gpuload_command("demo", "--help")
    assert help_text.returncode == 0
    for option in ("--out", "--series", "--epochs", "--batch-size", "--device", "--engine", "--seed"):
        assert option in help_text.stdout
    assert "demo" in gpuload_command().stdout + gpuload_command().stderr
