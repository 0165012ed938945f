"""A stream: steps pulled from a plan, which keep an engine busy ahead of the caller."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from gpuload.core import nvtx
from gpuload.run.meter import Meter
from gpuload.run.pool import EnginePool


class Stream:
    """Yields (step, arrays) of one step after another.

    `next` raises for a step that could not be made, such as SampleError; the next call goes on with the step after it.
    If it was interrupted, or a step could not be started, nobody can tell which step comes next: the stream is broken.
    """

    def __init__(self, pool: EnginePool, steps: Iterator[Any]):
        self._pool = pool
        self._steps = steps
        self._submitted: deque[Any] = deque()
        self._bytes_read = 0  # By engines that are lost.
        self._open()
        self.last: Any = None
        """The step that `next` was asked for last."""
        self.closed = False
        """Whether the pool was closed while the stream was under way."""
        self.broken = False

    def _open(self) -> None:
        pool = self._pool
        self._engine = pool.acquire()
        self._bytes_read -= self._engine.bytes_read
        self._finalizer = weakref.finalize(self, pool.drop, self._engine, pool.generation)
        self._finalizer.atexit = False
        pool.running.add(self)

    @property
    def alive(self) -> bool:
        """Whether `next` can yield more."""
        return self._finalizer.alive

    @property
    def bytes_read(self) -> int:
        """Bytes read since the stream began."""
        return self._bytes_read + self._engine.bytes_read

    def __next__(self) -> tuple[Any, Any]:
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
        """Return the batches that `deliver(step, arrays)` makes of the next step, and count them in `meter`."""
        began, read = time.perf_counter(), self.bytes_read
        try:
            step, made = next(self)
            waited = time.perf_counter()
            with nvtx.range("deliver"):
                batches = deliver(step, made)
        except Exception:
            raise
        except BaseException:
            self.abandon()  # The step may be lost on its way.
            raise
        if batches:  # No batch: all samples of the step were bad, and skipped.
            meter.add(
                len(batches),
                step.batch_size,
                wait=waited - began,
                deliver=time.perf_counter() - waited,
                queued=len(self._submitted),
                bytes_read=self.bytes_read - read,
            )
        return batches

    def _renew(self) -> None:
        """Go on with another engine, since this one hangs at a blocked file."""
        self._bytes_read += self._engine.bytes_read
        self._release()
        try:
            self._open()
            self._submitted = deque(self._pool.submit(self._engine, step) for step in self._submitted)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Break off after an interrupt."""
        self.broken = True
        # An interrupted engine may hold half a step, or a batch that was not counted. Nobody may get it again.
        if self._finalizer.detach() is not None:
            self._pool.retire(self._engine)

    def close(self) -> None:
        """Give the engine back. Steps made ahead are dropped."""
        self._release()
        self._pool.running.discard(self)

    def _release(self) -> None:
        if (found := self._finalizer.detach()) is not None:
            _, _, (engine, generation), _ = found
            self._pool.release(engine, generation)
