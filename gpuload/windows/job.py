"""Shapes, dtypes and constants that all window engines use for one series and one `Window`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuload.sources import Series
from gpuload.windows.index import Windows
from gpuload.windows.window import Window

AXES = {"BLC": (0, 1, 2), "BCL": (0, 2, 1), "LBC": (1, 0, 2)}
"""Axes of BLC in the order of each layout."""


@dataclass(kw_only=True, slots=True)
class Cut:
    """The arrays of one step; None for those that the `Window` does not ask for."""

    inputs: Any
    """[B, L, ...] in the window's layout."""
    targets: Any = None
    """[B, ...], or with a horizon [B, H, ...] in the window's layout."""
    mask: Any = None
    """bool, shaped like `inputs`."""
    mean: Any = None
    """[B, ...] float32, per channel."""
    scale: Any = None
    """[B, ...] float32, per channel."""
    start: Any = None
    """[B] int64."""


class WindowJob:
    """A `Window` fitted to a `Series`. Raises ValueError if the two do not fit."""

    def __init__(self, series: Series, window: Window):
        self.series = series
        self.window = window
        self.item: tuple[int, ...] = tuple(series.values.shape[1:])
        self.channels = series.channels
        self.dtype = np.dtype(series.values.dtype)
        whole = self.dtype.kind in "biu"
        if whole and window.missing != "keep":
            raise ValueError(
                f"missing={window.missing!r} needs float values, but the series has {self.dtype} values, which are "
                "never NaN: leave missing out, or convert the values to float"
            )
        for name in ("mean", "std"):
            if np.size(getattr(window, name)) not in (1, self.channels):
                raise ValueError(
                    f"{name} must be one number, or one for each of the series' {self.channels} channels, not "
                    f"{np.size(getattr(window, name))} numbers"
                )
        chosen = window.target_channels
        if chosen is not None and (not chosen or max(chosen) >= self.channels):
            raise ValueError(
                f"target_channels must be one or more channel numbers from 0 to {self.channels - 1}, as the series has "
                f"{self.channels} channels, not {list(chosen)}"
            )
        if chosen is None and series.targets is None and window.target_step == window.length:
            chosen, self.target_item = range(self.channels), self.item
        elif chosen is not None:
            self.target_item = (len(chosen),)
        elif series.targets is not None:
            self.target_item = tuple(series.targets.shape[1:])
        self.target_channels: NDArray[np.int32] | None = None if chosen is None else np.array(chosen, np.int32)
        """[K] channels that are the targets. None: the series' own targets, or no targets."""
        self.has_targets = chosen is not None or series.targets is not None
        self.out_dtype = window.dtype or ("float32" if window.computes and whole else self.dtype.name)
        """Name of the dtype of inputs and of targets from channels."""
        self.plain = not window.computes and self.out_dtype == self.dtype.name
        """Whether windows are exact copies of the series' rows."""
        wide = self.dtype.itemsize > (4 if self.dtype.kind == "f" else 2)
        self.compute_dtype: DTypeLike = np.float64 if wide else np.float32
        """Dtype of the computation: float64 if float32 cannot hold the values exactly."""
        self.mean = self._constant("mean")
        """[C] subtracted from the values, in the compute dtype; or None."""
        self.inverse = self._constant("std")
        """[C] factor after the mean is subtracted, 1 / std, in the compute dtype; or None."""

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
                f"{name} must be in the range of {np.dtype(self.compute_dtype)}, in which {self.dtype} values are "
                f"normalized, not {value!r}: leave it out, or rescale the series"
            )
        filled: NDArray[Any] = np.broadcast_to(constant, (self.channels,)).copy()
        return filled

    def wants(self, extra: str) -> bool:
        """Whether batches carry this extra."""
        return extra in self.window.extras

    def arranged(self, batch: int, length: int, item: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of an array with a time axis, in the window's layout."""
        layout = self.window.layout
        if layout == "BLC":
            return (batch, length, *item)
        return (batch, *item, length) if layout == "BCL" else (length, batch, *item)

    def targets_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of the targets of `batch` windows."""
        window = self.window
        return self.arranged(batch, window.horizon, self.target_item) if window.horizon else (batch, *self.target_item)

    @property
    def bytes_of_window(self) -> int:
        """Memory of one window with its targets and mask, in bytes."""
        size = self.dtype.itemsize if self.plain else np.dtype(self.compute_dtype).itemsize
        values = self.window.length * self.channels * (size + self.wants("mask"))
        if self.has_targets:
            targets = self.series.targets
            size = targets.dtype.itemsize if self.target_channels is None and targets is not None else size
            values += int(np.prod(self.target_item, dtype=np.int64)) * self.window.target_steps * size
        return int(values)


ROWS_READ_AT_ONCE = 2**16
"""Rows that `complete` reads at once."""


def complete(job: WindowJob, windows: Windows) -> NDArray[np.bool_]:
    """Return for each window whether neither its inputs nor its targets hold NaN. Reads the whole series once."""
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
    """Return [B] whether `array`, values or targets of the series, holds NaN in the steps from each row [B] on."""
    dilation = min(dilation, len(array))
    padded = -(-len(array) // dilation) * dilation
    flags = np.zeros(padded, np.int64)
    for first in range(0, len(array), ROWS_READ_AT_ONCE):
        series.check_files()
        part = array[first : first + ROWS_READ_AT_ONCE]
        part = (part.get() if hasattr(part, "get") else part).reshape(len(part), -1)
        with np.errstate(invalid="ignore"):  # ml_dtypes warns of signalling NaN.
            flags[first : first + len(part)] = np.isnan(part if channels is None else part[:, channels]).any(axis=1)
    # A window stays on rows with one remainder by the dilation, so there is a running count for each remainder.
    counts = flags.reshape(-1, dilation).cumsum(axis=0).ravel()
    before = np.where(rows >= dilation, counts[rows - dilation], 0)
    missing: NDArray[np.bool_] = counts[rows + (steps - 1) * dilation] > before
    return missing
