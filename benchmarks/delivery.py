"""Microseconds of Python that delivery takes a batch: from an engine's arrays to a framework's, labels included.

    python -m benchmarks.delivery                  every framework that is installed, on the CPU
    python -m benchmarks.delivery --device cuda

An engine makes batches of images, and pieces of several batches of windows; then those arrays are delivered as in a
loop over a loader, and only that is timed: the processor time of the consumer's thread. A round delivers all of them to
one framework after another, in an order that rotates. `in a row`: many arrays are made, then delivered one after
another. `cold`: each is delivered right after it was made, by threads that have filled the processor's caches with
other things, as a training step does too.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import time
from collections import deque
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import gpuload
from benchmarks.jobs import synchronize
from benchmarks.report import environment, rounds, save, spread
from gpuload.delivery import FRAMEWORKS
from gpuload.run.engine import Engine

BATCH_SIZE = 32
IN_A_ROW = 50
"""Steps."""


def jobs() -> dict[str, tuple[Any, Any]]:
    """Source and transform of each job."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (256, 64, 64, 3), dtype=np.uint8)
    values = random.standard_normal((17_420, 7), dtype=np.float32)
    return {
        "images 64 x 64": (
            gpuload.ImageArray(images, np.arange(256, dtype=np.int32)),
            gpuload.Augment(hflip=0.5, rescale=1 / 255),
        ),
        "windows 96 x 7": (gpuload.Series(values, values[:, 0]), gpuload.Window(96)),
        "windows 96 x 7, standardized": (
            gpuload.Series(values, values[:, 0]),
            gpuload.Window(96, per_sample="standardize"),
        ),
    }


class Delivery:
    """One framework's loader, timed without its engine."""

    def __init__(self, source: Any, transform: Any, framework: str, device: str):
        options = {"batch_size": BATCH_SIZE, "shuffle": True, "seed": 0, "device": device}
        self.loader = gpuload.Loader(source, transform, framework=framework, **options)

    def microseconds(self, least: int, together: int) -> float:
        """Of Python, for each of at least that many batches; `together` steps are made before they are delivered."""
        pool, spent, batches = self.loader.pool, 0.0, 0
        steps = itertools.chain.from_iterable(self.loader.steps(epoch) for epoch in itertools.count())
        engine: Engine = pool.acquire()
        while batches < least:
            some = list(itertools.islice(steps, together))
            made = deque[Any]()
            for step in some:
                pool.submit(engine, step)
                made.append(engine.result(pool.stream))
            start = time.thread_time()
            for step in some:
                batches += len(pool.batches(step, made.popleft()))
            spent += time.thread_time() - start
        pool.release(engine, pool.generation)
        if self.loader.device != "cpu":
            synchronize()
        return 1e6 * spent / batches


def frameworks(device: str) -> list[str]:
    """Those that are installed and have arrays on the device."""
    there = [name for name in FRAMEWORKS if FRAMEWORKS[name].extra is None or importlib.util.find_spec(name) is not None]
    return [name for name in there if name != "cupy" or device != "cpu"]


def main(
    number: Annotated[int, typer.Option("--rounds", min=1)] = 7,
    batches: Annotated[int, typer.Option(min=1, help="delivered in a round, at least")] = 2000,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="the JSON file; default: benchmarks/results/")] = None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON."""
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{device}: it must be cpu or cuda", param_hint="--device")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    rows = []
    for job, (source, transform) in jobs().items():
        deliveries = {name: Delivery(source, transform, name, device) for name in frameworks(device)}
        for delivery in deliveries.values():
            delivery.microseconds(1, 1)
        row, cold = (
            rounds(
                number, {name: functools.partial(its.microseconds, batches, many) for name, its in deliveries.items()}
            )
            for many in (IN_A_ROW, 1)
        )
        for name in deliveries:
            rows.append({"job": job, "framework": name, "in_a_row": spread(row[name]), "cold": spread(cold[name])})
    report = {
        "benchmark": "delivery",
        "environment": environment(device),
        "batch_size": BATCH_SIZE,
        "rounds": number,
        "rows": rows,
    }
    table = Table(title=f"microseconds of Python a batch of {BATCH_SIZE}, {report['environment']['device_name']}")
    for heading in ("job", "framework"):
        table.add_column(heading)
    for heading in ("in a row", "least", "greatest", "cold"):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [f"{row['in_a_row'][key]:.1f}" for key in ("median", "least", "greatest")]
        table.add_row(row["job"], row["framework"], *cells, f"{row['cold']['median']:.1f}")
    Console().print(table)
    print(f"written to {save(report, out)}")
    return report


if __name__ == "__main__":
    typer.run(main)
