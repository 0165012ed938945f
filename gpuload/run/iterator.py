"""Iterators over the batches of a loader, and its order as a sampler."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Protocol

from gpuload.plan.order import Order
from gpuload.run.course import EpochCourse
from gpuload.run.pool import EnginePool
from gpuload.run.progress import Progress


class Epochs(Protocol):
    """The part of a `gpuload.Loader` that its iterators use."""

    order: Order
    upcoming: EpochCourse
    course: EpochCourse | None

    @property
    def pool(self) -> EnginePool: ...

    @property
    def epoch(self) -> int: ...

    def set_epoch(self, epoch: int) -> None: ...

    def begin(self) -> EpochCourse: ...

    def finish(self, course: EpochCourse) -> None: ...

    def show(self, course: EpochCourse) -> Progress | None: ...


class Sampler:
    """The order of a loader's samples, with the methods of a sampler of PyTorch."""

    def __init__(self, loader: Epochs):
        self._loader = loader

    def __len__(self) -> int:
        return self._loader.order.size

    def __iter__(self) -> Iterator[int]:
        """Yield the samples of the epoch that comes next."""
        return iter(self._loader.order.indices(self._loader.epoch).tolist())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, as `Loader.set_epoch` does."""
        self._loader.set_epoch(epoch)


class Batches:
    """An iterator over the batches of one epoch, for one thread at a time.

    After a SampleError it goes on with the next batch; after Ctrl-C or another exception, with the first batch that was
    not delivered.
    """

    def __init__(self, loader: Epochs, course: EpochCourse | None):
        self._loader = loader
        # The first batch settles the epoch, as PyTorch asks a sampler then. Lightning makes an iterator, calls
        # set_epoch after it, and makes another one only to see whether it can.
        self.course = course
        """The epoch; None: it is not settled yet."""
        self._in_use = threading.Lock()

    def __iter__(self) -> Batches:
        return self

    def __len__(self) -> int:
        """Number of batches still to come."""
        return (self._loader.upcoming if self.course is None else self.course).left

    def __next__(self) -> Any:
        self._loader.pool.check_process()
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError(
                "this iterator is being consumed in another thread: make one for each thread, with iter(loader)"
            )
        try:
            return self._begun().take()
        except StopIteration:
            assert self.course is not None
            self._loader.finish(self.course)
            raise
        finally:
            self._in_use.release()

    def _begun(self) -> EpochCourse:
        loader = self._loader
        if self.course is None:
            self.course = loader.begin()
        if not self.course.begun:
            self.course.open(loader.show)
            loader.course = self.course
        return self.course
