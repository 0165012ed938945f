"""The data of ten epochs of Keras' fit, from the start of the program on: gpuload's generator beside Keras' own.

    python -m benchmarks.epochs                   photographs made by benchmarks.photos, at 64 x 64 and 224 x 224
    python -m benchmarks.epochs --epochs 3 --rounds 1

Each program is written as its users write it, and runs in a process of its own for each round; the rounds are
interleaved. `keras` and `gpuload.keras` are one program, with only the import changed. The clock starts when Keras is
imported, which all of them need for their model, and stops at the last batch of the last epoch: importing the generator,
listing the folder, opening the engines, compiled code from the disk, decoding and filling caches are all in. There is
no model.

`time relative to gpuload` is a program's time divided by that of gpuload.keras in the same round.
"""

import importlib.util
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.contenders import flow, keras_generator
from benchmarks.jobs import Job
from benchmarks.photos import photos
from benchmarks.program import (
    Count,
    Data,
    Only,
    Out,
    Report,
    Rounds,
    Sizes,
    chosen,
    finish,
    in_processes,
    peak_bytes,
    ratio,
    rounds,
    spread,
    words,
)
from benchmarks.warm_contenders import tf_dataset

BATCH_SIZE = 32
Epochs = Iterator[Iterable[Any]]
COLUMNS = {"size": "size", "program": "program", "seconds": "seconds", "first_seconds": "first epoch"}
COLUMNS |= {"ratio": "time relative to gpuload", "peak_bytes": "peak bytes"}


def gpuload_keras(job: Job) -> Epochs:
    """gpuload.keras.ImageDataGenerator, as it comes."""
    from gpuload.keras import ImageDataGenerator

    return _generated(flow(ImageDataGenerator, job))


def keras(job: Job) -> Epochs:
    """Keras' own ImageDataGenerator."""
    return _generated(flow(keras_generator(), job))


def _generated(batches: Any) -> Epochs:
    while True:
        yield (next(batches) for _ in range(len(batches)))


def tf_data(job: Job) -> Epochs:
    """tf.data with .cache(), then ImageProjectiveTransformV3."""
    return _tf_data(tf_dataset(job, layers=False))


def tf_data_layers(job: Job) -> Epochs:
    """tf.data with .cache(), then Keras' RandomShear, RandomZoom and RandomFlip."""
    return _tf_data(tf_dataset(job, layers=True))


def _tf_data(data: Any) -> Epochs:
    while True:
        yield data.as_numpy_iterator()


PROGRAMS: dict[str, Callable[[Job], Epochs]] = {
    "gpuload.keras": gpuload_keras,
    "keras": keras,
    "tf.data": tf_data,
    "tf.data layers": tf_data_layers,
}


def clock(name: str, job: Job, count: int) -> dict[str, Any]:
    """Seconds from the start to the end of each epoch, in this process, and its peak of memory."""
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
    return {"ends": ends, "peak_bytes": peak_bytes()}


def run(name: str, job: Job, count: int) -> dict[str, Any]:
    """Call `clock` in a process of its own."""
    Console(stderr=True).print(f"{job.size} x {job.size}: {name}")
    (found,) = in_processes(clock, (name, job, count))
    return found


def measure(job: Job, names: list[str], number: int, count: int) -> list[Report]:
    """Return a row for each program at one size."""
    found = rounds(number, {name: lambda name=name: run(name, job, count) for name in names})
    rows: list[Report] = [
        {
            "size": job.size,
            "program": name,
            "seconds": spread(each["ends"][-1] for each in results),
            "first_seconds": spread(each["ends"][0] for each in results),
            "ends": [each["ends"] for each in results],
            "peak_bytes": spread(each["peak_bytes"] for each in results),
        }
        for name, results in found.items()
    ]
    ours = next((row["seconds"] for row in rows if row["program"] == "gpuload.keras"), None)
    return rows if ours is None else [row | {"ratio": ratio(row["seconds"], ours)} for row in rows]


def main(
    sizes: Sizes = "64,224",
    number: Rounds = 3,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    data: Data = None,
    count: Count = 1000,
    only: Only = None,
    out: Out = None,
) -> Report:
    """Measure, print a table, write JSON."""
    names = chosen(only, PROGRAMS, "--only")
    skipped = {}
    if importlib.util.find_spec("tensorflow") is None:
        skipped = {name: "TensorFlow is not installed" for name in names if name.startswith("tf")}
        os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    names = [name for name in names if name not in skipped]
    jobs = [Job(data or photos(count), int(size), BATCH_SIZE) for size in sizes.split(",")]
    rows = [row for job in jobs for row in measure(job, names, number, epochs)]
    facts = {"data": {"files": len(jobs[0].files)}, "batch_size": BATCH_SIZE, "rounds": number, "epochs": epochs}
    facts |= {"rows": rows, "skipped": skipped, "contenders": words(PROGRAMS, names)}
    return finish("epochs", "cpu", out, COLUMNS, **facts)


if __name__ == "__main__":
    typer.run(main)
