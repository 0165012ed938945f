"""Time series: one, or a panel of many."""

from __future__ import annotations

import copy
import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuload.sources.base import Array, Self, few, layout, shown
from gpuload.sources.convert import as_array, as_numpy, is_panel, joined
from gpuload.sources.maps import MappedFile, Place, for_random_reads, map_under, place_of

Rows = npt.NDArray[np.int64]


class Series:
    """One long series, or a panel of several, in memory, in a memory-mapped file, or on a GPU.

    Windows never reach from one series, or from one stretch without a gap, into the next.

    Args:
        values: [time], [time, channels] or [time, ...] of integers, booleans or floating numbers with at most 64 bits:
            a NumPy array, an `np.memmap`, the path of an `.npy` file (which is mapped, not read), a pandas Series or
            DataFrame, a PyTorch tensor or a CuPy array. An array is not copied, and stays on its GPU. A list of such
            arrays, one for each series, is copied into one array; keep a large panel in one array and pass `groups`.
        targets: One entry for each row of `values`, along the first axis, of any dtype and of the same kinds of arrays;
            a list if `values` is a list. None: there are no targets.
        groups: One id for each row. A series is a run of rows with the same id. None: all rows are one series.
        segments: [M, 2] rows (start, stop) of the stretches without a gap, in growing order. None: there are no gaps.

    Attributes:
        values: [rows, ...] All series, end to end.
        targets: [rows, ...], or None.
        bounds: int64 [S + 1] The row at which each of S series begins, and the number of rows.
        segments: int64 [M, 2] The stretches, cut where a series ends.

    Raises:
        ValueError: `values` has another shape or dtype, or `targets`, `groups` or `segments` do not fit it.
        ImportError: ml_dtypes is not installed, for bfloat16 of PyTorch; or CuPy is not, for an array on a GPU.

    >>> Series(np.zeros((100, 7), np.float32), targets=np.arange(100))
    Series(values: float32 [100, 7], targets: int64 [100])
    >>> Series([np.zeros(30), np.zeros(50)])
    Series(values: float64 [80], targets: none, 2 series)
    >>> Series(np.zeros(9), groups=list("aaaabbbcc"), segments=[(0, 2), (3, 9)]).segments.tolist()
    [[0, 2], [3, 4], [4, 7], [7, 9]]
    """

    values: Array
    targets: Array | None
    bounds: Rows
    segments: Rows

    def __init__(
        self,
        values: Any,
        targets: Any = None,
        *,
        groups: npt.ArrayLike | None = None,
        segments: npt.ArrayLike | None = None,
    ):
        if is_panel(values):
            if groups is not None or segments is not None:
                raise ValueError(
                    "groups and segments are for values in one array, but values is a list of series: leave them out, "
                    "or join the list with np.concatenate"
                )
            self.values, self.targets, lengths = joined(values, targets)
            self.bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        else:
            self.values = as_array("values", values)
            self.targets = None if targets is None else as_array("targets", targets)
            self.bounds = _bounds(groups, len(self.values))
        if 0 in self.values.shape:
            raise ValueError(f"values must have at least one row, of at least one channel: got {layout(self.values)}")
        dtype = self.values.dtype
        if dtype.kind not in "biuf" and dtype.name != "bfloat16":
            rule = "values must be integers, booleans or floating numbers"
            raise ValueError(f"{rule}: got {dtype}; convert them with values.astype('float32')")
        if dtype.kind == "f" and dtype.itemsize > 8:
            raise ValueError(f"values must have at most 64 bits: got {dtype}; use values.astype('float64')")
        if self.targets is not None and len(self.targets) != len(self.values):
            has = f"targets has shape {list(self.targets.shape)}, values has {len(self.values)} rows"
            rule = "targets must have one entry for each row of values"
            raise ValueError(f"{rule}: {has}; give both the same length, or targets=None")
        self.segments = _segments(segments, self.bounds)
        if len(places := self._places()) > 1:
            raise ValueError(f"values and targets must lie on one GPU: they lie on cuda:{' and cuda:'.join(places)}")
        self._files = [MappedFile(found) for found in map(map_under, (self.values, self.targets)) if found is not None]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.values)

    def __repr__(self) -> str:
        panel = f", {len(self.bounds) - 1} series" if len(self.bounds) > 2 else ""
        return f"{type(self).__name__}(values: {layout(self.values)}, targets: {layout(self.targets)}{panel})"

    def __getstate__(self) -> dict[str, Any]:
        # A mapped array is pickled as its place in the file, without its numbers.
        places = {name: place_of(getattr(self, name)) for name in ("values", "targets")}
        return vars(self) | {name: place for name, place in places.items() if place is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value.open() if isinstance(value, Place) else value)

    @property
    def channels(self) -> int:
        """Number of values in a row."""
        return math.prod(self.values.shape[1:])

    @property
    def mapped(self) -> bool:
        """Whether values or targets lie in a memory-mapped file."""
        return bool(self._files)

    @property
    def gpu(self) -> int | None:
        """Number of the CUDA device that holds values or targets; None if both are on the host."""
        return next(map(int, self._places()), None)

    def _places(self) -> list[str]:
        arrays: list[Any] = [self.values, self.targets]
        return sorted({str(a.device.id) for a in arrays if a is not None and not isinstance(a, np.ndarray)})

    def for_random_reads(self) -> Self:
        """Return the same series over new maps, for which the system does not read ahead of an access."""
        found = copy.copy(self)
        found.values, found.targets = for_random_reads(self.values), for_random_reads(self.targets)
        return found

    def check_files(self) -> None:
        """Raise RuntimeError if a mapped file has another length now: reading it could end the process."""
        for file in self._files:
            file.check()


