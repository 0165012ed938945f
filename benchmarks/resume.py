"""Runs that are killed: no sample lost, none twice, the same pixels.

    python -m benchmarks.resume --kills 200

A child process iterates over a loader. After each batch it notes each sample's label and a digest of its pixels, and
then writes `state_dict()` beside it. It is killed with SIGKILL at a random moment and started again from the last state
written, until it was killed often enough. Its notes must be, line by line, those of one run that nobody kills.

There are three jobs: images by DALI; the same, in turn by one, two or three ranks (side by side in one child); windows
with noise. Ends with exit code 1 where anything differs.
"""

import functools
import hashlib
import itertools
import json
import logging
import operator
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import gpuload
from benchmarks.photos import blurs
from benchmarks.program import Report, child, finish, options

COUNT, SIDE, BATCH = 241, 48, 8
"""Images, their height and width, and samples in a batch of one rank: the last batch of an epoch is short."""

Ranks = Callable[[int], list[gpuload.Loader]]  # Makes a loader for each of so many ranks.
Line = list[tuple[int, str]]  # A batch of all ranks: of each sample its label and the digest of its pixels.


def pictures(folder: Path) -> None:
    """Make small JPEGs, each of its own colours, and three that cannot be read."""
    paths = blurs(folder, COUNT, (SIDE,))
    for number in (17, 90, 200):
        os.truncate(paths[number], 300)


def job(name: str, folder: Path, engine: str) -> Ranks:
    """Return the maker of the loaders of a job, each of which goes over all its samples."""
    options = {"batch_size": BATCH, "shuffle": True, "seed": 11, "framework": "numpy", "device": "cpu"}
    if name == "windows":
        values = np.random.default_rng(0).normal(size=(COUNT + 15, 3)).astype(np.float32)
        source = gpuload.Series(values, targets=np.arange(len(values)))
        transform = gpuload.Window(16, jitter=0.1, zoom=0.2)
    else:
        source = gpuload.ImageList(sorted(folder.glob("*.jpg")), labels=np.arange(COUNT))
        transform = gpuload.Augment(size=(32, 32), rotation=20, zoom=0.2, hflip=0.5, brightness=(0.5, 1.5))
        options |= {"engine": engine, "on_error": "replace"}
    make = functools.partial(gpuload.Loader, source, transform, **options)
    return lambda count: [make(shard=(rank, count) if count > 1 else None) for rank in range(count)]


def lines(ranks: list[gpuload.Loader]) -> Iterator[tuple[int, Line]]:
    """(epoch, batch of all ranks), for ever."""
    while True:
        epoch = ranks[0].epoch
        for parts in zip(*ranks, strict=True):
            samples = itertools.chain.from_iterable(zip(*part, strict=True) for part in parts)
            yield epoch, [(int(label), hashlib.blake2b(x.tobytes(), digest_size=8).hexdigest()) for x, label in samples]


def go_on(ranks: Ranks, folder: Path, counts: tuple[int, ...]) -> None:
    """Go on from the last state, and note everything, until killed."""
    random.seed()
    logging.disable()  # Each child finds the bad files anew.
    record, state = folder / "record", folder / "state"
    last = json.loads(state.read_text()) if state.exists() else None
    loaders = ranks(random.choice(counts))
    if last is not None:
        try:
            for loader in loaders:
                loader.load_state_dict(last["loader"])
        except ValueError:  # Fewer samples are left in the epoch than there are ranks.
            loaders = ranks(1)
            loaders[0].load_state_dict(last["loader"])
    with open(record, "a") as notes:
        notes.truncate(0 if last is None else last["record"])
        for epoch, line in lines(loaders):
            notes.write(json.dumps([epoch, line]) + "\n")
            notes.flush()
            told = {"loader": loaders[0].state_dict(), "record": notes.tell()}
            (folder / "state.new").write_text(json.dumps(told))
            os.replace(folder / "state.new", state)


def ready(engine: str) -> None:
    """Import and compile the code that children need, who have little time."""
    if engine != "numpy":
        from nvidia.dali import fn, pipeline_def  # noqa: F401
    pixels = gpuload.ImageArray(np.zeros((1, 1, 1, 3), np.uint8))
    with gpuload.Loader(pixels, gpuload.Augment(hflip=0.5), batch_size=1, engine=engine, device="cpu") as loader:
        list(loader)


def samples(record: Path) -> dict[int, Line]:
    """Samples of each epoch, in the order in which they came."""
    found = {}
    for line in record.read_text().splitlines():
        epoch, batch = json.loads(line)
        found.setdefault(epoch, []).extend(batch)
    return found


def reference(ranks: Ranks, folder: Path, epochs: int) -> None:
    """Note one run that nobody kills."""
    logging.disable()
    with open(folder / "reference", "w") as notes:
        for epoch, line in itertools.takewhile(lambda found: found[0] < epochs, lines(ranks(1))):
            notes.write(json.dumps([epoch, line]) + "\n")


def measure(ranks: Ranks, folder: Path, kills: int, counts: tuple[int, ...], longest: float) -> Report:
    """Kill runs `kills` times, each after up to `longest` seconds, and compare their notes with the reference."""
    chance, began, killed = random.Random(5), time.perf_counter(), 0
    # A fork has the modules of this process already, but no threads and engines. libjpeg tells of bad files on stderr.
    begin = functools.partial(child, errors=folder / "errors", method="fork")
    while killed < kills or not (folder / "state").exists():
        process = begin(go_on, ranks, folder, counts)
        time.sleep(chance.uniform(0.0, longest))
        process.kill()
        process.join()
        killed += 1
        if killed > 100 * kills:
            raise RuntimeError(f"in up to {longest} s no run comes as far as to write a state: raise --longest")
        if process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"a run ended by itself: {(folder / 'errors').read_text()}")
    found = samples(folder / "record")
    epochs = max(found) + 1
    process = begin(reference, ranks, folder, epochs)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the run that nobody kills ended early: {(folder / 'errors').read_text()}")
    expected = samples(folder / "reference")
    lost = twice = differing = 0
    for epoch in range(epochs):
        here, whole = found[epoch], expected[epoch]
        seen, wanted = (Counter(label for label, _ in part) for part in (here, whole))
        lost += (wanted - seen).total() * (epoch < epochs - 1)  # The last one was not finished.
        twice += (seen - wanted).total()
        differing += sum(map(operator.ne, here, whole))
    row = {"kills": killed, "epochs": epochs - 1, "samples": sum(map(len, found.values()))}
    return row | {"lost": lost, "twice": twice, "differing": differing, "seconds": time.perf_counter() - began}


def main(*arguments: str) -> None:
    asked = options(__doc__, arguments, kills=200, engine="numba", longest=1.0, out=None)
    rows = []
    ready(asked.engine)
    for name, counts in (("images", (1,)), ("1 to 3 ranks", (1, 2, 3)), ("windows", (1,))):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            pictures(folder)
            found = measure(job(name, folder, asked.engine), folder, asked.kills, counts, asked.longest)
            rows.append({"job": name} | found)
    finish(asked, "resume", rows=rows)
    sys.exit(any(row[name] for row in rows for name in ("lost", "twice", "differing")))


if __name__ == "__main__":
    main()
