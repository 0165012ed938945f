"""Images kept in a GPU's memory, and behind them images on the host."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.cache.disk import DiskCache
from gpuload.cache.free import SHARE
from gpuload.cache.host import HostCache, Indices, held
from gpuload.gpu.runtime import Runtime
from gpuload.gpu.store import DeviceStore, pitch
from gpuload.options import Limit


class ArrayImages:
    """An array of images in memory, used like a cache that has them all."""

    def __init__(self, images: NDArray[Any]):
        self.images = images

    def rows(self, indices: Indices) -> Indices:
        rows: Indices = indices.copy()
        return rows

    def put(self, indices: Indices, images: NDArray[Any]) -> None:
        """Do nothing: all images are there."""

    def close(self) -> None:
        self.images = self.images[:0]


HostImages = HostCache | DiskCache | ArrayImages
"""Images on the host."""


class DeviceCache:
    """Images of one size in a GPU's memory: the first samples, as many as fit. Others may be on the host.

    `size` is the number of samples, `limit` in bytes, or a share of the device's free memory; None: a quarter. Hold
    `lock` while calling `rows` and `put`.
    """

    def __init__(
        self, size: int, image_bytes: int, runtime: Runtime, *, limit: Limit = None, host: HostImages | None = None
    ):
        share = SHARE if limit is None else limit
        most = int(share * runtime.free_bytes()) if isinstance(share, float) else share
        self.capacity = min(size, most // pitch(image_bytes))
        self.count = 0
        self.lock = threading.Lock()
        self.runtime = runtime
        self.host = host
        self.store = DeviceStore(self.capacity, image_bytes, runtime) if self.capacity else None
        self._there = np.zeros(self.capacity, bool)

    def rows(self, indices: Indices) -> Indices:
        """Return [B], the slots of these samples in `store`, or -1."""
        return held(indices, self._there)

    def put(self, indices: Indices, addresses: NDArray[np.uint64], keep: tuple[Any, ...], stream: int | None) -> None:
        """Queue copies of samples into the store, as far as there is room; arguments as of `DeviceStore.put`."""
        wanted = indices < self.capacity
        wanted[wanted] = ~self._there[indices[wanted]]
        # A sample that pads the last batch may be in it twice.
        chosen, first = np.unique(indices[wanted], return_index=True)
        if self.store is not None and len(chosen):
            self.store.put(chosen, addresses[wanted][first], keep, stream)
            self._there[chosen] = True
            self.count += len(chosen)

    def close(self) -> None:
        """Free the memory when nothing reads it any more."""
        if self.store is not None:
            self.store.close()
        self.store, self._there = None, self._there[:0]
        self.capacity = self.count = 0
        if self.host is not None:
            self.host.close()
