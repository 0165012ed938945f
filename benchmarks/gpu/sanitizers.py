"""NVIDIA's compute-sanitizer over launches of every kind; run on request, since it takes minutes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu import launches
from benchmarks.gpu.effort import Effort

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")


def run(effort: Effort, device: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each tool, with the line in which it sums up."""
    if device == "cpu":
        yield {"tool": "none", "batches": launches.main(device)}
        return
    found = shutil.which("compute-sanitizer")
    if found is None:
        raise FileNotFoundError("compute-sanitizer is not on the PATH: it comes with NVIDIA's CUDA toolkit")
    for tool in TOOLS:
        command = [found, "--tool", tool, "--error-exitcode", "1", sys.executable, "-m", "benchmarks.gpu.launches"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line.strip("= \n") for line in done.stdout.splitlines() if "SUMMARY" in line]
        yield {"tool": tool, "exit_code": done.returncode, "summary": lines[-1] if lines else done.stdout[-500:]}
