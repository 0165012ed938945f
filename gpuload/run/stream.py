"""Steps of a pool, made ahead."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from gpuload.core import nvtx
from gpuload.run.meter import Meter
from gpuload.run.pool import EnginePool

AnyStep = TypeVar("AnyStep")


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
