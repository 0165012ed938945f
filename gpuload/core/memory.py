"""Aligned arrays on the host."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

ALIGNED = 64
"""JAX and TensorFlow take an array without a copy if its address is a multiple of this many bytes, the most that the
instructions of XLA and of Eigen ask for. NumPy promises 16."""


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialised array whose address is a multiple of `ALIGNED`.

    >>> empty((3, 5), np.float32).ctypes.data % ALIGNED
    0
    """
    found = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * found.itemsize
    block = np.empty(size + ALIGNED, np.uint8)
    start = -block.ctypes.data % ALIGNED
    return block[start : start + size].view(found).reshape(shape)


def sparse(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return aligned zeros that take memory only where they are written, in small pages.

    `np.empty` may get pages of 2 MB, each of which the system clears as a whole. Images that are written in a random
    order would then touch nearly one such page each.

    >>> sparse((3, 5), np.float32).sum()
    np.float32(0.0)
    """
    found = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * found.itemsize
    if not size or not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros(shape, found)
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # The kernel has no huge pages.
            block.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(block, found).reshape(shape)


def aligned(array: NDArray[Any], dtype: DTypeLike | None = None) -> NDArray[Any]:
    """Return an aligned, C-contiguous copy, of another dtype if one is given."""
    copy = empty(array.shape, array.dtype if dtype is None else dtype)
    np.copyto(copy, array, casting="unsafe")
    return copy
