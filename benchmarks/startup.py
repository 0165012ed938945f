"""How long a loader takes to begin, over as many files as ImageNet has: index, first batch, and going on in the middle.

    python -m benchmarks.startup                  1.28 million names in 1000 folders
    python -m benchmarks.startup --files 200000

The names are hard links to a few photographs, in a temporary folder that is removed at the end. Each round is a process
of its own, which

- walks the tree with os.scandir and counts, and lists it with gpuload.ImageFolder, in turn one or the other first;
- makes a shuffled loader and takes its first batch: engines are opened and compiled code is read from the disk then;
- makes another, and takes its first batch: what that takes where all is loaded;
- at several places of an epoch, makes a loader, gives it the state of a loader that stood there, and takes a batch.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.photos import photos
from benchmarks.report import environment, rounds, save, spread

FOLDERS, ORIGINALS = 1000, 64
BATCH_SIZE, SIZE = 32, 64
PLACES = (0.0, 0.25, 0.5, 0.75, 0.999)
"""Of the epoch, as a share of it."""


def tree(folder: Path, files: int, originals: list[Path]) -> None:
    """So many names of a few files, in class folders."""
    copies = [Path(shutil.copy(path, folder / f"{number}.jpg")) for number, path in enumerate(originals)]
    for number in range(min(files, FOLDERS)):
        Path(folder, "tree", f"class{number:04}").mkdir(parents=True)
    top = str(folder / "tree")
    for number in range(files):
        os.link(copies[number % len(copies)], f"{top}/class{number % FOLDERS:04}/image{number:08}.jpg")


def walk(folder: str) -> int:
    """The number of files at and under a folder."""
    count = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            count += walk(entry.path) if entry.is_dir() else 1
    return count


def timed(task: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    start = time.perf_counter()
    result = task()
    return time.perf_counter() - start, result


def begin(top: str, files: int, device: str, walk_first: bool) -> dict[str, Any]:
    """One round: seconds of each step."""
    import gpuload

    transform = gpuload.Augment(size=(SIZE, SIZE), shear=10, zoom=0.2, hflip=0.5, rescale=1 / 255)
    options: dict[str, Any] = {"batch_size": BATCH_SIZE, "shuffle": True, "seed": 0, "device": device}

    def first(state: dict[str, Any] | None = None) -> float:
        start = time.perf_counter()
        with gpuload.Loader(source, transform, **options) as loader:
            if state is not None:
                loader.load_state_dict(state)
            next(iter(loader))
            return time.perf_counter() - start

    walked = timed(lambda: walk(top))[0] if walk_first else 0.0
    index, source = timed(lambda: gpuload.ImageFolder(top))
    if not walk_first:
        walked = timed(lambda: walk(top))[0]
    if len(source) != files:
        raise RuntimeError(f"{len(source)} of {files} files were found")
    result = {"os.scandir": walked, "gpuload.ImageFolder": index}
    result["first batch"] = first()
    result["first batch, again"] = first()
    state = gpuload.Loader(source, transform, **options).state_dict()
    for place in PLACES:
        seen = int(place * files) // BATCH_SIZE * BATCH_SIZE
        result[f"resume at {place:.1%}"] = first({**state, "epoch": 3, "seen": seen})
    return result


def main(
    files: Annotated[int, typer.Option(min=2 * BATCH_SIZE)] = 1_280_000,
    number: Annotated[int, typer.Option("--rounds", min=1)] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    data: Annotated[Path | None, typer.Option(help="a folder of class folders; default: benchmarks.photos")] = None,
    where: Annotated[Path | None, typer.Option(help="a folder for the names; default: the system's for such")] = None,
    out: Annotated[Path | None, typer.Option(help="the JSON file; default: benchmarks/results/")] = None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON."""
    originals = sorted((data or photos(ORIGINALS)).rglob("*.jpg"))[:ORIGINALS]
    turns: list[bool] = []

    def round_() -> dict[str, Any]:
        turns.append(len(turns) % 2 == 0)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
            return alone.submit(begin, str(Path(folder, "tree")), files, device, turns[-1]).result()

    with tempfile.TemporaryDirectory(dir=where) as folder:
        tree(Path(folder), files, originals)
        walk(folder)  # From here on the names are in the system's memory, for both.
        (found,) = rounds(number, {"startup": round_}).values()
    rows = []
    for step in found[0]:
        row = {"step": step, "seconds": spread(each[step] for each in found)}
        if step == "gpuload.ImageFolder":
            row["ratio"] = spread(each[step] / each["os.scandir"] for each in found)
        rows.append(row)
    report = {
        "benchmark": "startup",
        "environment": environment(device),
        "files": files,
        "batch_size": BATCH_SIZE,
        "rounds": number,
        "rows": rows,
    }
    table = Table(title=f"{files:,} files in {min(files, FOLDERS):,} folders, {number} rounds")
    table.add_column("step")
    for heading in ("median ms", "least", "most", "of the walk"):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = (f"{1000 * row['seconds'][key]:,.1f}" for key in ("median", "least", "greatest"))
        table.add_row(row["step"], *cells, f"{row['ratio']['median']:.2f} ×" if "ratio" in row else "")
    Console().print(table)
    print(f"written to {save(report, out)}")
    return report


if __name__ == "__main__":
    typer.run(main)
