"""Iterators over the batches of a loader, and its order as a sampler."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from gpuload.run.course import EpochCourse


class Sampler:
    """The order of a loader's samples, with the methods of a sampler of PyTorch."""

    def __init__(self, loader: Any):
        self._loader = loader

    def __len__(self) -> int:
        return int(self._loader.order.size)

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

    def __init__(self, loader: Any, course: EpochCourse | None):
        self._loader = loader
        # The first batch settles the epoch, as PyTorch asks a sampler then. Lightning makes an iterator, calls
        # set_epoch after it, and makes another one only to see whether it can.
        self.course = course
        """The epoch; None: it is not settled yet."""
        self._in_use = threading.Lock()

    def __del__(self) -> None:
        if self.course is not None:  # The loader keeps it, to tell where it stands.
            self.course.leave()

    def __iter__(self) -> Batches:
        return self

    def __len__(self) -> int:
        """Number of batches still to come."""
        course: EpochCourse = self._loader.upcoming if self.course is None else self.course
        return course.left

    def __next__(self) -> Any:
        self._loader.pool.check_process()
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError(
                "this iterator is being consumed in another thread: make one for each thread, with iter(loader)"
            )
        loader = self._loader
        try:
            if self.course is None:
                self.course = loader.begin()
            if not self.course.begun:
                self.course.open(loader.show)
                loader.course = self.course
            return self.course.take()
        except StopIteration:
            loader.finish(self.course)
            raise
        finally:
            self._in_use.release()
