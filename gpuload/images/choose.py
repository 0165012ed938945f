"""Which device, decoder and engine a job of images gets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core import available
from gpuload.core.checks import choice
from gpuload.core.device import CPU, Device, is_auto, resolve
from gpuload.decode import graph
from gpuload.decode.spec import Decoding
from gpuload.images.augment import Augment
from gpuload.images.job import ImageJob, kept
from gpuload.options import Cache
from gpuload.sources import CustomSource, ImageArray, ImageSource

ENGINES = ("auto", "numpy", "numba", "cupy")
DECODERS = ("auto", "dali", "pillow")
SYNONYMS = {
    "dali": "DALI decodes: pass decoder='dali'",
    **dict.fromkeys(("pillow", "pil"), "Pillow decodes: pass decoder='pillow'"),
    **dict.fromkeys(("cuda", "gpu"), "cupy"),
    "cpu": "pass device='cpu'",
}
"""Advice for other words for an engine."""


def settle(
    source: ImageSource,
    transform: Augment,
    *,
    device: Any = "auto",
    engine: str = "auto",
    decoder: str = "auto",
    cache: Cache | None = None,
) -> ImageJob:
    """Check that the parts of a job fit together, and choose what is "auto".

    "auto" takes the GPU, DALI and compiled code if they are there and can do all that `transform` asks for, and logs
    the choice once. A name is obeyed, or raises: ValueError if it is unknown or cannot do the job, RuntimeError for a
    CUDA device that does not exist, ImportError for a package that is not installed.
    """
    cache = cache or Cache()
    images = source.images if isinstance(source, ImageArray) else None
    transform = _sized(images, transform)
    place, chosen, why = _engine(images, transform, device, engine)
    reader, reason = _decoder(None if images is not None else kept(transform, cache.size), place, chosen, decoder)
    _check_cache(cache, source, transform, place)
    told = f"{reader} decodes, {chosen} augments" if reader else f"{chosen} augments"
    reasons = " and ".join(filter(None, (why, reason)))
    available.announce(f"images on {place}: {told}{', since ' if reasons else ''}{reasons}")
    return ImageJob(
        source=source, transform=transform, device=place, engine=chosen, decoder=reader, cache_size=cache.size
    )


def unsupported(images: NDArray[Any] | None, transform: Augment) -> str | None:
    """Return the first option that only the NumPy engine can do, in words, or None."""
    if transform.warps and transform.warp_order > 1:
        return f"warp_order={transform.warp_order}"
    if transform.function is not None:
        return "function, which runs in Python"
    if transform.zca is not None:
        return "zca"
    if transform.brightness is not None:
        channels = transform.channels if images is None else images.shape[3]
        dtype = np.dtype(np.uint8) if images is None else images.dtype
        if dtype != np.uint8 or channels not in (1, 3):
            return f"brightness of {dtype} images of {channels} channels"
        if transform.warps and transform.fill_mode == "constant" and not 0 <= transform.fill_value <= 255:
            return f"brightness with fill_value={transform.fill_value!r}, which is no level from 0 to 255"
    return None


def _sized(images: NDArray[Any] | None, transform: Augment) -> Augment:
    """Return the transform with the size of the images in memory, or raise ValueError if the two do not agree."""
    if images is None:
        if transform.size is None:
            raise ValueError("size must be given, as (height, width), for images that are read from files")
        return transform
    height, width, channels = images.shape[1:]
    if transform.size not in (None, (height, width)) or transform.crop is not None:
        rule = "size and crop are for images that are read from files; these are in memory"
        raise ValueError(f"{rule}, {height} x {width}: leave both out")
    for name in ("mean", "std"):
        if np.size(getattr(transform, name)) not in (1, channels):
            raise ValueError(f"{name} must be one number, or one for each of the images' {channels} channels")
    return transform.replace(size=(height, width))


def _engine(images: NDArray[Any] | None, transform: Augment, device: Any, engine: str) -> tuple[Device, str, str]:
    """Return the device, the engine, and the reason why "auto" did not take the fastest, or ""."""
    choice("engine", engine, ENGINES, synonyms=SYNONYMS)
    place = resolve(device)
    named = place != CPU and not is_auto(device)
    obstacle = unsupported(images, transform)
    if named and engine in ("numpy", "numba"):
        raise ValueError(f"engine={engine!r} runs on the CPU, not on {place}: pass device='cpu', or engine='cupy'")
    if engine == "cupy" and place == CPU:
        raise ValueError("engine='cupy' needs a GPU, but images are made on cpu: pass device='cuda', or engine='numba'")
    if named or engine == "cupy":
        what = f"device={device!r}" if named else "engine='cupy'"
        if obstacle:
            raise ValueError(f"{what} cannot do {obstacle}: pass device='cpu', or leave that option out")
        if not available.cupy_installed():
            raise ImportError(f"{what} needs CuPy, which is not installed: pip install 'gpuload[cuda13]'")
        return place, "cupy", ""
    if engine == "numba" and not available.numba_installed():
        raise ImportError("engine='numba' needs numba, which is not installed: pip install 'gpuload[cpu]'")
    if engine == "numba" and obstacle:
        raise ValueError(f"engine='numba' cannot do {obstacle}: pass engine='numpy', or 'auto' to have one chosen")
    if engine != "auto":
        return CPU, engine, ""
    if obstacle:
        return CPU, "numpy", f"compiled code cannot do {obstacle}"
    if place != CPU and available.cupy_installed():
        return place, "cupy", ""
    why = "CuPy is not installed" if place != CPU else ""
    if available.numba_installed():
        return CPU, "numba", why
    return CPU, "numpy", why or "numba is not installed"


def _decoder(decoding: Decoding | None, place: Device, engine: str, decoder: str) -> tuple[str | None, str]:
    """Return the decoder, None for images in memory, and the reason why "auto" did not take DALI, or ""."""
    choice("decoder", decoder, DECODERS, synonyms={"pil": "pillow", "nvidia": "dali"})
    if decoding is None:
        if decoder != "auto":
            raise ValueError(f"decoder={decoder!r} is for images that are read from files; these are in memory")
        return None, ""
    obstacle = graph.unsupported(decoding, "cpu" if place == CPU else "gpu")
    if decoder == "dali":
        if not available.dali_installed():
            extra = "cpu" if place == CPU else "cuda13"
            pip = f"pip install 'gpuload[{extra}]'"
            raise ImportError(f"decoder='dali' needs NVIDIA DALI, which is not installed: {pip}")
        if obstacle:
            advice = "pass decoder='pillow', or 'auto' to have one chosen"
            raise ValueError(f"decoder='dali' cannot do {obstacle}: {advice}")
    if decoder != "auto":
        return decoder, ""
    if engine == "numpy":  # The reference: what Keras gives, which decodes with Pillow.
        return "pillow", ""
    if not available.dali_installed():
        return "pillow", "NVIDIA DALI is not installed"
    return ("pillow", f"DALI cannot do {obstacle}") if obstacle else ("dali", "")


def _check_cache(cache: Cache, source: ImageSource, transform: Augment, place: Device) -> None:
    """Raise ValueError if a cache was asked for by name that the job cannot have."""
    images = source.images if isinstance(source, ImageArray) else None
    if cache.path is not None and isinstance(source, CustomSource) and source.stamp(0) is None:
        rule = "needs to know when a sample has changed"
        raise ValueError(
            f"cache={cache.path!r} {rule}: give the source a method stamp(index) that returns, say, size and time of "
            "the sample; or pass cache='host'"
        )
    if cache.size is not None:
        if not transform.draws_crop:
            rule = "is for RandomResizedCrop; other images are kept at their own size"
            raise ValueError(f"size={cache.size!r} of the cache {rule}: leave it out")
        if not transform.antialias:
            raise ValueError("size of the cache is for antialias=True: leave one of them out")
        if place != CPU:
            raise ValueError(f"size of the cache is for images made on cpu, not on {place}: pass device='cpu'")
    if cache.place in (None, "auto"):
        return
    if cache.place == "device" and place == CPU:
        raise ValueError("cache='device' keeps images on a GPU, but they are made on cpu: pass cache='host'")
    if images is not None and cache.place != "device":
        rule = "is for images that are read from files; these are in memory"
        raise ValueError(f"cache={cache.place!r} {rule}: leave it out")
    if transform.draws_crop and cache.size is None:
        raise ValueError(
            f"cache={cache.place!r} keeps images as they are resized, which RandomResizedCrop makes different in each "
            "epoch: leave it out, or pass cache=Cache(place=..., size=(256, 256)), say, to have the crops cut out of "
            "images of that size"
        )
