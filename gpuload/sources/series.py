"""Time series: one, or a panel of many, in memory, in a memory-mapped file, or on a GPU."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gpuload.sources.checks import Array, few, layout
from gpuload.sources.maps import Place, for_random_reads, map_under, place_of

if TYPE_CHECKING:
    from typing_extensions import Self

Rows = npt.NDArray[np.int64]


class Series:
    """One long series, or a panel of them, end to end in one array. Nothing is read or copied that need not be.

    Args:
        values: [time], [time, channels] or [time, ...], of integers, booleans or floating numbers: a NumPy array, an
            `np.memmap`, the path of an `.npy` file (which is mapped, not read), a pandas Series or DataFrame, a PyTorch
            or CuPy tensor; one on a GPU stays there. Or a list of such arrays, one a series, which are joined into one:
            a copy, so that a long panel is better kept in one array, with `groups`.
        targets: One entry for each row of `values`, along the first axis, of any dtype: what kinds of arrays `values`
            may be; a list where `values` is a list. None: none.
        groups: One id for each row; a series is a run of rows with the same id. None: all rows are one series.
        segments: [M, 2] rows (start, stop), in growing order: the stretches without a gap. None: there are no gaps.

    Raises:
        ValueError: of a shape or dtype that is not listed here; `targets`, `groups` or `segments` that do not fit.
        ImportError: bfloat16 in PyTorch, where ml_dtypes is not installed; an array on a GPU, where CuPy is not.

    Windows never reach from one series, or from one stretch, into the next.

    >>> Series(np.zeros((100, 7), np.float32), targets=np.arange(100))
    Series(values: float32 [100, 7], targets: int64 [100])
    >>> Series([np.zeros(30), np.zeros(50)])
    Series(values: float64 [80], targets: none, 2 series)
    >>> Series(np.zeros(9), groups=list("aaaabbbcc"), segments=[(0, 2), (3, 9)]).segments.tolist()
    [[0, 2], [3, 4], [4, 7], [7, 9]]
    """

    values: Array
    """[rows, ...] all series, end to end."""
    targets: Array | None
    """[rows, ...] or None."""
    bounds: Rows
    """[S + 1] the row at which each series begins, and the number of rows."""
    segments: Rows
    """[M, 2] rows (start, stop) of the stretches that lie within one series and have no gap."""

    def __init__(
        self,
        values: Any,
        targets: Any = None,
        *,
        groups: npt.ArrayLike | None = None,
        segments: npt.ArrayLike | None = None,
    ):
        if _is_panel(values):
            if groups is not None or segments is not None:
                raise ValueError(
                    "groups and segments are for values in one array, but values is a list of series: leave them out, "
                    "or join the list with np.concatenate"
                )
            self.values, self.targets, lengths = _joined(values, targets)
            self.bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        else:
            self.values = _array("values", values)
            self.targets = None if targets is None else _array("targets", targets)
            self.bounds = _bounds(groups, len(self.values))
        if 0 in self.values.shape:
            raise ValueError(f"values must have at least one row, of at least one channel: got {layout(self.values)}")
        if self.values.dtype.kind not in "biuf" and self.values.dtype.name != "bfloat16":
            raise ValueError(
                f"values must be integers, booleans or floating numbers: got {self.values.dtype}; convert them with "
                "values.astype('float32')"
            )
        if self.values.dtype.kind == "f" and self.values.dtype.itemsize > 8:
            raise ValueError(f"values must have at most 64 bits: got {self.values.dtype}; use values.astype('float64')")
        if self.targets is not None and len(self.targets) != len(self.values):
            raise ValueError(
                f"targets must have one entry for each row of values: targets has shape {list(self.targets.shape)}, "
                f"values has {len(self.values)} rows; give both the same length, or targets=None"
            )
        self.segments = _segments(segments, self.bounds)
        if len(places := self._places()) > 1:
            raise ValueError(f"values and targets must lie on one GPU: they lie on cuda:{' and cuda:'.join(places)}")
        maps = map(map_under, (self.values, self.targets))
        self._files = [_File(found) for found in maps if found is not None]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.values)

    def __repr__(self) -> str:
        count = len(self.bounds) - 1
        panel = f", {count} series" if count > 1 else ""
        return f"{type(self).__name__}(values: {layout(self.values)}, targets: {layout(self.targets)}{panel})"

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: of an array in a memory-mapped file, its place there and not its numbers."""
        state = dict(vars(self))
        for name in ("values", "targets"):
            state[name] = place_of(state[name]) or state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value.open() if isinstance(value, Place) else value)

    @property
    def channels(self) -> int:
        """Numbers in a row."""
        return int(np.prod(self.values.shape[1:], dtype=np.int64))

    @property
    def mapped(self) -> bool:
        """Whether values or targets lie in a memory-mapped file."""
        return bool(self._files)

    @property
    def gpu(self) -> int | None:
        """Number of the CUDA device on which values or targets lie; None: both are on the host."""
        return next(map(int, self._places()), None)

    def _places(self) -> list[str]:
        arrays: list[Any] = [self.values, self.targets]
        return sorted({str(a.device.id) for a in arrays if a is not None and not isinstance(a, np.ndarray)})

    def for_random_reads(self) -> Self:
        """The same numbers, over maps of their own that read no more of a file than what is asked for."""
        found = copy.copy(self)
        found.values = for_random_reads(self.values)
        found.targets = None if self.targets is None else for_random_reads(self.targets)
        return found

    def check_files(self) -> None:
        """Raise RuntimeError where a mapped file has another length than it had: reading on could end the process."""
        for file in self._files:
            file.check()


