"""The pool for images: engines for one job, and the handling of samples that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.device import CPU
from gpuload.core.errors import BadSample, SampleError
from gpuload.delivery import CUPY_ALLOCATOR, Framework
from gpuload.images.engine import ImageEngine
from gpuload.images.job import ImageJob
from gpuload.images.open import AnyCache, open_cache, open_engine
from gpuload.images.step import Step
from gpuload.options import Cache, Errors
from gpuload.plan.order import Order, substitutes
from gpuload.run.bad_samples import BadSamples
from gpuload.run.engine import Engine
from gpuload.run.meter import Stages
from gpuload.run.pool import EnginePool

SAMPLES_DRAWN_AT_ONCE = 1024


class ImagePool(EnginePool):
    """Engines for images. Bad samples are skipped, replaced or raised, as `errors` says."""

    def __init__(
        self,
        job: ImageJob,
        framework: Framework,
        *,
        channels_last: bool = False,
        errors: Errors | None = None,
        cache: Cache | None = None,
        **options: Any,
    ):
        """Take a job that `settle` made, and options of `Loader` and of every pool.

        Raise ValueError if the framework has no such memory format or dtype.
        """
        super().__init__(device=job.device, framework=framework, **options)
        transform = job.transform
        if channels_last and (framework.name != "torch" or transform.layout == "HWC"):
            raise ValueError(
                "channels_last=True is a memory format of PyTorch for images [B, C, H, W], not for "
                f"framework={framework.name!r} with layout={transform.layout!r}: leave it out"
            )
        self.channels_last = channels_last
        self.job = job.in_layout("HWC" if channels_last else transform.layout or framework.layout)
        self.engine = job.engine
        self.source, self.transform = job.source, self.job.transform
        framework.check_dtype("dtype of the transform", transform.dtype, "pass another dtype")
        labels = self.source.labels
        self._label_dtype = None if labels is None else _label_dtype(labels, framework)
        self.options = errors or Errors()
        self.bad = BadSamples(self.options, len(self.source))
        self.caching = cache or Cache()
        self._cache: AnyCache | None = None
        self._lender: ImagePool | None = None
        self.figures = Stages()

    def __len__(self) -> int:
        return len(self.source)

    @property
    def cache(self) -> AnyCache | None:
        """Decoded images for all engines of the pool; opened when first asked for."""
        if self._lender is not None:
            return self._lender.cache
        if self._cache is None:
            self._cache = open_cache(self.job, self.caching, self.options.max_pixels)
        return self._cache

    def close(self) -> None:
        super().close()
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()

    def borrow(self, other: ImagePool) -> None:
        """Use the cache, the bad samples and the figures of a pool for the same decoded images."""
        self._lender, self.bad, self.figures = other, other.bad, other.figures

    def open_engine(self) -> ImageEngine:
        engine = open_engine(
            self.job,
            batch_size=self.batch_size,
            threads=self.threads,
            errors=self.options,
            cache=self.cache,
            allocator=self.framework.allocator or CUPY_ALLOCATOR,
        )
        self.figures.opened(engine)
        return engine

    def retire(self, engine: Engine) -> None:
        super().retire(engine)
        assert isinstance(engine, ImageEngine)
        self.figures.closed(engine)

    @property
    def errors(self) -> list[BadSample]:
        return self.bad.found

    def stages(self) -> dict[str, float]:
        return self.figures.milliseconds()

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
        """Return the step and its images, or None if no sample is left.

        If samples are bad, it is made again without them or with others in their place, as `errors` says.
        """
        if not step.batch_size:
            return step, None
        try:
            return step, engine.result(self.stream)
        except SampleError as error:
            return self._again(step, error)

    def _again(self, step: Step, error: SampleError) -> tuple[Step, Any]:
        # Another engine makes it: this one is at the next steps already.
        while True:
            self.bad.add(error.samples)
            if self.options.on_error == "raise":
                raise error
            step = self._without_bad(step)
            if not step.batch_size:
                return step, None
            engine, generation = self.acquire(), self.generation
            try:
                engine.submit(step)
                made = engine.result(self.stream)
            except SampleError as another:
                error, made = another, None
            except BaseException:
                engine.close()
                raise
            self.release(engine, generation)
            if made is not None:
                return step, made

    def _without_bad(self, step: Step) -> Step:
        bad = None if self.options.on_error == "raise" else self.bad.among(step.indices)
        if bad is None:
            return step
        if self.options.on_error == "skip":
            return step.take(~bad)
        indices = step.indices.copy()
        positions = np.arange(step.batch_size) if step.positions is None else step.positions
        while bad is not None:
            # The numbers drawn for a sample belong to its place in the epoch, and stay.
            positions = positions + bad
            indices[bad] = substitutes(step.seed, step.epoch, len(self.source), positions[bad])
            bad = self.bad.among(indices)
        return replace(step, indices=indices)

    def convert(self, images: Any) -> Any:
        """Return an engine's images as the framework's array."""
        if self.device == CPU:
            images = self.framework.convert(images, self.device, self.transform.dtype)
        elif self.framework.allocator is None:
            images = self.framework.convert(images, self.device, None)
        # With an allocator, the engine on a GPU has written into the framework's own memory.
        return images.permute(0, 3, 1, 2) if self.channels_last else images

    def batches(self, step: Step, made: Any) -> list[Any]:
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
    """Return the dtype that labels are converted to: of whole numbers the one that the framework wants, or has."""
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
