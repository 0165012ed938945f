"""The engine for images on a GPU: images are kept in its memory, and `kernels/warp.cu` makes a batch in one launch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuload.cache import DeviceCache
from gpuload.decode.spec import Indices
from gpuload.delivery import Allocator
from gpuload.gpu.store import Upload, Uploader
from gpuload.images.device import CupyAugmenter
from gpuload.images.engine import ImageEngine
from gpuload.images.job import ImageJob
from gpuload.images.step import Step

if TYPE_CHECKING:
    from gpuload.decode.decoder import Decoder


@dataclass
class _Pending:
    """A step under way, and the place of its images; numbers within the batch."""

    step: Step
    slots: Indices
    """[B] slots in the device's memory, or -1."""
    uploaded: Indices
    upload: Upload | None
    """Images on their way from the host."""
    decoded: Indices
    """Images that the decoder has."""


class DeviceImageEngine(ImageEngine):
    """Makes batches in a GPU's memory.

    An image of a step is in the cache on the device; or on the host, from where it is copied as soon as the step is
    submitted; or the decoder makes it. One launch reads all images where they are. New images go into the cache.
    """

    def __init__(self, job: ImageJob, *, decoder: Callable[[], Decoder], cache: DeviceCache, allocator: Allocator):
        super().__init__(decoder)
        self._cache = cache
        shape = job.shape if job.images is not None else job.decoding.shape
        self._dtype = np.dtype(job.level_dtype)
        self._bytes = int(np.prod(shape)) * self._dtype.itemsize
        self._augmenter = CupyAugmenter(job.transform, shape, job.level_dtype, job.device, allocator, cache.runtime)
        self._uploader = Uploader(shape, job.level_dtype, cache.runtime)

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
            # With a cache on the host the levels are copied there now, whatever stream will read them.
            for rows, images in self._decoded(step, stream if cache.host is None else None):
                places = found.decoded[rows]
                levels = images if isinstance(images, np.ndarray) else images.as_tensor()
                addresses[places], owner = self._placed(levels, len(rows), stream)
                keep.append(owner)
                if cache.host is not None:
                    host = np.asarray(levels.as_cpu() if hasattr(levels, "as_cpu") else levels)
                    cache.host.put(step.indices[places], host)
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

    def _placed(self, images: Any, count: int, stream: int | None) -> tuple[Any, Any]:
        """Return where decoded images begin on the device, and the owner of that memory."""
        if not isinstance(images, np.ndarray):  # DALI's tensor is on the device.
            first = np.uint64(images.data_ptr())
            return first + np.arange(count, dtype=np.uint64) * np.uint64(self._bytes), images
        if images.dtype != self._dtype:
            raise ValueError(
                "color='grayscale' keeps at most 8 bits on a GPU, but a file of this batch has more: pass device='cpu'"
            )
        upload = self._uploader.upload(images)
        return upload.address(stream), upload

    def close(self) -> None:
        self.discard()
        self._augmenter.close()
        self._uploader.close()
        super().close()