def _bounds(groups: npt.ArrayLike | None, rows: int) -> Rows:
    """Return the row at which each series begins, and the number of rows."""
    if groups is None:
        return np.array([0, rows], np.int64)
    ids = as_numpy("groups", "have one id for each row", groups)
    if ids.shape != (rows,):
        has = f"groups has shape {list(ids.shape)}, values has {rows} rows"
        raise ValueError(f"groups must have one id for each row of values: {has}")
    if (none := _missing(ids)).any():
        found = f"that of row {none.argmax()} is {shown(ids[none.argmax()])}"
        raise ValueError(f"groups must have an id in every row, but {found}: fill it in, or leave the rows out")
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])).astype(np.int64)
    if again := [name for name, count in Counter(ids[starts].tolist()).items() if count > 1]:
        raise ValueError(
            f"groups must hold the rows of a series one after another, but {few(again)} comes back after another id: "
            "sort everything first, by order = np.argsort(groups, kind='stable')"
        )
    return np.append(starts, rows)


def _missing(ids: Array) -> Any:
    """Return which ids are None, NaN, NaT or pandas' NA."""
    if ids.dtype.kind == "O":  # Comparing pandas' NA gives NA, so it is known by its type.
        none = ("NoneType", "NAType", "NaTType")
        return np.array([type(each).__name__ in none or (isinstance(each, float) and each != each) for each in ids])
    return ids != ids if ids.dtype.kind in "mMfc" else np.zeros(len(ids), bool)  # NaN and NaT differ from themselves.


def _segments(segments: npt.ArrayLike | None, bounds: Rows) -> Rows:
    """Return the stretches, cut where a series ends."""
    if segments is None:
        return np.stack([bounds[:-1], bounds[1:]], axis=1)
    given = as_numpy("segments", "be whole numbers [M, 2], rows (start, stop)", segments)
    if not given.size:
        raise ValueError(f"segments must hold at least one stretch: got {layout(given)}; None takes all rows")
    if given.ndim != 2 or given.shape[1:] != (2,) or given.dtype.kind not in "iu":
        raise ValueError(f"segments must be whole numbers [M, 2], rows (start, stop): got {layout(given)}")
    if given.dtype.kind == "u" and given.max() > np.iinfo(np.int64).max:
        raise ValueError(f"segments must fit int64: got {given.dtype} up to {given.max()}")
    starts, stops = given.astype(np.int64).T
    wrong = (starts < 0) | (stops > bounds[-1]) | (starts >= stops)
    wrong[1:] |= starts[1:] < stops[:-1]
    if wrong.any():
        number = int(wrong.argmax())
        raise ValueError(
            f"segments must be rows (start, stop) with 0 <= start < stop <= {bounds[-1]}, in growing order and apart: "
            f"segments[{number}] is {(int(starts[number]), int(stops[number]))}"
        )
    # Each edge of a stretch or of a series begins a piece. Pieces outside the stretches are gaps.
    edges = np.unique(np.concatenate([starts, stops, bounds]))
    inside = np.searchsorted(starts, edges[:-1], side="right") > np.searchsorted(stops, edges[:-1], side="right")
    return np.stack([edges[:-1][inside], edges[1:][inside]], axis=1)
