"""Images kept in the host's memory."""

from __future__ import annotations

import logging
import math
import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuload.cache.free import SHARE, free_memory
from gpuload.core.memory import sparse
from gpuload.options import Limit

log = logging.getLogger("gpuload")

_AGAIN = 2**26
"""Number of bytes after which the free memory is checked again: other programs take memory too."""
Indices = NDArray[np.int64]


def held(numbers: Indices, there: NDArray[np.bool_]) -> Indices:
    """Return the numbers of slots that hold an image, and -1 for others."""
    if not len(there):
        return np.full(len(numbers), -1)
    within = np.clip(numbers, 0, len(there) - 1)
    rows: Indices = np.where((within == numbers) & there[within], numbers, -1)
    return rows


class HostCache:
    """Images of one size in the host's memory, which the system provides as images come.

    `size` is the number of samples in the data set, `first` that of the first one that may be kept. `limit` is in
    bytes, or a share of the free memory at any time; None: a quarter.
    """

    def __init__(self, size: int, shape: tuple[int, ...], dtype: DTypeLike, limit: Limit = None, first: int = 0):
        self._share = SHARE if limit is None else limit if isinstance(limit, float) else None
        self._bytes = math.prod(shape) * np.dtype(dtype).itemsize
        most = int(self._share * free_memory()) if self._share is not None else int(limit or 0)
        self.capacity = min(max(0, size - first), most // self._bytes)
        self._first = first
        self.images: NDArray[Any] = sparse((self.capacity, *shape), dtype)
        """[capacity, ...] images, of which those named by `rows` are valid."""
        self.count = 0
        self._there = np.zeros(self.capacity, bool)
        self._looked = 0  # Bytes that may be taken without another check.
        self._full = False  # Other programs have taken the memory.
        self._filling = threading.Lock()

    def rows(self, indices: Indices) -> Indices:
        """Return [B], the places of these samples in `images`, or -1."""
        return held(indices - self._first, self._there)

    def put(self, indices: Indices, images: NDArray[Any]) -> None:
        """Keep the images [B, ...] of these samples, as far as there is room."""
        with self._filling:
            for row, image in zip((indices - self._first).tolist(), images, strict=True):
                if 0 <= row < self.capacity and not self._there[row] and self._room():
                    self.images[row] = image
                    self._there[row] = True
                    self.count += 1

    def _room(self) -> bool:
        """Return whether one more image may be kept."""
        used = self.count * self._bytes
        if self._share is None or (used + self._bytes <= self._looked and not self._full):
            return True
        if not self._full and used + _AGAIN > self._share * (free_memory() + used):
            log.info("the cache is full: %d images in %.1f GB of memory", self.count, used / 1e9)
            self._full = True
        self._looked = used + _AGAIN
        return not self._full

    def close(self) -> None:
        """Free the memory when nothing reads it any more."""
        self.capacity = self.count = 0
        self._there, self.images = self._there[:0], self.images[:0].copy()
