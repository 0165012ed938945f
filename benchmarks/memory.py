"""Memory over long runs: what a process that loops over gpuload.Loader holds.

    python -m benchmarks.memory

A million small images, and a hundred thousand batches of windows, each in a process of its own. It looks a thousand
times at the resident memory, the threads and the open descriptors. The first tenth is the warm-up, in which DALI's
memory grows to the largest batch that it has seen, and the allocator's to its widest scatter. The rest is cut into ten
parts, each of which has a median of its memory, and a least number of threads and descriptors. Flat is a run whose
medians lie within 1 % of each other. Ends with exit code 1 where one is not, or where threads or descriptors change.
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

import gpuload
from benchmarks.report import environment, save

LOOKS, PARTS = 1000, 10
FILES, SIDE = 4096, 32
"""Small images, their height and width."""


def pictures(folder: Path, count: int) -> None:
    """Small JPEGs of random colours, of two sizes."""
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 256, (4, 4, 3), np.uint8)
        side = SIDE + 8 * (number % 2)
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg")


def images(folder: Path, device: str) -> gpuload.Loader:
    """Decoded, resized, turned and flipped."""
    source = gpuload.ImageList(sorted(folder.glob("*.jpg")))
    transform = gpuload.Augment(size=(SIDE, SIDE), rotation=10, hflip=0.5)
    return gpuload.Loader(source, transform, batch_size=64, shuffle=True, seed=0, device=device)


def windows(folder: Path, device: str) -> gpuload.Loader:
    """Plain windows and their labels."""
    values = np.random.default_rng(0).normal(size=(17420, 7)).astype(np.float32)
    source = gpuload.Series(values, targets=values[:, 0])
    return gpuload.Loader(source, gpuload.Window(96), batch_size=256, shuffle=True, seed=0, device=device)


JOBS = {"images": images, "windows": windows}


def soak(job: str, folder: Path, device: str, batches: int) -> dict[str, Any]:
    """What the process holds while it takes so many batches."""
    process, loader = psutil.Process(), JOBS[job](folder, device)
    pace, looks, samples = max(1, batches // LOOKS), [], 0
    began = time.perf_counter()
    with loader:
        endless = itertools.chain.from_iterable(itertools.repeat(loader))
        for number, batch in enumerate(itertools.islice(endless, batches)):
            samples += len(batch[0] if isinstance(batch, tuple) else batch)
            if number % pace == 0:
                gc.collect()
                looks.append((process.memory_info().rss, process.num_threads(), process.num_fds()))
    resident, threads, descriptors = zip(*looks, strict=True)
    settled = len(looks) // 10
    parts = [float(np.median(part)) for part in np.array_split(resident[settled:], PARTS) if len(part)]
    # DALI has the files of a batch open while it reads them: what is open at least tells whether any stays open.
    threads, descriptors = (
        [int(part.min()) for part in np.array_split(column[settled:], PARTS) if len(part)]
        for column in (threads, descriptors)
    )
    return {
        "job": job,
        "batches": batches,
        "samples": samples,
        "seconds": time.perf_counter() - began,
        "resident_bytes": parts,
        "spread_percent": 100 * (max(parts) / min(parts) - 1),
        "threads": [min(threads), max(threads)],
        "descriptors": [min(descriptors), max(descriptors)],
    }


def main(
    samples: Annotated[int, typer.Option(min=1, help="images")] = 1_000_000,
    batches: Annotated[int, typer.Option(min=1, help="of 256 windows")] = 100_000,
    tolerance: Annotated[float, typer.Option(help="percent between the parts of a run that counts as flat")] = 1.0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="the JSON file; default: benchmarks/results/")] = None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pictures(folder, min(FILES, samples))
        for job, count in (("images", -(-samples // 64)), ("windows", batches)):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
                rows.append(alone.submit(soak, job, folder, device, count).result())
    report = {"benchmark": "memory", "environment": environment(device), "rows": rows}
    table = Table(title="gpuload.Loader over a long run")
    for heading in ("", "samples", "s", "resident MB", "spread", "threads", "files"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        table.add_row(
            row["job"],
            f"{row['samples']:,}",
            f"{row['seconds']:.0f}",
            f"{min(row['resident_bytes']) / 1e6:.1f} to {max(row['resident_bytes']) / 1e6:.1f}",
            f"{row['spread_percent']:.2f} %",
            *("{} to {}".format(*row[name]) for name in ("threads", "descriptors")),
        )
    Console().print(table)
    print(f"written to {save(report, out)}")
    flat = (row["spread_percent"] <= tolerance for row in rows)
    constant = (len({*row[name]}) == 1 for row in rows for name in ("threads", "descriptors"))
    if not all((*flat, *constant)):
        raise typer.Exit(1)
    return report


if __name__ == "__main__":
    typer.run(main)
