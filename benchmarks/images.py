"""Images per second: gpuload beside other loaders, in one run, on the same files, with the same work.

    python -m benchmarks.images                            photographs made by benchmarks.photos, on the CPU
    python -m benchmarks.images --device cuda --data DIR   a folder of class folders, on the GPU

Every image is read and decoded, as in a first epoch; `benchmarks.warm` is the same for the epochs after it.

All contenders of a size are opened and run until they are warm. Then come the rounds. In each, one contender after
another, in an order that rotates, delivers as many batches as it makes in about `--seconds`. Right before that it
delivers others, untimed, until its queues are empty, for a full queue would be a head start; meanwhile the rest stand
still, and the next one waits until this one has filled its queues. Images are counted, across epochs.

- `time relative to gpuload`: the time that a contender takes for an image, divided by gpuload's in the same round.
- `busy`: CPU time of the consuming thread (`time.thread_time`), as a share of the time that passed. Waiting takes none.
  For gpuload it is all of its Python (plan, feeding, delivery) and the time that DALI spends inside those calls.
- `CPU ms`: time that an image takes of all CPUs, threads and worker processes included. Other programs on the machine
  change it less than the speed.
"""

import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console

from benchmarks.contenders import CONTENDERS
from benchmarks.jobs import Batches, Job, synchronize
from benchmarks.photos import photos
from benchmarks.program import (
    Count,
    Data,
    Device,
    Only,
    Out,
    Report,
    Rounds,
    Seconds,
    Sizes,
    chosen,
    cpu_time,
    finish,
    ratio,
    rounds,
    spreads,
    words,
)

BATCH_SIZE = 32
Contenders = dict[str, Callable[[Job], Batches]]
COLUMNS = {"size": "size", "contender": "loader", "images_per_second": "images per second"}
COLUMNS |= {"ratio": "time relative to gpuload", "busy": "busy", "cpu_ms": "CPU ms"}


class Stopwatch:
    """Timer of one contender, which it warms up first."""

    def __init__(self, batches: Batches, seconds: float, device: str):
        self.batches = batches
        self.seconds = seconds
        self.device = device
        next(batches)
        for _ in range(2):  # The first time counts what starting up takes.
            self.count, start = 0, time.perf_counter()
            while time.perf_counter() - start < seconds:
                self.take(1)
                self.count += 1

    def take(self, batches: int) -> int:
        """Consume batches; return the number of images in them."""
        images = sum(len(next(self.batches)[0]) for _ in range(batches))
        synchronize(self.device)
        return images

    def slice(self) -> dict[str, float]:
        """Speed over `count` batches, out of an even flow."""
        until = time.perf_counter() + self.seconds / 3
        self.take(2)
        while time.perf_counter() < until:
            self.take(1)
        cpu = cpu_time()
        start, busy = time.perf_counter(), time.thread_time()
        images = self.take(self.count)
        wall, busy = time.perf_counter() - start, time.thread_time() - busy
        return {"images_per_second": images / wall, "busy": busy / wall, "cpu_ms": 1000 * (cpu_time() - cpu) / images}


def measure(job: Job, contenders: Contenders, count: int, seconds: float) -> tuple[list[Report], dict[str, str]]:
    """Return a row for each contender at one size, and the reasons why others have none."""
    console = Console(stderr=True)
    watches, skipped = {}, {}
    for name, contender in contenders.items():
        console.print(f"{job.size} x {job.size}: warming up {name}")
        try:
            watches[name] = Stopwatch(contender(job), seconds, job.device)
        except ImportError as error:
            skipped[name] = str(error)
            console.print(f"{name} is left out: {error}")
    found = rounds(count, {name: watch.slice for name, watch in watches.items()})
    for watch in watches.values():
        watch.batches.close()
    rows = [{"size": job.size, "contender": name, **spreads(results)} for name, results in found.items()]
    ours = next((row for row in rows if row["contender"] == "gpuload"), None)
    if ours is not None:
        rows = [row | {"ratio": ratio(ours["images_per_second"], row["images_per_second"])} for row in rows]
    return rows, skipped


def program(benchmark: str, contenders: Contenders) -> Callable[..., Report]:
    """Return the program that compares these contenders."""

    def main(
        sizes: Sizes = "64,224",
        number: Rounds = 5,
        seconds: Seconds = 1.0,
        data: Data = None,
        count: Count = 1000,
        device: Device = "cpu",
        only: Only = None,
        out: Out = None,
    ) -> Report:
        """Measure, print a table, write JSON."""
        names = chosen(only, contenders, "--only")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        if importlib.util.find_spec("tensorflow") is None:
            os.environ.setdefault("KERAS_BACKEND", "torch")
        folder = data or photos(count)
        files = [path for path, _ in Job(folder, 1, BATCH_SIZE).files]
        if len(files) < BATCH_SIZE:
            raise typer.BadParameter(f"{len(files)} files, but a batch is {BATCH_SIZE}", param_hint="--data or --count")
        facts: dict[str, Any] = {
            "data": {"files": len(files), "mean_bytes": sum(map(os.path.getsize, files)) / len(files)},
            "batch_size": BATCH_SIZE,
            "rounds": number,
            "seconds": seconds,
            "rows": [],
            "skipped": {},
        }
        for size in map(int, sizes.split(",")):
            job = Job(folder, size, BATCH_SIZE, device)
            rows, skipped = measure(job, {name: contenders[name] for name in names}, number, seconds)
            facts["rows"] += rows
            facts["skipped"] |= skipped
        facts["contenders"] = words(contenders, [name for name in names if name not in facts["skipped"]])
        return finish(benchmark, device, out, COLUMNS, **facts)

    return main


main = program("images", CONTENDERS)

if __name__ == "__main__":
    typer.run(main)
