"""The data of ten epochs of Keras' fit, from the start of the program on: gpuload's generator beside Keras' own.

    python -m benchmarks.epochs                   photographs made by benchmarks.photos, at 64 x 64 and 224 x 224
    python -m benchmarks.epochs --epochs 3 --rounds 1

Each program is what its users write, in a process of its own for each round; the rounds are interleaved. `keras` and
`gpuload.keras` are one program, with only the import changed. The clock starts when Keras is imported, which all of
them need for their model, and stops at the last batch of the last epoch: importing the generator, listing the folder,
opening the engines, compiled code from the disk, decoding and filling caches are all in. There is no model.

`gpuload is` compares round by round: the other program's seconds as a multiple of those of gpuload.keras.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.jobs import SHEAR, ZOOM, Job
from benchmarks.photos import photos
from benchmarks.report import environment, rounds, save, spread

BATCH_SIZE = 32
Epochs = Iterator[Iterable[Any]]


def _epochs(generator: Any, job: Job) -> Epochs:
    """Epoch after epoch of a class with the interface of Keras' generator."""
    datagen = generator(shear_range=SHEAR, zoom_range=ZOOM, horizontal_flip=True, rescale=1 / 255)
    train = datagen.flow_from_directory(job.folder, target_size=(job.size, job.size), batch_size=job.batch_size)
    while True:
        yield (next(train) for _ in range(len(train)))


def gpuload_keras(job: Job) -> Epochs:
    """gpuload.keras.ImageDataGenerator, as it comes."""
    from gpuload.keras import ImageDataGenerator

    return _epochs(ImageDataGenerator, job)


def keras(job: Job) -> Epochs:
    """Keras' own ImageDataGenerator."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    return _epochs(ImageDataGenerator, job)


def _tf_data(job: Job, layers: bool) -> Epochs:
    from benchmarks.warm_contenders import tf_dataset

    data = tf_dataset(job, layers)
    while True:
        yield data.as_numpy_iterator()


def tf_data(job: Job) -> Epochs:
    """tf.data with .cache(), then ImageProjectiveTransformV3."""
    return _tf_data(job, layers=False)


def tf_data_layers(job: Job) -> Epochs:
    """tf.data with .cache(), then Keras' RandomShear, RandomZoom and RandomFlip."""
    return _tf_data(job, layers=True)


PROGRAMS: dict[str, Callable[[Job], Epochs]] = {
    "gpuload.keras": gpuload_keras,
    "keras": keras,
    "tf.data": tf_data,
    "tf.data layers": tf_data_layers,
}


def clock(name: str, job: Job, count: int) -> dict[str, Any]:
    """Seconds from the start to the end of each epoch, in this process, and the most memory that it had."""
    import keras

    keras.config.disable_interactive_logging()
    if name.startswith("tf"):
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
    start = time.perf_counter()
    ends, images = [], 0
    epochs = PROGRAMS[name](job)
    for _ in range(count):
        images += sum(len(batch[0]) for batch in next(epochs))
        ends.append(time.perf_counter() - start)
    if images != count * len(job.files):
        raise RuntimeError(f"{name} delivered {images} images in {count} epochs of {len(job.files)}")
    return {"ends": ends, "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def run(name: str, job: Job, count: int) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.epochs", "--here", name, "--sizes", str(job.size)]
    command += ["--epochs", str(count), "--data", str(job.folder)]
    Console(stderr=True).print(f"{job.size} x {job.size}: {name}")
    environ = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(job: Job, names: list[str], number: int, count: int) -> list[dict[str, Any]]:
    """A row for each program at one size."""
    found = rounds(number, {name: lambda name=name: run(name, job, count) for name in names})  # type: ignore[misc]
    rows = []
    for name, results in found.items():
        totals = [each["ends"][-1] for each in results]
        row: dict[str, Any] = {
            "size": job.size,
            "program": name,
            "seconds": spread(totals),
            "first_seconds": spread(each["ends"][0] for each in results),
            "ends": [each["ends"] for each in results],
            "peak_bytes": spread(each["peak_bytes"] for each in results),
        }
        if "gpuload.keras" in found:
            ours = [each["ends"][-1] for each in found["gpuload.keras"]]
            row["ratio"] = spread(its / our for its, our in zip(totals, ours, strict=True))
        rows.append(row)
    return rows


def show(report: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(title=f"{report['epochs']} epochs of {report['data']['files']} photographs")
    table.add_column("size")
    table.add_column("program", no_wrap=True)
    for heading in ("s", "least", "most", "first epoch", "gpuload is", "peak MB"):
        table.add_column(heading, justify="right")
    for row in report["rows"]:
        table.add_row(
            str(row["size"]),
            row["program"],
            *(f"{row['seconds'][key]:.2f}" for key in ("median", "least", "greatest")),
            f"{row['first_seconds']['median']:.2f}",
            f"{row['ratio']['median']:.1f} ×" if "ratio" in row else "",
            f"{row['peak_bytes']['median'] / 1e6:,.0f}",
        )
    Console().print(table)


def main(
    sizes: Annotated[str, typer.Option(help="side lengths, in pixels")] = "64,224",
    number: Annotated[int, typer.Option("--rounds", min=1)] = 3,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    data: Annotated[Path | None, typer.Option(help="a folder of class folders; default: benchmarks.photos")] = None,
    count: Annotated[int, typer.Option(min=1, help="photographs to make where there is no --data")] = 1000,
    only: Annotated[str | None, typer.Option(help=f"of {', '.join(PROGRAMS)}; default: all")] = None,
    here: Annotated[str | None, typer.Option(help="run the one program in this process, and print JSON")] = None,
    out: Annotated[Path | None, typer.Option(help="the JSON file; default: benchmarks/results/")] = None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON."""
    names = list(PROGRAMS) if only is None else only.split(",")
    if unknown := {*names, here or names[0]} - set(PROGRAMS):
        raise typer.BadParameter(f"{', '.join(unknown)}: not among {', '.join(PROGRAMS)}", param_hint="--only")
    jobs = [Job(data or photos(count), int(size), BATCH_SIZE, "cpu") for size in sizes.split(",")]
    if here is not None:
        result = clock(here, jobs[0], epochs)
        print(json.dumps(result))
        return result
    report: dict[str, Any] = {
        "benchmark": "epochs",
        "environment": environment(),
        "data": {"files": len(jobs[0].files)},
        "batch_size": BATCH_SIZE,
        "rounds": number,
        "epochs": epochs,
        "rows": [],
        "skipped": {},
    }
    if importlib.util.find_spec("tensorflow") is None:
        for name in [name for name in names if name.startswith("tf")]:
            names.remove(name)
            report["skipped"][name] = "TensorFlow is not installed"
        os.environ.setdefault("KERAS_BACKEND", "torch")
    for job in jobs:
        report["rows"] += measure(job, names, number, epochs)
    report["contenders"] = {name: (PROGRAMS[name].__doc__ or "").split("\n")[0].rstrip(".") for name in names}
    show(report)
    print(f"written to {save(report, out)}")
    return report


if __name__ == "__main__":
    typer.run(main)
