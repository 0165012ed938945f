"""Runs that are killed: nothing lost, nothing twice, the same pixels.

    python -m benchmarks.resume --kills 200

A child process iterates over a loader. After each batch it notes each sample's label and a digest of its pixels, and
then writes `state_dict()` beside it. It is killed with SIGKILL at a random moment and started again from the last state
written, until it was killed often enough. What was noted must be, line by line, what one run notes that nobody kills.

Of three jobs: images by DALI; the same, in turn by one, two or three ranks (which a child has side by side); windows
with noise. Ends with exit code 1 where anything differs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

import gpuload
from benchmarks.report import environment, save
from gpuload.images.step import Step

COUNT, SIDE, BATCH = 241, 48, 8
"""Images, their height and width, and samples in a batch of one rank: the last batch of an epoch is short."""

Line = list[tuple[int, str]]
"""A batch of all ranks: of each sample its label and the digest of its pixels."""


def pictures(folder: Path) -> None:
    """Small JPEGs, each of its own colours, and three that cannot be read."""
    generator = np.random.default_rng(0)
    for number in range(COUNT):
        coarse = generator.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.jpg")
    for number in (17, 90, 200):
        os.truncate(folder / f"{number:03d}.jpg", 300)


class Job:
    """What is loaded."""

    def __init__(self, name: str, folder: Path, engine: str):
        self.name = name
        self._options: dict[str, Any] = {"batch_size": BATCH, "shuffle": True, "seed": 11, "framework": "numpy"}
        self._options |= {"device": "cpu", "on_error": "replace"}
        if name == "windows":
            values = np.random.default_rng(0).normal(size=(COUNT + 15, 3)).astype(np.float32)
            self._source: Any = gpuload.Series(values, targets=np.arange(len(values)))
            self._transform: Any = gpuload.Window(16, jitter=0.1, zoom=0.2)
            del self._options["on_error"]
        else:
            self._source = gpuload.ImageList(sorted(folder.glob("*.jpg")), labels=np.arange(COUNT))
            self._transform = gpuload.Augment(size=(32, 32), rotation=20, zoom=0.2, hflip=0.5, brightness=(0.5, 1.5))
            self._options["engine"] = engine

    def ranks(self, count: int) -> list[gpuload.Loader]:
        """A loader for each rank."""
        parts = [None] if count == 1 else [(rank, count) for rank in range(count)]
        return [gpuload.Loader(self._source, self._transform, shard=part, **self._options) for part in parts]


def lines(ranks: list[gpuload.Loader]) -> Iterator[tuple[int, Line]]:
    """(epoch, batch of all ranks), for ever."""
    while True:
        epoch = ranks[0].epoch
        for parts in zip(*ranks, strict=True):
            yield (
                epoch,
                [
                    (int(label), hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest())
                    for values_of_rank, labels in parts
                    for values, label in zip(values_of_rank, labels, strict=True)
                ],
            )


def child(job: Job, folder: Path, counts: tuple[int, ...]) -> None:
    """Go on where the last state says, and note everything, until killed."""
    record, state = folder / "record", folder / "state"
    last = json.loads(state.read_text()) if state.exists() else None
    count = random.choice(counts)
    ranks = job.ranks(count)
    if last is not None:
        try:
            for rank in ranks:
                rank.load_state_dict(last["loader"])
        except ValueError:  # Fewer samples are left in the epoch than there are ranks.
            ranks = job.ranks(1)
            ranks[0].load_state_dict(last["loader"])
    with open(record, "a") as notes:
        notes.truncate(0 if last is None else last["record"])
        for epoch, line in lines(ranks):
            notes.write(json.dumps([epoch, line]) + "\n")
            notes.flush()
            told = {"loader": ranks[0].state_dict(), "record": notes.tell()}
            (folder / "state.new").write_text(json.dumps(told))
            os.replace(folder / "state.new", state)


def ready(engine: str) -> None:
    """Import and compile what children need, who have little time."""
    if engine == "dali":
        from nvidia.dali import fn, pipeline_def  # noqa: F401

        from gpuload.images.host import NumbaAugmenter

        augmenter = NumbaAugmenter(gpuload.Augment(size=(1, 1), layout="HWC"), (1, 1, 3), 1)
        pixels, step = np.zeros((1, 1, 1, 3), np.uint8), Step(indices=np.arange(1))
        augmenter.start(None, pixels, ~step.indices, step).result()
        augmenter.close()


def fork(errors: Path, function: Any, *arguments: Any) -> int:
    """The id of a child that runs it. What is imported is there already, threads and engines are not. `errors`: where
    its stderr goes, to which libjpeg and DALI write of each bad file."""
    sys.stdout.flush()
    found = os.fork()
    if found:
        return found
    status = 1
    try:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        random.seed()
        logging.disable()  # Each child finds the bad files anew.
        function(*arguments)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def samples(record: Path) -> dict[int, list[tuple[int, str]]]:
    """Of each epoch, the samples in the order in which they came."""
    found: dict[int, list[tuple[int, str]]] = {}
    for line in record.read_text().splitlines():
        epoch, batch = json.loads(line)
        found.setdefault(epoch, []).extend((label, digest) for label, digest in batch)
    return found


def reference(job: Job, folder: Path, epochs: int) -> None:
    """One run that nobody kills."""
    with open(folder / "reference", "w") as notes:
        for epoch, line in itertools.takewhile(lambda found: found[0] < epochs, lines(job.ranks(1))):
            notes.write(json.dumps([epoch, line]) + "\n")


def measure(job: Job, folder: Path, kills: int, counts: tuple[int, ...], longest: float) -> dict[str, Any]:
    """Kill it so often, after up to `longest` seconds each time, and compare."""
    chance = random.Random(5)
    began, killed = time.perf_counter(), 0
    while killed < kills or not (folder / "state").exists():
        process = fork(folder / "errors", child, job, folder, counts)
        time.sleep(chance.uniform(0.0, longest))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        killed += 1
        if killed > 100 * kills:
            raise RuntimeError(f"in up to {longest} s no run comes as far as to write a state: raise --longest")
        if not os.WIFSIGNALED(status):
            raise RuntimeError(f"a run ended by itself: {(folder / 'errors').read_text()}")
    found = samples(folder / "record")
    epochs = max(found) + 1
    if os.waitpid(fork(folder / "errors", reference, job, folder, epochs), 0)[1]:
        raise RuntimeError(f"the run that nobody kills ended early: {(folder / 'errors').read_text()}")
    expected = samples(folder / "reference")
    lost = twice = differing = 0
    for epoch in range(epochs):
        here, whole = found[epoch], expected[epoch]
        seen, wanted = (Counter(label for label, _ in part) for part in (here, whole))
        if epoch < epochs - 1:  # The last one was not finished.
            lost += sum((wanted - seen).values())
        twice += sum((seen - wanted).values())
        differing += sum(one != other for one, other in zip(here, whole, strict=False))
    return {
        "job": job.name,
        "kills": killed,
        "epochs": epochs - 1,
        "samples": sum(map(len, found.values())),
        "lost": lost,
        "twice": twice,
        "differing": differing,
        "seconds": time.perf_counter() - began,
    }


def main(
    kills: Annotated[int, typer.Option(min=1, help="of each job")] = 200,
    engine: Annotated[str, typer.Option(help="dali or numpy")] = "dali",
    longest: Annotated[float, typer.Option(min=0.0, help="seconds until a kill, at most")] = 1.0,
    out: Annotated[Path | None, typer.Option(help="the JSON file; default: benchmarks/results/")] = None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON."""
    rows = []
    ready(engine)
    for name, counts in (("images", (1,)), ("1 to 3 ranks", (1, 2, 3)), ("windows", (1,))):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            pictures(folder)
            rows.append(measure(Job(name, folder, engine), folder, kills, counts, longest))
    report = {"benchmark": "resume", "environment": environment(), "engine": engine, "rows": rows}
    table = Table(title="Killed with SIGKILL and resumed")
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading == "job" else "right")
    for row in rows:
        table.add_row(*(f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    print(f"written to {save(report, out)}")
    if any(row[name] for row in rows for name in ("lost", "twice", "differing")):
        raise typer.Exit(1)
    return report


if __name__ == "__main__":
    typer.run(main)
