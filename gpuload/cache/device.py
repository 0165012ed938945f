"""Images kept in a GPU's memory, and behind them those of the host."""

from __future__ import annotations

import threading
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuload.cache.free import SHARE
from gpuload.gpu.runtime import Runtime
from gpuload.gpu.store import DeviceStore, pitch
from gpuload.options import Limit

Indices = NDArray[np.int64]


class HostImages(Protocol):
    """Images on the host: `HostCache`, `DiskCache`, `ArrayImages`."""

    @property
    def images(self) -> NDArray[Any]:
        """[K, H, W, C]"""

    def rows(self, indices: Indices) -> Indices:
        """[B] where in `images` these samples are, or -1: the caller's own array."""

    def put(self, indices: Indices, images: NDArray[Any]) -> None:
        """Keep images [B, H, W, C], as far as there is room."""

    def close(self) -> None:
        """Let go of them."""


class ArrayImages:
    """An array of images, all of which are there."""

    def __init__(self, images: NDArray[Any]):
        self.images = images

    def rows(self, indices: Indices) -> Indices:
        rows: Indices = indices.copy()
        return rows

    def put(self, indices: Indices, images: NDArray[Any]) -> None:
        """There is nothing to be put."""

    def close(self) -> None:
        self.images = self.images[:0]


class DeviceCache:
    """Images of one size in a GPU's memory: those of the first samples, as many as fit. Others may be on the host.

    Its users hold `lock` while they ask and put.
    """

    def __init__(
        self, size: int, image_bytes: int, runtime: Runtime, *, limit: Limit = None, host: HostImages | None = None
    ):
        """
        Args:
            size: Samples of the data set; 0: none are kept on the device.
            limit: Bytes of the device, or a share of what is free there; None: a quarter.
            host: What holds images on the host.
        """
        share = SHARE if limit is None else limit
        most = int(share * runtime.free_bytes()) if isinstance(share, float) else share
        self.capacity = min(size, most // pitch(image_bytes))
        """Images that the device can hold."""
        self.count = 0
        """Images that it holds."""
        self.lock = threading.Lock()
        self.runtime = runtime
        self.host = host
        self.store = DeviceStore(self.capacity, image_bytes, runtime) if self.capacity else None
        self._there = np.zeros(self.capacity, bool)

    def rows(self, indices: Indices) -> Indices:
        """[B] in which slots of `store` these samples are, or -1."""
        if not self.count:
            return np.full(len(indices), -1)
        within = np.minimum(indices, self.capacity - 1)
        rows: Indices = np.where((within == indices) & self._there[within], indices, -1)
        return rows

    def put(self, indices: Indices, addresses: NDArray[np.uint64], keep: tuple[Any, ...], stream: int | None) -> None:
        """Queue copies of images of these samples, which begin at `addresses` [B] on the device, as far as there is
        room: see `DeviceStore.put`."""
        wanted = indices < self.capacity
        wanted[wanted] = ~self._there[indices[wanted]]
        # A sample that fills up a last batch may be in it twice.
        chosen, first = np.unique(indices[wanted], return_index=True)
        if self.store is not None and len(chosen):
            self.store.put(chosen, addresses[wanted][first], keep, stream)
            self._there[chosen] = True
            self.count += len(chosen)

    def close(self) -> None:
        """Free the memory, when nothing reads it any more."""
        if self.store is not None:
            self.store.close()
        self.store = None
        self.capacity = self.count = 0
        self._there = self._there[:0]
        if self.host is not None:
            self.host.close()
