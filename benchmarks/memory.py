"""Memory over long runs: what a process that loops over gpuload.Loader holds.

    python -m benchmarks.memory

A million small images, and a hundred thousand batches of windows, each in a process of its own. A thousand times it
reads the resident memory, the threads and the open descriptors. The first tenth is the warm-up, in which the memory of
DALI and of the allocator grows. The rest is cut into ten parts. A run is flat if their medians of the memory lie within
1 % of each other. Ends with exit code 1 where a run is not flat, where descriptors change, or where threads do by more
than those that read files.
"""

import gc
import itertools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import gpuload
from benchmarks.jobs import endless, series
from benchmarks.photos import blurs
from benchmarks.program import finish, in_processes, options
from gpuload.reading.reader import READERS

LOOKS, PARTS = 1000, 10
FILES, SIDE = 4096, 32  # Number of small images, and the height and width of their batches.


def opened(job: str, folder: Path, device: str) -> gpuload.Loader:
    """Return a loader of images that are decoded, resized, turned and flipped, or of plain windows."""
    options = {"shuffle": True, "seed": 0, "device": device}
    if job == "windows":
        values, _ = series()
        return gpuload.Loader(gpuload.Series(values, values[:, 0]), gpuload.Window(96), batch_size=256, **options)
    augment = gpuload.Augment(size=(SIDE, SIDE), rotation=10, hflip=0.5)
    return gpuload.Loader(gpuload.ImageList(sorted(folder.glob("*.jpg"))), augment, batch_size=64, **options)


def soak(job: str, folder: Path, device: str, batches: int) -> dict[str, Any]:
    """Memory, threads and descriptors of this process while it takes that many batches."""
    process, loader = psutil.Process(), opened(job, folder, device)
    pace, looks, samples = max(1, batches // LOOKS), [], 0
    began = time.perf_counter()
    with loader:
        for number, batch in enumerate(itertools.islice(endless(loader), batches)):
            samples += len(batch[0] if isinstance(batch, tuple) else batch)
            if number % pace == 0:
                gc.collect()
                looks.append((process.memory_info().rss, process.num_threads(), process.num_fds()))
    parts = [part for part in np.array_split(looks[len(looks) // 10 :], PARTS) if len(part)]
    medians = [float(np.median(part[:, 0])) for part in parts]
    # DALI has the files of a batch open while it reads them; the least number tells whether any stays open.
    _, threads, descriptors = zip(*(part.min(axis=0).tolist() for part in parts), strict=True)
    row = {"job": job, "batches": batches, "samples": samples, "seconds": time.perf_counter() - began}
    row |= {"resident_bytes": medians, "spread_percent": 100 * (max(medians) / min(medians) - 1)}
    return row | {"threads": [min(threads), max(threads)], "descriptors": [min(descriptors), max(descriptors)]}


def main(*arguments: str) -> None:
    asked = options(__doc__, arguments, samples=1_000_000, batches=100_000, tolerance=1.0, device="cpu", out=None)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        blurs(folder, min(FILES, asked.samples), (SIDE, SIDE + 8))
        for job, count in (("images", -(-asked.samples // 64)), ("windows", asked.batches)):
            rows += in_processes(soak, (job, folder, asked.device, count))
    finish(asked, "memory", rows=rows)
    flat = (row["spread_percent"] <= asked.tolerance for row in rows)
    descriptors = (len({*row["descriptors"]}) == 1 for row in rows)
    threads = (max(row["threads"]) - min(row["threads"]) <= READERS for row in rows)  # Each starts when it is needed.
    sys.exit(not all((*flat, *descriptors, *threads)))


if __name__ == "__main__":
    main()
