"""Each benchmark runs, tiny, through its own door. How fast anything is, is not a test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

for package in ("matplotlib", "psutil", "rich", "skimage", "sklearn"):
    pytest.importorskip(package)

from PIL import Image  # noqa: E402

from benchmarks import (  # noqa: E402
    charts,
    contenders,
    deep,
    growth,
    images,
    jobs,
    photos,
    program,
    recipes,
    report,
    scale,
    variants,
    warm,
    window_contenders,
    windows,
)
from benchmarks.gpu import __main__ as gpu_program  # noqa: E402
from benchmarks.gpu import stages as gpu_stages  # noqa: E402
from benchmarks.gpu import tables as gpu_tables  # noqa: E402
from gpuload.core.available import dali_installed  # noqa: E402

ROOT = Path(__file__).parent.parent
needs_dali = pytest.mark.skipif(not dali_installed(), reason="NVIDIA DALI is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.photos(40, cache=tmp_path_factory.mktemp("cache"))


def run(module: str, *arguments: object) -> str:
    """Output of a program that runs as its users run it."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_photos_have_the_promised_shape_and_are_written_once(folder: Path) -> None:
    files = sorted(folder.rglob("*.jpg"))
    assert len(files) == 40
    assert len({file.parent for file in files}) == 8
    sizes = set()
    for file in files:
        with Image.open(file) as image:
            assert image.mode == "RGB"
            sizes.add(image.size)
    assert sizes == {(500, 375), (375, 500)}
    stamps = [file.stat().st_mtime_ns for file in files]
    assert photos.photos(40, cache=folder.parent) == folder
    assert [file.stat().st_mtime_ns for file in files] == stamps


def test_photos_depend_on_the_seed_alone(tmp_path: Path) -> None:
    def contents(folder: Path) -> list[bytes]:
        return [file.read_bytes() for file in sorted(folder.rglob("*.jpg"))]

    first, again = (contents(photos.photos(3, seed=5, cache=tmp_path / name)) for name in ("a", "b"))
    assert first == again
    assert first != contents(photos.photos(3, seed=6, cache=tmp_path / "a"))