class _File:
    """The file under a memory map, as it was when it was mapped."""

    def __init__(self, array: np.memmap[Any, Any]):
        self._path = getattr(array, "filename", None)
        self._known = self._look()

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)  # type: ignore[arg-type]
        except (OSError, TypeError):
            return None  # A map without a file, or of one that was removed: its pages stay.
        return found.st_dev, found.st_ino, found.st_size

    def check(self) -> None:
        known, found = self._known, self._look()
        if known and found and known != found and known[:2] == found[:2]:
            raise RuntimeError(
                f"values must keep their length while they are mapped, but {str(self._path)!r} had {known[2]} bytes "
                f"when it was opened and has {found[2]} now: write to another file, and open the series anew"
            )


def _is_panel(values: Any) -> bool:
    return (
        isinstance(values, list | tuple) and len(values) > 0 and all(np.ndim(v) and hasattr(v, "shape") for v in values)
    )


def _joined(values: Sequence[Any], targets: Any) -> tuple[Array, Array | None, list[int]]:
    parts = [_array(f"values[{number}]", part) for number, part in enumerate(values)]
    lengths = [len(part) for part in parts]
    if targets is None:
        return _concatenated("values", parts), None, lengths
    if not _is_panel(targets) or len(targets) != len(values):
        count = f"{len(targets)} arrays" if isinstance(targets, list | tuple) else layout(np.asarray(targets))
        raise ValueError(f"targets must be a list of {len(values)} arrays, as values is: got {count}")
    ends = [_array(f"targets[{number}]", part) for number, part in enumerate(targets)]
    for number, (end, length) in enumerate(zip(ends, lengths, strict=True)):
        if len(end) != length:
            raise ValueError(
                f"targets[{number}] must have one entry for each row of values[{number}]: it has {len(end)} for "
                f"{length} rows"
            )
    return _concatenated("values", parts), _concatenated("targets", ends), lengths


def _concatenated(name: str, parts: list[Array]) -> Array:
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"{name} must have the same channels in every series: got rows of {few(sorted(shapes))}")
    if len({isinstance(part, np.ndarray) for part in parts}) > 1:
        raise ValueError(f"{name} must lie all on the host or all on a GPU: bring the list together first")
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    joined: Array = _cupy(name).concatenate(parts)
    return joined


def _array(name: str, values: Any) -> Array:
    """The values as an array over the same memory: NumPy's, or CuPy's where they lie on a GPU."""
    if isinstance(values, str | os.PathLike):
        values = _opened(name, values)
    elif type(values).__module__.partition(".")[0] == "torch":
        values = _from_torch(name, values.detach())
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(f"{name} must be an array without a mask: fill it in with values.filled(np.nan)")
    array: Array
    if hasattr(values, "__cuda_array_interface__"):
        array = _cupy(name).asarray(values)
    else:
        array = _as_numpy(name, "be an array, or a list of arrays", values)
    if not array.ndim:
        raise ValueError(f"{name} must be an array with time along its first axis, not {values!r}")
    if not array.dtype.isnative and map_under(array) is None:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def _opened(name: str, path: str | os.PathLike[str]) -> Any:
    try:
        found = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{name} must be an .npy file of numbers, but {os.fspath(path)!r} is none: write one with np.save ({error})"
        ) from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise ValueError(
            f"{name} must be one array in an .npy file, but {os.fspath(path)!r} is an archive: open it first"
        )
    return found


