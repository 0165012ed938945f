"""The pool for images: a source of images, a transform, DALI or NumPy."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.cache import CachePolicy, DeviceCache, DiskCache, HostCache
from gpuload.core.device import CPU, Device
from gpuload.core.errors import BadSample, ErrorPolicy, SampleError
from gpuload.delivery import CUPY_ALLOCATOR, Framework
from gpuload.delivery import choose as choose_framework
from gpuload.images.augment import Augment
from gpuload.images.caching import check, kept, open_cache
from gpuload.images.choose import choose, open_engine
from gpuload.images.step import Step
from gpuload.plan.order import Order, substitutes
from gpuload.run.bad_samples import BadSamples
from gpuload.run.engine import Engine
from gpuload.run.pool import EnginePool
from gpuload.run.stages import Stages
from gpuload.sources import ImageArray, ImageSource

SAMPLES_DRAWN_AT_ONCE = 1024
TIMED_SAMPLES = 4
"""From which DALI's stages are told: a tenth of a second's work."""

AnyCache = HostCache | DiskCache | DeviceCache


class ImagePool(EnginePool):
    """Engines for images, and what becomes of those that cannot be read."""

    def __init__(
        self,
        source: ImageSource,
        transform: Augment,
        *,
        batch_size: int,
        device: str = "auto",
        engine: str = "auto",
        framework: str | None = None,
        prefetch: int = 2,
        threads: int | None = None,
        channels_last: bool = False,
        policy: ErrorPolicy | None = None,
        caching: CachePolicy | None = None,
    ):
        """
        Args:
            channels_last: PyTorch's memory format: images [B, C, H, W] whose channels lie side by side.
            policy: What counts as a bad sample, and what becomes of it.
            caching: Where decoded images are kept.
        """
        super().__init__(batch_size=batch_size, prefetch=prefetch, threads=threads)
        transform = sized(source, transform)
        self.source = source
        self.device, self.engine = choose(source, transform, device, engine)
        self.framework = choose_framework(framework, self.device)
        if channels_last and (self.framework.name != "torch" or transform.layout == "HWC"):
            raise ValueError(
                "channels_last=True is a memory format of PyTorch for images [B, C, H, W], not for "
                f"framework={self.framework.name!r} with layout={transform.layout!r}: leave it out"
            )
        self.channels_last = channels_last
        layout = "HWC" if channels_last else transform.layout or self.framework.layout
        self.transform = transform if transform.layout == layout else transform.replace(layout=layout)
        self.framework.check_dtype("dtype of the transform", self.transform.dtype, "pass another dtype")
        self._label_dtype = None if source.labels is None else _label_dtype(source.labels, self.framework)
        self.policy = policy or ErrorPolicy()
        self.bad = BadSamples(self.policy, len(source))
        self.caching = caching or CachePolicy()
        check(self.caching, source, self.transform, self.device)
        self._cache: AnyCache | None = None
        self._lender: ImagePool | None = None  # Whose it is, where it is another pool's.
        count = min(TIMED_SAMPLES, self.batch_size)
        measure = functools.partial(_measured, source, self.transform, self.device, self.policy, count)
        counted = self.engine == "numpy" or isinstance(source, ImageArray)
        self._stages = Stages(None if counted else measure)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def cache(self) -> AnyCache | None:
        """Decoded images, for all engines of the pool; opened when it is first asked for."""
        if self._lender is not None:
            return self._lender.cache
        if self._cache is None:
            self._cache = open_cache(
                self.caching,
                self.source,
                self.transform,
                engine=self.engine,
                device=self.device,
                max_pixels=self.policy.max_pixels,
            )
        return self._cache

    def close(self) -> None:
        """Also lets go of decoded images."""
        super().close()
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()

    def borrow(self, other: ImagePool) -> None:
        """Use the decoded images, the bad samples and the figures of a pool for the same source, and the same first
        half of the transform."""
        self.bad, self._stages = other.bad, other._stages
        self._lender = other

    def open_engine(self) -> Engine:
        engine = open_engine(
            self.source,
            self.transform,
            batch_size=self.batch_size,
            device=self.device,
            engine=self.engine,
            threads=self.threads,
            policy=self.policy,
            cache=self.cache,
            allocator=self.framework.allocator or CUPY_ALLOCATOR,
            kept=None if self.caching.cache_size is None else kept(self.caching, self.transform),
        )
        self._stages.opened(engine)
        return engine

    def retire(self, engine: Engine) -> None:
        """As of every pool; what it has counted stays."""
        super().retire(engine)
        self._stages.closed(engine)

    @property
    def errors(self) -> list[BadSample]:
        """As of every pool."""
        return self.bad.found

    def stages(self) -> dict[str, float]:
        """As of every pool: `read_ms`, `decode_ms` with the resize, and `augment_ms`.

        NumPy's threads tell what they spent, and so does what augments after DALI. DALI does not: now and then a few
        samples, by chance, are read and decoded beside it.
        """
        return self._stages.milliseconds()

    def plan(
        self, order: Order, seed: int, epoch: int, start: int = 0, numbers: Iterable[int] | None = None
    ) -> Iterator[Step]:
        # NumPy's cost is by the call: several batches are drawn in one.
        several = 1 if numbers is not None else max(1, SAMPLES_DRAWN_AT_ONCE // order.batch_size)
        for first, indices in order.batches(epoch, start, several, numbers):
            yield from self.transform.step(indices, seed=seed, epoch=epoch, first=first).split(order.batch_size)

    def submit(self, engine: Engine, step: Step) -> Step:
        """Have the engine start the step, without the samples that are known to be bad."""
        step = self._without_bad(step)
        if step.batch_size:
            engine.submit(step)
        return step

    def take(self, engine: Engine, step: Step) -> tuple[Step, Any]:
        """The step and its images; where samples are bad, as `on_error` says: the step without them, or with others,
        made anew, of no samples and with None where none is left."""
        if not step.batch_size:
            return step, None
        try:
            return step, engine.result(self.stream)
        except SampleError as error:
            return self._again(step, error)

    def _again(self, step: Step, error: SampleError) -> tuple[Step, Any]:
        # By another engine: this one is at the next steps already.
        while True:
            self.bad.add(error.samples)
            if self.policy.on_error == "raise":
                raise error
            step = self._without_bad(step)
            if not step.batch_size:
                return step, None
            engine, generation = self.acquire(), self.generation
            try:
                engine.submit(step)
                made = engine.result(self.stream)
            except SampleError as another:
                self.release(engine, generation)
                error = another
            except BaseException:
                engine.close()
                raise
            else:
                self.release(engine, generation)
                return step, made

    def _without_bad(self, step: Step) -> Step:
        bad = None if self.policy.on_error == "raise" else self.bad.among(step.indices)
        if bad is None:
            return step
        if self.policy.on_error == "skip":
            return step.take(~bad)
        indices = step.indices.copy()
        positions = np.arange(step.batch_size) if step.positions is None else step.positions
        while bad is not None:
            # What is drawn for a sample belongs to its place in the epoch, and stays.
            positions = positions + bad
            indices[bad] = substitutes(step.seed, step.epoch, len(self.source), positions[bad])
            bad = self.bad.among(indices)
        return dataclasses.replace(step, indices=indices)

    def convert(self, images: Any) -> Any:
        """An engine's images as the framework's array."""
        if self.device == CPU:
            images = self.framework.convert(images, self.device, self.transform.dtype)
        elif self.framework.allocator is None:  # Else they are in it already, as they are on a GPU, bfloat16 too.
            images = self.framework.convert(images, self.device, None)
        return images.permute(0, 3, 1, 2) if self.channels_last else images

    def batches(self, step: Step, made: Any) -> list[Any]:
        """The batch of a step, with its labels if the source has any; none where no sample is left."""
        if made is None:
            return []
        images = self.convert(made)
        if self.source.labels is None:
            return [images]
        labels = self.source.labels[step.indices]
        if self._label_dtype is not None:
            labels = labels.astype(self._label_dtype, copy=False)
        return [(images, self.framework.convert(labels, self.device, None))]


def _label_dtype(labels: NDArray[Any], framework: Framework) -> str | None:
    """What labels are converted to: whole numbers to what the framework asks for, or has."""
    name = labels.dtype.name
    if labels.dtype.kind in "iu":
        if framework.label_dtype is not None:
            return framework.label_dtype
        within = np.iinfo(np.int32)
        if not framework.has(name) and labels.size and within.min <= labels.min() and labels.max() <= within.max:
            return "int32"
    numbers = labels.dtype.kind in "fc"
    instead = "labels.astype('float32')" if numbers else "number them with np.unique(labels, return_inverse=True)[1]"
    framework.check_dtype("labels", name, instead)
    return None


def _measured(
    source: ImageSource, transform: Augment, device: Device, policy: ErrorPolicy, count: int
) -> dict[str, float]:
    """Seconds that DALI takes for a sample, by stage; from `count` of them, by chance."""
    from gpuload.images.stages import stage_seconds

    indices = np.random.default_rng().integers(len(source), size=count)
    return stage_seconds(source, transform, device, indices, policy=policy)


def sized(source: ImageSource, transform: Augment) -> Augment:
    """The transform with the size that the source settles; raises ValueError where the two do not agree."""
    if not isinstance(source, ImageArray):
        if transform.size is None:
            raise ValueError("size must be given, as (height, width), for images that are read from files")
        return transform
    height, width, channels = source.images.shape[1:]
    if transform.size not in (None, (height, width)) or transform.crop is not None:
        raise ValueError(
            f"size and crop belong to images that are read from files; those in memory are {height} x {width}: "
            "leave both out"
        )
    for name in ("mean", "std"):
        if np.size(getattr(transform, name)) not in (1, channels):
            raise ValueError(f"{name} must be one number, or one for each of the images' {channels} channels")
    return transform.replace(size=(height, width))
