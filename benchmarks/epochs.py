"""The data of ten epochs of Keras' fit, from the start of the program on: gpuload's generator beside Keras' own.

    python -m benchmarks.epochs                   photographs made by benchmarks.photos, at 64 x 64 and 224 x 224
    python -m benchmarks.epochs --epochs 3 --rounds 1

Each program is written as its users write it, and runs in a process of its own for each round. `keras` and
`gpuload.keras` are one program, with only the import changed. The clock starts when Keras is imported, which all of
them need for their model, and stops at the last batch. Importing the generator, listing the folder, opening engines,
reading compiled code, decoding and filling caches are all included. There is no model.
"""

import functools
import importlib.util
import itertools
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import program
from benchmarks.contenders import KERAS, flow
from benchmarks.jobs import BATCH_SIZE, Job
from benchmarks.photos import data_folder
from benchmarks.program import Report
from benchmarks.warm import tf_dataset

Epochs = Callable[[], Iterable[Any]]  # Each call returns the batches of one epoch.


def gpuload_keras(job: Job) -> Epochs:
    """gpuload.keras.ImageDataGenerator, as it comes."""
    return _generated("gpuload.keras", job)


def keras(job: Job) -> Epochs:
    """Keras' own ImageDataGenerator."""
    return _generated(KERAS, job)


def _generated(module: str, job: Job) -> Epochs:
    batches = flow(module, job)
    return lambda: itertools.islice(batches, len(batches))


def tf_data(job: Job) -> Epochs:
    """tf.data with .cache(), then ImageProjectiveTransformV3."""
    return tf_dataset(job, layers=False).as_numpy_iterator


def tf_data_layers(job: Job) -> Epochs:
    """tf.data with .cache(), then Keras' RandomShear, RandomZoom and RandomFlip."""
    return tf_dataset(job, layers=True).as_numpy_iterator


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
    start, ends, images = time.perf_counter(), [], 0
    epoch = PROGRAMS[name](job)
    for _ in range(count):
        images += sum(len(batch[0]) for batch in epoch())
        ends.append(time.perf_counter() - start)
    if images != count * len(job.files):
        raise RuntimeError(f"{name} delivered {images} images in {count} epochs of {len(job.files)}")
    return {"ends": ends, "peak_bytes": program.peak_bytes()}


def measure(job: Job, names: list[str], number: int, count: int) -> list[Report]:
    """Return a row for each program at one size."""

    def run(name: str) -> Report:
        print(f"{job.size} x {job.size}: {name}", file=sys.stderr)
        return program.in_processes(clock, (name, job, count))[0]

    rows = []
    for name, results in program.rounds(number, {name: functools.partial(run, name) for name in names}).items():
        ends = [each["ends"] for each in results]
        row = {"size": job.size, "program": name, "seconds": program.spread(each[-1] for each in ends)}
        row |= {"first_seconds": program.spread(each[0] for each in ends), "ends": ends}
        rows.append(row | {"peak_bytes": program.spread(each["peak_bytes"] for each in results)})
    return program.relative(rows, "gpuload.keras", "seconds")


def main(*arguments: str) -> None:
    asked = program.options(__doc__, arguments, sizes="64,224", rounds=3, epochs=10, data="1000", only="all", out=None)
    names = program.chosen(asked.only, PROGRAMS, "--only")
    there = importlib.util.find_spec("tensorflow") is not None
    skipped = {name: "TensorFlow is not installed" for name in names if name.startswith("tf") and not there}
    names = [name for name in names if name not in skipped]
    jobs = [Job(data_folder(asked.data), int(size), BATCH_SIZE) for size in asked.sizes.split(",")]
    rows = [row for job in jobs for row in measure(job, names, asked.rounds, asked.epochs)]
    facts = {"data": {"files": len(jobs[0].files)}, "batch_size": BATCH_SIZE}
    facts |= {"rows": rows, "skipped": skipped, "contenders": program.words(PROGRAMS, names)}
    program.finish(asked, "epochs", **facts)


if __name__ == "__main__":
    main()
