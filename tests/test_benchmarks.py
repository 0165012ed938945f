"""Each benchmark runs, tiny, through its own door. How fast anything is, is not a test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

for package in ("psutil", "rich", "skimage", "sklearn", "typer"):
    pytest.importorskip(package)

import typer  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks import images, memory, photos, report, window_contenders, windows  # noqa: E402
from gpuload.engines import dali_installed  # noqa: E402

ROOT = Path(__file__).parent.parent
needs_dali = pytest.mark.skipif(not dali_installed(), reason="NVIDIA DALI is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.photos(40, cache=tmp_path_factory.mktemp("cache"))


def run(module: str, *arguments: object) -> str:
    """Output of a program that runs as its users run it."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
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


@needs_dali
def test_images_has_a_row_for_each_contender(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "images-test.json"
    options = ("--rounds", 1, "--seconds", 0.01, "--sizes", 16, "--data", folder, "--out", out)
    text = run("images", *options)
    found = json.loads(out.read_text())
    names = [row["contender"] for row in found["rows"]]
    assert sorted([*names, *found["skipped"]]) == sorted(images.CONTENDERS)
    assert {"gpuload", "dali"} <= set(names)
    assert "torchvision" in found["skipped"]
    assert list(found["contenders"]) == names
    for row in found["rows"]:
        assert row["size"] == 16
        assert len(row["images_per_second"]["rounds"]) == 1
        assert row["contender"] in text
    assert found["rows"][0]["ratio"]["rounds"] == [1.0]
    assert found["data"]["files"] == 40
    assert found["environment"]["versions"]["numpy"]
    assert max(map(len, text.splitlines()[:-1])) <= 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "dali,nobody"}, "nobody: not among gpuload"),
        ({"device": "tpu"}, "tpu: it must be cpu or cuda"),
        ({"count": 3}, "3 files, but a batch is 32"),
    ],
)
def test_images_refuses(options: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(typer.BadParameter, match=message):
        images.main(**options)


def test_memory_has_a_row_for_each_epoch(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "memory.json"
    found = memory.main(epochs=3, data=folder, out=out)
    assert [row["epoch"] for row in found["rows"]] == [0, 1, 2]
    assert all(row["images"] == 32 for row in found["rows"])
    assert json.loads(out.read_text()) == found


def test_listing_has_a_row_for_each_walk(tmp_path: Path) -> None:
    out = tmp_path / "listing.json"
    text = run("listing", "--files", 1200, "--rounds", 2, "--out", out)
    found = json.loads(out.read_text())
    assert [row["listing"] for row in found["rows"]] == ["os.scandir", "gpuload.ImageFolder"]
    assert all(len(row["seconds"]["rounds"]) == 2 for row in found["rows"])
    assert "1,200 files in 1,000 folders" in text


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


def test_delivery_has_a_row_for_each_job_and_framework(tmp_path: Path) -> None:
    output = run("delivery", "--rounds", 1, "--batches", 1, "--out", tmp_path / "d.json")
    found = json.loads((tmp_path / "d.json").read_text())
    frameworks = [row["framework"] for row in found["rows"]]
    assert {"numpy", "torch", "dlpack"} <= set(frameworks)
    assert len(frameworks) == 3 * len(set(frameworks))
    assert "images 64 x 64" in output


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
        ({"only": "DataLoader;nobody"}, "nobody: not among gpuload.torch"),
        ({"device": "tpu"}, "tpu: it must be cpu or cuda"),
        ({"places": "near,there"}, "there: it must be near or far"),
    ],
)
def test_windows_refuses(options: dict, message: str) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        windows.main(**options)


def result(device: str, name: str, speed: float) -> dict:
    """What `benchmarks.images` writes, made up."""
    row = {"size": 64, "contender": name, "images_per_second": report.spread([speed, speed, 2 * speed])}
    row["ratio"] = report.spread([1.5])
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
    common = {"contender": "DataLoader", "windows_per_second": report.spread([1000.0]), "channels": 7}
    case = {"length": 96, "batch_size": 64, "dtype": "float32"}
    ratios = {"near": 60.6, "far": 75.1}
    rows = [{**common, **case, "series": place, "ratio": report.spread([ratio])} for place, ratio in ratios.items()]
    return result("cpu", "DataLoader", 1.0) | {"contenders": {"DataLoader": "words"}, "rows": rows}


def delivery_result() -> dict:
    times = {"images": (80.0, 400.0), "windows": (9.0, 9.0)}
    rows = [
        {"job": job, "framework": "jax", "in_a_row": report.spread([row]), "cold": report.spread([cold])}
        for job, (row, cold) in times.items()
    ]
    return result("cpu", "jax", 1.0) | {"benchmark": "delivery", "rows": rows}


def fit_result() -> dict:
    seconds = {"loop": report.spread([5.0]), "fit": report.spread([5.1])}
    row = {"backend": "torch", "batches": 100, "seconds": seconds, "ratio": report.spread([1.0, 1.02, 1.05])}
    return result("cpu", "torch", 1.0) | {"benchmark": "fit", "rows": [row]}


def test_the_table_stands_between_the_markers_of_the_readme(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    names = ("windows", "delivery", "fit")
    between = "".join(f"\n<!-- benchmark:{name} -->\nold\n<!-- /benchmark:{name} -->\n" for name in names)
    readme.write_text(f"before\n<!-- benchmark:images -->\nold\n<!-- /benchmark:images -->{between}after\n")
    for device, name in (("cpu", "keras"), ("cuda", "gpuload")):
        report.save(result(device, name, 1234.4), tmp_path / f"images-{device}.json")
    report.save(windows_result(), tmp_path / "windows-cpu.json")
    report.save(delivery_result(), tmp_path / "delivery-cpu.json")
    report.save(fit_result(), tmp_path / "fit-cpu.json")
    report.main(readme, tmp_path)
    text = readme.read_text()
    assert text.startswith("before\n<!-- benchmark:images -->\n**device cpu**")
    assert text.endswith("\n<!-- /benchmark:fit -->\nafter\n")
    assert "| µs a batch of 32 | images | windows |" in text
    assert "| `jax` | 80 (400) | 9 (9) |" in text
    assert "| torch | 50.0 | 51.0 | 1.02 × (1.00 to 1.05) |" in text
    assert "| windows per second | batches of 64 | gpuload is |" in text
    assert "| `DataLoader`: words | 1,000 (1,000 to 1,000) | 61 × |" in text
    assert "In the 2 cases that were measured" in text
    assert "gpuload is 61 to 75 times the DataLoader" in text
    assert "old" not in text
    assert "| `keras`: what it is | 1,234 (1,234 to 2,469) | 1.50 × |" in text
    assert "| `gpuload`: what it is | 1,234 (1,234 to 2,469) |  |" in text
    report.main(readme, tmp_path)
    assert readme.read_text() == text


def test_the_table_needs_markers_and_results(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# nothing\n")
    with pytest.raises(FileNotFoundError, match=r"holds no images-\*\.json: run python -m benchmarks.images first"):
        report.main(readme, tmp_path)
    report.save(result("cpu", "dali", 1.0), tmp_path / "images-cpu.json")
    with pytest.raises(ValueError, match="the README must hold <!-- benchmark:images --> and"):
        report.main(readme, tmp_path)


def test_every_task_goes_first_in_turn() -> None:
    calls: list[str] = []
    names = ("a", "b", "c")
    found = report.rounds(3, {name: lambda name=name: calls.append(name) or len(calls) for name in names})
    assert "".join(calls) == "abcbcacab"
    assert found == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}
