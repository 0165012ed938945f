"""The time that gpuload.ImageFolder takes to list a tree, beside a bare walk with os.scandir that only counts.

    python -m benchmarks.listing --files 200000

The files are empty and spread over 1000 folders, in a temporary folder that is removed at the end. The two take turns.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import gpuload
from benchmarks.report import environment, rounds, save, spread

FOLDERS = 1000


def walk(folder: str) -> int:
    """The number of files at and under a folder."""
    count = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            count += walk(entry.path) if entry.is_dir() else 1
    return count


def timed(list_: Callable[[str], int], folder: str, files: int) -> float:
    """Seconds that a listing takes; it must find all the files."""
    start = time.perf_counter()
    found = list_(folder)
    seconds = time.perf_counter() - start
    if found != files:
        raise RuntimeError(f"{found} of {files} files were found")
    return seconds


def main(
    files: Annotated[int, typer.Option(min=1)] = 200_000,
    number: Annotated[int, typer.Option("--rounds", min=1)] = 7,
    out: Annotated[Path | None, typer.Option(help="the JSON file; default: benchmarks/results/")] = None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON."""
    with tempfile.TemporaryDirectory() as folder:
        for index in range(files):
            name = Path(folder, f"class{index % FOLDERS:04}", f"image{index:08}.jpg")
            if index < FOLDERS:
                name.parent.mkdir()
            name.touch()
        listings = {
            "os.scandir": lambda: timed(walk, folder, files),
            "gpuload.ImageFolder": lambda: timed(lambda root: len(gpuload.ImageFolder(root)), folder, files),
        }
        times = rounds(number, listings)
    bare = times["os.scandir"]
    rows = [
        {
            "listing": name,
            "seconds": spread(seconds),
            "ratio": spread(its / walked for its, walked in zip(seconds, bare, strict=True)),
        }
        for name, seconds in times.items()
    ]
    report = {"benchmark": "listing", "environment": environment(), "files": files, "rounds": number, "rows": rows}
    table = Table(title=f"{files:,} files in {min(files, FOLDERS):,} folders, {number} rounds")
    table.add_column("listing")
    for heading in ("median ms", "least", "greatest", "of the walk"):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = (f"{1000 * row['seconds'][key]:.1f}" for key in ("median", "least", "greatest"))
        table.add_row(row["listing"], *cells, f"{row['ratio']['median']:.2f} ×")
    Console().print(table)
    print(f"written to {save(report, out)}")
    return report


if __name__ == "__main__":
    typer.run(main)
