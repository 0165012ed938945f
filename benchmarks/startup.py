"""How long a loader takes to begin, over as many files as ImageNet has: index, first batch, and going on in the middle.

    python -m benchmarks.startup                  1.28 million names in 1000 folders
    python -m benchmarks.startup --files 200000

The names are hard links to a few photographs, in a temporary folder. Each round is a process of its own, which
walks the tree with os.scandir and lists it with gpuload.ImageFolder, in turn one or the other first; makes a shuffled
loader and takes its first batch, for which engines are opened and compiled code is read; does so again; and makes
loaders that go on from a state at several places of an epoch, and takes a batch of each.
"""

import itertools
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import gpuload
from benchmarks.photos import data_folder
from benchmarks.program import finish, in_processes, options, ratio, rounds, spreads, timed

FOLDERS, BATCH_SIZE, SIZE = 1000, 32, 64
PLACES = (0.0, 0.25, 0.5, 0.75, 0.999)  # Where to go on, as shares of the epoch.


def tree(folder: Path, files: int, originals: list[Path]) -> None:
    """Make many names of a few files, in class folders."""
    copies = [Path(shutil.copy(path, folder / f"{number}.jpg")) for number, path in enumerate(originals)]
    for number in range(min(files, FOLDERS)):
        Path(folder, "tree", f"class{number:04}").mkdir(parents=True)
    top = str(folder / "tree")
    for number in range(files):
        os.link(copies[number % len(copies)], f"{top}/class{number % FOLDERS:04}/image{number:08}.jpg")


def walk(folder: str) -> int:
    """Number of files at and under a folder."""
    count = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            count += walk(entry.path) if entry.is_dir() else 1
    return count


def begin(top: str, files: int, device: str, walk_first: bool) -> dict[str, float]:
    """Seconds of each step, in one round."""
    transform = gpuload.Augment(size=(SIZE, SIZE), shear=10, zoom=0.2, hflip=0.5, rescale=1 / 255)
    options = {"batch_size": BATCH_SIZE, "shuffle": True, "seed": 0, "device": device}

    def first(state: dict[str, Any] | None = None) -> float:
        start = time.perf_counter()
        with gpuload.Loader(source, transform, **options) as loader:
            if state is not None:
                loader.load_state_dict(state)
            next(iter(loader))
            return time.perf_counter() - start  # Closing the loader is not part of it.

    walked = timed(lambda: walk(top))[0] if walk_first else 0.0
    index, source = timed(lambda: gpuload.ImageFolder(top))
    if not walk_first:
        walked = timed(lambda: walk(top))[0]
    if len(source) != files:
        raise RuntimeError(f"{len(source)} of {files} files were found")
    result = {"os.scandir": walked, "gpuload.ImageFolder": index, "first batch": first(), "first batch, again": first()}
    state = gpuload.Loader(source, transform, **options).state_dict()
    for place in PLACES:
        seen = int(place * files) // BATCH_SIZE * BATCH_SIZE
        result[f"resume at {place:.1%}"] = first({**state, "epoch": 3, "seen": seen})
    return result


def main(*arguments: str) -> None:
    asked = options(__doc__, arguments, files=1_280_000, rounds=5, device="cpu", data="64", where=None, out=None)
    originals = sorted(data_folder(asked.data).rglob("*.jpg"))[:64]
    walk_first = itertools.cycle((True, False))
    with tempfile.TemporaryDirectory(dir=asked.where) as folder:
        tree(Path(folder), asked.files, originals)
        top = str(Path(folder, "tree"))
        walk(top)  # From here on the names are in the system's memory, for both.
        tasks = {"startup": lambda: in_processes(begin, (top, asked.files, asked.device, next(walk_first)))[0]}
        seconds = spreads(rounds(asked.rounds, tasks)["startup"])
    rows = [{"step": step, "seconds": its} for step, its in seconds.items()]
    rows[1]["ratio"] = ratio(seconds["gpuload.ImageFolder"], seconds["os.scandir"])
    finish(asked, "startup", batch_size=BATCH_SIZE, rows=rows)


if __name__ == "__main__":
    main()
