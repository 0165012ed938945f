"""Engines for a job of images, opened with the decoder and the augmenter that the job names."""

from __future__ import annotations

from gpuload.cache import DeviceCache
from gpuload.core.available import available_cpus
from gpuload.decode.spec import Decoder
from gpuload.delivery import CUPY_ALLOCATOR, Allocator
from gpuload.images.caching import AnyCache, open_cache
from gpuload.images.engine import Augmenter, HostImageEngine, ImageEngine
from gpuload.images.job import ImageJob
from gpuload.options import Cache, Errors


def open_engine(
    job: ImageJob,
    *,
    batch_size: int,
    threads: int | None = None,
    errors: Errors | None = None,
    cache: AnyCache | None = None,
    allocator: Allocator = CUPY_ALLOCATOR,
) -> ImageEngine:
    """Return a new engine.

    Args:
        job: What is made.
        batch_size: Greatest number of samples in a step.
        threads: Threads that decode, and that augment. None: one for each CPU of the process.
        errors: What counts as a bad sample.
        cache: Keeps decoded images; on a GPU a `DeviceCache`. None: nothing is kept.
        allocator: Makes the arrays of batches on a GPU.
    """
    threads = threads or available_cpus()
    errors = errors or Errors()

    def decoder() -> Decoder:
        if job.decoder == "pillow":
            from gpuload.decode.pillow import PillowDecoder

            return PillowDecoder(job.files, job.decoding, threads=threads, errors=errors)
        from gpuload.decode.dali import DaliDecoder

        return DaliDecoder(
            job.files, job.decoding, batch_size=batch_size, device=job.device, threads=threads, errors=errors
        )

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
