"""Keras' `timeseries_dataset_from_array`: windows of an array, with the target of each, as a data set for `fit`."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from gpuload.core.checks import checked_int
from gpuload.core.device import Device
from gpuload.delivery import Framework
from gpuload.keras.backend import to_numpy
from gpuload.keras.prefetch import PrefetchedDataset
from gpuload.run import checkpoint
from gpuload.run.course import Course
from gpuload.sources import Series
from gpuload.sources.fingerprint import fingerprint
from gpuload.windows.pool import WindowPool
from gpuload.windows.step import Rows, WindowStep
from gpuload.windows.window import Window

log = logging.getLogger("gpuload")


class WindowDataset(PrefetchedDataset):
    """Batches of windows: by number, one after another, or in `fit`. `timeseries_dataset_from_array` returns it.

    `len` is the number of batches. With `shuffle`, each iteration and each epoch of `fit` shuffles the windows anew.
    `state_dict()` tells how far the iteration begun last, or `fit`, has come, and `load_state_dict` goes on there.

    Args:
        open_pool: Makes the pool that cuts the windows, for `framework=`. None: there are no windows.
        targets: [rows, ...] the target of the window that begins at that row of the pool's series. None: no targets.
        batch_size: Windows in a batch. None: they come one by one, without an axis for the batch.
        seed: Seed of the shuffles. None: windows come in the order of their rows.
        seed_drawn: Whether the seed was drawn and not given: a state may then bring another.
    """

    _places = ("batch", "shuffles", "seed")

    def __init__(
        self,
        open_pool: Callable[..., WindowPool] | None,
        targets: NDArray[Any] | None,
        batch_size: int | None,
        seed: int | None,
        seed_drawn: bool = False,
    ):
        super().__init__()
        self._open_pool = open_pool
        self._first = None if open_pool is None else open_pool(framework=to_numpy)
        if self._first is not None:
            self._pools[False] = self._first
        self._windows = 0 if self._first is None else len(self._first)
        self._targets, self._size = targets, batch_size
        self._seed, self._seed_drawn = seed, seed_drawn
        self._begin(shuffles=1)

    def __len__(self) -> int:
        return -(-self._windows // (self._size or 1))

    def _visits(self, numbers: Sequence[int]) -> Iterator[WindowStep]:
        size, indices = self._size or 1, self._indices
        return (self._step(indices[number * size : (number + 1) * size]) for number in numbers)

    def _open(self, framework: Callable[[Device], Framework]) -> WindowPool:
        assert self._open_pool is not None
        assert self._first is not None
        return self._open_pool(framework=framework, windows=self._first.windows)

    def _deliver(self, pool: WindowPool, visit: WindowStep, made: Any) -> Any:
        return self._batch(pool.batches(visit, made)[0], visit.rows)

    def __iter__(self) -> Iterator[Any]:
        with self.lock:
            self._begin_pass(counting=True)
            self._settle()
            place = {"batch": self._offset, **self._place(over=False)}
            indices, self._iteration = self._indices, place
            self._forget_pass()
            self._drop()
            self._shuffle()
        return self._batches(indices, place)

    def take(self, count: int) -> Iterator[Any]:
        """Return an iterator over the first `count` batches of an iteration."""
        return itertools.islice(self, count)

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        pool = self._first
        return {
            "windows": self._windows,
            "batch_size": self._size,
            "shuffle": self._seed is not None,
            "source": None if pool is None else fingerprint(pool.source),
            "transform": "" if pool is None else checkpoint.in_words(checkpoint.describe(pool.transform)),
            **({} if self._seed_drawn else {"seed": self._seed}),
        }

    def _place(self, over: bool) -> dict[str, Any]:
        return {"shuffles": self._shuffles + over, "seed": self._seed}

    def _go_to(self, place: dict[str, Any]) -> None:
        seed = self._seed if place["seed"] is None else checked_int("seed", place["seed"], 0)
        shuffles = checked_int("shuffles", place["shuffles"], 1)
        self._drop()
        self._iteration = None
        if (seed, shuffles) != (self._seed, self._shuffles):
            self._seed = seed
            self._begin(shuffles)

    def _end_epoch(self) -> None:
        self._drop()
        self._iteration = None
        self._shuffle()

    def _begin(self, shuffles: int) -> None:
        """Take the order that results from that many shuffles."""
        self._indices = np.arange(self._windows)
        self._random = None if self._seed is None else np.random.RandomState(self._seed)
        self._shuffles = 0
        for _ in range(shuffles):
            self._shuffle()

    def _shuffle(self) -> None:
        self._shuffles += 1
        if self._random is not None:
            self._indices = self._indices.copy()  # An iterator may still use the old order.
            self._random.shuffle(self._indices)

    def _step(self, indices: Rows) -> WindowStep:
        assert self._first is not None
        return self._first.windows.step(indices, seed=0, epoch=0, first=0)

    def _batches(self, indices: Rows, place: dict[str, Any]) -> Iterator[Any]:
        pool = self._first
        if pool is None:
            return
        size = self._size or 1
        most = pool.together * size
        firsts = range(place["batch"] * size, len(indices), most)
        course = Course(pool, self._meter)
        course.begin(self._step(indices[first : first + most]) for first in firsts)

        def delivered(step: WindowStep, made: Any) -> list[Any]:
            batches = enumerate(pool.batches(step, made))
            return [self._batch(inputs, step.rows[n * size : (n + 1) * size]) for n, inputs in batches]

        while place["batch"] < len(self):
            batch = course.take(delivered)
            place["batch"] += 1
            if place["batch"] == len(self) and self._iteration is place:
                self._iteration = None
            yield batch

    def _batch(self, inputs: Any, rows: Rows) -> Any:
        """Return one batch as Keras has it, or one sample."""
        targets = None if self._targets is None else self._targets[rows]
        if self._size is None:
            inputs, targets = inputs[0], None if targets is None else targets[0]
        return inputs if targets is None else (inputs, targets)


def timeseries_dataset_from_array(
    data: Any,
    targets: Any,
    sequence_length: int,
    sequence_stride: int = 1,
    sampling_rate: int = 1,
    batch_size: int | None = 128,
    shuffle: bool = False,
    seed: int | None = None,
    start_index: int | None = None,
    end_index: int | None = None,
    format: str = "tf",
    *,
    device: str = "auto",
    engine: str = "auto",
    residency: str = "auto",
    threads: int | None = None,
) -> WindowDataset:
    """Return windows of `data`, with the target of each, like `keras.utils.timeseries_dataset_from_array`.

    Window i has the rows `start_index + i * sequence_stride + k * sampling_rate` for k below `sequence_length`, and the
    target of the first of them. Without `shuffle` the batches are those of Keras, bit by bit and in its order: NumPy
    arrays [batch, sequence_length, ...] and [batch, ...] in a tuple, or the former alone if `targets` is None.

    With `shuffle` each epoch has the same windows as in Keras, in another order: the first is that of
    `np.random.RandomState(seed).shuffle`, each further one is shuffled by the same generator again. (Keras draws from a
    buffer of eight batches, with random numbers of TensorFlow.) Without a seed, NumPy's global generator draws one, as
    in Keras. `fit` also shuffles the order of the batches, as of every `PyDataset`, unless `shuffle=False`.

    A window without a target is left out; Keras raises an error for it if `start_index` is given. If no window fits,
    the data set is empty, as in Keras, and a warning is logged.

    Args:
        data: [time, ...] an array; lists become float32 or int32, as in TensorFlow.
        targets: [time, ...] the target of the window that begins at that row, of any length. None: no targets.
        sequence_length: Steps in a window, at least 1.
        sequence_stride: Rows from one window to the next.
        sampling_rate: Rows from one step to the next.
        batch_size: Windows in a batch; the last may be shorter. None: single windows, without an axis for the batch.
        shuffle: Whether windows come in random order.
        seed: Seed of that order. None draws one.
        start_index: First row that is used. None: the first.
        end_index: Row after the last that is used. None: all rows.
        format: "tf" or "grain"; both give the same data set here.
        device, engine, residency, threads: As of `gpuload.Loader`.

    Raises:
        ValueError: arguments for which Keras raises it, too; a `sequence_length` or `batch_size` below 1.

    >>> dataset = timeseries_dataset_from_array(np.arange(9), np.arange(9) * 10, 3, sequence_stride=2, batch_size=3)
    >>> [(inputs.tolist(), targets.tolist()) for inputs, targets in dataset]
    [([[0, 1, 2], [2, 3, 4], [4, 5, 6]], [0, 20, 40]), ([[6, 7, 8]], [60])]
    """
    data = _as_tensorflow_does(data)
    rows = len(data)
    # Keras takes 0 for None here.
    if start_index and not 0 <= start_index < rows:
        raise ValueError(f"start_index must be from 0 to below the {rows} rows of data, not {start_index!r}")
    if end_index and not 0 < end_index < rows:
        raise ValueError(
            f"end_index must be above 0 and below the {rows} rows of data, not {end_index!r}; None takes all"
        )
    if start_index and end_index and end_index <= start_index:
        raise ValueError(f"end_index must be above start_index={start_index!r}, not {end_index!r}")
    for name, value in (("sampling_rate", sampling_rate), ("sequence_stride", sequence_stride)):
        if checked_int(name, value, 1) >= rows:
            raise ValueError(f"{name} must be below the {rows} rows of data, not {value!r}")
    if format not in ("tf", "grain"):
        raise ValueError(f"format must be one of tf, grain, not {format!r}")
    checked_int("sequence_length", sequence_length, 1)
    if batch_size is not None:
        checked_int("batch_size", batch_size, 1)

    chosen = slice(start_index or 0, rows if end_index is None else end_index)
    starts = chosen.stop - chosen.start - (sequence_length - 1) * sampling_rate
    if targets is not None:
        targets = _as_tensorflow_does(targets)
        if hasattr(targets, "get"):  # CuPy's, which NumPy does not convert.
            targets = targets.get()
        elif not isinstance(targets, np.ndarray):
            targets = np.asarray(keras.ops.convert_to_numpy(targets))
        targets = targets[chosen]
        starts = min(starts, len(targets))
    seed_drawn = shuffle and seed is None
    if seed_drawn:
        seed = int(np.random.randint(10**6))  # noqa: NPY002 - the generator that Keras asks
    open_pool = None
    if starts > 0:
        open_pool = functools.partial(
            WindowPool.of,
            # No further than the last start: if targets end before the data do, there are fewer windows.
            Series(data[chosen.start : chosen.start + starts + (sequence_length - 1) * sampling_rate]),
            Window(sequence_length, stride=sequence_stride, dilation=sampling_rate),
            batch_size=batch_size or 1,
            device=device,
            engine=engine,
            residency=residency,
            threads=threads,
            shuffled=shuffle,
        )
    else:
        also = "" if targets is None else f" and their {len(targets)} targets"
        log.warning(
            f"no window of sequence_length={sequence_length} with sampling_rate={sampling_rate} fits the "
            f"{max(0, chosen.stop - chosen.start)} rows from start_index to end_index{also}: the data set is empty"
        )
    return WindowDataset(open_pool, targets, batch_size, seed if shuffle else None, seed_drawn)


def _as_tensorflow_does(values: Any) -> Any:
    """Return lists and pandas' tables as arrays, and arrays as they are. Python's own numbers get 32 bits."""
    if hasattr(values, "dtype") and not hasattr(values, "iloc"):
        return values
    array = np.asarray(values)
    if isinstance(values, list | tuple) and array.dtype in (np.float64, np.int64):
        return array.astype(np.float32 if array.dtype == np.float64 else np.int32)
    return array
