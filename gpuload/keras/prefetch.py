"""A Keras `PyDataset` that makes its batches ahead of time, although Keras asks for them by number, in any order."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuload.core.device import Device
from gpuload.core.errors import BadSample
from gpuload.delivery import Framework
from gpuload.images.pool import ImagePool
from gpuload.keras.backend import backend_framework, of_framework, pool_framework, to_numpy
from gpuload.keras.passes import ResumableDataset
from gpuload.run.bad_samples import BadSamples
from gpuload.run.course import Course
from gpuload.run.meter import Meter
from gpuload.run.pool import EnginePool

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger("gpuload")


class PrefetchedDataset(ResumableDataset):
    """Answers `self[number]` from batches made ahead: NumPy arrays; in `fit`, `evaluate` and `predict` the backend's.

    `fit` asks for every number once an epoch, shuffled by Python's `random` unless told otherwise. It reads
    `num_batches` right before it shuffles, so the same shuffle can be tried here on a copy of the generator's state. A
    wrong guess costs time, never a wrong batch. Around each epoch it calls `on_epoch_begin` and `on_epoch_end`.
    """

    _number_error: type[Exception] = IndexError  # Ends Python's own iteration over numbers.

    def __init__(self, **kwargs: Any):
        # Workers that ask out of order, or in another process, would throw away the batches made ahead.
        if kwargs.get("workers", 1) > 1 or kwargs.get("use_multiprocessing"):
            log.info("workers and use_multiprocessing have no effect: batches are made ahead in gpuload's own threads")
        super().__init__(**{**kwargs, "workers": 1, "use_multiprocessing": False})
        self._course: Course | None = None
        self._numbers: deque[int] | None = None  # Numbers of the course's batches; None: they have none.
        self._pools: dict[bool, EnginePool] = {}  # By whether Keras' backend gets the arrays.
        self._bad: BadSamples | None = None
        self._meter = Meter()
        self._shuffled: list[int] = []  # The shuffle that was foreseen for this pass.
        self._last = -1

    def _open(self, framework: Callable[[Device], Framework]) -> EnginePool:
        """Return a pool that delivers the framework's arrays; asked for at the first batch."""
        raise NotImplementedError

    def _visits(self, numbers: Sequence[int]) -> Iterator[Any]:
        """Yield the steps of these batches, drawn from the present state without changing it."""
        raise NotImplementedError

    def _deliver(self, pool: Any, visit: Any, made: Any) -> Any:
        """Return the batch of a step that the pool has made, with NumPy's arrays or the pool's framework's."""
        raise NotImplementedError

    @property
    def errors(self) -> list[BadSample]:
        """The bad samples found so far, each once."""
        return [] if self._bad is None else self._bad.found

    def stats(self, last: int | None = None) -> dict[str, float | int]:
        """Return where the time goes, as `gpuload.Loader.stats` does.

        If Keras asks for batches ahead, it also waits while it trains.

        Args:
            last: Number of steps that the figures cover. None: all.
        """
        for pool in self._pools.values():
            return pool.stats(self._meter, last)
        return {**self._meter.stats(last), "errors": len(self.errors)}

    def close(self) -> None:
        """Free threads and memory. The next batch takes them anew."""
        with self.lock:
            self._close()

    def _close(self) -> None:
        self._drop()
        for pool in reversed(self._pools.values()):  # A later one uses the cache of the one before it.
            pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getitem__(self, number: int) -> Any:
        with self.lock:
            self._renew()
            shuffle_state, self._shuffle_state = self._shuffle_state, None
            begins = shuffle_state is not None and not self._goes_on(number, shuffle_state)
            if begins:
                self._begin_pass(counting=self._user is not None)
            wanted = number + self._offset if self._counting else number
            if not 0 <= number <= wanted < self._stop:
                raise self._number_error(f"batch number must be from 0 to {len(self) - 1}, not {number!r}")
            if begins or not self._stands_at(wanted):
                self._ask(self._guess(wanted, shuffle_state))
            return self._numbered(wanted)

    def __iter__(self) -> Iterator[Any]:
        with self.lock:
            self._renew()
            self._begin_pass(counting=True)
            self._ask(range(self._offset, self._stop))
        for number in range(self._offset, self._stop):
            with self.lock:
                if not self._stands_at(number):
                    self._ask(range(number, self._stop))
                batch = self._numbered(number)
            yield batch

    @property
    def _stop(self) -> int:
        """The number after the last one."""
        return len(self)

    def _stands_at(self, number: int) -> bool:
        """Whether that batch is the course's next, with arrays for whoever asks."""
        numbers, course = self._numbers, self._course
        return bool(course and numbers and numbers[0] == number and course.pool is self._ready())

    def _numbered(self, number: int) -> Any:
        """Return the batch of that number, which is the course's next."""
        batch = self._take()
        self._last = number
        if self._counting:
            self._counted(number)
        return batch

    def _goes_on(self, number: int, shuffle_state: Any) -> bool:
        """Whether that number continues a pass, although somebody has read `num_batches`."""
        foreseen = self._numbers and self._numbers[0] == number + self._offset
        return bool(number and foreseen and random.getstate() == shuffle_state)

    def _guess(self, number: int, shuffle_state: Any) -> Sequence[int]:
        """Return the numbers that will be asked for, from `number` on.

        At the beginning of a pass, `shuffle_state` is the state of Python's `random` before a possible shuffle.
        """
        if shuffle_state is not None:
            self._shuffled = []
            if random.getstate() != shuffle_state:
                shuffler = random.Random()
                shuffler.setstate(shuffle_state)
                numbers = list(range(self._offset, self._stop))
                shuffler.shuffle(numbers)
                if numbers[0] == number:
                    self._shuffled, self._in_order = numbers, False
                    return numbers
        # With `steps_per_epoch` an epoch ends in the middle of a shuffle, and the next one goes on there.
        if number in self._shuffled and number != self._last + 1:
            return self._shuffled[self._shuffled.index(number) :]
        return range(number, self._stop)

    @property
    def _for_keras(self) -> bool:
        """Whether Keras asks. When it leaves an epoch early, it does not call `on_epoch_end`."""
        return self._as_keras or self._user is not None

    def _ready(self, numbered: bool = True) -> EnginePool:
        """Return the pool whose arrays are for whoever asks now; Keras asks by number."""
        backend = numbered and self._for_keras
        pool, other = self._pools.get(backend), self._pools.get(not backend)
        if pool is None and other is not None and pool_framework(other.device).name == "numpy":
            pool = other  # It serves both.
        if pool is None:
            pool = self._open(pool_framework if backend else to_numpy)
            if isinstance(pool, ImagePool):
                if isinstance(other, ImagePool):
                    pool.borrow(other)
                elif self._bad is not None:  # Samples found by an earlier pool.
                    pool.bad = self._bad
                self._bad = pool.bad
        self._pools[backend] = pool
        return pool

    def _ask(self, numbers: Sequence[int]) -> None:
        """Begin these batches."""
        self._restart(self._visits(numbers), numbers)

    def _restart(self, visits: Iterator[Any], numbers: Sequence[int] | None) -> None:
        """Begin these steps. `numbers` are those of their batches, if Keras asks by number."""
        self._drop()
        self._course = Course(self._ready(numbers is not None), self._meter)
        self._course.begin(visits)
        self._numbers = None if numbers is None else deque(numbers)

    def _drop(self) -> None:
        self._numbers = None
        if self._course is not None:
            self._course.close()
            self._course = None

    def _take(self) -> Any:
        assert self._course is not None
        pool = self._course.pool
        number = None if self._numbers is None else self._numbers.popleft()
        keras_asks = number is not None and self._for_keras
        framework = backend_framework(pool.device) if keras_asks else pool.framework

        def delivered(visit: Any, made: Any) -> list[Any]:
            if made is None:  # All samples of the batch are bad, and skipped.
                if number is None:
                    return []
                raise RuntimeError(
                    f"on_error='skip' leaves nothing of batch {number}, whose samples are all bad (see .errors), but a "
                    "batch that is asked for by number cannot be left out: pass on_error='replace'"
                )
            batch = of_framework(self._deliver(pool, visit, made), framework, pool.device)
            # Keras knows no arrays that come alone, except NumPy's.
            return [batch if isinstance(batch, np.ndarray | tuple | list | dict) else (batch,)]

        try:
            return self._course.take(delivered)
        except BaseException:
            if not self._course.alive:
                self._drop()
            raise
