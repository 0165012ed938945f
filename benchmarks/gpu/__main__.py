"""The proof on a GPU: does all that gpuload promises hold there, and how fast is it?

    make gpu                                             every stage but the sanitizers; ends within 8 minutes
    python -m benchmarks.gpu --stages pixels,cold
    python -m benchmarks.gpu --stages sanitizers         NVIDIA's compute-sanitizer over launches of every kind

- `ceilings`: copies on the device and from pinned memory, and DALI's decoder alone.
- `launches`: what each step of a batch costs the host.
- `pixels`: files of every format, decoded on the device and on the CPU, and again in other batches.
- `windows`, `warm`: windows of a series, and images that are kept, on the device; beside PyTorch's own ways.
- `cold`: photographs that are decoded in each epoch; beside DALI by hand and torchvision.
- `training`: a ResNet-50, and how long it waits.
- `memory`: of the device and the host over 1,000 batches.
- `tests`: the tests that need a GPU.

Each stage is a process of its own. One that takes too long is cut off, and keeps the rows that it has; one that fails
does not stop the others. The report is written after each stage. Exit code 1: a stage failed or was cut off, a test
failed, or pixels changed.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.effort import EFFORTS
from benchmarks.gpu.stages import STAGES
from benchmarks.gpu.tables import stage_table
from benchmarks.gpu.tests import summed
from benchmarks.photos import photos
from benchmarks.program import chosen, environment, options, save

WHOLE = "whole"
LONGEST = 470
"""Seconds for the usual stages together. The tests come last, and have what the others leave."""


def stage_report(name: str, device: str, effort: str, limit: float) -> dict[str, Any]:
    """Run a stage, for `limit` seconds at most; return its rows, the seconds that it took, and how it ended."""
    with tempfile.TemporaryDirectory() as temporary:
        rows, errors = Path(temporary, "rows"), Path(temporary, "errors")
        rows.touch()
        command = [sys.executable, "-m", "benchmarks.gpu.stages", name, device, effort, str(rows)]
        begun = time.perf_counter()
        with errors.open("w") as output:
            process = subprocess.Popen(command, stderr=output, start_new_session=True)
            try:
                code = process.wait(limit)
                lines = [line for line in errors.read_text().splitlines() if line.strip()]
                end = WHOLE if code == 0 else f"failed: {lines[-1] if lines else f'exit code {code}'}"
            except subprocess.TimeoutExpired:
                lines, end = [], f"cut off after {limit:.0f} s"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # With the processes that it has started.
                    process.wait()
        seconds = time.perf_counter() - begun
        found = [json.loads(line) for line in rows.read_text().splitlines()]
        report = {"seconds": round(seconds, 1), "end": end, "rows": summed(found) if name == "tests" else found}
        return report if end == WHOLE else report | {"errors": lines[-20:]}


def broken(name: str, rows: list[dict[str, Any]]) -> bool:
    """Whether the rows of a stage tell of something that does not hold."""
    if name == "tests":
        return len(rows) > 1
    return any(row.get("changed") or row.get("exit_code") for row in rows)


def main(*arguments: str) -> None:
    """Run the stages and write the report."""
    asked = options(__doc__, arguments, stages="usual", device="cuda", effort="full", out=None)
    usual = ",".join(name for name, stage in STAGES.items() if stage.usual)
    names = chosen(usual if asked.stages == "usual" else asked.stages, STAGES, "--stages")
    (effort,) = chosen(asked.effort, EFFORTS, "--effort")
    if asked.device != "cpu" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU: nvidia-smi must list one, and PyTorch be built for CUDA")
    end = time.monotonic() + LONGEST if asked.stages == "usual" else math.inf
    photos(EFFORTS[effort].photographs)  # Made once, so that no stage's time is spent on it.
    report: dict[str, Any] = {"benchmark": "gpu", "environment": environment(asked.device), "stages": {}}
    good, out = True, asked.out
    for name in names:
        limit = min(STAGES[name].limit, end - time.monotonic())
        report["stages"][name] = stage = stage_report(name, asked.device, effort, max(1.0, limit))
        out = save(report, asked.out)
        good &= stage["end"] == WHOLE and not broken(name, stage["rows"])
        print(f"{name}: {stage['end']}, {stage['seconds']} s\n{stage_table(name, stage['rows'])}\n", flush=True)
    print(f"written to {out}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
