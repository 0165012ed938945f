"""Batches as PyTorch tensors."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np

from gpuload.core.available import required
from gpuload.core.device import CPU, Device
from gpuload.delivery.base import Allocator, Framework

_torch = functools.cache(functools.partial(required, "torch", "framework='torch'", "torch"))


def to_torch(array: Any, device: Device, dtype: str | None = None) -> Any:
    """Return a `torch.Tensor` on the device."""
    torch = _torch()
    if isinstance(array, np.ndarray) and array.dtype.kind == "V":  # PyTorch does not know ml_dtypes' bfloat16.
        return to_torch(array.view(np.int16), device).view(torch.bfloat16)
    if device == CPU:
        tensor = torch.from_numpy(np.asarray(array))
    elif isinstance(array, np.ndarray):
        tensor = torch.from_numpy(array).to(str(device), non_blocking=True)
    else:
        tensor = torch.from_dlpack(array)
    return tensor.to(torch.bfloat16) if dtype == "bfloat16" else tensor


def _empty(shape: tuple[int, ...], dtype: str, device: Device) -> Any:
    return _torch().empty(shape, dtype=getattr(_torch(), dtype), device=str(device))


TORCH = Framework(
    name="torch",
    convert=to_torch,
    extra="torch",
    has=lambda dtype: isinstance(getattr(_torch(), dtype, None), _torch().dtype),
    gpus=lambda: int(_torch().cuda.device_count()),
    stream=lambda device: int(_torch().cuda.current_stream(device.index).cuda_stream),
    allocator=Allocator(_empty, operator.methodcaller("data_ptr")),
    # Unlike `split`, whose parts are views for autograd, it lets the user change one batch in place.
    split=lambda tensor, size: tensor.unsafe_split(size),
    label_dtype="int64",  # PyTorch's losses ask for it.
    layout="CHW",
)
