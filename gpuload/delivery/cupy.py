"""Batches as CuPy arrays, and CuPy's memory, which engines use for frameworks without an allocator."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np

from gpuload.core.available import required
from gpuload.core.device import Device
from gpuload.delivery.base import Allocator, Framework, bfloat16, is_number

import_cupy = functools.cache(functools.partial(required, "cupy", "framework='cupy'", "cuda13"))


def to_cupy(array: Any, device: Device, dtype: str | None = None) -> Any:
    """Return a `cupy.ndarray` on the device."""
    cupy = import_cupy()
    with cupy.cuda.Device(device.index):
        result = cupy.asarray(array) if isinstance(array, np.ndarray) else cupy.from_dlpack(array)
        return result.astype(bfloat16("CuPy")) if dtype == "bfloat16" else result


def _empty(shape: tuple[int, ...], dtype: str, device: Device) -> Any:
    with import_cupy().cuda.Device(device.index):
        return import_cupy().empty(shape, bfloat16("CuPy") if dtype == "bfloat16" else dtype)


def current_stream(device: Device) -> int:
    """Return CuPy's current stream on the device, as a number."""
    with import_cupy().cuda.Device(device.index):
        return int(import_cupy().cuda.get_current_stream().ptr)


CUPY_ALLOCATOR = Allocator(_empty, operator.attrgetter("data.ptr"))

CUPY = Framework(
    name="cupy", convert=to_cupy, extra="cuda13", has=is_number, stream=current_stream, allocator=CUPY_ALLOCATOR
)
