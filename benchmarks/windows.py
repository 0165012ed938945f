"""Windows per second: gpuload beside other ways to cut a series, in one run, on the same series, with the same work.

    python -m benchmarks.windows                          on the CPU: 36 cases, about half an hour
    python -m benchmarks.windows --lengths 96 --channels 7
    python -m benchmarks.windows --device cuda            on a GPU: float32 and bfloat16, and batches of 128 MiB

Measured as in `benchmarks.images`. Windows are counted, across epochs, and an epoch's new order is part of the time.

- `time relative to gpuload`: time that a contender takes for a window, divided by gpuload.torch's in the same round.
- `share of a copy`: bytes that gpuload.torch reads and writes in a second, divided by those of one large copy in the
  same memory; in caches it can pass 1.
"""

import functools
import itertools
import os
import sys
import time

import numpy as np

from benchmarks import program
from benchmarks.images import measure
from benchmarks.jobs import series, synchronize
from benchmarks.window_contenders import CONTENDERS, Job

OURS = "gpuload.torch"
FAR_BYTES = 2**28  # Size of the series that lies in no cache.
COPIED_BYTES = 2**30  # Size of the copy that a GPU's windows are compared with.
LARGE_BATCH_BYTES = 2**27  # Size of the batches that a GPU is given beside those of `--batches`.


def copied_bytes_per_second(device: str, size: int) -> float:
    """Bytes read plus bytes written by copies of `size` bytes."""
    if device == "cpu":
        source = np.ones(size // 4, np.float32)
        copy = functools.partial(np.copyto, np.empty_like(source), source)
    else:
        import torch

        source = torch.ones(size // 4, device=device)
        copy = functools.partial(torch.empty_like(source).copy_, source)
    copy()
    synchronize(device)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 0.5:
        copy()
        synchronize(device)
        count += 1
    return 2.0 * count * int(source.nbytes) / (time.perf_counter() - start)


def main(*arguments: str) -> None:
    defaults = {"lengths": "20,96,512", "channels": "1,7,64", "batches": "64,256", "places": "near,far"}
    defaults |= {"rounds": 5, "seconds": 0.3, "device": "cpu", "only": "all", "far_bytes": FAR_BYTES}
    asked = program.options(__doc__, arguments, **defaults, out=None)
    names = program.chosen(asked.only, CONTENDERS, "--only", ";")
    some = {name: CONTENDERS[name] for name in names}
    os.environ.setdefault("KERAS_BACKEND", "torch")
    copied = copied_bytes_per_second(asked.device, FAR_BYTES if asked.device == "cpu" else COPIED_BYTES)
    widths, steps, sizes = (option.split(",") for option in (asked.channels, asked.lengths, asked.batches))
    dtypes = ["float32"] if asked.device == "cpu" else ["float32", "bfloat16"]
    found, skipped = [], {}
    for place, width in itertools.product(program.chosen(asked.places, ("near", "far"), "--places"), map(int, widths)):
        values, labels = series(width) if place == "near" else series(width, asked.far_bytes // (4 * width))
        for length in map(int, steps):
            large = [] if asked.device == "cpu" else [LARGE_BATCH_BYTES // (4 * width * length)]
            for size, dtype in itertools.product([*map(int, sizes), *large], dtypes):
                print(f"{place}: {length} x {width}, batches of {size}, {dtype}", file=sys.stderr)
                job = Job(values, labels, length, size, asked.device, dtype)
                rows, left_out = measure(job, some, OURS, "windows_per_second", asked.rounds, asked.seconds)
                case = {"series": place, "length": length, "channels": width, "batch_size": size, "dtype": dtype}
                found += [{**case, **row} for row in rows]
                skipped |= left_out
    for row in found:
        if row["contender"] == OURS:
            moved = row["length"] * row["channels"] * (4 + (4 if row["dtype"] == "float32" else 2))
            row["share_of_copy"] = row["windows_per_second"]["median"] * moved / copied
    measured = dict.fromkeys(row["contender"] for row in found)
    words, facts = program.words(CONTENDERS, measured), {"copy_bytes_per_second": copied, "skipped": skipped}
    program.finish(asked, "windows", rows=found, contenders=words, **facts)
    print(f"one large copy reads and writes {copied / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
