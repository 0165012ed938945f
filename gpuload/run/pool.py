"""Between a step and a delivered batch: a pool of engines for one job, and streams that keep an engine busy."""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from gpuload.core.checks import checked_int
from gpuload.core.device import Device
from gpuload.core.errors import BadSample
from gpuload.delivery import Framework
from gpuload.plan.order import Order
from gpuload.run.engine import Engine
from gpuload.run.meter import Meter


class EnginePool(ABC):
    """Everything between a step and a delivered batch: the job, fixed, and the engines that stand ready for it.

    Each running `Stream` has an engine of its own; one that is done leaves it here for the next.
    """

    device: Device
    """Where batches are made and delivered."""
    engine: str
    """Name of what makes them."""
    framework: Framework
    """Whose arrays they are."""

    def __init__(self, *, batch_size: int, prefetch: int, threads: int | None):
        self.batch_size = checked_int("batch_size", batch_size, 1)
        self.prefetch = checked_int("prefetch", prefetch, 0)
        self.threads = None if threads is None else checked_int("threads", threads, 1)
        self.generation = 0
        """How often the pool was closed."""
        self._pid = os.getpid()
        self._idle: list[Engine] = []
        self._running: weakref.WeakSet[Any] = weakref.WeakSet()

    @abstractmethod
    def open_engine(self) -> Engine:
        """A new engine for the job."""

    @abstractmethod
    def plan(
        self, order: Order, seed: int, epoch: int, start: int = 0, numbers: Iterable[int] | None = None
    ) -> Iterator[Any]:
        """The steps of what is left of an epoch after its first `start` samples, or of its batches of these numbers,
        one batch each."""

    def submit(self, engine: Engine, step: Any) -> Any:
        """Have the engine start a step, and return what it started."""
        engine.submit(step)
        return step

    def take(self, engine: Engine, step: Any) -> tuple[Any, Any]:
        """The engine's oldest step, which is `step`, and what was made of it. Raises SampleError."""
        return step, engine.result(self.stream)

    @abstractmethod
    def batches(self, step: Any, made: Any) -> list[Any]:
        """The batches of a step that was made, in the framework's arrays."""

    def stages(self) -> dict[str, float]:
        """Milliseconds that a sample takes in one thread, by what is done with it, as far as that is known."""
        return {}

    @property
    def errors(self) -> list[BadSample]:
        """The bad samples that were found, each once."""
        return []

    def stats(self, meter: Meter, last: int | None) -> dict[str, float | int]:
        """What `Loader.stats` tells, of what `meter` has counted."""
        stats = meter.stats(last)
        stats["errors"] = len(self.errors)
        if stats["batches"]:
            stats.update(self.stages())
        return stats

    @property
    def stream(self) -> int | None:
        """The CUDA stream on which the framework will use the next batch, if it names one."""
        if self.device.index is None or self.framework.stream is None:
            return None
        return self.framework.stream(self.device)

    def acquire(self) -> Engine:
        """An engine with nothing pending."""
        self.check_process()
        return self._idle.pop() if self._idle else self.open_engine()

    def release(self, engine: Engine, generation: int) -> None:
        """Keep an engine of this generation for the next `acquire`. One is kept; more were for streams side by side."""
        if self._pid != os.getpid():
            return  # A child process must leave its parent's threads alone, even at its end.
        engine.discard()
        if self._idle or generation != self.generation or not engine.alive:
            self.retire(engine)
        else:
            self._idle.append(engine)

    def retire(self, engine: Engine) -> None:
        """Close an engine."""
        engine.close()

    def check_process(self) -> None:
        """Engines have threads, and threads do not live on in a forked process."""
        if self._pid != os.getpid():
            raise RuntimeError(
                f"this loader was made in process {self._pid} and is used in its fork {os.getpid()}, where its threads "
                "do not run: make the loader in the process that iterates over it (it needs no worker processes)"
            )

    def close(self) -> None:
        """Close all engines. Streams that are running raise RuntimeError when they are asked for more."""
        self.generation += 1
        for stream in list(self._running):
            stream.close()
            stream.closed = True
        while self._idle:
            self.retire(self._idle.pop())
