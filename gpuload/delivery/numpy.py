"""Batches as NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuload.core.device import CPU, Device
from gpuload.delivery.base import Framework, bfloat16


def to_numpy(array: Any, device: Device, dtype: str | None = None) -> Any:
    """Return a NumPy array. An array on a GPU is copied to the host, the only memory that NumPy has."""
    host = array if isinstance(array, np.ndarray) else _on_host(array, device)
    return host.astype(bfloat16("NumPy")) if dtype == "bfloat16" else host


def _on_host(array: Any, device: Device) -> Any:
    if device == CPU:
        return np.asarray(array)
    return array.get() if hasattr(array, "get") else np.asarray(array.as_cpu())  # CuPy's array, or DALI's tensor.


NUMPY = Framework(name="numpy", convert=to_numpy)
