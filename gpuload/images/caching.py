"""The cache of a job: which kind, for which images, and how large."""

from __future__ import annotations

import importlib.metadata
import logging
import math

import numpy as np

from gpuload.cache import ArrayImages, DeviceCache, DiskCache, HostCache, HostImages
from gpuload.core.device import CPU
from gpuload.gpu.runtime import CupyRuntime
from gpuload.images.job import ImageJob
from gpuload.options import Cache
from gpuload.sources.fingerprint import fingerprint_of_names

log = logging.getLogger("gpuload")

AnyCache = HostImages | DeviceCache


def open_cache(job: ImageJob, options: Cache, max_pixels: int | None) -> AnyCache | None:
    """Return the cache that `options` ask for, or None if nothing is kept or nothing fits.

    On a GPU it is always a `DeviceCache`, which may hold no image.

    Args:
        job: The decoder and the levels wanted tell which images are kept.
        options: Place and limit.
        max_pixels: Limit beyond which an image is bad; a cache on disk belongs to one such limit.
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
                "files": fingerprint_of_names(job.files),
                "samples": size,
                "decoder": f"{_version(job.decoder)} on {'cpu' if job.device == CPU else 'gpu'}",
                "max_pixels": max_pixels,
                **decoding.key(),
            }
            paths = job.files.paths
            return DiskCache(options.path, key, paths, size, decoding.shape, decoding.dtype, options.allowed)
        cache = HostCache(size, decoding.shape, decoding.dtype, options.allowed, first)
        if cache.capacity < size - first:
            log.info(
                "the cache has room for %d of %d images; the others are decoded in each epoch",
                first + cache.capacity,
                size,
            )
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
    names = ("pillow",) if decoder == "pillow" else ("nvidia-dali-cuda130", "nvidia-dali-cuda120")
    for name in names:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return str(decoder)
