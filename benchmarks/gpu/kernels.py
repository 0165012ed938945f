"""Time that gpuload's kernels take on the device, by PyTorch's profiler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

NAMES = ("window_copy", "window_map", "window_cut", "warp_pixels", "warp_images")


def kernel_seconds(batches: Iterator[Any], device: str, count: int = 8) -> float | None:
    """Return the time of gpuload's kernels for a batch. None: on the CPU, and where the profiler sees no kernel."""
    if device == "cpu":
        return None
    import torch
    from torch.profiler import ProfilerActivity, profile

    next(batches)  # It may fill a cache first, and compile.
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        held = [next(batches) for _ in range(count)]
        torch.cuda.synchronize()
    del held
    times = [event.device_time for event in found.events() if any(name in event.name for name in NAMES)]
    return sum(times) / count / 1e6 if times else None
