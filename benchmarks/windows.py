"""Windows per second: gpuload beside other ways to cut a series, in one run, on the same series, with the same work.

    python -m benchmarks.windows                          on the CPU: 36 cases, about a quarter of an hour
    python -m benchmarks.windows --lengths 96 --channels 7
    python -m benchmarks.windows --device cuda            on a GPU: float32 and bfloat16, and batches of 128 MiB

For each case, all contenders are opened and deliver two batches. In each round, one after another delivers batches for
about `--seconds`; those in its queues are less than a hundredth of them. Windows are counted, across epochs, and an
epoch's new order is part of the time. A batch stays in memory until the next one is there.

- `time relative to gpuload`: time that a contender takes for a window, divided by gpuload.torch's in the same round.
- `share of a copy`: bytes that gpuload.torch reads and writes in a second, divided by those of one large copy in the
  same memory; in caches it can pass 1.
"""

import functools
import itertools
import os
import sys
import time
from typing import Any

import numpy as np

from benchmarks import program
from benchmarks.jobs import Batches, series, synchronize
from benchmarks.program import Report
from benchmarks.window_contenders import CONTENDERS, Job

FAR_BYTES = 2**28  # Size of the series that lies in no cache.
LARGE_BATCH_BYTES = 2**27  # Size of the batches that a GPU is given beside those of `--batches`.


def copied_bytes_per_second(device: str) -> float:
    """Bytes read plus bytes written by one large copy."""
    if device == "cpu":
        source: Any = np.ones(FAR_BYTES // 4, np.float32)
        copy = functools.partial(np.copyto, np.empty_like(source), source)
    else:
        import torch

        source = torch.ones(2**28, device=device)
        copy = functools.partial(torch.empty_like(source).copy_, source)
    copy()
    synchronize(device)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 0.5:
        copy()
        synchronize(device)
        count += 1
    return 2.0 * count * int(source.nbytes) / (time.perf_counter() - start)


def speed(batches: Batches, seconds: float, device: str) -> float:
    """Windows per second, over that many seconds or a few more."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(4):
            batch = next(batches)
            count += len(batch[0])
    synchronize(device)
    return count / (time.perf_counter() - start)


def measure(job: Job, names: list[str], number: int, seconds: float) -> tuple[list[Report], dict[str, str]]:
    """Return a row for each contender in one case, and the reasons why others have none."""

    def begin(name: str) -> Batches:
        batches = CONTENDERS[name](job)
        next(batches), next(batches)
        return batches

    running, skipped = program.opened(names, begin)
    tasks = {name: functools.partial(speed, batches, seconds, job.device) for name, batches in running.items()}
    speeds = {name: program.spread(results) for name, results in program.rounds(number, tasks).items()}
    for batches in running.values():
        batches.close()
    rows: list[Report] = [{"contender": name, "windows_per_second": its} for name, its in speeds.items()]
    return program.relative(rows, "gpuload.torch", "windows_per_second"), skipped


def main(*arguments: str) -> Report:
    """Measure, print a table, write JSON."""
    asked = program.options(
        __doc__,
        arguments,
        lengths="20,96,512",
        channels="1,7,64",
        batches="64,256",
        places="near,far",
        rounds=5,
        seconds=0.3,
        device="cpu",
        only="all",
        far_bytes=FAR_BYTES,
        out=None,
    )
    names = program.chosen(asked.only, CONTENDERS, "--only", ";")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    copied = copied_bytes_per_second(asked.device)
    widths, steps, sizes = (option.split(",") for option in (asked.channels, asked.lengths, asked.batches))
    dtypes = ["float32"] if asked.device == "cpu" else ["float32", "bfloat16"]
    found: list[Report] = []
    skipped: dict[str, str] = {}
    for place, width in itertools.product(program.chosen(asked.places, ("near", "far"), "--places"), map(int, widths)):
        values, labels = series(width) if place == "near" else series(width, asked.far_bytes // (4 * width))
        for length in map(int, steps):
            large = [] if asked.device == "cpu" else [LARGE_BATCH_BYTES // (4 * width * length)]
            for size, dtype in itertools.product([*map(int, sizes), *large], dtypes):
                print(f"{place}: {length} x {width}, batches of {size}, {dtype}", file=sys.stderr)
                job = Job(values, labels, length, size, asked.device, dtype)
                rows, left_out = measure(job, names, asked.rounds, asked.seconds)
                case = {"series": place, "length": length, "channels": width, "batch_size": size, "dtype": dtype}
                found += [{**case, **row} for row in rows]
                skipped |= left_out
    for row in found:
        if row["contender"] == "gpuload.torch":
            moved = row["length"] * row["channels"] * (4 + (4 if row["dtype"] == "float32" else 2))
            row["share_of_copy"] = row["windows_per_second"]["median"] * moved / copied
    measured = {row["contender"] for row in found}
    facts = {"copy_bytes_per_second": copied, "rows": found, "skipped": skipped}
    facts["contenders"] = program.words(CONTENDERS, [name for name in names if name in measured])
    report = program.finish(asked, "windows", **facts)
    print(f"one large copy reads and writes {copied / 1e9:.1f} GB/s")
    return report


if __name__ == "__main__":
    main()
