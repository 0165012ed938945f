"""Memory maps as what they are, a place in a file: to be opened again, elsewhere or for another use."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpuload.sources.checks import Array


def map_under(array: Any) -> np.memmap[Any, Any] | None:
    """The memory map that an array is a view of."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap) and getattr(array, "_mmap", None) is not None:
            return array
        array = array.base
    return None


@dataclass(frozen=True)
class Place:
    """Where in a file an array lies."""

    path: str
    offset: int
    """Of the first byte that the array has in the file."""
    size: int
    """Bytes from there to the array's last."""
    first: int
    """Byte of the array's first element, counted from `offset`: above 0 where a stride is negative."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def open(self) -> Array:
        """Map it anew, to be read. Raises OSError where the file is gone, ValueError where it is too short now."""
        found = np.memmap(self.path, np.uint8, "r", self.offset, (self.size,))
        start = found[self.first : self.first + self.dtype.itemsize].view(self.dtype)
        return as_strided(start, self.shape, self.strides, subok=True, writeable=False)


def place_of(array: Any) -> Place | None:
    """Where the array lies, if it is a view of a map whose pages are those of its file."""
    found = map_under(array)
    # Of "c" the changes are in memory alone, and what is empty or was deleted cannot be opened.
    if found is None or found.mode == "c" or found.filename is None or not array.size:
        return None
    path = os.fspath(found.filename)
    if not os.path.exists(path):
        return None
    whole = found
    while isinstance(whole.base, np.memmap):  # A view keeps the offset of the map that it is a view of.
        whole = whole.base
    steps = [(count - 1) * pace for count, pace in zip(array.shape, array.strides, strict=True)]
    first = -sum(min(step, 0) for step in steps)
    size = first + sum(max(step, 0) for step in steps) + array.dtype.itemsize
    address = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    return Place(path, whole.offset + address - first, size, first, array.dtype, array.shape, array.strides)


def for_random_reads(array: Array) -> Array:
    """The same array over a map of its own, if it is mapped, of which only the pages that are touched are read.

    Otherwise the system reads far ahead from each of them, which is for nothing where the next window lies elsewhere.
    """
    place = place_of(array)
    if place is None or not hasattr(mmap, "MADV_RANDOM"):
        return array
    opened = place.open()
    found: Any = map_under(opened)
    found._mmap.madvise(mmap.MADV_RANDOM)
    return opened
