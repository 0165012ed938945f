"""Mean and standard deviation of a series."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.sources import Series
from gpuload.windows.index import Windows
from gpuload.windows.window import Window

NUMBERS_READ_AT_ONCE = 2**20


def fit_window(series: Series, window: Window) -> Window:
    """Return the window with `mean` and `std` of the rows of the series that windows may use, each counted once.

    Raises ValueError if `per_sample` is set, no row is left, a channel has no finite mean, or a std is 0.
    """
    if window.per_sample is not None:
        raise ValueError(
            f"per_sample={window.per_sample!r} normalizes each window by its own mean and std: leave per_sample out to "
            "fit those of the series"
        )
    row = Window(1, start_index=window.start_index, end_index=window.end_index)
    try:
        every = Windows(row, series.segments, bounds=series.bounds)
    except ValueError:
        raise ValueError(
            f"start_index={window.start_index} and end_index={window.end_index} leave no row of {series!r} to fit: "
            "choose a wider range"
        ) from None
    counts, means, squares = (np.zeros(series.channels) for _ in range(3))
    together = max(1, NUMBERS_READ_AT_ONCE // series.channels)
    for first in range(0, len(every), together):
        part = _values(series, every.rows(np.arange(first, min(first + together, len(every)))))
        present = ~np.isnan(part)
        more = present.sum(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.where(present, part, 0).sum(axis=0) / np.maximum(more, 1)
            around_mean = (np.where(present, part - mean, 0) ** 2).sum(axis=0)
            # Joins two sets: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979.
            share = more / np.maximum(counts + more, 1)
            squares += around_mean + (mean - means) ** 2 * counts * share
            means += (mean - means) * share
        counts += more
    fine = (counts > 0) & np.isfinite(means)
    if not fine.all():
        channel = int(np.argmin(fine))
        found = f"a mean of {means[channel]}" if counts[channel] else "no number"
        raise ValueError(
            f"every channel must have numbers, all of them finite, to be fitted, but channel {channel} of {series!r} "
            f"has {found}: leave the channel out, or replace those values"
        )
    std = tuple(np.sqrt(squares / counts).tolist())
    if not all(std):
        raise ValueError(
            f"std must be above 0 in every channel, but that of {series!r} is {std}: leave constant channels out, or "
            "choose mean and std yourself"
        )
    return window.replace(mean=tuple(means.tolist()), std=std)


def _values(series: Series, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return these rows of the values as [B, C] in host memory."""
    series.check_files()
    values: Any = series.values
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == len(rows):
        part = values[first : last + 1]
    elif series.gpu is None:
        part = values[rows]
    else:
        part = values.take(rows, axis=0)
    part = part.get() if hasattr(part, "get") else part
    with np.errstate(invalid="ignore"):  # A cast of signalling NaN warns.
        return np.asarray(part).reshape(len(rows), -1).astype(np.float64)