def test_photos_that_were_interrupted_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(photos, "crop", interrupted)
        with pytest.raises(KeyboardInterrupt):
            photos.photos(2, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(list(photos.photos(2, cache=tmp_path).rglob("*.jpg"))) == 2


@pytest.mark.slow
@needs_dali
def test_images_has_a_row_for_each_contender(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "images-test.json"
    options = ("--rounds", 1, "--seconds", 0.01, "--sizes", 16, "--data", folder, "--out", out)
    # The test of the same images, below, runs the others.
    text = run("images", *options, "--only", "gpuload,gpuload first,dali,torch,torchvision,ffcv,decoder")
    found = json.loads(out.read_text())
    names = [row["contender"] for row in found["rows"]]
    assert names == ["gpuload", "gpuload first", "dali", "torch", "decoder"]
    assert sorted(found["skipped"]) == ["ffcv", "torchvision"]
    assert list(found["contenders"]) == names
    for row in found["rows"]:
        assert row["size"] == 16
        assert len(row["images_per_second"]["rounds"]) == 1
        assert row["contender"] in text
    assert found["rows"][0]["ratio"]["rounds"] == [1.0]
    assert found["data"]["files"] == 40
    assert found["environment"]["versions"]["numpy"]
    assert max(map(len, text.splitlines()[:-1])) <= 80


@needs_dali
def test_warm_has_a_row_for_each_contender(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "warm-test.json"
    options = ("--rounds", 1, "--seconds", 0.01, "--sizes", 16, "--data", folder, "--out", out)
    text = run("warm", *options, "--only", "gpuload,gpuload file,dali,torch,cast")
    found = json.loads(out.read_text())
    assert [row["contender"] for row in found["rows"]] == ["gpuload", "gpuload file", "dali", "torch", "cast"]
    for row in found["rows"]:
        assert len(row["images_per_second"]["rounds"]) == 1
        assert row["contender"] in text


@needs_dali
def test_recipes_have_a_row_for_each_contender(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Also, in the middle of an epoch, images of the same brightness: 1 level, and more for the scaled decode."""
    out, brightness = tmp_path / "recipes-test.json", {}
    for name, loaders in recipes.RECIPES.items():
        for each, loader in loaders.items():
            batches = loader(jobs.Job(folder, 32, 32, "cpu"))
            images, labels = next(batches)
            assert images.shape == (32, 32, 32, 3)
            assert len(labels) == 32
            brightness[name, each] = np.mean(images)
            batches.close()
        found = [value for (recipe, _), value in brightness.items() if recipe == name]
        assert np.ptp(found) < (0.5 if name != "camera" else 20), name
    monkeypatch.setattr(recipes, "large", lambda count: folder)
    options = ("--rounds", 1, "--seconds", 0.01, "--size", 16, "--data", folder, "--out", out, "--only", "evaluation")
    recipes.main(*map(str, options))
    rows = json.loads(out.read_text())["rows"]
    assert [row["contender"] for row in rows] == list(recipes.RECIPES["evaluation"])
    assert all(row["contender"] in capsys.readouterr().out for row in rows[:1])


@needs_dali
def test_contenders_deliver_the_same_images(folder: Path) -> None:
    """Of the shape and dtype that were asked for, with labels, in 0 to 1, and of the same brightness.

    0.1 leaves room for the black corners of Pillow, and for 32 images of another draw."""
    job = jobs.Job(folder, 16, 32, "cpu")
    brightness = warm.pixels(job)[0].mean() / 255
    for found in (contenders.CONTENDERS, warm.CONTENDERS):
        for name, contender in found.items():
            if name == "decoder":
                continue
            try:
                batches = contender(job)
                pixels, labels = (np.asarray(array) for array in next(batches))
            except ImportError:
                continue
            channels_first = pixels.shape == (32, 3, 16, 16)
            assert channels_first or pixels.shape == (32, 16, 16, 3), name
            assert pixels.dtype == np.float32, name
            assert len(labels) == 32, name
            assert 0 <= pixels.min() < pixels.max() <= 1.0001, name
            assert pixels.mean() == pytest.approx(brightness, abs=0.1), name
            classes = labels.argmax(axis=1) if labels.shape == (32, 8) else labels
            assert 1 < len(np.unique(classes)) <= 8, name
            batches.close()


@pytest.mark.slow
@needs_dali
def test_epochs_has_a_row_for_each_program(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("keras")
    out = tmp_path / "epochs-test.json"
    small = ("--sizes", 16, "--rounds", 1, "--epochs", 2, "--only", "gpuload.keras,keras")
    text = run("epochs", *small, "--data", folder, "--out", out)
    found = json.loads(out.read_text())
    assert [row["program"] for row in found["rows"]] == list(found["contenders"]) == ["gpuload.keras", "keras"]
    for row in found["rows"]:
        (ends,) = row["ends"]
        assert 0 < row["first_seconds"]["median"] == ends[0] < ends[1] == row["seconds"]["median"]
        assert row["peak_bytes"]["median"] > 1e7
    assert found["rows"][0]["ratio"]["rounds"] == [1.0]
    assert "gpuload.keras" in text


@needs_dali
def test_startup_has_a_row_for_each_step(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "startup-test.json"
    text = run("startup", "--files", 1200, "--rounds", 2, "--data", folder, "--where", tmp_path, "--out", out)
    found = json.loads(out.read_text())
    steps = [row["step"] for row in found["rows"]]
    assert steps[:4] == ["os.scandir", "gpuload.ImageFolder", "first batch", "first batch, again"]
    assert [step.split()[-1] for step in steps[4:]] == ["0.0%", "25.0%", "50.0%", "75.0%", "99.9%"]
    assert all(len(row["seconds"]["rounds"]) == 2 for row in found["rows"])
    assert [row["step"] for row in found["rows"] if "ratio" in row] == ["gpuload.ImageFolder"]
    assert "gpuload.ImageFolder" in text
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.slow
@needs_dali
def test_growth_has_a_row_for_each_place(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "growth-test.json"
    small = ("--axes", "files,ranks", "--rounds", 1, "--seconds", 0.01, "--most", 1000)
    text = run("growth", *small, "--data", folder, "--out", out)
    rows = json.loads(out.read_text())["rows"]
    places = [("files", 1000), *(("ranks", case.value) for case in growth.axes()["ranks"])]
    assert [(row["axis"], row["value"]) for row in rows] == places
    for row in rows:
        assert row["axis"] in text
        for figure in ("cold", "warm", "index_seconds", "cold_bytes", "warm_bytes"):
            assert row[figure]["median"] > 0, (row["axis"], figure)


def test_growth_changes_one_thing_at_a_time() -> None:
    for name, cases in growth.axes().items():
        values = [case.value for case in cases]
        assert values == sorted({*values})
        for case in cases:
            assert getattr(case, name) == case.value
    with pytest.raises(SystemExit, match="weight: not among files, scale"):
        growth.main("--axes", "files,weight")


def test_epochs_refuses() -> None:
    from benchmarks import epochs

    with pytest.raises(SystemExit, match=r"nobody: not among gpuload\.keras"):
        epochs.main("--only", "keras,nobody")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--only", "dali,nobody"), "nobody: not among gpuload"),
        (("--data", "3"), "3 files, but a batch is 32"),
    ],
)
def test_images_refuses(
    options: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match=message):
        images.main(*options)


def test_options_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {"--device": ("tpu", "invalid choice: 'tpu'"), "--rounds": ("0", "0, but it must be at least 1")}
    for option, (value, message) in wrong.items():
        with pytest.raises(SystemExit, match="2"):
            images.main(option, value)
        assert message in capsys.readouterr().err


def test_memory_has_a_row_for_each_job(tmp_path: Path) -> None:
    out = tmp_path / "memory.json"
    text = run("memory", "--samples", 1000, "--batches", 500, "--tolerance", 1000, "--out", out)
    found = json.loads(out.read_text())
    assert [row["job"] for row in found["rows"]] == ["images", "windows"]
    assert [row["samples"] for row in found["rows"]] == [1000, 7 * 17325 + 24 * 256]
    for row in found["rows"]:
        assert row["spread_percent"] >= 0
        assert row["job"] in text


@needs_dali
def test_resume_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "resume.json"
    text = run("resume", "--kills", 3, "--longest", 0.7, "--out", out)
    rows = json.loads(out.read_text())["rows"]
    assert [row["job"] for row in rows] == ["images", "1 to 3 ranks", "windows"]
    for row in rows:
        assert row["kills"] >= 3  # More, where the first were killed before they had written a state.
        assert row["samples"] > 0
        assert (row["lost"], row["twice"], row["differing"]) == (0, 0, 0)
        assert row["job"] in text


def test_resume_tells_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that names another place is found out."""
    from benchmarks import resume

    true = resume.gpuload.Loader.state_dict

    def wrong(loader):
        state = true(loader)
        return {**state, "seen": max(0, state["seen"] - 8)}

    monkeypatch.setattr(resume.gpuload.Loader, "state_dict", wrong)
    resume.pictures(tmp_path)
    found = resume.measure(resume.job("windows", tmp_path, "numpy"), tmp_path, 4, (1,), 2.0)
    assert found["twice"] + found["differing"] > 0


@needs_dali
def test_overhead_has_a_row_for_each_job(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "overhead.json"
    text = run("overhead", "--rounds", 1, "--seconds", 0.01, "--data", folder, "--out", out)
    rows = json.loads(out.read_text())["rows"]
    assert [row["job"].split()[0] for row in rows] == ["images", "images", "windows", "windows"]
    for row in rows:
        assert len(row["extra_time_percent"]["rounds"]) == 1
        assert row["without"]["median"] > 0
    assert "windows 96 x 7, batches of 256" in text


@pytest.mark.parametrize("engine", ["numpy", pytest.param("numba", marks=needs_dali)])
def test_mutated_accounts_for_every_sample(engine: str, tmp_path: Path) -> None:
    out = tmp_path / "mutated.json"
    text = run("mutated", "--count", 72, "--engines", engine, "--out", out)
    found = json.loads(out.read_text())
    assert [(row["files"], row["on_error"]) for row in found["rows"]] == [
        ("good", "replace"),
        ("mixed", "replace"),
        ("mixed", "skip"),
    ]
    good, *mixed = found["rows"]
    assert (good["reported"], good["delivered"]) == (0, 72)
    for row in mixed:
        assert row["reported"] + row["delivered"] == 144
        assert row["reported"] >= 4 * 7  # Of each kind there are four; seven of them nobody can read.
        assert (row["lost"], row["odd"], row["refused"]) == ({}, {}, {})
        assert row["on_error"] in text


def test_mutated_tells_what_is_wrong(tmp_path: Path) -> None:
    """A good sample that is missing, has other pixels or was reported; a damaged one of which nobody knows, or which
    has pixels all the same."""
    from benchmarks import mutated

    good = mutated.jpegs(6)
    kinds = ["good"] * 6 + ["noise", "broken link"]
    for number, data in enumerate([*good, b"noise"]):
        mutated.at(tmp_path, number).write_bytes(data)
    pixels = [mutated.pillow(data, 10**6) for data in good]

    def found(on_error: str, delivered: list[tuple[int, np.ndarray]], reported: list[int]) -> list[str]:
        labels, arrays = zip(*delivered, strict=True)
        np.array(labels, np.int64).tofile(tmp_path / "labels")
        np.stack(arrays).tofile(tmp_path / "images")
        (tmp_path / "told").write_text(json.dumps({"errors": reported, "peak_bytes": 100}))
        row = {"engine": "numpy", "files": "mixed", "on_error": on_error, "ended": ""}
        row |= mutated.check(tmp_path, kinds, on_error, 10**6, tmp_path)
        return [words.removeprefix(f"numpy, mixed, {on_error}: ") for words in mutated.failures([row], 100)]

    own = list(enumerate(pixels))
    assert found("skip", own, [6, 7]) == []
    assert found("replace", [*own, own[1], own[3]], [6, 7]) == []
    assert found("skip", own[1:], [6, 7]) == ["lost {'good': 1}"]
    assert found("skip", own[1:], [0, 6, 7]) == ["lost {'good': 1}"]
    assert found("skip", own, [6]) == ["lost {'broken link': 1}"]
    assert found("skip", [*own, (6, pixels[0])], [7]) == ["refused {'noise': 1}"]
    assert found("skip", [(0, 255 - pixels[0]), *own[1:]], [6, 7]) == ["odd {'good': 1}"]
    assert found("replace", [*own[:5], own[4], own[1], own[3]], [6, 7]) == ["lost {'good': 1}"]
    assert found("replace", [*own[:5], own[4], own[1], own[3]], [5, 6, 7]) == ["lost {'good': 1}"]
    with pytest.raises(RuntimeError, match="order"):
        found("skip", own[::-1], [6, 7])


def test_mutated_tells_how_a_process_ended(tmp_path: Path) -> None:
    from benchmarks import mutated

    folder = tmp_path / "good"
    mutated.write(folder, 3, 0, damage=[])
    job = (folder, 3, "numpy", "replace")
    assert mutated.run(tmp_path / "whole", 60, *job, 10**6) == ""
    assert mutated.run(tmp_path / "slow", 0.01, *job, 10**6).startswith("hung: more than 0")
    assert "none of the 3 samples can be read" in mutated.run(tmp_path / "bad", 60, *job, 1)
    rows = [{"engine": "numpy", "files": "good", "on_error": "replace", "ended": "hung", "seconds": 1.0}]
    assert list(mutated.failures(rows, 0)) == ["numpy, good, replace: hung"]
    whole = {**rows[0], "ended": "", "lost": {}, "odd": {}, "refused": {}, "peak_bytes": 5 * 10**6}
    found = mutated.failures([whole, {**whole, "files": "mixed", "peak_bytes": 9 * 10**6}], 3 * 10**6)
    assert list(found) == ["numpy, mixed, replace: 4 MB more at the peak than with good files, above 3"]


@pytest.mark.slow
def test_windows_has_a_row_for_each_contender(tmp_path: Path) -> None:
    out = tmp_path / "windows.json"
    small = ("--lengths", 4, "--channels", 2, "--batches", "8,64", "--far-bytes", 2**16)
    text = run("windows", *small, "--rounds", 1, "--seconds", 0.001, "--out", out)
    found = json.loads(out.read_text())
    assert [row["series"] for row in found["rows"][:: len(found["contenders"])]] == ["near", "near", "far", "far"]
    assert sorted([*found["contenders"], *found["skipped"]]) == sorted(window_contenders.CONTENDERS)
    assert {"gpuload.torch", "gpuload.Loader", "DataLoader", "sliding_window_view"} <= set(found["contenders"])
    for row in found["rows"]:
        assert len(row["windows_per_second"]["rounds"]) == 1
        assert ("share_of_copy" in row) == (row["contender"] == "gpuload.torch")
        assert row["contender"] in text
    assert "one large copy reads and writes" in text


@needs_dali
@pytest.mark.slow
def test_every_stage_for_a_gpu_runs_tiny_on_the_cpu(tmp_path: Path) -> None:
    out = tmp_path / "g.json"
    stages = ",".join(gpu_stages.STAGES)
    text = run("gpu", "--device", "cpu", "--effort", "tiny", "--stages", stages, "--out", out)
    found = json.loads(out.read_text())["stages"]
    assert list(found) == list(gpu_stages.STAGES)
    for name, stage in found.items():
        assert stage["end"] == "whole", (name, stage)
        assert stage["rows"], name
        assert gpu_tables.stage_table(name, stage["rows"]) in text
    assert all(row["changed"] == 0 and row["most"] == 0 for row in found["pixels"]["rows"])
    assert found["tests"]["rows"][0]["outcomes"]["passed"] > 0


def test_a_stage_that_takes_too_long_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the place of the stages writes a row and sleeps."""
    slow = tmp_path / "slow"
    lines = ("import sys, time", "print('{}', file=open(sys.argv[-1], 'w'), flush=True)", "time.sleep(99)")
    slow.write_text("\n".join((f"#!{sys.executable}", *lines)))
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    found = gpu_program.stage_report("ceilings", "cpu", "tiny", limit=5)
    assert found["end"] == "cut off after 5 s"
    assert found["rows"] == [{}]


def test_a_stage_that_fails_says_why() -> None:
    found = gpu_program.stage_report("ceilings", "no device", "tiny", limit=100)
    assert found["end"].startswith("failed: "), found
    assert found["errors"]


def test_the_usual_stages_leave_time_for_the_tests() -> None:
    assert list(gpu_stages.STAGES)[-2:] == ["tests", "sanitizers"]
    usual = sum(stage.limit for name, stage in gpu_stages.STAGES.items() if stage.usual and name != "tests")
    assert usual + 100 < gpu_program.LONGEST < 8 * 60


@pytest.mark.slow
def test_delivery_has_a_row_for_each_job_and_framework(tmp_path: Path) -> None:
    output = run("delivery", "--rounds", 1, "--batches", 1, "--out", tmp_path / "d.json")
    found = json.loads((tmp_path / "d.json").read_text())
    frameworks = [row["framework"] for row in found["rows"]]
    assert {"numpy", "torch", "dlpack"} <= set(frameworks)
    assert len(frameworks) == 3 * len(set(frameworks))
    assert "images 64 x 64" in output


@pytest.mark.slow
def test_fit_has_a_row_for_each_backend(folder: Path, tmp_path: Path) -> None:
    run("fit", "--rounds", 1, "--epochs", 1, "--backends", "torch", "--data", folder, "--out", tmp_path / "f.json")
    (row,) = json.loads((tmp_path / "f.json").read_text())["rows"]
    assert row["backend"] == "torch"
    assert row["batches"] == 40 // 32
    assert row["ratio"]["median"] > 0


def test_contenders_deliver_the_same_windows() -> None:
    """Row r of the series holds r, so that a window tells where it is from."""
    values = np.arange(50, dtype=np.float32)[:, np.newaxis] + np.zeros(3, np.float32)
    job = window_contenders.Job(values, np.arange(50), 5, 8, "cpu", "float32")
    for name, contender in window_contenders.CONTENDERS.items():
        if name == "keras":
            pytest.importorskip("tensorflow")
        batches = contender(job)
        seen: list[int] = []
        for _ in range(-(-job.count // 8)):
            batch = next(batches)
            inputs = np.asarray(batch[0])
            if name == "torch unfold":
                inputs = inputs.transpose(0, 2, 1)
            starts = inputs[:, 0, 0].astype(int)
            np.testing.assert_array_equal(inputs, starts[:, None, None] + np.arange(5)[:, None] + np.zeros(3))
            if len(batch) > 1:
                np.testing.assert_array_equal(np.asarray(batch[1]), starts + 4)
            seen += starts.tolist()
        batches.close()
        assert sorted(seen) == list(range(job.count)), name
        assert seen != sorted(seen), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--only", "DataLoader;nobody"), "nobody: not among gpuload.torch"),
        (("--places", "near,there"), "there: not among near, far"),
    ],
)
def test_windows_refuses(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        windows.main(*options)


def result(device: str, name: str, speed: float) -> dict:
    """What `benchmarks.images` writes, made up."""
    row = {"size": 64, "contender": name, "images_per_second": program.spread([speed, speed, 2 * speed])}
    row["ratio"] = program.spread([1.5])
    return {
        "benchmark": "images",
        "environment": {
            "date": "2025-01-31T12:00+00:00",
            "device": device,
            "device_name": f"device {device}",
            "cpu": "Processor",
            "cpus": 2,
            "versions": {"gpuload": "0.1.0"},
        },
        "data": {"files": 1000, "mean_bytes": 83_400},
        "batch_size": 32,
        "rounds": 3,
        "contenders": {name: "what it is"},
        "rows": [row],
    }


def windows_result() -> dict:
    """What `benchmarks.windows` writes, made up."""
    common = {"contender": "DataLoader", "windows_per_second": program.spread([1000.0]), "channels": 7}
    case = {"length": 96, "batch_size": 64, "dtype": "float32"}
    ratios = {"near": 60.6, "far": 75.1}
    rows = [{**common, **case, "series": place, "ratio": program.spread([ratio])} for place, ratio in ratios.items()]
    return result("cpu", "DataLoader", 1.0) | {
        "benchmark": "windows",
        "contenders": {"DataLoader": "words"},
        "rows": rows,
    }


def delivery_result() -> dict:
    times = {"images": (80.0, 400.0), "windows": (9.0, 9.0)}
    rows = [
        {"job": job, "framework": "jax", "in_a_row": program.spread([row]), "cold": program.spread([cold])}
        for job, (row, cold) in times.items()
    ]
    return result("cpu", "jax", 1.0) | {"benchmark": "delivery", "rows": rows}


def fit_result() -> dict:
    seconds = {"loop": program.spread([5.0]), "fit": program.spread([5.1])}
    row = {"backend": "torch", "batches": 100, "seconds": seconds, "ratio": program.spread([1.0, 1.02, 1.05])}
    return result("cpu", "torch", 1.0) | {"benchmark": "fit", "rows": [row]}


def gpu_result() -> dict:
    """What `benchmarks.gpu` writes, made up."""
    figures = {"images_per_second": program.spread([1000.0]), "ratio": program.spread([1.0]), "cpu_ms": 1.0}
    pixels = {"kind": "photograph", "files": 3, "most": 2.0, "mean": 0.5, "above_2": 0.01, "repetitions": 200}
    stages = {
        "pixels": {"end": "whole", "rows": [pixels | {"changed": 0}]},
        "cold": {"end": "cut off after 60 s", "rows": [{"contender": "gpuload", **figures}]},
        "tests": {"end": "whole", "rows": [{"outcomes": {"passed": 9, "failed": 2}}, {"test": "test_a"}]},
    }
    return result("cuda", "gpuload", 1.0) | {"benchmark": "gpu", "stages": stages}


def variants_result() -> dict:
    row = {"us": 65.12, "share": 0.5, "registers": 40, "error_levels": 0.0138}
    rows = [{"kernel": "warp", "case": "224", "group": "float32 CHW", "name": name, **row} for name in ("b", "a")]
    rows.append({"kernel": "window", "case": "96x7", "name": "c", **row, "error_levels": None})
    return result("cuda", "c", 1.0) | {"benchmark": "variants", "copy_bytes_per_second": 4e12, "rows": rows}


def long_results() -> list[dict]:
    """Of the programs that measure long runs."""
    killed = {"job": "windows", "kills": 200, "samples": 12345, "lost": 0, "twice": 1, "differing": 2}
    memory = {"job": "images", "samples": 10**6, "resident_bytes": [2e8, 2.01e8], "spread_percent": 0.5}
    memory |= {"threads": [9, 9], "descriptors": [12, 13]}
    overhead = {"job": "images 64 x 64", "without": program.spread([2000.0]), "with": program.spread([1990.0])}
    overhead |= {"extra_time_percent": program.spread([-0.5, 0.5, 1.5])}
    rows = {"resume": killed, "memory": memory, "overhead": overhead}
    return [result("cpu", "numpy", 1.0) | {"benchmark": name, "rows": [row]} for name, row in rows.items()]


def image_results() -> list[dict]:
    """Of the programs about images, from the first batch to the tenth epoch, made up."""
    base = result("cpu", "numpy", 1.0)
    found = []
    names = {"images": ("gpuload", "dali", "decoder"), "warm": ("gpuload", "keras", "tf.data layers", "cast")}
    for benchmark, contenders_ in names.items():
        one = {"images_per_second": program.spread([1000.0]), "cpu_ms": program.spread([2.0])}
        one |= {"ratio": program.spread([1.5])}
        rows = [{"size": size, "contender": name, **one} for size in (64, 224) for name in contenders_]
        found.append(base | {"benchmark": benchmark, "rows": rows, "contenders": dict.fromkeys(contenders_, "words")})
    found[0]["data"] = {"files": 1000, "mean_bytes": 1e5}
    job = {"seconds": program.spread([20.0]), "first_seconds": program.spread([2.0]), "ends": [[2.0, 20.0]]}
    job |= {"ratio": program.spread([12.5])}
    programs = ("gpuload.keras", "keras")
    rows = [{"size": size, "program": name, **job} for size in (64, 224) for name in programs]
    found.append(
        base | {"benchmark": "epochs", "epochs": 10, "rows": rows, "contenders": dict.fromkeys(programs, "words")}
    )
    steps = {"os.scandir": 1.0, "gpuload.ImageFolder": 1.4, "first batch": 0.9, "first batch, again": 0.1}
    rows = [
        {"step": step, "seconds": program.spread([value])} for step, value in (steps | {"resume at 50.0%": 0.5}).items()
    ]
    rows[1]["ratio"] = program.spread([1.4])
    found.append(base | {"benchmark": "startup", "files": 10**6, "rows": rows})
    figures = dict.fromkeys(("index_seconds", "cold", "warm"), program.spread([1000.0]))
    figures |= {"index_seconds": program.spread([1.0])}
    figures |= dict.fromkeys(("index_bytes", "cold_bytes", "warm_bytes"), program.spread([1e6]))
    rows = [
        {"axis": axis, "value": value, "files": 1000, "size": 64, "megapixels": 0.1875, "mean_bytes": 1e5, **figures}
        for axis, value in (("files", 1000), ("scale", 1.0), ("size", 64), ("batch", 32), ("ranks", 2), ("kept", 0.5))
    ]
    found.append(base | {"benchmark": "growth", "rows": rows})
    return found


def test_the_table_stands_between_the_markers_of_the_readme(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    page = tmp_path / "PAGE.md"
    pages = ("--readme", str(readme), "--page", str(page), "--results", str(tmp_path), "--kernels", str(tmp_path))
    for kernel in variants.KERNEL_PAGES:
        (tmp_path / kernel).write_text("<!-- benchmark:variants -->\nold\n<!-- /benchmark:variants -->\n")
    program.save(variants_result(), tmp_path / "variants-cpu.json")
    page.write_text(
        "".join(f"<!-- benchmark:{name} -->\nold\n<!-- /benchmark:{name} -->\n" for name in (*deep.PAGE_TABLES, "gpu"))
    )
    names = (
        "warm",
        "epochs",
        "startup",
        "windows",
        "delivery",
        "recipes",
        "fit",
        "resume",
        "memory",
        "overhead",
        "gpu",
        "seen",
    )
    between = "".join(f"\n<!-- benchmark:{name} -->\nold\n<!-- /benchmark:{name} -->\n" for name in names)
    readme.write_text(f"before\n<!-- benchmark:images -->\nold\n<!-- /benchmark:images -->{between}after\n")
    for found in image_results():
        program.save(found, tmp_path / f"{found['benchmark']}-cpu.json")
    for device, name in (("cuda", "gpuload"), ("old", "keras")):
        program.save(result(device, name, 1234.4), tmp_path / f"images-{device}.json")
    program.save(windows_result(), tmp_path / "windows-cpu.json")
    program.save(delivery_result(), tmp_path / "delivery-cpu.json")
    program.save(fit_result(), tmp_path / "fit-cpu.json")
    row = {"recipe": "imagenet", **result("cpu", "gpuload", 1000.0)["rows"][0]}
    recipe = {"benchmark": "recipes", "camera_batch_size": 8, "rows": [row]}
    program.save(result("cpu", "gpuload", 1000.0) | recipe, tmp_path / "recipes-cpu.json")
    for found in long_results():
        program.save(found, tmp_path / f"{found['benchmark']}-cpu.json")
    program.save(gpu_result() | {"benchmark": "measured"}, tmp_path / "measured-cpu.json")
    report.main(*pages)
    assert report.NOT_RECORDED in readme.read_text()
    program.save(gpu_result(), tmp_path / "gpu-cpu.json")
    report.main(*pages)
    text = readme.read_text()
    assert text.startswith("before\n<!-- benchmark:images -->\n**device cpu**")
    assert "| `dali`: words | 1,000 (1,000 to 1,000) | 1.50 | 1,000 (1,000 to 1,000) | 1.50 |" in text
    assert "| seconds | 64 × 64 | first epoch | time relative to gpuload | 224 × 224 |" in text
    assert "| `keras`: words | 20.0 (20.0 to 20.0) | 2.00 | 12.5 | 20.0 (20.0 to 20.0) | 2.00 | 12.5 |" in text
    assert "| step | s | time relative to os.scandir |" in text
    assert "1,000,000 files; median of 3 rounds" in text
    assert "| gpuload.ImageFolder | 1.40 (1.40 to 1.40) | 1.40 (1.40 to 1.40) |" in text
    assert text.endswith("\n<!-- /benchmark:seen -->\nafter\n")
    assert "**Run on: device cuda** (2025-01-31). 9 tests that need a GPU passed, 2 failed, 0 were skipped." in text
    assert "| windows | 200 | 12,345 | 0 | 1 | 2 |" in text
    assert "| images | 1,000,000 | 200 to 201 | 0.500 | 9 to 9 | 12 to 13 |" in text
    assert "| images 64 x 64 | 2,000 (2,000 to 2,000) | 1,990 (1,990 to 1,990) | 0.500 (-0.500 to 1.50) |" in text
    assert "| imagenet | gpuload | 1,000 (1,000 to 2,000) |" in text
    assert "| µs a batch | images | cold | windows | cold |" in text
    assert "| `jax`: what it is | 80.0 (80.0 to 80.0) | 400 | 9.00 (9.00 to 9.00) | 9.00 |" in text
    assert "| torch | 100 | 5.00 (5.00 to 5.00) | 5.10 (5.10 to 5.10) | 1.02 (1.00 to 1.05) |" in text
    assert "| windows per second | batches of 64 | time relative to gpuload |" in text
    assert "| `DataLoader`: words | 1,000 (1,000 to 1,000) | 60.6 |" in text
    assert "In the 2 cases that were measured" in text
    assert "gpuload is 61 to 75 times as fast as the DataLoader" in text
    assert "\nold\n" not in text
    assert "| `keras`: what it is | 1,234 (1,234 to 2,469) | 1.50 |" in text
    assert "| `gpuload`: what it is | 1,234 (1,234 to 2,469) | 1.50 |" in text
    assert "| decoded images, 224 × 224 | gpuload | 1,000 | 1.00 |" in text
    detailed = page.read_text()
    assert "\nold\n" not in detailed
    assert "| photograph | 3 | 2.00 | 0.500 | 1% | 200 | 0 |" in detailed
    assert "This stage was not whole: cut off after 60 s." in detailed
    assert "| `a` | 65.1 | 50% | 40 | 1e-02 |" in (tmp_path / "warp.md").read_text()
    assert "| `c` | 65.1 | 50% | 40 |\n" in (tmp_path / "window.md").read_text()
    assert "2 failed, 9 passed.\n- failed: `test_a`" in detailed
    assert "| cold, 64 × 64: speed relative to bare DALI | at least 1 × | 1.50 (1.50 to 1.50) × | yes |" in detailed
    assert (
        "| warm, 64 × 64: speed relative to Keras' generator | at least 30 × | 1.50 (1.50 to 1.50) × | **no**"
        in detailed
    )
    assert (
        "| 10 epochs, 64 × 64: speed relative to Keras' generator | at least 10 × | 12.5 (12.5 to 12.5) × | yes"
        in detailed
    )
    assert (
        "| index of 1,000,000 files: time relative to os.scandir | at most 1.5 × | 1.40 (1.40 to 1.40) × | yes |"
        in detailed
    )
    assert "Resumed at 1 places of an epoch, a loader takes 500 to 500 ms to its first batch." in detailed
    assert "| cold, 64 × 64 | 1,000 | 2,000 |  | reading and decoding alone | 1,000 | 2,000 |  | 150% |" in detailed
    assert "| warm, 64 × 64 | 1,000 | 2,000 | 0.06 | reading levels and" in detailed
    assert (
        "| share of the images that the cache holds | 0.500 | 1,000 | 1,000 | 1.00 | 1.00 | 1.00 | 1.00 |" in detailed
    )
    assert "| 0.19 | 100 | 1,000 | 188 | 100 |" in detailed
    assert "and in the first epoch: G × r × b | 250 MB/s | 2.5 GB/s | 25 GB/s | 250 GB/s |" in detailed
    report.main(*pages)
    assert (readme.read_text(), page.read_text()) == (text, detailed)
    charts.main("--results", str(tmp_path), "--docs", str(tmp_path / "docs"))
    drawn = sorted(path.stem for path in (tmp_path / "docs").iterdir())
    assert drawn == sorted(charts.CHARTS)
    for name in drawn:
        with Image.open(tmp_path / "docs" / f"{name}.png") as image:
            assert image.width == 1050
            assert len(image.convert("L").getcolors(256) or ()) > 20


def test_the_pages_have_the_markers_and_show_the_charts() -> None:
    text = report.PAGE.read_text()
    for name in (*deep.PAGE_TABLES, "gpu"):
        assert text.count(f"<!-- benchmark:{name} -->") == text.count(f"<!-- /benchmark:{name} -->") == 1
    for name in charts.CHARTS:
        assert f"](../docs/{name}.png)" in text


def test_demands_of_many_gpus() -> None:
    assumed = {"images_per_gpu": 1000, "gpus_per_machine": 8, "files": 10**6, "size": 100}
    measured = {"file_bytes": 1e5, "decode_seconds": 1e-3, "cold_seconds": 2e-3, "warm_seconds": 1e-4}
    found = scale.demands(20, scale.Scale(**measured, name_bytes=60, index_seconds=1e-6, **assumed))
    assert (found["rate"], found["machines"], found["first_seconds"]) == (20_000, 3, 50)
    assert (found["cold_bytes"], found["warm_bytes"]) == pytest.approx((2e9, 6e8))
    assert (found["cold_cpus"], found["warm_cpus"]) == pytest.approx((40, 2))
    assert (found["filled_bytes"], found["names_bytes"]) == (3 * 10**6 * 30_000, 20 * 10**6 * 60)
    assert scale.scaled(2.5e9, "B/s") == "2.5 GB/s"
    assert scale.scaled(39.06, "CPUs") == "39.1 CPUs"


def test_the_table_needs_markers_and_results(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# nothing\n")
    with pytest.raises(FileNotFoundError, match=r"holds no images-\*\.json: run python -m benchmarks.images first"):
        report.main("--readme", str(readme), "--page", str(readme), "--results", str(tmp_path))
    program.save(result("cpu", "dali", 1.0), tmp_path / "images-cpu.json")
    with pytest.raises(ValueError, match="the README must hold <!-- benchmark:images --> and"):
        report.main("--readme", str(readme), "--page", str(readme), "--results", str(tmp_path))


def test_every_task_goes_first_in_turn() -> None:
    calls: list[str] = []
    names = ("a", "b", "c")
    found = program.rounds(3, {name: lambda name=name: calls.append(name) or len(calls) for name in names})
    assert "".join(calls) == "abcbcacab"
    assert found == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}
