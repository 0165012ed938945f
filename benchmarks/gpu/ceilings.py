"""What the machine can do at most: copies on the device and from the host to it, and the decoder alone."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.contenders import decoder
from benchmarks.gpu.effort import Effort
from benchmarks.images import Stopwatch
from benchmarks.jobs import Job, synchronize
from benchmarks.photos import photos
from benchmarks.windows import copied_bytes_per_second

SHARES = (0.0, 0.65, 1.0)
"""Shares of a batch for the chip's JPEG engine: none, DALI's default, all."""


def seconds(task: Callable[[], Any], device: str, count: int = 10) -> float:
    """Return the median time of a task that is queued on the device, until it is done."""
    found = []
    for _ in range(count + 1):
        start = time.perf_counter()
        task()
        synchronize(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


@functools.cache
def copy_bytes_per_second(size: int, device: str) -> float:
    """Bytes read plus bytes written by one large copy on the device."""
    import torch

    if device != "cpu":
        size = min(size, torch.cuda.mem_get_info()[0] // 8)
    found = copied_bytes_per_second(device, size)
    if device != "cpu":
        torch.cuda.empty_cache()  # DALI and CuPy need the memory.
    return found


def run(effort: Effort, device: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each ceiling."""
    import torch

    yield {"ceiling": "copy on the device", "bytes_per_second": copy_bytes_per_second(effort.copied, device)}
    size = effort.copied // 8
    source = torch.empty(size, dtype=torch.uint8, pin_memory=device != "cpu").random_()
    target = torch.empty(size, dtype=torch.uint8, device=device)
    one = seconds(lambda: target.copy_(source, non_blocking=True), device)
    yield {"ceiling": "copy from pinned memory of the host", "bytes_per_second": size / one}
    job = Job(photos(effort.photographs), 224, effort.batch, device)
    for share in SHARES if job.gpu else [None]:
        options = {} if share is None else {"hw_decoder_load": share}
        batches = decoder(job, **options)
        speed = Stopwatch(batches, effort.seconds, device).slice()["speed"]
        batches.close()
        with_engine = "" if share is None else f", {share:.0%} of the files for the JPEG engine"
        yield {"ceiling": f"DALI's decoder alone{with_engine}", "images_per_second": speed}
