"""Between a step and a delivered batch: a pool of engines for one job, and streams that keep an engine busy."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import numpy as np

from gpuload import cuda, delivery, engines
from gpuload.plan import Augment, Step
from gpuload.plan.checks import checked_int
from gpuload.sources import ImageArray, ImageSource

AnyStep = TypeVar("AnyStep", bound=Step)


class EnginePool:
    """Everything between a step and a delivered batch: the job, fixed, and the engines that stand ready for it.

    Each running `Stream` has an engine of its own; one that is done leaves it here for the next.
    """

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
    ):
        transform = sized(source, transform)
        self.source = source
        self.batch_size = checked_int("batch_size", batch_size, 1)
        self.prefetch = checked_int("prefetch", prefetch, 0)
        self.threads = None if threads is None else checked_int("threads", threads, 1)
        self.device, self.engine = engines.choose(source, transform, device, engine)
        self.framework = delivery.choose(framework, self.device)
        layout = transform.layout or self.framework.layout
        self.transform = transform if transform.layout == layout else transform.replace(layout=layout)
        self.generation = 0
        """How often the pool was closed."""
        self._pid = os.getpid()
        self._idle: list[engines.Engine] = []

    def acquire(self) -> engines.Engine:
        """An engine with nothing pending."""
        self.check_process()
        if self._idle:
            return self._idle.pop()
        return engines.open_engine(
            self.source,
            self.transform,
            batch_size=self.batch_size,
            device=self.device,
            engine=self.engine,
            threads=self.threads,
        )

    def release(self, engine: engines.Engine, generation: int) -> None:
        """Keep an engine of this generation for the next `acquire`. One is kept; more were for streams side by side."""
        if self._pid != os.getpid():
            return  # A child process must leave its parent's threads alone, even at its end.
        engine.discard()
        if self._idle or generation != self.generation:
            engine.close()
        else:
            self._idle.append(engine)

    def check_process(self) -> None:
        """Engines have threads, and threads do not live on in a forked process."""
        if self._pid != os.getpid():
            raise RuntimeError(
                f"this loader was made in process {self._pid} and is used in its fork {os.getpid()}, where its threads "
                "do not run: make the loader in the process that iterates over it (it needs no worker processes)"
            )

    def deliver(self, engine: engines.Engine) -> Any:
        """The images of the engine's oldest step, in the framework's array."""
        on_gpu = self.device != cuda.CPU
        stream = self.framework.stream(self.device) if on_gpu and self.framework.stream else None
        return self.framework.convert(engine.result(stream), self.device, self.transform.dtype)

    def targets(self, step: Step) -> Any:
        """The labels of the step, in the framework's array."""
        assert self.source.labels is not None
        return self.framework.convert(self.source.labels[step.indices], self.device, None)

    def close(self) -> None:
        """Close what stands ready now, and what is running as soon as it is released."""
        self.generation += 1
        while self._idle:
            self._idle.pop().close()


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


class Stream(Generic[AnyStep]):
    """Pulls steps, keeps the engine busy ahead of the caller, and yields (step, images).

    `next` raises SampleError for a batch that could not be made; the one after it comes at the next call.
    """

    def __init__(self, pool: EnginePool, steps: Iterator[AnyStep]):
        self._pool = pool
        self._steps = steps
        self._submitted: list[AnyStep] = []
        self._engine = pool.acquire()
        self._release = weakref.finalize(self, pool.release, self._engine, pool.generation)
        self._release.atexit = False

    @property
    def upcoming(self) -> AnyStep | None:
        """The step whose images `next` will yield, where it has been pulled already."""
        return self._submitted[0] if self._submitted and self.alive else None

    @property
    def alive(self) -> bool:
        """Whether `next` can yield more."""
        return self._release.alive

    def __iter__(self) -> Stream[AnyStep]:
        return self

    def __next__(self) -> tuple[AnyStep, Any]:
        self._pool.check_process()
        if not self.alive:
            raise StopIteration
        try:
            while len(self._submitted) <= self._pool.prefetch:
                step = next(self._steps, None)
                if step is None:
                    break
                self._engine.submit(step)
                self._submitted.append(step)
        except BaseException:
            self._abandon()
            raise
        if not self._submitted:
            self.close()
            raise StopIteration
        try:
            step = self._submitted.pop(0)
            return step, self._pool.deliver(self._engine)
        except Exception:
            raise  # This batch is lost, the engine is whole.
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        # An engine that was interrupted may hold half a step, or a batch that was not counted. Nobody may get it again.
        self._release.detach()
        self._engine.close()

    def close(self) -> None:
        """Give the engine back; what was pulled ahead is dropped."""
        self._release()
