"""Images per second: gpuload beside other loaders, in one run, on the same files, with the same work.

    python -m benchmarks.images                            photographs made by benchmarks.photos, on the CPU
    python -m benchmarks.images --device cuda --data DIR   a folder of class folders, on the GPU

Every image is read and decoded, as in a first epoch; `benchmarks.warm` is the same for the epochs after it. Contenders
run until they are warm. In each round, one after another delivers as many batches as it makes in `--seconds`, after
others, untimed, that empty its queues, for a full queue would be a head start.

- `time relative to gpuload`: time that a contender takes for an image, divided by gpuload's in the same round.
- `busy`: CPU time of the consuming thread, as a share of the time that passed. Waiting takes none.
- `CPU ms`: time that an image takes of all CPUs, threads and worker processes included.
"""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import program
from benchmarks.contenders import CONTENDERS
from benchmarks.jobs import BATCH_SIZE, Batches, Job, synchronize
from benchmarks.photos import data_folder


class Stopwatch:
    """Timer of one contender, which it warms up first."""

    def __init__(self, batches: Batches, seconds: float, device: str):
        self.batches, self.seconds, self.device = batches, seconds, device
        next(batches)
        for _ in range(2):  # The first time counts what starting up takes.
            self.count, start = 0, time.perf_counter()
            while time.perf_counter() - start < seconds:
                self.take(1)
                self.count += 1

    def take(self, batches: int) -> int:
        """Consume batches, each of which is held until the next one is there; return the number of samples in them."""
        samples = 0
        for _ in range(batches):
            batch = next(self.batches)
            samples += len(batch[0])
        synchronize(self.device)
        return samples

    def slice(self) -> dict[str, float]:
        """Samples per second over `count` batches, out of an even flow; and their CPU time."""
        until = time.perf_counter() + self.seconds / 3
        self.take(2)
        while time.perf_counter() < until:
            self.take(1)
        cpu = program.cpu_time()
        start, busy = time.perf_counter(), time.thread_time()
        samples = self.take(self.count)
        wall, busy = time.perf_counter() - start, time.thread_time() - busy
        return {"speed": samples / wall, "busy": busy / wall, "cpu_ms": 1000 * (program.cpu_time() - cpu) / samples}


def measure(
    job: Any, contenders: dict[str, Any], ours: str, speed: str, count: int, seconds: float, *, settles: bool = True
) -> tuple[Any, Any]:
    """Return a row for each contender, whose speed is called `speed`, and the reasons why others have none.

    `settles`: whether to wait before each measurement until the threads of the others have filled their queues.
    """
    watches, skipped = {}, {}
    for name, contender in contenders.items():
        try:
            watches[name] = Stopwatch(contender(job), seconds, job.device)
        except ImportError as error:
            skipped[name] = str(error)
    found = program.rounds(count, {name: watch.slice for name, watch in watches.items()}, settles=settles)
    for watch in watches.values():
        watch.batches.close()
    figures = {name: program.spreads(results) for name, results in found.items()}
    rows = [{"contender": name, speed: its.pop("speed"), **its} for name, its in figures.items()]
    return program.relative(rows, ours, speed), skipped


def compare(benchmark: str, contenders: dict[str, Any], words: str | None, arguments: Sequence[str]) -> None:
    """Run the program that compares these contenders."""
    defaults = {"sizes": "64,224", "rounds": 5, "seconds": 1.0, "data": "1000", "device": "cpu", "only": "all"}
    asked = program.options(words, arguments, **defaults, out=None)
    names = program.chosen(asked.only, contenders, "--only")
    folder = data_folder(asked.data)
    jobs = [Job(folder, int(size), BATCH_SIZE, asked.device) for size in asked.sizes.split(",")]
    files = [path for path, _ in jobs[0].files]
    if len(files) < BATCH_SIZE:
        sys.exit(f"--data: {len(files)} files, but a batch is {BATCH_SIZE}")
    data = {"files": len(files), "mean_bytes": sum(map(os.path.getsize, files)) / len(files)}
    facts: dict[str, Any] = {"data": data, "batch_size": BATCH_SIZE, "rows": [], "skipped": {}}
    for job in jobs:
        print(f"{job.size} x {job.size}: {', '.join(names)}", file=sys.stderr)
        some = {name: contenders[name] for name in names}
        rows, skipped = measure(job, some, "gpuload", "images_per_second", asked.rounds, asked.seconds)
        facts["rows"] += [{"size": job.size, **row} for row in rows]
        facts["skipped"] |= skipped
    facts["contenders"] = program.words(contenders, [name for name in names if name not in facts["skipped"]])
    program.finish(asked, benchmark, **facts)


def main(*arguments: str) -> None:
    compare("images", CONTENDERS, __doc__, arguments)


if __name__ == "__main__":
    main()
