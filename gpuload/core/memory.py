"""Aligned arrays on the host."""

from __future__ import annotations

import contextlib
import math
import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

ALIGNED = 64
"""JAX and TensorFlow take an array without a copy if its address is a multiple of this many bytes, the most that the
instructions of XLA and of Eigen ask for. NumPy promises 16."""


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialised array whose address is a multiple of `ALIGNED`."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    block = np.empty(size + ALIGNED, np.uint8)
    start = -block.ctypes.data % ALIGNED
    return block[start : start + size].view(dtype).reshape(shape)


def sparse(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return aligned zeros that take memory only where they are written, in small pages.

    The system clears a page of 2 MB, as `np.empty` may get, as a whole: images in a random order would touch one each.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size or not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros(shape, dtype)
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):  # The system has no huge pages.
        block.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(block, dtype).reshape(shape)


def aligned(array: NDArray[Any], dtype: DTypeLike | None = None) -> NDArray[Any]:
    """Return an aligned, C-contiguous copy, of another dtype if one is given."""
    copy = empty(array.shape, array.dtype if dtype is None else dtype)
    np.copyto(copy, array, casting="unsafe")
    return copy
