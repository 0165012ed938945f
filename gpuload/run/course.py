"""An epoch under way: how far it has come, and its batches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gpuload.plan.order import Order
from gpuload.run.progress import Progress
from gpuload.run.stream import Stream

if TYPE_CHECKING:
    from gpuload.loader import Loader


class Sampler:
    """What programs written for PyTorch look for at `loader.sampler`: samples in order, and `set_epoch`."""

    def __init__(self, loader: Loader):
        self._loader = loader

    def __len__(self) -> int:
        return self._loader.order.size

    def __iter__(self) -> Iterator[int]:
        """The samples of the epoch that comes next."""
        return iter(self._loader.order.indices(self._loader.epoch).tolist())

    def set_epoch(self, epoch: int) -> None:
        """As `Loader.set_epoch`."""
        self._loader.set_epoch(epoch)


class Position:
    """How far an iteration has come."""

    def __init__(self, order: Order, epoch: int, start: int):
        self.order = order
        self.epoch = epoch
        self.start = start
        """Samples of the epoch that were seen before."""
        self.count = order.left(start)
        """Batches from there to the end of the epoch."""
        self.left = self.count
        """Of these, how many are still to come."""
        self.finished = False
        """Whether the end was told."""

    @property
    def seen(self) -> int:
        """Samples of the epoch that were seen, by all ranks."""
        delivered = self.count - self.left
        stop = self.order.bounds(delivered - 1, self.start)[1] if delivered else self.start
        return min(stop, self.order.size)


class Batches:
    """One epoch's iterator, for one thread at a time.

    After a SampleError it goes on with the next batch; after Ctrl-C, or another exception, with the first batch that
    was not delivered.
    """

    def __init__(self, loader: Loader, position: Position | None):
        self._loader = loader
        self._pool: Any = loader.pool
        # Which epoch it is, is asked with the first batch, as PyTorch asks a sampler: Lightning makes an iterator, then
        # calls set_epoch, and makes one more only to see whether it can.
        self.position = position
        """Where it stands; None: the epoch is not settled."""
        self._stream: Stream[Any] | None = None
        self._here: deque[Any] = deque()  # Delivered together, and not yet taken.
        self._progress: Progress | None = None
        self._in_use = threading.Lock()

    def __iter__(self) -> Batches:
        return self

    def __len__(self) -> int:
        """Batches still to come."""
        if self.position is None:
            return self._loader.order.left(self._loader._seen)
        return self.position.left

    def __next__(self) -> Any:
        self._pool.check_process()  # Batches that lie ready are the parent's to deliver.
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError(
                "this iterator is being consumed in another thread: make one for each thread, with iter(loader)"
            )
        try:
            if not self._here:
                self._make()
            # Without a call, between these lines no interrupt is raised: what is counted is handed out.
            batch = self._here[0]
            del self._here[0]
            self.position.left -= 1  # type: ignore[union-attr]
            return batch
        finally:
            self._in_use.release()

    def _start(self) -> tuple[Position, Stream[Any]]:
        loader = self._loader
        if self.position is None:
            self.position = loader.begin()
        if self._stream is None:
            self._stream = loader._stream(self.position)
            loader.position = self.position
            self._progress = loader._watch(self.position)
        return self.position, self._stream

    def _make(self) -> None:
        """Have the next step made, and the batches of it delivered. Raises StopIteration at the end of the epoch."""
        position, stream = self._start()
        while not self._here:
            if not position.left:
                self._finish(position, stream)
                raise StopIteration
            if stream.broken and not stream.closed:
                stream = self._stream = self._loader._stream(position)
            try:
                self._here.extend(stream.delivered(self._pool.batches, self._loader.meter))
            except Exception:
                if stream.alive and stream.last is not None:  # This step is lost, the next one will come.
                    position.left -= max(1, -(-stream.last.batch_size // self._pool.batch_size))
                raise
            if not self._here:
                position.left -= 1
                continue
            if self._progress is not None:
                self._progress.advance(len(self._here))

    def _finish(self, position: Position, stream: Stream[Any]) -> None:
        if self._progress is not None and not position.finished:
            self._progress.close()
        position.finished = True
        if self._loader._ready is None and stream.alive:
            self._loader._ready = position.epoch + 1, stream
