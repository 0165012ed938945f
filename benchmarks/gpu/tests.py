"""The tests that need a GPU, those of copies and of lifetimes among them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu import record
from benchmarks.gpu.effort import Effort

ROOT = Path(__file__).parents[2]
MOST = 14
"""Processes that run tests side by side, at most."""
DEVICE_BYTES = 2**31
"""Memory of the device that one of them takes, at most."""
PAUSE = 0.2
"""Seconds between looks at what has come."""
SLOWEST = 10


def run(effort: Effort, device: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each test, as it comes."""
    environment = os.environ | ({} if device == "cpu" else {"GPULOAD_REQUIRE_GPU": "1"})
    processes = processes_of(device)
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(processes), "--dist", "worksteal", "--tb", "short"]
    command += ["-W", "default"]  # Other versions warn of other things, which is for `make test` to tell.
    command += ["-p", "benchmarks.gpu.record", "-p", "no:cacheprovider", *effort.tests]
    with tempfile.TemporaryDirectory() as temporary:
        path, log = Path(temporary, "record"), Path(temporary, "log")
        path.touch()
        with path.open() as results, log.open("w") as output:
            environment[record.VARIABLE] = str(path)
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
            ended = False
            while not ended:
                ended = process.poll() is not None  # First: what is written until then is read below.
                time.sleep(PAUSE)
                yield from map(json.loads, _whole(results))
        if process.returncode not in (0, 1):  # Neither all good nor some failed.
            raise RuntimeError(f"pytest ended with {process.returncode}:\n{log.read_text()[-2000:]}")


def processes_of(device: str) -> int:
    """Return how many processes the CPUs and the device's memory can bear."""
    cpus = len(os.sched_getaffinity(0))
    if device == "cpu":
        return min(2, cpus)
    import torch

    return max(1, min(MOST, cpus, torch.cuda.mem_get_info()[0] // DEVICE_BYTES))


def summed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the number of tests by outcome, then the tests that failed, with the reasons, and the slowest."""
    outcomes = Counter(row["outcome"] for row in rows)
    slowest = sorted(rows, key=lambda row: row["seconds"], reverse=True)[:SLOWEST]
    return [
        {"outcomes": dict(outcomes), "slowest": {row["test"]: round(row["seconds"], 1) for row in slowest}},
        *(row for row in rows if row["outcome"] == "failed"),
    ]


def _whole(file: Any) -> Iterator[str]:
    """Return the lines that were written to the end since the last time."""
    while True:
        at = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(at)
            return
        yield line
