"""Series that stay on a device, shared by all engines of the process."""

from __future__ import annotations

import math
import threading
import weakref
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuload.gpu.runtime import Runtime
from gpuload.sources import Series

_UPLOAD = 2**26
"""Bytes of a series copied to the device at once."""


class Resident(NamedTuple):
    """An array on the device: the owner of its memory, the address of row 0, and the bytes from row to row."""

    memory: Any
    address: int
    pitch: int


residents: weakref.WeakKeyDictionary[Series, dict[tuple[str, str], Resident]] = weakref.WeakKeyDictionary()
"""Arrays on devices by series, and by the runtime's name and "values" or "targets"."""
_uploading = threading.Lock()


def on_device(array: Any) -> bool:
    """Return whether an array of a series lies on a GPU already."""
    return not isinstance(array, np.ndarray)


def row_bytes(array: Any) -> int:
    """Return the bytes of a row."""
    return int(math.prod(array.shape[1:]) * array.dtype.itemsize)


def make_resident(series: Series, name: str, runtime: Runtime) -> Resident:
    """Return the "values" or "targets" of a series on the device: where they lie, or copied there once."""
    key, array = (runtime.name, name), getattr(series, name)
    with _uploading:
        held = residents.setdefault(series, {})
        if key not in held:
            held[key] = _in_place(array) if on_device(array) else _uploaded(series, array, runtime)
        return held[key]


def missing_bytes(series: Series, names: set[str], runtime: Runtime) -> int:
    """Return the bytes that `make_resident` would allocate for these arrays."""
    held = residents.get(series, {})
    arrays = (getattr(series, name) for name in names if (runtime.name, name) not in held)
    return sum(len(array) * row_bytes(array) for array in arrays if not on_device(array))


def _in_place(array: Any) -> Resident:
    array = array if array[:1].flags.c_contiguous else array.copy(order="C")
    # The work that makes the array may still run, on a stream that is unknown here.
    array.device.synchronize()
    return Resident(array, int(array.data.ptr), int(array.strides[0]))


def _uploaded(series: Series, array: NDArray[Any], runtime: Runtime) -> Resident:
    series.check_files()
    row = row_bytes(array)
    memory = runtime.memory(max(1, len(array) * row))
    rows = max(1, _UPLOAD // max(1, row))
    for first in range(0, len(array) if row else 0, rows):
        part = array[first : first + rows]
        runtime.upload(memory.pointer + first * row, np.ascontiguousarray(part, part.dtype.newbyteorder("=")))
    return Resident(memory, memory.pointer, row)
