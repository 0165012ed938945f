"""Engines and caches for a job of images, opened with the decoder and the augmenter that the job names."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuload.cache import ArrayImages, DeviceCache, DiskCache, HostCache, HostImages
from gpuload.core.available import available_cpus
from gpuload.core.device import CPU
from gpuload.delivery import CUPY_ALLOCATOR, Allocator
from gpuload.gpu.runtime import CupyRuntime
from gpuload.images.engine import Augmenter, HostImageEngine, ImageEngine
from gpuload.images.job import ImageJob
from gpuload.options import Cache, Errors
from gpuload.sources.fingerprint import fingerprint_of_names

if TYPE_CHECKING:
    from gpuload.decode.decoder import Decoder

log = logging.getLogger("gpuload")

AnyCache = HostImages | DeviceCache


def open_engine(
    job: ImageJob,
    *,
    batch_size: int,
    threads: int | None = None,
    errors: Errors | None = None,
    cache: AnyCache | None = None,
    allocator: Allocator = CUPY_ALLOCATOR,
) -> ImageEngine:
    """Return a new engine for steps of at most `batch_size` samples; `threads` decode, and as many augment.

    On a GPU the cache is a `DeviceCache`, and the allocator makes the arrays of batches.
    """
    threads, errors = threads or available_cpus(), errors or Errors()

    def decoder() -> Decoder:
        # Pillow is imported with it: images in memory need none.
        from gpuload.decode.decoder import Decoder

        options: dict[str, Any] = {"batch_size": batch_size, "threads": threads, "errors": errors}
        return Decoder(job.encoded, job.decoding, device=job.device, dali=job.decoder == "dali", **options)

    if job.engine == "cupy":
        from gpuload.images.device_engine import DeviceImageEngine

        cache = cache or open_cache(job, Cache(place=None), errors.max_pixels)
        assert isinstance(cache, DeviceCache)
        return DeviceImageEngine(job, decoder=decoder, cache=cache, allocator=allocator)
    augmenter: Augmenter
    if job.engine == "numba":
        from gpuload.images.host import NumbaAugmenter

        augmenter = NumbaAugmenter(job, threads)
    else:
        from gpuload.images.reference import NumpyAugmenter

        augmenter = NumpyAugmenter(job, threads)
    assert not isinstance(cache, DeviceCache)
    return HostImageEngine(job, decoder=decoder, augmenter=augmenter, cache=cache)


def open_cache(job: ImageJob, options: Cache, max_pixels: int | None) -> AnyCache | None:
    """Return the cache that `options` ask for, or None if nothing is kept or nothing fits.

    On a GPU it is always a `DeviceCache`, which may hold no image. A cache on disk belongs to one decoder, `Decoding`
    and `max_pixels`.
    """
    size, images, decoding, place = len(job.source), job.images, job.decoding, options.place
    if images is None and place is not None and decoding.random:
        log.info("images are decoded in each epoch, since RandomResizedCrop cuts another part out of them each time")
        place = None

    def on_host(first: int) -> HostImages | None:
        """Return the images on the host of the samples from `first` on."""
        if images is not None:
            return ArrayImages(images)
        if place in (None, "device"):
            return None
        if options.path is not None:
            key = {
                "files": fingerprint_of_names(job.encoded),
                "samples": size,
                "decoder": f"{_version(job.decoder)} on {'cpu' if job.device == CPU else 'gpu'}",
                "max_pixels": max_pixels,
                **decoding.key(),
            }
            return DiskCache(options.path, key, job.encoded, decoding.shape, decoding.dtype, options.allowed)
        cache = HostCache(size, decoding.shape, decoding.dtype, options.allowed, first)
        if cache.capacity < size - first:
            room = first + cache.capacity
            log.info("the cache has room for %d of %d images; the others are decoded in each epoch", room, size)
        return cache if cache.capacity else None

    if job.device == CPU:
        return None if images is not None else on_host(0)
    shape = decoding.shape if images is None else job.shape
    image_bytes = math.prod(shape) * np.dtype(job.level_dtype).itemsize
    kept = size if place in ("auto", "device") else 0
    cache = DeviceCache(kept, image_bytes, CupyRuntime(job.device), limit=options.allowed)
    cache.host = on_host(cache.capacity)
    return cache


def _version(decoder: str | None) -> str:
    """Return the decoder's package and version."""
    for name in ("pillow",) if decoder == "pillow" else ("nvidia-dali-cuda130", "nvidia-dali-cuda120"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"{name} {importlib.metadata.version(name)}"
    return str(decoder)
