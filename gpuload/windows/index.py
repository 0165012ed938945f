"""The windows of a series by number, and the random draws of a batch of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuload.plan.streams import uniforms
from gpuload.windows.step import Rows, WindowStep
from gpuload.windows.window import Window

_UNIFORMS = 4  # Numbers drawn for a window, one Philox block: reverse, zoom, scaling, and one that is not used.


class Windows:
    """Windows of a series, numbered from 0 in the order of their rows.

    A stretch is a run of rows that no window leaves: a segment, or a whole series. Memory grows with the number of
    stretches, not of windows: a window's row is computed from its number.

    >>> windows = Windows(Window(3, stride=2), segments=np.array([[0, 6], [6, 8], [8, 13]]))
    >>> len(windows), windows.rows(np.arange(4)).tolist()
    (4, [0, 2, 8, 10])
    """

    def __init__(self, window: Window, segments: Rows, *, bounds: Rows | None = None, has_targets: bool = False):
        """
        Args:
            window: Length, spacing and targets of the windows.
            segments: [M, 2] rows (start, stop) of the stretches. Raises ValueError if none is long enough for a window.
            bounds: [S + 1] rows where series begin, and the end of the last one, to which `start_index` and
                `end_index` refer. Default None: one series.
            has_targets: Whether a window needs the rows of its targets as well.
        """
        self.window = window
        last = window.length - 1
        if has_targets:
            last = max(last, window.target_step + window.target_steps - 1)
        self.extent = last * window.dilation + 1
        """Number of rows from the first to the last that a window reads."""
        bounds = np.array([0, segments[-1, 1]]) if bounds is None else bounds
        starts, stops = _clipped(segments, bounds, window)
        # A stride or extent larger than the series acts like its length, and may not fit int64.
        rows = int(bounds[-1])
        self._stride = min(window.stride, rows)
        counts = np.maximum((stops - starts - min(self.extent, rows + 1)) // self._stride + 1, 0)
        lengths = np.maximum(stops - starts, 0)
        if not counts.any():
            part = "" if window.start_index is window.end_index is None else " between start_index and end_index"
            raise ValueError(
                f"length={window.length} is too long: with dilation={window.dilation} and "
                f"horizon={window.horizon} a window{' and its targets take' if has_targets else ' takes'} "
                f"{self.extent} rows, but the longest series or segment{part} has {lengths.max(initial=0)}; lower "
                "length, dilation or horizon"
            )
        kept = counts > 0
        self.too_short = int((lengths[~kept] > 0).sum())
        """Number of stretches that have rows, but too few for a window."""
        self._ends = np.cumsum(counts[kept])
        # Window n of a stretch whose first window is f begins at row start + (n - f) * stride.
        self._origins = starts[kept] - (self._ends - counts[kept]) * self._stride
        self._listed: Rows | None = None

    def __len__(self) -> int:
        return len(self._listed) if self._listed is not None else int(self._ends[-1])

    def rows(self, indices: Rows) -> Rows:
        """Return the first row [B] of each of these windows [B]."""
        if self._listed is not None:
            return self._listed[indices]
        stretches = 0 if len(self._ends) == 1 else np.searchsorted(self._ends, indices, side="right")
        origins: Rows = self._origins[stretches]
        return origins + indices * self._stride

    def keep(self, wanted: NDArray[np.bool_]) -> None:
        """Keep only the windows for which `wanted` [len(self)] is true. Raise ValueError if none is left."""
        if not wanted.any():
            raise ValueError(
                f"missing='omit' leaves no window: each of the {len(self)} has a missing value; pass missing='zero' or "
                "'forward', or a shorter length"
            )
        self._listed = self.rows(np.flatnonzero(wanted))

    def step(self, indices: Rows, *, seed: int, epoch: int, first: int) -> WindowStep:
        """Return the step for windows `indices` [B] at positions `first`, `first` + 1, ... of the epoch.

        The draws of a window depend only on (seed, epoch, its position).
        """
        window, rows, count = self.window, self.rows(indices), len(indices)
        if not (window.draws_time or window.draws_scaling or window.jitter):
            return WindowStep(indices=indices, rows=rows)
        reverse, zoom, scaling, _ = uniforms(seed, epoch, first, count, _UNIFORMS).T
        pace = factors = None
        if window.draws_time:
            low, high = window.zoom_range
            pace = (np.where(reverse < window.reverse, -1.0, 1.0) * (low + (high - low) * zoom)).astype(np.float32)
        if window.draws_scaling:
            low, high = window.scaling_range
            factors = (low + (high - low) * scaling).astype(np.float32)
        positions = np.arange(first, first + count) if window.jitter else None
        return WindowStep(
            indices=indices, rows=rows, pace=pace, factors=factors, seed=seed, epoch=epoch, positions=positions
        )


def _clipped(segments: Rows, bounds: Rows, window: Window) -> tuple[Rows, Rows]:
    """Return starts and stops [M] of the stretches between the `start_index` and `end_index` of their series."""
    starts, stops = segments.T
    if window.start_index is None and window.end_index is None:
        return starts, stops
    # The last bound is an end. Series without rows may begin there, but no stretch does.
    series = np.searchsorted(bounds[:-1], starts, side="right") - 1
    begin, end = bounds[series], bounds[series + 1]

    def row(index: int | None, default: Rows) -> Rows:
        if index is None:
            return default
        index = max(-int(bounds[-1]), min(int(bounds[-1]), index))  # The sum below fits int64 then.
        clipped: Rows = np.clip((begin if index >= 0 else end) + index, begin, end)
        return clipped

    return np.maximum(starts, row(window.start_index, begin)), np.minimum(stops, row(window.end_index, end))
