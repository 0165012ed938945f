"""How cost grows: speed and memory against the number of files, their size, the image's, the batch's, threads, ranks.

    python -m benchmarks.growth
    python -m benchmarks.growth --axes files,size --rounds 1

One thing is changed at a time; everything else is as in `Case`. Each measurement is a process of its own, or several
for ranks. `cold` has no cache; `warm` has one in memory that a first epoch has filled, or for ranks one file for all.
Few photographs have many names, so that even a million files are in the system's memory.
"""

import functools
import gc
import math
import multiprocessing
import os
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

import gpuload
from benchmarks.contenders import gpuload_loader
from benchmarks.jobs import Job, endless
from benchmarks.photos import data_folder
from benchmarks.program import chosen, finish, in_processes, options, rounds, spreads, timed

ORIGINALS, MEGAPIXELS = 64, 0.1875
CPUS = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Case:
    """One measurement, at one place of an axis."""

    axis: str
    value: float
    files: int = 512
    scale: float = 1.0  # Factor of the photographs' sides, which are 500 and 375 pixels at 1.
    size: int = 64
    batch: int = 32
    threads: int = CPUS
    ranks: int = 1  # Processes, each with its part of the samples and of the threads.
    kept: float = 1.0  # Share of the samples that the cache may hold; 0: there is none.


def axes() -> dict[str, list[Case]]:
    """The cases by the name of the thing that is changed."""
    powers = {2**power for power in range(CPUS.bit_length())}
    values = {"files": [1000, 10_000, 100_000], "scale": [0.25, 0.5, 1.0, 2.0, 4.0]}
    values |= {"size": [32, 64, 128, 224, 384], "batch": [1, 8, 32, 128, 512]}
    values |= {"threads": sorted({*powers, CPUS, 2 * CPUS}), "ranks": sorted({1, 2, CPUS, 2 * CPUS})}
    values |= {"kept": [0.0, 0.25, 0.5, 0.75, 1.0]}
    fixed = {"files": {"scale": 0.25, "size": 32}, "scale": {"files": 128}}
    found = {}
    for name, places in values.items():
        found[name] = [Case(name, value, **fixed.get(name, {}) | {name: value}) for value in places]
    # A cache of a million would take a minute to fill.
    found["files"].append(replace(found["files"][-1], value=1_000_000, files=1_000_000, kept=0.0))
    return found


def pictures(originals: list[Path], folder: Path, scale: float) -> list[str]:
    """Write the photographs at another scale and return their paths."""
    folder.mkdir()
    for path in originals:
        with Image.open(path) as image:
            size = (round(image.width * scale), round(image.height * scale))
            image.resize(size, Image.Resampling.LANCZOS).save(folder / path.name, quality=95, subsampling="4:2:0")
    return sorted(map(str, folder.iterdir()))


def speed(kind: str, loader: Any, seconds: float, barrier: Any) -> dict[str, float]:
    """Images per second over about that time, after half of it, and bytes of memory; all ranks start together."""
    batches = endless(loader)

    def take(seconds: float) -> float:
        start, images = time.perf_counter(), 0
        while (now := time.perf_counter()) - start < seconds or not images:
            images += len(next(batches)[0])
        return images / (now - start)

    take(seconds / 2)
    barrier.wait()
    return {kind: take(seconds), f"{kind}_bytes": resident()}


def resident() -> int:
    """Bytes of memory that the process holds."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def measure(case: Case, paths: list[str], cache: str, seconds: float, barrier: Any, rank: int) -> dict[str, float]:
    """Speeds, seconds and bytes of one rank, in this process."""
    before = resident()
    names = (paths[number % len(paths)] for number in range(case.files))
    index_seconds, source = timed(lambda: gpuload.ImageList(names, np.arange(case.files)))
    result = {"index_seconds": index_seconds, "index_bytes": resident() - before}
    job = Job(Path(), case.size, case.batch)
    threads, shard = max(1, case.threads // case.ranks), (rank, case.ranks)
    with gpuload_loader(job, source, seed=0, threads=threads, shard=shard, cache=None) as loader:
        result |= speed("cold", loader, seconds, barrier)
    if not case.kept:
        return result
    limit = math.ceil(case.kept * case.files * 3 * case.size**2)
    shared = cache if case.ranks > 1 else gpuload.Cache(place="host", limit=limit)
    if rank == 0:
        with loader.replace(cache=shared, shard=None, threads=case.threads, last_batch="keep") as first:
            for _ in first:
                pass
            if case.ranks == 1:
                result |= speed("warm", first, seconds, barrier)
    if case.ranks > 1:
        barrier.wait()
        with loader.replace(cache=shared) as rest:
            result |= speed("warm", rest, seconds, barrier)
    return result


def run(case: Case, paths: list[str], seconds: float) -> dict[str, float]:
    """Measure in new processes: speeds and bytes of all ranks, added up."""
    manager = multiprocessing.get_context("spawn").Manager()
    with tempfile.TemporaryDirectory() as folder, manager:
        arguments = (case, paths, str(Path(folder, "cache")), seconds, manager.Barrier(case.ranks))
        found = in_processes(measure, *((*arguments, rank) for rank in range(case.ranks)))
    return {name: sum(each[name] for each in found) for name in found[0]}


def main(*arguments: str) -> None:
    asked = options(__doc__, arguments, axes="all", rounds=3, seconds=0.7, most=1_000_000, data="64", out=None)
    cases = [case for name in chosen(asked.axes, axes(), "--axes") for case in axes()[name] if case.files <= asked.most]
    originals = sorted(data_folder(asked.data).rglob("*.jpg"))[:ORIGINALS]
    with tempfile.TemporaryDirectory() as temporary:
        scales = {case.scale for case in cases}
        paths = {scale: pictures(originals, Path(temporary, str(scale)), scale) for scale in scales}
        sizes = {scale: sum(map(os.path.getsize, files)) / len(files) for scale, files in paths.items()}
        tasks = {str(case): functools.partial(run, case, paths[case.scale], asked.seconds) for case in cases}
        found = rounds(asked.rounds, tasks)
    rows = []
    for case, results in zip(cases, found.values(), strict=True):
        row = {key: value for key, value in asdict(case).items() if key != "scale"}
        row |= {"megapixels": MEGAPIXELS * case.scale**2, "mean_bytes": sizes[case.scale]}
        rows.append(row | spreads(results))
    finish(asked, "growth", rows=rows)


if __name__ == "__main__":
    main()
