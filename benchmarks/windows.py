"""Windows per second: gpuload beside other ways to cut a series, in one run, on the same series, with the same work.

    python -m benchmarks.windows                          on the CPU: 36 cases, about a quarter of an hour
    python -m benchmarks.windows --lengths 96 --channels 7
    python -m benchmarks.windows --device cuda            on a GPU: float32 and bfloat16, and batches of 128 MiB

For each case, all contenders are opened and deliver two batches. Then come the rounds. In each, one contender after
another, in an order that rotates, delivers batches for about `--seconds`; those in its queues are less than a hundredth
of them. Windows are counted, across epochs, and an epoch's new order is part of the time. A batch stays in memory
until the next one is there, as in any loop over batches.

- `time relative to gpuload`: the time that a contender takes for a window, divided by gpuload.torch's in the same round.
- `share of a copy`: bytes that gpuload.torch reads and writes in a second, each byte of a batch counted twice, as a share
  of those that one large copy in the same memory reads and writes; in caches it can pass 1.
"""

import functools
import itertools
import os
import time
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks.jobs import Batches, series, synchronize
from benchmarks.program import Device, Out, Report, Rounds, Seconds, chosen, finish, ratio, rounds, spread, words
from benchmarks.window_contenders import CONTENDERS, Job

FAR_BYTES = 2**28
"""Size of the series that lies in no cache."""
LARGE_BATCH_BYTES = 2**27
"""Size of the batches that a GPU is given beside those of `--batches`."""
COLUMNS = {"series": "series", "length": "window", "channels": "channels", "batch_size": "batch", "dtype": "dtype"}
COLUMNS |= {"contender": "loader", "windows_per_second": "windows per second", "ratio": "time relative to gpuload"}
COLUMNS |= {"share_of_copy": "share of a copy"}


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
    running: dict[str, Any] = {}
    skipped = {}
    for name in names:
        batches = CONTENDERS[name](job)
        try:
            next(batches), next(batches)
        except ImportError as error:
            skipped[name] = str(error)
            continue
        running[name] = batches
    found = rounds(number, {name: functools.partial(speed, it, seconds, job.device) for name, it in running.items()})
    for batches in running.values():
        batches.close()
    speeds = {name: spread(results) for name, results in found.items()}
    ours = speeds.get("gpuload.torch")
    rows: list[Report] = [{"contender": name, "windows_per_second": its} for name, its in speeds.items()]
    if ours is not None:
        rows = [row | {"ratio": ratio(ours, row["windows_per_second"])} for row in rows]
    return rows, skipped


def numbers(text: str) -> list[int]:
    """Integers that are separated by commas."""
    return [int(number) for number in text.split(",")]


def main(
    lengths: Annotated[str, typer.Option(help="steps in a window")] = "20,96,512",
    channels: Annotated[str, typer.Option(help="numbers in a row")] = "1,7,64",
    batches: Annotated[str, typer.Option(help="windows in a batch")] = "64,256",
    places: Annotated[str, typer.Option(help="near: a series in a cache; far: one out of it")] = "near,far",
    number: Rounds = 5,
    seconds: Seconds = 0.3,
    device: Device = "cpu",
    only: Annotated[str | None, typer.Option(help="names to measure, separated by semicolons; default: all")] = None,
    far_bytes: Annotated[int, typer.Option(help="size of the series that is far")] = FAR_BYTES,
    out: Out = None,
) -> Report:
    """Measure, print a table, write JSON."""
    names = chosen(only, CONTENDERS, "--only", ";")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    copied = copied_bytes_per_second(device)
    found: list[Report] = []
    skipped: dict[str, str] = {}
    progress = Console(stderr=True)
    for place, width in itertools.product(chosen(places, ("near", "far"), "--places"), numbers(channels)):
        values, labels = series(width) if place == "near" else series(width, far_bytes // (4 * width))
        for length in numbers(lengths):
            large = [] if device == "cpu" else [LARGE_BATCH_BYTES // (4 * width * length)]
            dtypes = ["float32"] if device == "cpu" else ["float32", "bfloat16"]
            for size, dtype in itertools.product(numbers(batches) + large, dtypes):
                progress.print(f"{place}: {length} x {width}, batches of {size}, {dtype}")
                rows, left_out = measure(Job(values, labels, length, size, device, dtype), names, number, seconds)
                case = {"series": place, "length": length, "channels": width, "batch_size": size, "dtype": dtype}
                found += [{**case, **row} for row in rows]
                skipped |= left_out
    for row in found:
        if row["contender"] == "gpuload.torch":
            moved = row["length"] * row["channels"] * (4 + (4 if row["dtype"] == "float32" else 2))
            row["share_of_copy"] = row["windows_per_second"]["median"] * moved / copied
    measured = {row["contender"] for row in found}
    facts = {"copy_bytes_per_second": copied, "rounds": number, "seconds": seconds, "rows": found, "skipped": skipped}
    facts["contenders"] = words(CONTENDERS, [name for name in names if name in measured])
    report = finish("windows", device, out, COLUMNS, **facts)
    print(f"one large copy reads and writes {copied / 1e9:.1f} GB/s")
    return report


if __name__ == "__main__":
    typer.run(main)
