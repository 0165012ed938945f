"""What the host pays for each step of a batch: a launch, a copy, an event, an array, labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.effort import Effort
from benchmarks.jobs import synchronize
from gpuload.windows.kernel import WINDOW

CODE = """
struct Parameters { unsigned char bytes[SIZE]; };
extern "C" __global__ void nothing(const Parameters p) {}
"""
CALLS = 2000
"""Calls that are timed; the device is idle before them, so none of them waits."""


def microseconds(task: Callable[[], Any], device: str, calls: int = CALLS) -> float:
    """Return the time of a call on the host."""
    task()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        task()
    seconds = time.perf_counter() - start
    synchronize(device)
    return seconds / calls * 1e6


def of_torch(device: str) -> dict[str, Callable[[], Any]]:
    """Return steps that PyTorch does, by what they are."""
    import torch

    labels, numbers = torch.arange(256), torch.arange(256, device=device)
    return {
        "torch.empty of a batch": lambda: torch.empty((256, 96, 7), device=device),
        "labels of 256 samples, copied by PyTorch": lambda: labels.to(device, non_blocking=True),
        "labels of 256 samples, indexed on the device": lambda: numbers[numbers],
    }


def of_cupy() -> dict[str, Callable[[], Any]]:
    """Return steps that CuPy does, by what they are."""
    import cupy

    parameters: np.ndarray[Any, Any] = np.zeros((), WINDOW)
    raw = parameters.view(f"V{parameters.nbytes}")
    kernel = cupy.RawModule(code=CODE.replace("SIZE", str(parameters.nbytes))).get_function("nothing")
    stream, event = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Event(disable_timing=True)
    target, source = cupy.cuda.alloc(4096), cupy.cuda.alloc_pinned_memory(4096)
    arguments = np.array([parameters.ctypes.data], np.uint64)
    function, number, packed = kernel.kernel.ptr, stream.ptr, arguments.ctypes.data
    driver, runtime = cupy.cuda.driver, cupy.cuda.runtime
    return {
        "launch by CuPy, parameters as a structure": lambda: kernel((1,), (32,), (parameters,), stream=stream),
        "launch by CuPy, parameters as bytes": lambda: kernel((1,), (32,), (raw,), stream=stream),
        "launch by the driver": lambda: driver.launchKernel(function, 1, 1, 1, 32, 1, 1, 0, number, packed, 0),
        "copy of 4 kB from pinned memory": lambda: runtime.memcpyAsync(target.ptr, source.ptr, 4096, 1, number),
        "record of an event": lambda: runtime.eventRecord(event.ptr, number),
    }


def run(effort: Effort, device: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each step. On the CPU there are PyTorch's alone."""
    steps = of_torch(device) if device == "cpu" else {**of_cupy(), **of_torch(device)}
    for name, task in steps.items():
        yield {"step": name, "us": microseconds(task, device)}
