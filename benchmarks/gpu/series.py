"""Windows of a series that lies on the device: gpuload beside PyTorch's indexing, and the kernel beside a copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.ceilings import copy_bytes_per_second
from benchmarks.gpu.effort import Effort
from benchmarks.gpu.kernels import kernel_seconds
from benchmarks.images import measure
from benchmarks.jobs import series
from benchmarks.window_contenders import Job, gpuload_torch, torch_indexing

CONTENDERS = {"gpuload.torch": gpuload_torch, "torch index": torch_indexing}
SIZES = {"float32": 4, "bfloat16": 2}


def run(effort: Effort, device: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each case, dtype and contender."""
    copied = copy_bytes_per_second(effort.copied, device)
    for case in effort.windows:
        values, labels = series(case.channels, case.rows)
        for dtype, size in SIZES.items():
            job = Job(values, labels, case.length, case.batch, device, dtype)
            rows, _ = measure(
                job, CONTENDERS, "gpuload.torch", "windows_per_second", effort.rounds, effort.seconds, settles=False
            )
            moved = case.length * case.channels * (4 + size)
            for row in rows:
                row["share_of_copy"] = row["windows_per_second"]["median"] * moved / copied
            batches = gpuload_torch(job)
            if kernel := kernel_seconds(batches, device):
                rows[0] |= {"kernel_us": kernel * 1e6, "kernel_share_of_copy": case.batch * moved / kernel / copied}
            for row in rows:
                yield {**case._asdict(), "dtype": dtype, **row}
