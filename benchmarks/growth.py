"""How cost grows: speed and memory against the number of files, their size, the image's, the batch's, threads, ranks.

    python -m benchmarks.growth
    python -m benchmarks.growth --axes files,size --rounds 1

One thing is changed at a time; all else is as in `Case`. Each measurement is a process of its own, or several for
ranks; those of a round come one after another, in an order that rotates. `cold` has no cache; `warm` has one in memory
that a first epoch has filled, or for ranks one file for all. There are few photographs under many names, so that a
million files need no disk: the system has all of them in memory.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.photos import photos
from benchmarks.report import environment, rounds, save, spread

ORIGINALS, MEGAPIXELS = 64, 0.1875
CPUS = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Case:
    """What is measured at one place of an axis."""

    axis: str
    value: float
    files: int = 512
    scale: float = 1.0
    """Of the photographs' sides, which are 500 and 375 pixels at 1."""
    size: int = 64
    batch: int = 32
    threads: int = CPUS
    ranks: int = 1
    """Processes, each with its part of the samples and of the threads."""
    kept: float = 1.0
    """Share of the samples that the cache may hold; 0: there is none."""


def _axis(name: str, values: list[Any], **fixed: Any) -> list[Case]:
    return [Case(name, value, **{name: value, **fixed}) for value in values]


def axes() -> dict[str, list[Case]]:
    """The cases by the name of what is changed."""
    found = [
        _axis("files", [1000, 10_000, 100_000], scale=0.25, size=32),
        _axis("scale", [0.25, 0.5, 1.0, 2.0, 4.0], files=128),
        _axis("size", [32, 64, 128, 224, 384]),
        _axis("batch", [1, 8, 32, 128, 512]),
        _axis("threads", sorted({*(2**power for power in range(CPUS.bit_length())), CPUS, 2 * CPUS})),
        _axis("ranks", sorted({1, 2, CPUS, 2 * CPUS})),
        _axis("kept", [0.0, 0.25, 0.5, 0.75, 1.0]),
    ]
    # A cache of a million would take a minute to fill.
    found[0].append(replace(found[0][-1], value=1_000_000, files=1_000_000, kept=0.0))
    return {cases[0].axis: cases for cases in found}


def pictures(originals: list[Path], folder: Path, scale: float) -> list[str]:
    """Photographs of so many times the size, and their paths."""
    folder.mkdir()
    for path in originals:
        with Image.open(path) as image:
            size = (round(image.width * scale), round(image.height * scale))
            image.resize(size, Image.Resampling.LANCZOS).save(folder / path.name, quality=95, subsampling="4:2:0")
    return sorted(map(str, folder.iterdir()))


def speed(loader: Any, seconds: float, meet: Any) -> float:
    """Images per second over about that time, after half of it; all ranks start together."""

    def take(seconds: float) -> float:
        start, images = time.perf_counter(), 0
        while (now := time.perf_counter()) - start < seconds or not images:
            images += len(next(batches)[0])
        return images / (now - start)

    def endless() -> Any:
        while True:
            yield from loader

    batches = endless()
    take(seconds / 2)
    meet()
    return take(seconds)


_barrier: Any = None


