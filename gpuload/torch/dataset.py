"""Windows of a series as a `torch.utils.data.Dataset`, and the samples of a batch that was cut at once."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.utils.data
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from gpuload.core.checks import checked_int
from gpuload.delivery import choose
from gpuload.sources import Series
from gpuload.windows.job import WindowJob
from gpuload.windows.pool import WindowPool, windows_of
from gpuload.windows.reference import Cutter
from gpuload.windows.step import Rows, WindowStep
from gpuload.windows.window import Window

OPTIONS = tuple(field.name for field in fields(Window)[1:])
to_torch = functools.partial(choose, "torch")


class TimeSeriesDataset(torch.utils.data.Dataset[Any]):
    """Every window of a series, with its label: sample i is `(data[i : i + seq_length], labels[i + seq_length - 1])`.

    A sample is a window [seq_length, ...]; then a label with the shape and dtype of one entry of `labels`, and a dict
    of the `extras`, as far as they exist. Samples are tensors on the CPU, or on the GPU where the data lies. Negative
    numbers count from the end. The data set works in `gpuload.torch.DataLoader` and in PyTorch's own `DataLoader`,
    which cuts a whole batch at once; its worker processes open a memory-mapped file again instead of copying it.

    Random options of the windows draw from PyTorch's global generator.

    Args:
        data: [time, ...], as `values` of `gpuload.Series`; or a `Series`, which has labels, groups and segments itself.
        labels: [time, ...], one entry for each row of `data`. None: no labels.
        seq_length: Steps in a window, at least 1. It must be given.
        groups, segments: As of `gpuload.Series`: windows do not reach from one into the next.
        options: Options of `gpuload.Window`: stride, dilation, horizon, target, mean, dtype, ... The layout "LBC" is
            for batches that are cut at once; samples that PyTorch stacks one by one are "BLC".

    Raises:
        ValueError: an argument that makes no sense, or no window that fits.
        TypeError: an option that `gpuload.Window` does not have.

    >>> dataset = TimeSeriesDataset(np.arange(10.0), np.arange(10), seq_length=4)
    >>> len(dataset), dataset[-1]
    (7, (tensor([6., 7., 8., 9.], dtype=torch.float64), tensor(9)))
    >>> loader = torch.utils.data.DataLoader(dataset, batch_size=5)
    >>> [(inputs.shape, targets.tolist()) for inputs, targets in loader]
    [(torch.Size([5, 4]), [3, 4, 5, 6, 7]), (torch.Size([2, 4]), [8, 9])]
    """

    def __init__(
        self,
        data: Any,
        labels: Any = None,
        seq_length: int | None = None,
        *,
        groups: npt.ArrayLike | None = None,
        segments: npt.ArrayLike | None = None,
        **options: Any,
    ):
        for name in options:
            if name not in OPTIONS:
                raise TypeError(f"{name!r} is no option of gpuload.Window: there are {', '.join(OPTIONS)}")
        if isinstance(data, Series):
            for name, value in (("labels", labels), ("groups", groups), ("segments", segments)):
                if value is not None:
                    raise ValueError(f"{name} must be None where data is a Series, which has its own: leave it out")
            self.series = data
        else:
            self.series = Series(data, labels, groups=groups, segments=segments)
        self.window = Window(checked_int("seq_length", seq_length, 1), **options)
        self.windows = windows_of(WindowJob(self.series, self.window))

    @property
    def seq_length(self) -> int:
        """Steps in a window."""
        return self.window.length

    def __len__(self) -> int:
        """Number of windows: `len(data) - seq_length + 1` for one series without options."""
        return len(self.windows)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.series!r}, {self.window!r})"

    def __getitem__(self, index: int) -> Any:
        """Return a sample. Raise IndexError for a number out of range, TypeError for anything but a whole number."""
        try:
            number = operator.index(index)
        except TypeError:
            raise TypeError(f"index must be a whole number, not {index!r}") from None
        sample = self._drawn([number])[0]
        return tuple(sample) if isinstance(sample, _Sample) else sample

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        """Return some samples, cut at once; if `default_collate` allows it, when the first is looked at."""
        if type(self).__getitem__ is not TimeSeriesDataset.__getitem__:
            return [self[index] for index in indices]
        samples = self._drawn(indices)
        # `default_collate` stacks plain tensors only in a list.
        return samples if self._pool.job.has_targets or self.window.extras else list(samples)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_pool", "_engine")}

    @cached_property
    def _pool(self) -> WindowPool:
        """The pool that cuts samples without a loader: on the CPU, or on the GPU where the data lies."""
        device = "cpu" if self.series.gpu is None else "auto"
        options: dict[str, Any] = {"framework": to_torch, "batch_size": 1, "windows": self.windows}
        return WindowPool.of(self.series, self.window, device=device, **options)

    @cached_property
    def _engine(self) -> Callable[[WindowStep], Any]:
        # On the CPU one without threads, which would not exist in a worker process.
        return Cutter(self._pool.job) if self.series.gpu is None else functools.partial(cut_once, self._pool)

    def _drawn(self, indices: Sequence[int]) -> Samples:
        """Return windows that are yet to be cut, with all random numbers drawn."""
        numbers, window = as_numbers(indices, len(self)), self.window
        draws = window.draws_time or window.draws_scaling or window.jitter
        seed = int(torch.empty((), dtype=torch.int64).random_().item()) if draws else 0
        step = self.windows.step(numbers, seed=seed, epoch=0, first=0)
        return Samples(window, lambda: self._pool.delivered(self._engine(step), len(numbers))[0], step)


def cut_once(pool: WindowPool, step: WindowStep) -> Any:
    """Cut one step with an engine of the pool."""
    engine, generation = pool.acquire(), pool.generation
    try:
        engine.submit(step)
        return engine.result(pool.stream)
    finally:
        pool.release(engine, generation)


class _Sample(tuple[Any, ...]):
    """A window, its label and extras. `default_collate` knows it by its type."""

    __slots__ = ()


class Samples(Sequence[Any]):
    """The windows of one batch as samples. `default_collate` takes the batch itself, as it was cut."""

    def __init__(self, window: Window, cut: Callable[[], Any], step: WindowStep | None = None):
        """Take a function that returns the batch, as `WindowPool.delivered` does, and the step that it will cut."""
        self.window, self.step, self._cut = window, step, cut

    @cached_property
    def parts(self) -> list[Any]:
        """Inputs, and as far as they exist targets and a dict of extras."""
        batch = self._cut()
        return list(batch) if isinstance(batch, tuple) else [batch]

    @cached_property
    def _columns(self) -> list[tuple[torch.Tensor, int]]:
        """Each tensor of the batch, extras last, with its axis of samples."""
        time = 1 if self.window.layout == "LBC" else 0
        axes = {"inputs": time, "targets": time if self.window.horizon else 0, "mask": time}
        plain, extras = (self.parts[:-1], self.parts[-1]) if self.window.extras else (self.parts, {})
        named = {**dict(zip(axes, plain, strict=False)), **extras}
        return [(tensor, axes.get(name, 0)) for name, tensor in named.items()]

    def _sample(self, tensors: Sequence[torch.Tensor]) -> Any:
        """Return the sample with these tensors, one for each of `_columns`."""
        if len(self.parts) == 1:
            return tensors[0]
        if names := self.window.extras:
            plain = len(tensors) - len(names)
            return _Sample((*tensors[:plain], dict(zip(names, tensors[plain:], strict=True))))
        return _Sample(tensors)

    def __len__(self) -> int:
        tensor, axis = self._columns[0]
        return tensor.shape[axis]

    def __iter__(self) -> Iterator[Any]:
        return map(self._sample, zip(*(tensor.unbind(axis) for tensor, axis in self._columns), strict=True))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        return self._sample([tensor.select(axis, number) for tensor, axis in self._columns])


def _collate(batch: Sequence[Any], *, collate_fn_map: Any = None) -> list[Any]:
    """Return the batch of `_Sample`s: the batch that they are from, or columns as for any tuples."""
    if isinstance(batch, Samples):
        return list(batch.parts)
    return [collate(column, collate_fn_map=collate_fn_map) for column in zip(*batch, strict=False)]


# PyTorch's own registry of types with their own way to become a batch.
default_collate_fn_map[_Sample] = _collate


def as_numbers(indices: Any, size: int) -> Rows:
    """Return numbers, which may count from the end, as int64 from 0 to `size` - 1. Raise IndexError or TypeError."""
    found = np.asarray(indices)
    if found.dtype.kind not in "iu" and found.size:
        try:
            found = np.array([operator.index(index) for index in indices])
        except TypeError:
            raise TypeError(f"indices must be whole numbers, not {indices!r}") from None
    if found.ndim != 1:
        raise TypeError(f"indices must be one row of whole numbers, not {indices!r}")
    low, high = (int(found.min()), int(found.max())) if found.size else (0, -1)
    if low < -size or high >= size:
        wrong = low if low < -size else high
        raise IndexError(f"index must be from {-size} to {size - 1}, the data set has {size} windows, not {wrong}")
    numbers: Rows = found.astype(np.int64, copy=False)
    return np.where(numbers < 0, numbers + size, numbers) if low < 0 else numbers
