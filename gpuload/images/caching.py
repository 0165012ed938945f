"""Which cache a job gets."""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Callable

import numpy as np

from gpuload.cache.device import ArrayImages, DeviceCache, HostImages
from gpuload.cache.disk import DiskCache
from gpuload.cache.host import HostCache
from gpuload.cache.policy import CachePolicy
from gpuload.core.device import CPU, Device
from gpuload.decode.crop import RandomResizedCrop
from gpuload.images.augment import Augment
from gpuload.sources import ImageArray, ImageSource
from gpuload.sources.fingerprint import fingerprint_of_names

log = logging.getLogger("gpuload")


def check(policy: CachePolicy, source: ImageSource, transform: Augment, device: Device) -> None:
    """Raise ValueError where a cache was asked for by name that the job cannot have."""
    if policy.cache_size is not None:
        _check_size(policy, transform, device)
    if policy.cache in (None, "auto"):
        return
    if policy.cache == "device" and device == CPU:
        raise ValueError("cache='device' keeps images on a GPU, but they are made on cpu: pass cache='host'")
    if isinstance(source, ImageArray) and policy.cache != "device":
        raise ValueError(
            f"cache={policy.cache!r} is for images that are read from files; these are in memory: leave it out"
        )
    if isinstance(transform.crop, RandomResizedCrop) and policy.cache_size is None:
        raise ValueError(
            f"cache={policy.cache!r} keeps images as they are resized, which RandomResizedCrop makes different in each "
            "epoch: leave it out, or pass cache_size=(256, 256), say, to have the crops cut out of images of that size"
        )


def _check_size(policy: CachePolicy, transform: Augment, device: Device) -> None:
    if not isinstance(transform.crop, RandomResizedCrop):
        raise ValueError(
            f"cache_size={policy.cache_size!r} is for RandomResizedCrop; others are kept at their own size: leave "
            "it out"
        )
    if not transform.antialias:
        raise ValueError("cache_size is for antialias=True: leave one of them out")
    if device != CPU:
        raise ValueError(f"cache_size is for images that are made on cpu, not on {device}: pass device='cpu'")


def kept(policy: CachePolicy, transform: Augment) -> Augment:
    """The transform whose first half makes what is kept."""
    if policy.cache_size is None:
        return transform
    return transform.replace(size=policy.cache_size, crop=None, center=None, zca=None)


def open_cache(
    policy: CachePolicy, source: ImageSource, transform: Augment, *, engine: str, device: Device, max_pixels: int | None
) -> HostCache | DiskCache | DeviceCache | None:
    """The cache of decoded images that `policy` asks for; None where there is to be none, or there is no room for any.
    On a GPU a `DeviceCache`, whatever there is room for.

    `engine`, `device`: what decodes.
    """
    found = kept(policy, transform)
    if isinstance(source, ImageArray):
        if device == CPU:
            return None
        dtype = np.dtype(np.uint8 if source.images.dtype == np.uint8 else np.float32)
        image_bytes = math.prod(source.images.shape[1:]) * dtype.itemsize
        return _on_device(policy, len(source), image_bytes, device, lambda first: ArrayImages(source.images))
    shape, dtype_name = found.stored
    if policy.cache is not None and found.draws_crop:
        log.info("images are decoded in each epoch, since RandomResizedCrop cuts another part out of them each time")
        policy = CachePolicy(cache=None)

    def on_host(first: int) -> HostCache | DiskCache | None:
        """That of the samples from `first` on."""
        if policy.cache in (None, "device"):
            return None
        if policy.path is not None:
            key = {
                "files": fingerprint_of_names(source),
                "samples": len(source),
                "decoder": f"{_decoder(engine)} on {'cpu' if device == CPU else 'gpu'}",
                "max_pixels": max_pixels,
                **{name: getattr(found, name) for name in ("interpolation", "antialias", "fast_idct", "color")},
                "crop": repr(found.crop),
            }
            return DiskCache(policy.path, key, source.paths, len(source), shape, dtype_name, policy.cache_limit)
        cache = HostCache(len(source), shape, dtype_name, policy.cache_limit, first)
        if cache.capacity < len(source) - first:
            log.info(
                "the cache has room for %d of %d images; the others are decoded in each epoch",
                first + cache.capacity,
                len(source),
            )
        return cache if cache.capacity else None

    if device == CPU:
        return on_host(0)
    return _on_device(policy, len(source), math.prod(shape) * np.dtype(dtype_name).itemsize, device, on_host)


def _on_device(
    policy: CachePolicy, size: int, image_bytes: int, device: Device, on_host: Callable[[int], HostImages | None]
) -> DeviceCache:
    """`on_host`: makes what holds the images of samples from a number on, on the host."""
    from gpuload.gpu.runtime import CupyRuntime

    keeps = policy.cache in ("auto", "device")
    cache = DeviceCache(size if keeps else 0, image_bytes, CupyRuntime(device), limit=policy.cache_limit)
    cache.host = on_host(cache.capacity)
    return cache


def _decoder(engine: str) -> str:
    """What decodes, with its version."""
    names = ("pillow",) if engine == "numpy" else ("nvidia-dali-cuda130", "nvidia-dali-cuda120")
    for name in names:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return engine
