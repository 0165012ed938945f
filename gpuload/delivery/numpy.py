"""Batches as NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuload.core.device import CPU, Device
from gpuload.delivery.base import Framework, bfloat16


def to_numpy(array: Any, device: Device, dtype: str | None = None) -> Any:
    """Return a NumPy array. An array on a GPU is copied to the host, the only memory that NumPy has."""
    if device != CPU and not isinstance(array, np.ndarray):
        array = array.get() if hasattr(array, "get") else array.as_cpu()  # CuPy's array, or DALI's tensor.
    host = np.asanyarray(array)
    return host.astype(bfloat16("NumPy")) if dtype == "bfloat16" else host


NUMPY = Framework(name="numpy", convert=to_numpy)
