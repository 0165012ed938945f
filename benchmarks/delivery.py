"""Microseconds of Python that delivery takes a batch: from an engine's arrays to a framework's, labels included.

    python -m benchmarks.delivery                  every framework that is installed, on the CPU
    python -m benchmarks.delivery --device cuda

An engine makes batches of images, and pieces of several batches of windows; then those arrays are delivered as in a
loop over a loader, and only that is timed: the processor time of the consumer's thread. `in a row`: many arrays are
made, then delivered one after another. `cold`: each is delivered right after it was made, by threads that have filled
the processor's caches with other data, as a training step does too.
"""

import functools
import importlib.util
import itertools
import time
from typing import Any

import numpy as np

import gpuload
from benchmarks.jobs import series, synchronize
from benchmarks.program import finish, options, rounds, spread
from gpuload.delivery import FRAMEWORKS

BATCH_SIZE = 32
IN_A_ROW = 50  # Steps that are made before they are delivered.


def jobs() -> dict[str, tuple[Any, Any]]:
    """Source and transform of each job."""
    images = np.random.default_rng(0).integers(0, 256, (256, 64, 64, 3), dtype=np.uint8)
    array = gpuload.ImageArray(images, np.arange(256, dtype=np.int32))
    values, _ = series()
    rows = gpuload.Series(values, values[:, 0])
    return {
        "images 64 x 64": (array, gpuload.Augment(hflip=0.5, rescale=1 / 255)),
        "windows 96 x 7": (rows, gpuload.Window(96)),
        "windows 96 x 7, standardized": (rows, gpuload.Window(96, per_sample="standardize")),
    }


def microseconds(loader: gpuload.Loader, least: int, together: int) -> float:
    """Python's time for each of at least `least` batches; `together` steps are made before they are delivered."""
    pool, spent, batches = loader.pool, 0.0, 0
    steps = itertools.chain.from_iterable(loader.steps(epoch) for epoch in itertools.count())
    engine = pool.acquire()
    while batches < least:
        some, made = list(itertools.islice(steps, together)), []
        for step in some:
            pool.submit(engine, step)
            made.insert(0, engine.result(pool.stream))
        start = time.thread_time()
        for step in some:
            batches += len(pool.batches(step, made.pop()))
        spent += time.thread_time() - start
    pool.release(engine, pool.generation)
    synchronize(loader.device)
    return 1e6 * spent / batches


def frameworks(device: str) -> list[str]:
    """Frameworks that are installed and have arrays on the device."""
    there = [name for name in FRAMEWORKS if FRAMEWORKS[name].extra is None or importlib.util.find_spec(name)]
    return [name for name in there if name != "cupy" or device != "cpu"]


def main(*arguments: str) -> None:
    asked = options(__doc__, arguments, rounds=7, batches=2000, device="cpu", out=None)
    rows, loading = [], {"batch_size": BATCH_SIZE, "shuffle": True, "seed": 0, "device": asked.device}
    for job, (source, transform) in jobs().items():
        names = frameworks(asked.device)
        loaders = {name: gpuload.Loader(source, transform, framework=name, **loading) for name in names}
        found = {name: {"job": job, "framework": name} for name in names}
        for loader in loaders.values():
            microseconds(loader, 1, 1)
        for figure, many in (("in_a_row", IN_A_ROW), ("cold", 1)):
            tasks = {name: functools.partial(microseconds, its, asked.batches, many) for name, its in loaders.items()}
            for name, results in rounds(asked.rounds, tasks).items():
                found[name][figure] = spread(results)
        rows += found.values()
    finish(asked, "delivery", batch_size=BATCH_SIZE, rows=rows)


if __name__ == "__main__":
    main()