def _join(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def resident() -> int:
    """Bytes of memory that the process holds."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def measure(case: Case, paths: list[str], rank: int, cache: str, seconds: float) -> dict[str, float]:
    """Of one rank, in this process."""
    import numpy as np

    import gpuload

    before, start = resident(), time.perf_counter()
    source = gpuload.ImageList((paths[number % len(paths)] for number in range(case.files)), np.arange(case.files))
    result: dict[str, float] = {"index_seconds": time.perf_counter() - start, "index_bytes": resident() - before}
    transform = gpuload.Augment(
        size=(case.size, case.size),
        interpolation="nearest",
        shear=0.2,
        zoom=0.2,
        hflip=0.5,
        rescale=1 / 255,
        layout="HWC",
    )
    loader = gpuload.Loader(
        source,
        transform,
        batch_size=case.batch,
        shuffle=True,
        seed=0,
        last_batch="drop",
        device="cpu",
        threads=max(1, case.threads // case.ranks),
        shard=(rank, case.ranks),
        cache=None,
    )
    with loader:
        result["cold"] = speed(loader, seconds, _barrier.wait)
        result["cold_bytes"] = resident()
    if case.kept:
        limit = math.ceil(case.kept * case.files * 3 * case.size**2)
        shared = {"cache": cache} if case.ranks > 1 else {"cache": "host", "cache_limit": limit}
        if rank == 0:
            with loader.replace(**shared, shard=None, threads=case.threads, last_batch="keep") as first:
                for _ in first:
                    pass
                if case.ranks == 1:
                    result["warm"] = speed(first, seconds, _barrier.wait)
                    result["warm_bytes"] = resident()
        if case.ranks > 1:
            _barrier.wait()
            with loader.replace(**shared) as rest:
                result["warm"] = speed(rest, seconds, _barrier.wait)
                result["warm_bytes"] = resident()
    return result


def run(case: Case, paths: list[str], seconds: float) -> dict[str, float]:
    """In processes of its own: speeds and bytes of all ranks, added up."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(case.ranks)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(case.ranks, mp_context=context, initializer=_join, initargs=(barrier,)) as ranks,
    ):
        cache = str(Path(folder, "cache"))
        jobs = [ranks.submit(measure, case, paths, rank, cache, seconds) for rank in range(case.ranks)]
        found = [job.result() for job in jobs]
    return {name: sum(each[name] for each in found) for name in found[0]}


def show(report: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(title=f"gpuload, {report['environment']['device_name']}")
    for heading in ("axis", "", "cold/s", "warm/s", "index s", "index MB", "cold MB", "warm MB"):
        table.add_column(heading, justify="left" if heading == "axis" else "right")
    for row in report["rows"]:
        figures = [
            (f"{row[name]['median'] / unit:,.{digits}f}" if name in row else "")
            for name, unit, digits in (
                ("cold", 1, 0),
                ("warm", 1, 0),
                ("index_seconds", 1, 3),
                ("index_bytes", 1e6, 1),
                ("cold_bytes", 1e6, 0),
                ("warm_bytes", 1e6, 0),
            )
        ]
        table.add_row(row["axis"], f"{row['value']:,g}", *figures)
    Console().print(table)


def main(
    names: Annotated[str | None, typer.Option("--axes", help=f"of {', '.join(axes())}; default: all")] = None,
    number: Annotated[int, typer.Option("--rounds", min=1)] = 3,
    seconds: Annotated[float, typer.Option(help="of each measurement, about")] = 0.7,
    most: Annotated[int, typer.Option(help="files at most")] = 1_000_000,
    data: Annotated[Path | None, typer.Option(help="a folder of class folders; default: benchmarks.photos")] = None,
    out: Annotated[Path | None, typer.Option(help="the JSON file; default: benchmarks/results/")] = None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON."""
    chosen = list(axes()) if names is None else names.split(",")
    if unknown := set(chosen) - set(axes()):
        raise typer.BadParameter(f"{', '.join(unknown)}: not among {', '.join(axes())}", param_hint="--axes")
    cases = [case for name in chosen for case in axes()[name] if case.files <= most]
    originals = sorted((data or photos(ORIGINALS)).rglob("*.jpg"))[:ORIGINALS]
    with tempfile.TemporaryDirectory() as temporary:
        scales = {case.scale for case in cases}
        paths = {scale: pictures(originals, Path(temporary, str(scale)), scale) for scale in scales}
        sizes = {scale: sum(map(os.path.getsize, files)) / len(files) for scale, files in paths.items()}
        tasks = {
            f"{case.axis} {case.value:g}": lambda case=case: run(case, paths[case.scale], seconds)  # type: ignore[misc]
            for case in cases
        }
        found = rounds(number, tasks)
    rows = []
    for case, results in zip(cases, found.values(), strict=True):
        row: dict[str, Any] = {"axis": case.axis, "value": case.value}
        row |= {name: getattr(case, name) for name in ("files", "size", "batch", "threads", "ranks", "kept")}
        row |= {"megapixels": MEGAPIXELS * case.scale**2, "mean_bytes": sizes[case.scale]}
        rows.append(row | {name: spread(each[name] for each in results) for name in results[0]})
    report = {
        "benchmark": "growth",
        "environment": environment(),
        "rounds": number,
        "seconds": seconds,
        "rows": rows,
    }
    show(report)
    print(f"written to {save(report, out)}")
    return report


if __name__ == "__main__":
    typer.run(main)
