"""The stages in their order, and the program that runs one: `benchmarks.gpu.stages NAME DEVICE EFFORT FILE`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu import ceilings, cold, launching, memory, pixels, sanitizers, series, tests, training, warm
from benchmarks.gpu.effort import EFFORTS, Effort


class Stage(NamedTuple):
    """A generator of rows, and the seconds after which it is cut off."""

    run: Callable[[Effort, str], Iterator[dict[str, Any]]]
    limit: int
    usual: bool = True
    """Whether it runs unless others are asked for."""


STAGES = {
    "ceilings": Stage(ceilings.run, 30),
    "launches": Stage(launching.run, 20),
    "pixels": Stage(pixels.run, 50),
    "windows": Stage(series.run, 60),
    "warm": Stage(warm.run, 50),
    "cold": Stage(cold.run, 60),
    "training": Stage(training.run, 45),
    "memory": Stage(memory.run, 40),
    "tests": Stage(tests.run, 400),
    "sanitizers": Stage(sanitizers.run, 600, usual=False),
}


def main(name: str, device: str, effort: str, rows: str) -> None:
    """Run a stage and append its rows to a file, as lines of JSON, each as soon as it is there."""
    with Path(rows).open("a") as file:
        for row in STAGES[name].run(EFFORTS[effort], device):
            file.write(json.dumps(row) + "\n")
            file.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
