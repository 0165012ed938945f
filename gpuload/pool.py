"""Between a step and a delivered batch: a pool of engines for one job, and streams that keep an engine busy."""

from __future__ import annotations

import os
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from gpuload import delivery, nvtx
from gpuload.cuda import Device
from gpuload.engines import Engine
from gpuload.errors import BadSample
from gpuload.meter import Meter
from gpuload.plan import Order
from gpuload.plan.checks import checked_int

AnyStep = TypeVar("AnyStep")


class EnginePool(ABC):
    """Everything between a step and a delivered batch: the job, fixed, and the engines that stand ready for it.

    Each running `Stream` has an engine of its own; one that is done leaves it here for the next.
    """

    device: Device
    """Where batches are made and delivered."""
    engine: str
    """Name of what makes them."""
    framework: delivery.Framework
    """Whose arrays they are."""

    def __init__(self, *, batch_size: int, prefetch: int, threads: int | None):
        self.batch_size = checked_int("batch_size", batch_size, 1)
        self.prefetch = checked_int("prefetch", prefetch, 0)
        self.threads = None if threads is None else checked_int("threads", threads, 1)
        self.generation = 0
        """How often the pool was closed."""
        self._pid = os.getpid()
        self._idle: list[Engine] = []
        self._running: weakref.WeakSet[Stream[Any]] = weakref.WeakSet()

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


class Stream(Generic[AnyStep]):
    """Pulls steps, keeps the engine busy ahead of the caller, and yields (step, what was made of it).

    `next` raises for a step that could not be made, such as SampleError; the one after it comes at the next call. Where
    it was interrupted, or a step could not be started, nobody can tell any more which step is next: the stream is
    broken.
    """

    def __init__(self, pool: EnginePool, steps: Iterator[AnyStep]):
        self._pool = pool
        self._steps = steps
        self._submitted: deque[AnyStep] = deque()
        self._bytes_read = 0  # By engines that are lost.
        self._open()
        self.last: AnyStep | None = None
        """The step that `next` was last asked for, made or not."""
        self.closed = False
        """Whether its pool was closed under it."""
        self.broken = False
        """Whether it cannot go on, since it was interrupted."""

    def _open(self) -> None:
        pool = self._pool
        self._engine = pool.acquire()
        self._bytes_read -= self._engine.bytes_read
        self._release = weakref.finalize(self, pool.release, self._engine, pool.generation)
        self._release.atexit = False
        pool._running.add(self)

    @property
    def alive(self) -> bool:
        """Whether `next` can yield more."""
        return self._release.alive

    @property
    def queued(self) -> int:
        """Steps that the engine was given ahead."""
        return len(self._submitted)

    @property
    def bytes_read(self) -> int:
        """By the engine, since the stream began."""
        return self._bytes_read + self._engine.bytes_read

    def __iter__(self) -> Stream[AnyStep]:
        return self

    def __next__(self) -> tuple[AnyStep, Any]:
        pool = self._pool
        pool.check_process()
        if self.closed:
            raise RuntimeError("the loader was closed while it was iterated over: begin another iteration")
        if self.broken:
            raise RuntimeError(
                "this iteration was interrupted, by Ctrl-C or an exception, before a batch was made, and cannot go on: "
                "begin another one, or load_state_dict(state_dict()) before that to go on in the epoch"
            )
        if not self.alive:
            raise StopIteration
        try:
            with nvtx.range("submit"):
                while len(self._submitted) <= pool.prefetch:
                    step = next(self._steps, None)
                    if step is None:
                        break
                    self._submitted.append(pool.submit(self._engine, step))
        except BaseException:
            self.abandon()
            raise
        if not self._submitted:
            self.close()
            raise StopIteration
        self.last = self._submitted.popleft()
        try:
            with nvtx.range("wait"):
                return pool.take(self._engine, self.last)
        except Exception:
            raise  # This batch is lost, the engine is whole.
        except BaseException:
            self.abandon()
            raise
        finally:
            if self.alive and not self._engine.alive:
                self._renew()

    def delivered(self, deliver: Callable[[Any, Any], list[Any]], meter: Meter) -> list[Any]:
        """What `deliver` makes of the next step and of what was made of it: a list of batches, counted by `meter`."""
        began, read = time.perf_counter(), self.bytes_read
        try:
            step: Any
            step, made = next(self)
            waited = time.perf_counter()
            with nvtx.range("deliver"):
                batches = deliver(step, made)
        except Exception:
            raise
        except BaseException:
            self.abandon()  # The step may be lost on its way.
            raise
        if batches:  # Else all of its samples were bad, and skipped.
            meter.add(
                len(batches),
                step.batch_size,
                wait=waited - began,
                deliver=time.perf_counter() - waited,
                queued=self.queued,
                bytes_read=self.bytes_read - read,
            )
        return batches

    def _renew(self) -> None:
        """Go on with another engine: this one hangs at a file."""
        self._bytes_read += self._engine.bytes_read
        self._release()
        try:
            self._open()
            self._submitted = deque(self._pool.submit(self._engine, step) for step in self._submitted)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Break off, after an interrupt."""
        self.broken = True
        # An engine that was interrupted may hold half a step, or a batch that was not counted. Nobody may get it again.
        if self._release.detach() is not None:
            self._pool.retire(self._engine)

    def close(self) -> None:
        """Give the engine back; what was pulled ahead is dropped."""
        self._release()
        self._pool._running.discard(self)
