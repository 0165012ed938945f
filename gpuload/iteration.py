"""An epoch under way: how far it has come, and its batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gpuload import nvtx
from gpuload.plan import Order
from gpuload.pool import Stream
from gpuload.progress import Progress

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
        self._order = order
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
        stop = self._order.bounds(delivered - 1, self.start)[1] if delivered else self.start
        return min(stop, self._order.size)


class Batches:
    """One epoch's iterator, for one thread at a time. After a SampleError it goes on with the next batch."""

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
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError(
                "this iterator is being consumed in another thread: make one for each thread, with iter(loader)"
            )
        try:
            if not self._here:
                self._make()
            self.position.left -= 1  # type: ignore[union-attr]
            return self._here.popleft()
        finally:
            self._in_use.release()

    def _start(self) -> tuple[Position, Stream[Any]]:
        loader = self._loader
        if self.position is None:
            self.position = loader.begin()
        if self._stream is None:
            self._stream = loader._stream(self.position)
            loader.position = self.position
            shown = loader.arguments["progress"]
            if shown and loader.order.shard[0] == 0:  # One of all ranks.
                errors = loader.errors
                self._progress = Progress(
                    self.position.epoch, self.position.count, loader.meter, lambda: len(errors), bar=shown is True
                )
            else:
                loader.meter.begin()
        return self.position, self._stream

    def _make(self) -> None:
        """Have the next step made, and the batches of it delivered. Raises StopIteration at the end of the epoch."""
        position, stream = self._start()
        while not self._here:
            if not position.left:
                self._finish(position, stream)
                raise StopIteration
            began, read = time.perf_counter(), stream.bytes_read
            try:
                step, made = next(stream)
                waited = time.perf_counter()
                with nvtx.range("deliver"):
                    self._here.extend(self._pool.batches(step, made))
            except Exception:
                if stream.last is not None:
                    position.left -= max(1, -(-stream.last.batch_size // self._pool.batch_size))
                raise
            if not self._here:  # All of its samples were bad, and skipped.
                position.left -= 1
                continue
            self._loader.meter.add(
                len(self._here),
                step.batch_size,
                wait=waited - began,
                deliver=time.perf_counter() - waited,
                queued=stream.queued,
                bytes_read=stream.bytes_read - read,
            )
            if self._progress is not None:
                self._progress.advance(len(self._here))

    def _finish(self, position: Position, stream: Stream[Any]) -> None:
        if self._progress is not None and not position.finished:
            self._progress.close()
        position.finished = True
        if self._loader._ready is None and stream.alive:
            self._loader._ready = position.epoch + 1, stream
