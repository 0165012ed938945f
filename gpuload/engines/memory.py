"""Memory on the host for what engines make."""

from __future__ import annotations

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


def aligned(array: NDArray[Any], dtype: DTypeLike | None = None) -> NDArray[Any]:
    """A copy in one piece, aligned, of another dtype if asked for."""
    copy = empty(array.shape, array.dtype if dtype is None else dtype)
    np.copyto(copy, array, casting="unsafe")
    return copy
