"""A Keras `PyDataset` that makes its batches ahead of time, although Keras asks for them by number, in any order."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keras.utils import PyDataset

from gpuload.plan import Step
from gpuload.pool import EnginePool, Stream

log = logging.getLogger("gpuload")


@dataclass(frozen=True, kw_only=True)
class Visit(Step):
    """A step that Keras is expected to ask for."""

    number: int | None
    """Of the batch in the data set; None where batches are taken with `next`."""


class PrefetchedDataset(PyDataset):
    """Answers `self[number]` from batches made ahead.

    `fit` asks for every number once an epoch, shuffled by Python's `random` unless told otherwise. It reads
    `num_batches` right before it shuffles, so the same shuffle can be tried here on a copy of the generator's state.
    A wrong guess costs time, never a wrong batch.
    """

    def __init__(self, **kwargs: Any):
        # What is made ahead here would only be thrown away by workers that ask out of order, or in another process.
        if kwargs.get("workers", 1) > 1 or kwargs.get("use_multiprocessing"):
            log.info("workers and use_multiprocessing have no effect: batches are made ahead in gpuload's own threads")
        super().__init__(**{**kwargs, "workers": 1, "use_multiprocessing": False})
        self.lock = threading.Lock()
        self._stream: Stream[Any] | None = None
        self._pool: EnginePool | None = None
        self._shuffle_state: Any = None
        self._shuffled: list[int] = []
        self._last = -1

    def __len__(self) -> int:
        raise NotImplementedError

    def _open(self) -> EnginePool:
        """The source, transform, device and engine; asked for at the first batch."""
        raise NotImplementedError

    def _visits(self, numbers: Sequence[int]) -> Iterator[Visit]:
        """The steps of these batches, drawn from the present state without changing it."""
        raise NotImplementedError

    def _deliver(self, visit: Any, images: Any) -> Any:
        """What Keras gets for a visit that took place."""
        raise NotImplementedError

    def _renew(self) -> None:
        """Forget what was made ahead, and the pool, where something that they depend on has changed."""

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        self._shuffle_state = random.getstate()
        return len(self)

    def __getitem__(self, number: int) -> Any:
        if not 0 <= number < len(self):
            raise ValueError(f"batch number must be from 0 to {len(self) - 1}, not {number!r}")
        with self.lock:
            self._renew()
            if self._expected() != number:
                self._restart(self._visits(self._guess(number)))
            self._last = number
            return self._take()

    def _guess(self, number: int) -> Sequence[int]:
        """The numbers that will be asked for, `number` first."""
        state, self._shuffle_state = self._shuffle_state, None
        if state is not None:
            shuffler = random.Random()
            shuffler.setstate(state)
            numbers = list(range(len(self)))
            shuffler.shuffle(numbers)
            if numbers[0] == number:
                self._shuffled = numbers
                return numbers
        # With `steps_per_epoch` an epoch ends in the middle of a shuffle, and the next one goes on there.
        if number in self._shuffled and number != self._last + 1:
            return self._shuffled[self._shuffled.index(number) :]
        return range(number, len(self))

    def _expected(self) -> int | None:
        upcoming = self._stream.upcoming if self._stream else None
        return None if upcoming is None else upcoming.number

    def _restart(self, visits: Iterator[Visit]) -> None:
        self._drop()
        if self._pool is None:
            self._pool = self._open()
        self._stream = Stream(self._pool, visits)

    def _drop(self) -> None:
        """Forget what was made ahead."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _take(self) -> Any:
        assert self._stream is not None
        visit, images = next(self._stream)
        return self._deliver(visit, images)