def _as_numpy(name: str, rule: str, values: Any) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must {rule}: {error}") from None
    return array


def _cupy(name: str) -> Any:
    try:
        import cupy
    except ImportError:
        raise ImportError(
            f"{name} on a GPU needs CuPy, which is not installed: pip install 'gpuload[cuda13]'"
        ) from None
    return cupy


def _from_torch(name: str, tensor: Any) -> Any:
    if tensor.is_cuda:
        return tensor
    if str(tensor.dtype) != "torch.bfloat16":
        try:
            return tensor.numpy()
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{name} must be a dense tensor of numbers: {error}") from None
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError(
            f"{name} in bfloat16 needs ml_dtypes, which is not installed: pip install 'gpuload[bfloat16]'"
        ) from None
    import torch

    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _bounds(groups: npt.ArrayLike | None, rows: int) -> Rows:
    if groups is None:
        return np.array([0, rows], np.int64)
    ids = _as_numpy("groups", "have one id for each row", groups)
    if ids.shape != (rows,):
        raise ValueError(
            f"groups must have one id for each row of values: groups has shape {list(ids.shape)}, values has {rows} "
            "rows"
        )
    if (none := _missing(ids)).any():
        row = int(none.argmax())
        raise ValueError(
            f"groups must have an id in every row, but that of row {row} is {ids[row]!r}: fill it in, or leave the "
            "rows out"
        )
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])).astype(np.int64)
    again = [name for name, count in Counter(ids[starts].tolist()).items() if count > 1]
    if again:
        raise ValueError(
            f"groups must hold the rows of a series one after another, but {few(again)} comes back after another id: "
            "sort everything first, by order = np.argsort(groups, kind='stable')"
        )
    return np.append(starts, rows)


def _missing(ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if ids.dtype.kind == "O":  # pandas' NA is neither equal nor unequal to anything.
        none = ("NoneType", "NAType", "NaTType")
        found = (type(i).__name__ in none or (isinstance(i, float) and i != i) for i in ids)
        return np.fromiter(found, bool, len(ids))
    missing: npt.NDArray[np.bool_] = np.zeros(len(ids), bool)
    if ids.dtype.kind in "mM":
        missing = np.isnat(ids)
    elif ids.dtype.kind in "fc":
        missing = np.isnan(ids)
    return missing


def _segments(segments: npt.ArrayLike | None, bounds: Rows) -> Rows:
    """The stretches, cut where a series ends."""
    if segments is None:
        return np.stack([bounds[:-1], bounds[1:]], axis=1)
    given = _as_numpy("segments", "be whole numbers [M, 2], rows (start, stop)", segments)
    if not given.size:
        raise ValueError(f"segments must hold at least one stretch: got {layout(given)}; None takes all rows")
    if given.ndim != 2 or given.shape[1:] != (2,) or given.dtype.kind not in "iu":
        raise ValueError(f"segments must be whole numbers [M, 2], rows (start, stop): got {layout(given)}")
    if given.dtype.kind == "u" and given.max() > np.iinfo(np.int64).max:
        raise ValueError(f"segments must fit int64: got {given.dtype} up to {given.max()}")
    starts, stops = given.astype(np.int64).T
    rows = int(bounds[-1])
    wrong = (starts < 0) | (stops > rows) | (starts >= stops)
    wrong[1:] |= starts[1:] < stops[:-1]
    if wrong.any():
        number = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"segments must be rows (start, stop) with 0 <= start < stop <= {rows}, in growing order and apart: "
            f"segments[{number}] is {(int(starts[number]), int(stops[number]))}"
        )
    # Every edge of either kind begins a piece; pieces outside the stretches are gaps.
    edges = np.unique(np.concatenate([starts, stops, bounds]))
    inside = np.searchsorted(starts, edges[:-1], side="right") > np.searchsorted(stops, edges[:-1], side="right")
    return np.stack([edges[:-1][inside], edges[1:][inside]], axis=1)
