"""What the machine can do at most: copies on the device, and from the host to it."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.gpu.effort import Effort
from benchmarks.jobs import synchronize


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

    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device)


def run(effort: Effort, device: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each ceiling."""
    import torch

    yield {"ceiling": "copy on the device", "bytes_per_second": copy_bytes_per_second(effort.copied, device)}
    size = effort.copied // 8
    source = torch.empty(size, dtype=torch.uint8, pin_memory=device != "cpu").random_()
    target = torch.empty(size, dtype=torch.uint8, device=device)
    one = seconds(lambda: target.copy_(source, non_blocking=True), device)
    yield {"ceiling": "copy from pinned memory of the host", "bytes_per_second": size / one}
