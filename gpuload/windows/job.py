"""What the engines of windows share: the shapes, dtypes and constants of one job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuload.sources import Series
from gpuload.windows.index import Windows
from gpuload.windows.window import Window

AXES = {"BLC": (0, 1, 2), "BCL": (0, 2, 1), "LBC": (1, 0, 2)}
"""Where a layout has its batch, length and channels, counted in BLC."""


@dataclass(kw_only=True, slots=True)
class Cut:
    """The arrays of one step. `None`: not asked for."""

    inputs: Any
    """[B, L, ...] in the window's layout."""
    targets: Any = None
    """[B, ...], or with a horizon [B, H, ...] in the window's layout."""
    mask: Any = None
    """As `inputs`, boolean."""
    mean: Any = None
    """[B, ...] float32, one a channel."""
    scale: Any = None
    """[B, ...] float32, one a channel."""
    start: Any = None
    """[B] int64."""


class WindowJob:
    """A window of a series, settled: raises ValueError where the two do not fit each other."""

    def __init__(self, series: Series, window: Window):
        self.series = series
        self.window = window
        self.item: tuple[int, ...] = tuple(series.values.shape[1:])
        self.channels = series.channels
        self.dtype = np.dtype(series.values.dtype)
        whole = self.dtype.kind in "biu"
        if whole and window.missing != "keep":
            raise ValueError(
                f"missing={window.missing!r} is for floating values, but those of the series are {self.dtype}, which "
                "has no NaN: leave missing out, or convert the values"
            )
        for name in ("mean", "std"):
            if np.size(getattr(window, name)) not in (1, self.channels):
                raise ValueError(
                    f"{name} must be one number, or one for each of the series' {self.channels} channels, not "
                    f"{np.size(getattr(window, name))}"
                )
        chosen = window.target_channels
        if chosen is not None and (not chosen or max(chosen) >= self.channels):
            raise ValueError(
                f"target_channels must be numbers of the series' {self.channels} channels, from 0, not {list(chosen)}"
            )
        if chosen is None and series.targets is None and window.target_step == window.length:
            chosen, self.target_item = range(self.channels), self.item
        elif chosen is not None:
            self.target_item = (len(chosen),)
        elif series.targets is not None:
            self.target_item = tuple(series.targets.shape[1:])
        self.target_channels: NDArray[np.int32] | None = None if chosen is None else np.array(chosen, np.int32)
        """[K] channels of the values that are the targets; None: the targets of the series, or no targets at all."""
        self.has_targets = chosen is not None or series.targets is not None
        self.out_dtype = window.dtype or ("float32" if window.computes and whole else self.dtype.name)
        """Name of the dtype of inputs, and of channels as targets."""
        self.plain = not window.computes and self.out_dtype == self.dtype.name
        """Whether the numbers of a window are those of the series, bit by bit."""
        wide = self.dtype.itemsize > (4 if self.dtype.kind == "f" else 2)
        self.compute_dtype: DTypeLike = np.float64 if wide else np.float32
        """What is computed in: double precision where float32 does not hold the values themselves."""
        self.mean, self.inverse = (self._constant("mean"), self._constant("std"))
        """[C] of the compute dtype, or None: subtracted, and then multiplied by."""

    def _constant(self, name: str) -> NDArray[Any] | None:
        value = getattr(self.window, name)
        if value is None:
            return None
        with np.errstate(over="ignore", divide="ignore"):
            constant: NDArray[Any] = np.asarray(value, self.compute_dtype)
            if name == "std":
                constant = (1 / constant).astype(self.compute_dtype)
        if not np.isfinite(constant).all():
            raise ValueError(
                f"{name} must be in the range of {np.dtype(self.compute_dtype)}, in which values of {self.dtype} are "
                f"computed, not {value!r}: leave it out, or bring the values to another scale"
            )
        filled: NDArray[Any] = np.broadcast_to(constant, (self.channels,)).copy()
        return filled

    def wants(self, extra: str) -> bool:
        """Whether a batch carries that extra."""
        return extra in self.window.extras

    def arranged(self, batch: int, length: int, item: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an array with time, in the window's layout."""
        layout = self.window.layout
        if layout == "BLC":
            return (batch, length, *item)
        return (batch, *item, length) if layout == "BCL" else (length, batch, *item)

    def targets_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of the targets of that many windows."""
        window = self.window
        return self.arranged(batch, window.horizon, self.target_item) if window.horizon else (batch, *self.target_item)

    @property
    def bytes_of_window(self) -> int:
        """What one window takes, targets and mask included."""
        size = self.dtype.itemsize if self.plain else np.dtype(self.compute_dtype).itemsize
        values = self.window.length * self.channels * (size + self.wants("mask"))
        if self.has_targets:
            targets = self.series.targets
            size = targets.dtype.itemsize if self.target_channels is None and targets is not None else size
            values += int(np.prod(self.target_item, dtype=np.int64)) * self.window.target_steps * size
        return int(values)


ROWS_READ_AT_ONCE = 2**16


def complete(job: WindowJob, windows: Windows) -> NDArray[np.bool_]:
    """[len(windows)] whether no value of the window and none of its targets is missing. Reads the whole series once."""
    window, series = job.window, job.series
    rows = windows.rows(np.arange(len(windows)))
    wanted = ~_any_missing(series, series.values, rows, window.length, window.dilation)
    if job.has_targets:
        source, channels = series.targets, None
        if job.target_channels is not None:
            source, channels = series.values, job.target_channels
        assert source is not None
        if source.dtype.kind == "f" or source.dtype.name == "bfloat16":
            first = rows + window.target_step * window.dilation
            wanted &= ~_any_missing(series, source, first, window.target_steps, window.dilation, channels)
    return wanted


def _any_missing(
    series: Series,
    array: Any,
    rows: NDArray[np.int64],
    steps: int,
    dilation: int,
    channels: NDArray[np.int32] | None = None,
) -> NDArray[np.bool_]:
    """[len(rows)] whether any of the steps from each row on holds NaN; `array`: the series' values or targets."""
    dilation = min(dilation, len(array))
    padded = -(-len(array) // dilation) * dilation
    flags = np.zeros(padded, np.int64)
    for first in range(0, len(array), ROWS_READ_AT_ONCE):
        series.check_files()
        part = array[first : first + ROWS_READ_AT_ONCE]
        part = (part.get() if hasattr(part, "get") else part).reshape(len(part), -1)
        with np.errstate(invalid="ignore"):  # Of some kinds of NaN, ml_dtypes says so.
            flags[first : first + len(part)] = np.isnan(part if channels is None else part[:, channels]).any(axis=1)
    # Running counts for each remainder of the row by the dilation: a window stays on one of them.
    counts = flags.reshape(-1, dilation).cumsum(axis=0).ravel()
    before = np.where(rows >= dilation, counts[rows - dilation], 0)
    missing: NDArray[np.bool_] = counts[rows + (steps - 1) * dilation] > before
    return missing
