"""An epoch under way: how far it has come, the stream that makes its batches ahead, and iterators over them."""

from __future__ import annotations

import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from gpuload.plan.order import Order
from gpuload.run.meter import Meter
from gpuload.run.pool import EnginePool
from gpuload.run.progress import Progress
from gpuload.run.stream import Stream

Deliver = Callable[[Any, Any], list[Any]]  # Step, arrays -> batches.


class Course:
    """One epoch under way. Loaders and the doors of Keras, TensorFlow and PyTorch take their batches from one.

    For one thread at a time. After SampleError it goes on with the next batch.
    """

    def __init__(self, pool: EnginePool, meter: Meter, *, epoch: int = 0, count: int = 0):
        """Take the pool that makes the batches, `count` of them to the end of the epoch, and the meter of them."""
        self.pool = pool
        self.meter = meter
        self.epoch = epoch
        self.count = count
        self.left = count
        """Number of batches still to come."""
        self.finished = False
        self.stream: Stream | None = None
        self._here: deque[Any] = deque()  # Delivered together, not yet taken.

    @property
    def alive(self) -> bool:
        """Whether the stream can go on."""
        return self.stream is not None and self.stream.alive

    @property
    def waiting(self) -> int:
        """Number of batches that are delivered and not yet taken."""
        return len(self._here)

    def begin(self, steps: Iterator[Any]) -> None:
        """Start to make these steps."""
        self.stream = Stream(self.pool, steps)
        self.meter.begin()

    def take(self, deliver: Deliver | None = None) -> Any:
        """Return the next batch; `deliver` makes those of a step, or the pool's own way.

        Raise StopIteration if the epoch is over, SampleError if files of the batch cannot be read.
        """
        self.pool.check_process()  # In a forked process, delivered batches still belong to the parent.
        while not self._here:
            self._make(deliver or self.pool.batches)
        # No call between these lines, so no interrupt: a batch that is counted is handed out.
        batch = self._here[0]
        del self._here[0]
        self.left -= 1
        return batch

    def _make(self, deliver: Deliver) -> None:
        assert self.stream is not None
        self._here.extend(self.stream.delivered(deliver, self.meter))

    def close(self) -> None:
        """Give the engine back."""
        if self.stream is not None:
            self.stream.close()


class EpochCourse(Course):
    """One epoch of an `Order`, from any sample on."""

    def __init__(self, pool: EnginePool, meter: Meter, order: Order, epoch: int, start: int = 0):
        """Begin after the epoch's first `start` samples."""
        super().__init__(pool, meter, epoch=epoch, count=order.left(start))
        self.order = order
        self.start = start
        self.obstacle: str | None = None
        """The reason why nobody can tell how far the epoch has come."""
        self.begun = False
        self._progress: Progress | None = None

    @property
    def seen(self) -> int:
        """Number of samples of the epoch that all ranks together have seen. Raises RuntimeError for an `obstacle`."""
        if self.obstacle is not None:
            raise RuntimeError(self.obstacle)
        delivered = self.count - self.left
        stop = self.order.bounds(delivered - 1, self.start)[1] if delivered else self.start
        return min(stop, self.order.size)

    def open(self, show: Callable[[EpochCourse], Progress | None]) -> None:
        """Begin the epoch. `show` begins its figures, and returns the progress bar if one is wanted."""
        if self.stream is None:
            self.stream = self._planned()
        self.begun = True
        self._progress = show(self)

    def leave(self) -> None:
        """Let go of the engine and of the bar: the iterator is gone, and only `seen` is still asked for."""
        self._here.clear()
        self.stream = self._progress = None

    def _planned(self) -> Stream:
        plan = functools.partial(self.pool.plan, self.order, self.order.seed)
        # Batches are made ahead across the end of the epoch: the next epoch most likely follows.
        following = itertools.chain.from_iterable(map(plan, itertools.count(self.epoch + 1)))
        return Stream(self.pool, itertools.chain(plan(self.epoch, self.seen), following))

    def _make(self, deliver: Deliver) -> None:
        stream = self.stream
        assert stream is not None
        if not self.left:
            if self._progress is not None and not self.finished:
                self._progress.close()
            self.finished = True
            raise StopIteration
        if stream.broken and not stream.closed:
            stream = self.stream = self._planned()
        try:
            self._here.extend(stream.delivered(deliver, self.meter))
        except Exception:
            if stream.alive and stream.last is not None:  # This step is lost, the next one will come.
                self.left -= max(1, -(-stream.last.batch_size // self.pool.batch_size))
            raise
        if not self._here:  # All samples of the batch are bad, and skipped.
            self.left -= 1
        elif self._progress is not None:
            self._progress.advance(len(self._here))


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
