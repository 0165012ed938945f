"""Pools of engines: everything between a step and a delivered batch."""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from gpuload.core.checks import checked_int
from gpuload.core.device import Device
from gpuload.core.errors import BadSample
from gpuload.delivery import Framework
from gpuload.plan.order import Order
from gpuload.run.engine import Engine
from gpuload.run.meter import Meter
from gpuload.run.release import call_soon, start_thread


class EnginePool(ABC):
    """One job, and the engines that stand ready for it.

    Each stream under way has an engine of its own and gives it back at its end.
    """

    engine: str
    """Name of the engine."""

    def __init__(
        self, *, device: Device, framework: Framework, batch_size: int, prefetch: int = 2, threads: int | None = None
    ):
        """Take the device and the framework of the batches, and options of `Loader`. `prefetch` counts steps."""
        self.device = device
        self.framework = framework
        self.batch_size = checked_int("batch_size", batch_size, 1)
        self.prefetch = checked_int("prefetch", prefetch, 0)
        self.threads = None if threads is None else checked_int("threads", threads, 1)
        self.generation = 0
        """Number of times that the pool was closed."""
        self.running: weakref.WeakSet[Any] = weakref.WeakSet()
        """The streams under way, which have `close()` and `closed`."""
        self._pid = os.getpid()
        self._idle: list[Engine] = []
        self._dropped: deque[tuple[Engine, int]] = deque()
        self._settling = threading.RLock()

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def open_engine(self) -> Engine:
        """Return a new engine for the job."""

    @abstractmethod
    def plan(
        self, order: Order, seed: int, epoch: int, start: int = 0, numbers: Iterable[int] | None = None
    ) -> Iterator[Any]:
        """Yield the steps of an epoch after its first `start` samples, or of the batches of that rest in `numbers`."""

    @abstractmethod
    def batches(self, step: Any, made: Any) -> list[Any]:
        """Return the batches of a step that an engine has made, as the framework's arrays."""

    def submit(self, engine: Engine, step: Any) -> Any:
        """Have the engine start a step. Return the step that it started."""
        engine.submit(step)
        return step

    def take(self, engine: Engine, step: Any) -> tuple[Any, Any]:
        """Return `step`, the engine's oldest, and its arrays."""
        return step, engine.result(self.stream)

    def stages(self) -> dict[str, float]:
        """Return milliseconds that a sample takes in one thread, by stage, as far as engines count them."""
        return {}

    @property
    def errors(self) -> list[BadSample]:
        """The bad samples found so far, each once."""
        return []

    def stats(self, meter: Meter, last: int | None) -> dict[str, float | int]:
        """Return what `Loader.stats` returns, for the batches that `meter` has counted."""
        stats = meter.stats(last)
        return {**stats, "errors": len(self.errors), **(self.stages() if stats["batches"] else {})}

    @property
    def stream(self) -> int | None:
        """The CUDA stream on which the framework will read the next batch, if the framework tells."""
        if self.device.index is None or self.framework.stream is None:
            return None
        return self.framework.stream(self.device)

    def acquire(self) -> Engine:
        """Return an engine with nothing pending."""
        self.check_process()
        start_thread()
        self.settle()
        try:
            return self._idle.pop()
        except IndexError:
            return self.open_engine()

    def drop(self, engine: Engine, generation: int) -> None:
        """Have an engine released soon, in another thread. The garbage collector may call this in any thread."""
        self._dropped.append((engine, generation))
        call_soon(self.settle)

    def settle(self) -> None:
        """Release the engines that were dropped."""
        if self._pid != os.getpid():  # In a fork the lock may be held for ever.
            return
        with self._settling:
            while self._dropped:
                self.release(*self._dropped.popleft())

    def release(self, engine: Engine, generation: int) -> None:
        """Keep an engine for the next `acquire`. One is kept; more were for streams side by side.

        `generation` is the pool's when it was acquired: engines from before a `close` are not kept.
        """
        if self._pid != os.getpid():
            return  # A child process must leave its parent's threads alone, even at its end.
        engine.discard()
        with self._settling:
            kept = not self._idle and generation == self.generation and engine.alive
            if kept:
                self._idle.append(engine)
        if not kept:
            self.retire(engine)

    def retire(self, engine: Engine) -> None:
        engine.close()

    def check_process(self) -> None:
        """Raise RuntimeError in a forked process, where the threads of engines do not exist."""
        if self._pid != os.getpid():
            raise RuntimeError(
                f"this loader was made in process {self._pid} and is used in its fork {os.getpid()}, where its threads "
                "do not run: make the loader in the process that iterates over it (it needs no worker processes)"
            )

    def close(self) -> None:
        """Close all engines. Streams under way raise RuntimeError when they are asked for more."""
        self.generation += 1
        for stream in list(self.running):
            stream.close()
            stream.closed = True
        self.settle()
        while self._idle:
            self.retire(self._idle.pop())
