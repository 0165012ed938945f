"""Batches for any other library, as arrays with `__dlpack__`."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuload.core.device import CPU, Device
from gpuload.delivery.base import Framework, is_number
from gpuload.delivery.cupy import current_stream, import_cupy, to_cupy


def to_dlpack(array: Any, device: Device, dtype: str | None = None) -> Any:
    """Return a NumPy array; on a GPU a CuPy array whose content is complete."""
    if device == CPU:
        return np.asarray(array)
    result = to_cupy(array, device)
    with import_cupy().cuda.Device(device.index):
        import_cupy().cuda.get_current_stream().synchronize()
    return result


DLPACK = Framework(
    name="dlpack",
    convert=to_dlpack,
    # Nobody knows the stream that will read a batch, so it is finished when it is handed over. A library may let it go
    # before it has read it: its memory is written again only behind the work of this stream, which is CUDA's default
    # stream unless the program chose another. On a stream that does not wait for that one, keep the batch.
    stream=current_stream,
    has=lambda dtype: dtype != "bfloat16" and is_number(dtype),  # NumPy's __dlpack__ refuses bfloat16.
)
