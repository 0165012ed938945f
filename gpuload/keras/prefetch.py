"""A Keras `PyDataset` that makes its batches ahead of time, although Keras asks for them by number, in any order."""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from keras.utils import PyDataset

from gpuload.cuda import CPU
from gpuload.delivery import FRAMEWORKS, Framework
from gpuload.keras.backend import backend_framework, of_framework
from gpuload.pool import EnginePool, Stream

log = logging.getLogger("gpuload")


class PrefetchedDataset(PyDataset):
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
        self.lock = threading.Lock()
        self._stream: Stream[Any] | None = None
        self._numbers: deque[int] | None = None  # Of the batches that the stream still has; None: they have none.
        self._pool: EnginePool | None = None
        self._user: threading.Thread | None = None  # Whose `fit` is in an epoch.
        self._shuffle_state: Any = None
        self._shuffled: list[int] = []
        self._last = -1

    def __len__(self) -> int:
        raise NotImplementedError

    def _open(self) -> EnginePool:
        """The source, transform, device and engine; asked for at the first batch."""
        raise NotImplementedError

    def _visits(self, numbers: Sequence[int]) -> Iterator[Any]:
        """The steps of these batches, drawn from the present state without changing it."""
        raise NotImplementedError

    def _deliver(self, visit: Any, delivered: Any) -> Any:
        """The batch of a step that was carried out; its arrays are NumPy's, or what the pool delivers."""
        raise NotImplementedError

    def _renew(self) -> None:
        """Forget what was made ahead, and the pool, where something that they depend on has changed."""

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        self._shuffle_state = random.getstate()
        return len(self)

    def on_epoch_begin(self) -> None:
        """Hand out the backend's arrays from here on; called by Keras.

        Raises RuntimeError while a `fit`, `evaluate` or `predict` in another thread goes through this data set.
        """
        here, user = threading.current_thread(), self._user
        if user is not None and user is not here and user.is_alive():
            raise RuntimeError(
                f"this data set is being consumed by fit, evaluate or predict in thread {user.name!r}: make one for "
                "each of them"
            )
        self._user = here

    def on_epoch_end(self) -> None:
        """Hand out NumPy arrays again; called by Keras."""
        self._user = None

    def __getitem__(self, number: int) -> Any:
        if not 0 <= number < len(self):
            raise self._number_error(f"batch number must be from 0 to {len(self) - 1}, not {number!r}")
        with self.lock:
            self._renew()
            if not self._numbers or self._numbers[0] != number:
                numbers = self._guess(number)
                self._restart(self._visits(numbers), numbers)
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

    def _restart(self, visits: Iterator[Any], numbers: Sequence[int] | None) -> None:
        """Begin these steps. `numbers`: of their batches, where Keras asks by number."""
        self._drop()
        if self._pool is None:
            self._pool = self._open()
        self._stream = Stream(self._pool, visits)
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
        if self._numbers is not None:
            self._numbers.popleft()
        batch = of_framework(self._deliver(*next(self._stream)), framework, device)
        # Of arrays that come alone, Keras knows NumPy's only.
        return batch if isinstance(batch, np.ndarray | tuple | list | dict) else (batch,)
