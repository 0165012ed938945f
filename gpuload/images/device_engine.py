"""The fast engine of images on a GPU: DALI decodes there, images are kept there, `kernels/warp.cu` does the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuload.images.augment import Augment
from gpuload.images.host_engine import Decoder, ImageEngine
from gpuload.images.step import Step
from gpuload.sources import ImageArray, ImageSource

if TYPE_CHECKING:
    from gpuload.cache.device import DeviceCache
    from gpuload.core.device import Device
    from gpuload.delivery import Allocator
    from gpuload.gpu.store import Upload

Indices = NDArray[np.int64]


@dataclasses.dataclass
class _Pending:
    """A step under way, and where its images are: [...] numbers of samples within the batch."""

    step: Step
    slots: Indices
    """[B] in the device's memory, or -1."""
    uploaded: Indices
    upload: Upload | None
    """Of these, on their way from the host."""
    decoded: Indices
    """Those that the decoder has."""


class DeviceImageEngine(ImageEngine):
    """Makes batches in a GPU's memory.

    A step's images are on the device already, or on the host, from where they are copied as soon as the step is
    submitted, or the decoder makes them. One launch reads them all where they lie. On its way each goes into the cache.
    """

    def __init__(
        self,
        source: ImageSource,
        transform: Augment,
        *,
        decoder: Callable[[], Decoder],
        cache: DeviceCache,
        device: Device,
        allocator: Allocator,
    ):
        """
        Args:
            decoder: Makes one, when something is to be decoded: its images are on the device.
            cache: Of the same device; it may have room for none.
        """
        from gpuload.gpu.store import Uploader
        from gpuload.images.device import CupyAugmenter

        super().__init__(decoder)
        self._cache = cache
        assert transform.size is not None
        if isinstance(source, ImageArray):
            shape = (*transform.size, source.images.shape[3])
            dtype = "uint8" if source.images.dtype == np.uint8 else "float32"
        else:
            shape, dtype = transform.stored
        self._bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._augmenter = CupyAugmenter(transform, shape, dtype, device, allocator, cache.runtime)
        self._uploader = Uploader(shape, dtype, cache.runtime)

    @property
    def augmented(self) -> tuple[float, int]:
        """Nobody waits on the host for what the GPU does: there are no seconds to be told."""
        return 0.0, 0

    def submit(self, step: Step) -> None:
        cache = self._cache
        with cache.lock:
            slots = cache.rows(step.indices)
        absent = np.flatnonzero(slots < 0)
        on_host = np.full(len(absent), -1) if cache.host is None else cache.host.rows(step.indices[absent])
        uploaded, decoded = absent[on_host >= 0], absent[on_host < 0]
        upload = None
        if len(uploaded):
            assert cache.host is not None
            upload = self._uploader.begin(len(uploaded))
            np.copyto(upload.pixels, cache.host.images[on_host[on_host >= 0]], casting="unsafe")
            upload.send()
        if len(decoded):
            self._decode(step, decoded)
        self._steps.append(_Pending(step, slots, uploaded, upload, decoded))

    def result(self, stream: int | None = None) -> Any:
        found: _Pending = self._steps.popleft()
        step, cache = found.step, self._cache
        addresses = np.zeros(step.batch_size, np.uint64)
        keep: list[Any] = []
        if len(found.decoded):
            images = self._decoded(step, stream)
            first = np.uint64(images.data_ptr())
            addresses[found.decoded] = first + np.arange(len(found.decoded), dtype=np.uint64) * np.uint64(self._bytes)
            keep.append(images)
            if cache.host is not None:
                host = np.asarray(images.as_cpu() if hasattr(images, "as_cpu") else images)
                cache.host.put(step.indices[found.decoded], host)
        if found.upload is not None:
            addresses[found.uploaded] = found.upload.address(stream)
            keep.append(found.upload)
        with cache.lock:
            there = np.flatnonzero(found.slots >= 0)
            if len(there) and cache.store is not None:
                addresses[there] = cache.store.address(found.slots[there], stream)
                keep.append(cache.store)
            if len(there) < step.batch_size:
                fresh = np.flatnonzero(found.slots < 0)
                cache.put(step.indices[fresh], addresses[fresh], tuple(keep), stream)
        return self._augmenter.augment(addresses, step, tuple(keep), stream)

    def close(self) -> None:
        self.discard()
        self._augmenter.close()
        self._uploader.close()
        super().close()
