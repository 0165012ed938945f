"""A Keras `PyDataset` that makes its batches ahead of time, although Keras asks for them by number, in any order."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuload.core.device import CPU
from gpuload.core.errors import BadSample
from gpuload.delivery import FRAMEWORKS, Framework
from gpuload.images.pool import ImagePool
from gpuload.keras.backend import backend_framework, of_framework
from gpuload.keras.passes import ResumableDataset
from gpuload.run.bad_samples import BadSamples
from gpuload.run.meter import Meter
from gpuload.run.pool import EnginePool
from gpuload.run.stream import Stream

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger("gpuload")


class PrefetchedDataset(ResumableDataset):
    """Answers `self[number]` from batches made ahead: NumPy arrays; in `fit`, `evaluate` and `predict` the arrays of
    Keras' backend, on the device where they were made.

    `fit` asks for every number once an epoch, shuffled by Python's `random` unless told otherwise. It reads
    `num_batches` right before it shuffles, so the same shuffle can be tried here on a copy of the generator's state.
    A wrong guess costs time, never a wrong batch. Around each epoch it calls `on_epoch_begin` and `on_epoch_end`.
    """

    _number_error: type[Exception] = IndexError  # Where Python's own iteration over numbers ends.

    def __init__(self, **kwargs: Any):
        # What is made ahead here would only be thrown away by workers that ask out of order, or in another process.
        if kwargs.get("workers", 1) > 1 or kwargs.get("use_multiprocessing"):
            log.info("workers and use_multiprocessing have no effect: batches are made ahead in gpuload's own threads")
        super().__init__(**{**kwargs, "workers": 1, "use_multiprocessing": False})
        self._stream: Stream[Any] | None = None
        self._numbers: deque[int] | None = None  # Of the batches that the stream still has; None: they have none.
        self._pool: EnginePool | None = None
        self._bad: BadSamples | None = None
        self._meter = Meter()
        self._shuffled: list[int] = []
        self._last = -1

    def _open(self) -> EnginePool:
        """The source, transform, device and engine; asked for at the first batch."""
        raise NotImplementedError

    def _visits(self, numbers: Sequence[int]) -> Iterator[Any]:
        """The steps of these batches, drawn from the present state without changing it."""
        raise NotImplementedError

    def _deliver(self, visit: Any, made: Any) -> Any:
        """The batch of a step that was made; its arrays are NumPy's, or what the pool delivers."""
        raise NotImplementedError

    def _renew(self) -> None:
        """Forget what was made ahead, and the pool, where something that they depend on has changed."""

    @property
    def errors(self) -> list[BadSample]:
        """The bad samples that were found, each once."""
        return [] if self._bad is None else self._bad.found

    def stats(self, last: int | None = None) -> dict[str, float | int]:
        """Where the time goes: see `gpuload.Loader.stats`. Where Keras asks for batches ahead, waiting is not all its
        own."""
        if self._pool is None:
            return {**self._meter.stats(last), "errors": len(self.errors)}
        return self._pool.stats(self._meter, last)

    def close(self) -> None:
        """Free threads and memory. The next batch takes them anew."""
        with self.lock:
            self._drop()
            if self._pool is not None:
                self._pool.close()

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
            if begins or not self._numbers or self._numbers[0] != wanted:
                self._ask(self._guess(wanted, shuffle_state))
            return self._numbered(wanted)

    def __iter__(self) -> Iterator[Any]:
        with self.lock:
            self._renew()
            self._begin_pass(counting=True)
            self._ask(range(self._offset, self._stop))
        for number in range(self._offset, self._stop):
            with self.lock:
                if not self._numbers or self._numbers[0] != number:
                    self._ask(range(number, self._stop))
                batch = self._numbered(number)
            yield batch

    @property
    def _stop(self) -> int:
        """The number after the last one."""
        return len(self)

    def _numbered(self, number: int) -> Any:
        """The batch of that number, which the stream has next."""
        batch = self._take()
        self._last = number
        if self._counting:
            self._counted(number)
        return batch

    def _goes_on(self, number: int, shuffle_state: Any) -> bool:
        """Whether that number continues a pass, though somebody has read `num_batches`."""
        foreseen = self._numbers and self._numbers[0] == number + self._offset
        return bool(number and foreseen and random.getstate() == shuffle_state)

    def _guess(self, number: int, shuffle_state: Any) -> Sequence[int]:
        """The numbers that will be asked for, `number` first. `shuffle_state`: if a pass begins, of Python's `random`
        before somebody may have shuffled them."""
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

    def _ready(self) -> EnginePool:
        if self._pool is None:
            self._pool = self._open()
            if isinstance(self._pool, ImagePool):  # What was found by one before it is known to this one.
                self._bad = self._pool.bad = self._bad or self._pool.bad
        return self._pool

    def _ask(self, numbers: Sequence[int]) -> None:
        """Begin these batches."""
        self._restart(self._visits(numbers), numbers)

    def _restart(self, visits: Iterator[Any], numbers: Sequence[int] | None) -> None:
        """Begin these steps. `numbers`: of their batches, where Keras asks by number."""
        self._drop()
        self._stream = Stream(self._ready(), visits)
        self._meter.begin()
        self._numbers = None if numbers is None else deque(numbers)

    def _drop(self) -> None:
        """Forget what was made ahead."""
        self._numbers = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    @property
    def _framework(self) -> Framework:
        """Whose arrays the next batch is made of."""
        assert self._pool is not None
        # Keras asks by number. Where it leaves an epoch early, it does not call `on_epoch_end`.
        asked_by_keras = self._user is not None and self._numbers is not None
        return backend_framework(self._pool.device) if asked_by_keras else FRAMEWORKS["numpy"]

    def _take(self) -> Any:
        assert self._stream is not None
        assert self._pool is not None
        framework, device = self._framework, self._pool.device
        if device != CPU:
            self._pool.framework = framework
        number = None if self._numbers is None else self._numbers.popleft()

        def delivered(visit: Any, made: Any) -> list[Any]:
            if made is None:  # All of its samples were bad, and skipped.
                return []
            batch = of_framework(self._deliver(visit, made), framework, device)
            # Of arrays that come alone, Keras knows NumPy's only.
            return [batch if isinstance(batch, np.ndarray | tuple | list | dict) else (batch,)]

        try:
            while not (batches := self._stream.delivered(delivered, self._meter)):
                if number is not None:
                    raise RuntimeError(
                        f"on_error='skip' leaves nothing of batch {number}, whose samples are all bad (see .errors), "
                        "and whoever asks by number cannot be given none: pass on_error='replace'"
                    )
        except BaseException:
            if not self._stream.alive:  # What was asked for comes of another stream.
                self._drop()
            raise
        return batches[0]
