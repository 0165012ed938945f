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


class HostCache:
    """Images of one size in the host's memory, which the system provides as images come.

    >>> cache = HostCache(10, (2, 2, 3), "uint8", limit=60)
    >>> cache.put(np.array([1, 7]), np.ones((2, 2, 2, 3), np.uint8))
    >>> cache.rows(np.array([0, 1, 7])).tolist()  # Of 10 images, the first 5 fit.
    [-1, 1, -1]
    >>> cache.images[1].sum(), cache.count
    (np.uint64(12), 1)
    """

    def __init__(self, size: int, shape: tuple[int, ...], dtype: DTypeLike, limit: Limit = None, first: int = 0):
        """
        Args:
            size: Number of samples in the data set.
            shape: Shape of an image.
            dtype: Dtype of an image.
            limit: Bytes, or a share of the free memory at any time. None: a quarter.
            first: Number of the first sample that may be kept.
        """
        self._share = SHARE if limit is None else limit if isinstance(limit, float) else None
        self._bytes = math.prod(shape) * np.dtype(dtype).itemsize
        most = int(self._share * free_memory()) if self._share is not None else int(limit or 0)
        self.capacity = min(max(0, size - first), most // self._bytes)
        """Number of images that it can hold: samples from `first` on."""
        self._first = first
        self.images: NDArray[Any] = sparse((self.capacity, *shape), dtype)
        """[capacity, ...] images, of which those named by `rows` are valid."""
        self.count = 0
        """Number of images that it holds."""
        self._there = np.zeros(self.capacity, bool)
        self._looked = 0  # Bytes that may be taken without another check.
        self._full = False  # Other programs have taken the memory.
        self._filling = threading.Lock()

    def rows(self, indices: Indices) -> Indices:
        """Return [B], the places of these samples in `images`, or -1."""
        if not self.count:
            return np.full(len(indices), -1)
        numbers = indices - self._first
        within = np.clip(numbers, 0, self.capacity - 1)
        rows: Indices = np.where((within == numbers) & self._there[within], numbers, -1)
        return rows

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
