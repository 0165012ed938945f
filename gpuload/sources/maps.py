"""Memory-mapped arrays: where in which file an array lies, and whether that file is still the same."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import Any

import numpy as np


def map_under(array: Any) -> np.memmap[Any, Any] | None:
    """Return the memory map that an array is a view of, or None."""
    while array is not None:
        if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap):
            return array
        array = getattr(array, "base", None)
    return None


@dataclass(frozen=True)
class Place:
    """Where in a file an array lies: in `size` bytes from `offset` on.

    Its first element is at `offset + first`, with `first` above 0 if a stride is negative.
    """

    path: str
    offset: int
    size: int
    first: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def open(self) -> Any:
        """Map the array anew, read-only. Raise OSError if the file is gone, ValueError if it is too short now."""
        whole = np.memmap(self.path, np.uint8, "r", self.offset, (self.size,))
        return np.ndarray(self.shape, self.dtype, whole, self.first, self.strides)


def place_of(array: Any) -> Place | None:
    """Return where the array lies, or None if it cannot be opened again from a file with the same content."""
    whole: Any = map_under(array)
    # Changes in mode "c" are in memory only. An array without bytes cannot be mapped.
    if whole is None or whole.mode == "c" or not array.size or not os.path.exists(whole.filename or ""):
        return None
    steps = [(count - 1) * pace for count, pace in zip(array.shape, array.strides, strict=True)]
    first = -sum(min(step, 0) for step in steps)
    size = first + sum(max(step, 0) for step in steps) + array.dtype.itemsize
    offset = whole.offset + array.__array_interface__["data"][0] - whole.__array_interface__["data"][0] - first
    return Place(os.fspath(whole.filename), offset, size, first, array.dtype, array.shape, array.strides)


def for_random_reads(array: Any) -> Any:
    """Return the array over a new map of which the system reads only the pages that are used, not far ahead.

    An array without a map is returned as it is.
    """
    if (place := place_of(array)) is None or not hasattr(mmap, "MADV_RANDOM"):
        return array
    opened = place.open()
    whole: Any = map_under(opened)
    whole.base.madvise(mmap.MADV_RANDOM)
    return opened


class MappedFile:
    """The file under a memory map, as it was when it was mapped."""

    def __init__(self, array: np.memmap[Any, Any]):
        self._path = getattr(array, "filename", None)
        self._known = self._look()

    def _look(self) -> os.stat_result | None:
        try:
            return os.stat(self._path)  # type: ignore[arg-type]
        except (OSError, TypeError):
            return None  # The map has no file, or its file was removed. Its pages stay.

    def check(self) -> None:
        """Raise RuntimeError if the file's length has changed: reading beyond its end would end the process."""
        known, found = self._known, self._look()
        if known and found and os.path.samestat(known, found) and known.st_size != found.st_size:
            raise RuntimeError(
                f"values must keep their length while they are mapped, but {str(self._path)!r} had {known.st_size} "
                f"bytes when it was opened and has {found.st_size} now: write to another file, and open the series anew"
            )
