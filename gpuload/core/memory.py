"""Memory on the host for what engines make."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

ALIGNED = 64
"""Bytes at whose multiples an array has to begin for JAX and TensorFlow to take it without a copy: the widest that the
instructions of XLA and of Eigen ask for. NumPy promises 16."""


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """`np.empty`, aligned.

    >>> empty((3, 5), np.float32).ctypes.data % ALIGNED
    0
    """
    found = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * found.itemsize
    block = np.empty(size + ALIGNED, np.uint8)
    start = -block.ctypes.data % ALIGNED
    return block[start : start + size].view(found).reshape(shape)


def sparse(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros, aligned, to be written here and there over time: the system hands out small pages, each when it is first
    written.

    Of `np.empty` it may hand out pages of 2 MB, which it clears: of images in a random order, one for nearly each.

    >>> sparse((3, 5), np.float32).sum()
    np.float32(0.0)
    """
    found = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * found.itemsize
    if not size or not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros(shape, found)
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # A kernel without huge pages.
            block.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(block, found).reshape(shape)


def aligned(array: NDArray[Any], dtype: DTypeLike | None = None) -> NDArray[Any]:
    """A copy in one piece, aligned, of another dtype if asked for."""
    copy = empty(array.shape, array.dtype if dtype is None else dtype)
    np.copyto(copy, array, casting="unsafe")
    return copy
