"""Shapes, dtypes and constants that all window engines use for one series and one `Window`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuload.sources import Series
from gpuload.windows.index import Windows
from gpuload.windows.step import Rows
from gpuload.windows.window import Window


@dataclass(kw_only=True, slots=True)
class Cut:
    """The arrays of one step; None for those that the `Window` does not ask for. [B, L, C] are in its layout.

    `inputs` and the bool `mask` are [B, L, ...]; `targets` [B, ...], or with a horizon [B, H, ...]; `mean` and `scale`
    float32 [B, ...], per channel; `start` int64 [B].
    """

    inputs: Any
    targets: Any = None
    mask: Any = None
    mean: Any = None
    scale: Any = None
    start: Any = None


class WindowJob:
    """A `Window` fitted to a `Series`. Raises ValueError if the two do not fit."""

    def __init__(self, series: Series, window: Window):
        self.series, self.window, self.channels = series, window, series.channels
        self.item: tuple[int, ...] = tuple(series.values.shape[1:])
        self.dtype = np.dtype(series.values.dtype)
        whole = self.dtype.kind in "biu"
        if whole and window.missing != "keep":
            raise ValueError(
                f"missing={window.missing!r} needs float values, but the series has {self.dtype} values, which are "
                "never NaN: leave missing out, or convert the values to float"
            )
        for name in ("mean", "std"):
            if (size := np.size(getattr(window, name))) not in (1, self.channels):
                raise ValueError(
                    f"{name} must be one number, or one for each of the series' {self.channels} channels, not {size} "
                    "numbers"
                )
        chosen = window.target_channels
        if chosen is not None and (not chosen or max(chosen) >= self.channels):
            raise ValueError(
                f"target_channels must be one or more channel numbers from 0 to {self.channels - 1}, as the series has "
                f"{self.channels} channels, not {list(chosen)}"
            )
        self.target_source: Literal["values", "targets"] | None = "values"
        """Array of the series that holds the targets. None: no targets."""
        self.target_item: tuple[int, ...] = () if chosen is None else (len(chosen),)
        if chosen is None and series.targets is not None:
            self.target_source, self.target_item = "targets", tuple(series.targets.shape[1:])
        elif chosen is None and window.target_step == window.length:
            chosen, self.target_item = range(self.channels), self.item
        elif chosen is None:
            self.target_source = None
        self.has_targets = self.target_source is not None
        self.target_channels: NDArray[np.int32] | None = None if chosen is None else np.array(chosen, np.int32)
        """[K] channels that are the targets. None: the series' own targets, or no targets."""
        self.target_numbers = math.prod(self.target_item) if self.has_targets else 0
        """Numbers in one step of the targets."""
        self.out_dtype = window.dtype or ("float32" if window.computes and whole else self.dtype.name)
        """Name of the dtype of inputs and of targets from channels."""
        own = self.targets if self.target_source == "targets" else None
        self.target_dtype = self.out_dtype if own is None else own.dtype.name
        """Name of the dtype of targets."""
        self.plain = not window.computes and self.out_dtype == self.dtype.name
        """Whether windows are exact copies of the series' rows."""
        wide = self.dtype.itemsize > (4 if self.dtype.kind == "f" else 2)
        self.compute_dtype: DTypeLike = np.float64 if wide else np.float32
        """Dtype of the computation: float64 if float32 cannot hold the values exactly."""
        self.mean, self.inverse = self._constant("mean"), self._constant("std")

    def _constant(self, name: str) -> NDArray[Any] | None:
        """Return the mean, or 1 / std, as [C] in the compute dtype; or None."""
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
        return np.array(np.broadcast_to(constant, (self.channels,)))

    @property
    def targets(self) -> Any:
        """The array of the series that holds the targets, or None."""
        return None if self.target_source is None else getattr(self.series, self.target_source)

    def wants(self, extra: str) -> bool:
        """Whether batches carry this extra."""
        return extra in self.window.extras

    def arranged(self, batch: int, length: int, item: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of an array with a time axis, in the window's layout."""
        shapes = {"BLC": (batch, length, *item), "BCL": (batch, *item, length), "LBC": (length, batch, *item)}
        return shapes[self.window.layout]

    def targets_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of the targets of `batch` windows."""
        steps = self.window.horizon
        return self.arranged(batch, steps, self.target_item) if steps else (batch, *self.target_item)

    @property
    def bytes_of_window(self) -> int:
        """Memory of one window with its targets and mask, in bytes."""
        size = self.dtype.itemsize if self.plain else np.dtype(self.compute_dtype).itemsize
        values = self.window.length * self.channels * (size + self.wants("mask"))
        if self.target_source == "targets":
            size = self.targets.dtype.itemsize
        return int(values + self.target_numbers * self.window.target_steps * size)


ROWS_READ_AT_ONCE = 2**16
"""Rows that `complete` reads at once."""


def complete(job: WindowJob, windows: Windows) -> NDArray[np.bool_]:
    """Return for each window whether neither its inputs nor its targets hold NaN. Reads the whole series once."""
    window, targets = job.window, job.targets
    rows = windows.rows(np.arange(len(windows)))
    wanted = ~_any_missing(job, job.series.values, rows, window.length)
    if targets is not None and (targets.dtype.kind == "f" or targets.dtype.name == "bfloat16"):
        first = rows + window.target_step * window.dilation
        wanted &= ~_any_missing(job, targets, first, window.target_steps, job.target_channels)
    return wanted


def _any_missing(job: WindowJob, array: Any, rows: Rows, steps: int, channels: Any = None) -> NDArray[np.bool_]:
    """Return [B] whether `array`, values or targets of the series, holds NaN in the steps from each row [B] on."""
    dilation = min(job.window.dilation, len(array))
    padded = -(-len(array) // dilation) * dilation
    flags = np.zeros(padded, np.int64)
    for first in range(0, len(array), ROWS_READ_AT_ONCE):
        job.series.check_files()
        part = array[first : first + ROWS_READ_AT_ONCE]
        part = (part.get() if hasattr(part, "get") else part).reshape(len(part), -1)
        with np.errstate(invalid="ignore"):  # ml_dtypes warns of signalling NaN.
            flags[first : first + len(part)] = np.isnan(part if channels is None else part[:, channels]).any(axis=1)
    # A window stays on rows with one remainder by the dilation, so there is a running count for each remainder.
    counts = flags.reshape(-1, dilation).cumsum(axis=0).ravel()
    before = np.where(rows >= dilation, counts[rows - dilation], 0)
    return np.asarray(counts[rows + (steps - 1) * dilation] > before)
