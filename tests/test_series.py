"""Series: what may be given, what it becomes, that nothing is copied, and the words of every refusal."""

from __future__ import annotations

import itertools
import os
import pathlib
import re
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import _require_device
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from gpuload import Loader, Series, Window
from gpuload.sources.maps import for_random_reads, place_of

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)


def refused(message: str, error: type[Exception] = ValueError):
    """The whole of the message, from its first word on."""
    return pytest.raises(error, match=f"^{re.escape(message)}")


# --- What may be given ---


@pytest.mark.parametrize("dtype", ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(20,), (20, 3), (20, 3, 2), (1, 1)])
def test_an_array_is_not_copied(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, dtype)
    series = Series(values, values)
    assert np.shares_memory(series.values, values)
    assert np.shares_memory(series.targets, values)
    assert series.values.dtype == values.dtype
    assert len(series) == shape[0]
    assert series.channels == values[0].size
    assert (series.mapped, series.gpu) == (False, None)
    assert series.segments.tolist() == [[0, shape[0]]]
    assert series.bounds.tolist() == [0, shape[0]]


def test_nothing_is_allocated_for_the_values() -> None:
    values, targets = np.zeros((2**20, 4), np.float32), np.zeros(2**20)
    tracemalloc.start()
    series = Series(values, targets)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**16
    assert series.values is values


@pytest.mark.parametrize("view", ["transposed", "reversed", "second", "broadcast", "column", "fortran"])
def test_views_stay_views(view: str) -> None:
    values = {
        "transposed": np.arange(60.0).reshape(3, 20).T,
        "reversed": ROWS[::-1],
        "second": ROWS[::2],
        "broadcast": np.broadcast_to(ROWS[0], (20, 3)),
        "column": ROWS[:, 1],
        "fortran": np.asfortranarray(ROWS),
    }[view]
    series = Series(values)
    assert np.shares_memory(series.values, values)
    np.testing.assert_array_equal(series.values, values)


@pytest.mark.parametrize("dtype", [">i2", ">f4", ">f8", ">u8"])
def test_another_byte_order(dtype: str) -> None:
    series = Series(ROWS.astype(dtype), np.arange(20).astype(dtype))
    assert series.values.dtype.isnative
    assert series.targets.dtype.isnative
    np.testing.assert_array_equal(series.values, ROWS)


def test_lists_of_numbers() -> None:
    assert repr(Series([1, 2, 3], targets=[4, 5, 6])) == "Series(values: int64 [3], targets: int64 [3])"
    assert repr(Series([[1.0, 2.0], [3.0, 4.0]])) == "Series(values: float64 [2, 2], targets: none)"
    assert repr(Series([torch.tensor(1.0), torch.tensor(2.0)])) == "Series(values: float32 [2], targets: none)"


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "float16", "float32", "float64"],
)
def test_torch_shares_its_memory(dtype: str) -> None:
    tensor = torch.zeros((20, 3), dtype=getattr(torch, dtype))
    series = Series(tensor, tensor[:, 0])
    assert series.values.dtype == np.dtype(dtype)
    tensor[4] = 1
    assert series.values[4].tolist() == [1, 1, 1]
    assert series.targets[4] == 1


def test_torch_in_bfloat16() -> None:
    tensor = torch.arange(20).to(torch.bfloat16)
    series = Series(tensor, tensor)
    assert series.values.dtype == ml_dtypes.bfloat16
    tensor[4] = 100
    assert float(series.values[4]) == float(series.targets[4]) == 100
    strided = Series(torch.arange(40).to(torch.bfloat16).reshape(20, 2)[::2, 1])
    np.testing.assert_array_equal(strided.values.astype(float), np.arange(1, 40, 4))


def test_torch_with_a_gradient() -> None:
    tensor = torch.ones(5, requires_grad=True)
    assert Series(tensor).values.tolist() == [1] * 5


def test_pandas() -> None:
    frame = pd.DataFrame({"a": np.arange(20.0), "b": np.arange(20.0) * 2, "id": ["x"] * 12 + ["y"] * 8})
    series = Series(frame[["a", "b"]], targets=frame["a"], groups=frame["id"])
    assert repr(series) == "Series(values: float64 [20, 2], targets: float64 [20], 2 series)"
    np.testing.assert_array_equal(series.values, frame[["a", "b"]].to_numpy())
    assert series.bounds.tolist() == [0, 12, 20]
    assert Series(frame["a"].astype("Int64")).values.dtype == np.int64
    nullable = Series(pd.DataFrame({"a": pd.array([1.5, None], dtype="Float64")})).values
    np.testing.assert_array_equal(nullable, [[1.5], [np.nan]])
    for kind in ("category", "string", object):
        assert Series(frame["a"], groups=frame["id"].astype(kind)).bounds.tolist() == [0, 12, 20]


def test_subclasses_of_arrays_become_arrays() -> None:
    with pytest.warns(PendingDeprecationWarning, match="matrix subclass"):
        values = np.matrix(ROWS)
    assert type(Series(values).values) is np.ndarray


def test_targets_of_any_dtype() -> None:
    for targets in (["a"] * 20, np.zeros(20, "M8[s]"), np.zeros((20, 2), complex), np.array([None] * 20)):
        assert len(Series(ROWS, targets=targets).targets) == 20


# --- Maps ---


@pytest.mark.parametrize("path", [str, pathlib.Path])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i2"])
def test_a_file_is_mapped(tmp_path: pathlib.Path, path: type, dtype: str) -> None:
    np.save(tmp_path / "values.npy", ROWS.astype(dtype))
    series = Series(path(tmp_path / "values.npy"), targets=path(tmp_path / "values.npy"))
    assert series.mapped
    assert series.values.dtype == np.dtype(dtype)  # A map is not copied for its byte order.
    np.testing.assert_array_equal(series.values, ROWS)
    series.check_files()


@pytest.mark.parametrize(
    "view", [lambda m: m, np.asarray, lambda m: m[5:], lambda m: np.asarray(m)[::-1], lambda m: np.asarray(m).T.T]
)
@pytest.mark.parametrize("change", [-4, 4, -80])
def test_a_map_whose_file_changes_its_length(tmp_path: pathlib.Path, view, change: int) -> None:
    """Whatever views lie between: reading beyond the end of a file that was cut short ends the process."""
    file = tmp_path / "values.npy"
    np.save(file, ROWS)
    size = file.stat().st_size
    series = Series(np.zeros(20), targets=view(np.load(file, mmap_mode="r"))[-15:].repeat(1).reshape(-1)[:20])
    assert not series.mapped  # A copy.
    series = Series(view(np.load(file, mmap_mode="r")))
    assert series.mapped
    series.check_files()
    os.truncate(file, size + change)
    with refused(
        f"values must keep their length while they are mapped, but {str(file)!r} had {size} bytes when it was opened "
        f"and has {size + change} now: write to another file, and open the series anew",
        RuntimeError,
    ):
        series.check_files()
    os.truncate(file, size)
    series.check_files()


def test_a_map_whose_file_is_replaced_or_removed(tmp_path: pathlib.Path) -> None:
    """Its pages stay."""
    file = tmp_path / "values.npy"
    np.save(file, ROWS)
    series = Series(file)
    np.save(tmp_path / "other.npy", ROWS[:4])
    os.replace(tmp_path / "other.npy", file)
    series.check_files()
    file.unlink()
    series.check_files()
    np.testing.assert_array_equal(series.values, ROWS)


def test_a_panel_of_maps_is_a_copy(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "values.npy", ROWS)
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
    assert not Series([mapped, mapped]).mapped


def test_any_view_of_a_map_is_found_in_its_file(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "values.npy", np.arange(240, dtype=">f4").reshape(20, 4, 3))
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
    views = [mapped, mapped[5:], mapped[::-1], mapped[::-2, 1:, ::-1], np.asarray(mapped).T, mapped.view("<i4")]
    views += [np.broadcast_to(mapped[3], (7, 4, 3)), as_strided(mapped[2:], (3, 2), (12, 4))]
    for view in views:
        again = for_random_reads(view)
        assert again is not view
        assert (again.dtype, again.strides, again.flags.writeable) == (view.dtype, view.strides, False)
        np.testing.assert_array_equal(again, view)
        np.testing.assert_array_equal(place_of(view).open(), view)
    for other in (mapped.copy(), mapped + 1, mapped[:0], np.load(tmp_path / "values.npy", mmap_mode="c")):
        assert place_of(other) is None
        assert for_random_reads(other) is other


# --- Series of a panel, and stretches ---


@given(lengths=st.lists(st.integers(0, 4), min_size=1, max_size=6), data=st.data())
def test_groups_lists_and_segments_agree(lengths: list[int], data: st.DataObject) -> None:
    total = sum(lengths)
    if not total:
        return
    parts = np.split(np.arange(total), np.cumsum(lengths)[:-1])
    panel = Series(parts, targets=[p * 2 for p in parts])
    np.testing.assert_array_equal(panel.values, np.arange(total))
    np.testing.assert_array_equal(panel.targets, np.arange(total) * 2)
    edges = np.cumsum([0, *lengths])
    assert panel.bounds.tolist() == edges.tolist()
    filled = [[int(a), int(b)] for a, b in itertools.pairwise(edges) if a < b]
    names = data.draw(st.permutations(range(len(lengths))))
    for ids in (np.repeat(names, lengths), np.repeat([f"s{n}" for n in names], lengths).astype(object)):
        grouped = Series(np.arange(total), groups=ids)
        assert grouped.segments.tolist() == filled
        assert grouped.bounds.tolist() == [0, *(stop for _, stop in filled)]
    assert [s for s in panel.segments.tolist() if s[0] < s[1]] == filled
    assert Series(np.arange(total), segments=filled).segments.tolist() == filled


@given(ids=st.lists(st.integers(0, 2), min_size=1, max_size=14), present=st.data())
def test_segments_are_cut_where_a_series_ends(ids: list[int], present: st.DataObject) -> None:
    ids = sorted(ids)
    there = present.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)).filter(any))
    edges = np.flatnonzero(np.diff([0, *there, 0]))
    series = Series(np.arange(len(ids)), groups=ids, segments=edges.reshape(-1, 2))
    rows = [row for start, stop in series.segments.tolist() for row in range(start, stop)]
    assert rows == [row for row in range(len(ids)) if there[row]]
    for start, stop in series.segments.tolist():
        assert len(set(ids[start:stop])) == 1
        # And nowhere else.
        assert stop == len(ids) or not there[stop] or ids[stop] != ids[stop - 1]


def test_segments_may_touch_and_be_unsigned() -> None:
    series = Series(np.zeros(9), segments=np.array([[0, 5], [5, 9]], np.uint64))
    assert series.segments.tolist() == [[0, 5], [5, 9]]
    assert series.segments.dtype == np.int64


def test_ids_of_several_kinds() -> None:
    for ids in (
        [1.5, 1.5, 2.5],
        np.array([1, "a", "b"], object),
        np.array(["2020", "2021", "2022"], "M8[Y]"),
    ):
        assert Series(np.zeros(3), groups=ids).bounds[-1] == 3


def test_a_panel_of_one() -> None:
    assert repr(Series([ROWS])) == "Series(values: float32 [20, 3], targets: none)"


def test_a_panel_of_tensors_and_of_frames() -> None:
    assert Series([torch.zeros(3, 2), torch.ones(4, 2)]).bounds.tolist() == [0, 3, 7]
    assert Series((pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [3]}))).values.tolist() == [[1], [2], [3]]


def test_a_hundred_thousand_series_are_three_arrays() -> None:
    ids = np.repeat(np.arange(100_000), 7)
    values = np.zeros(len(ids), np.float32)
    tracemalloc.start()
    series = Series(values, groups=ids)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(series.segments) == 100_000
    assert kept < 100_000 * 40  # Three 64-bit numbers a series.


# --- What is refused ---


class OnGpu:
    """What CuPy is asked to wrap."""

    __cuda_array_interface__: dict = {}  # noqa: RUF012
    shape, ndim = (3,), 1


def test_a_gpu_array_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with refused("values on a GPU needs cupy, which is not installed: pip install 'gpuload[cuda13]'", ImportError):
        Series(OnGpu())


def test_bfloat16_without_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with refused("values in bfloat16 needs ml_dtypes, which is not installed: pip install 'gpuload[bf", ImportError):
        Series(torch.zeros(3, dtype=torch.bfloat16))


CAST = "convert them with values.astype('float32')"
KINDS = "values must be integers, booleans or floating numbers: got"
EMPTY = "values must have at least one row, of at least one channel: got"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3.0, "values must be an array with time along its first axis, not 3.0"),
        (None, "values must be an array with time along its first axis, not None"),
        ({"a": 1}, "values must be an array with time along its first axis, not {'a': 1}"),
        (np.float32(2), "values must be an array with time along its first axis, not np.float32(2.0)"),
        ([], f"{EMPTY} float64 [0]"),
        (np.zeros((0, 3)), f"{EMPTY} float64 [0, 3]"),
        (np.zeros((9, 0)), f"{EMPTY} float64 [9, 0]"),
        (np.zeros((9, 2, 0)), f"{EMPTY} float64 [9, 2, 0]"),
        ([np.zeros(0), np.zeros(0)], f"{EMPTY} float64 [0]"),
        ([[1, 2], [3]], "values must be an array, or a list of arrays: setting an array element with a sequence"),
        ([np.zeros(3), [1, 2]], "values must be an array, or a list of arrays: setting an array element"),
        (torch.eye(3).to_sparse(), "values must be a dense tensor of numbers: can't convert Sparse layout tensor"),
        (np.array([1, None]), f"{KINDS} object; {CAST}"),
        (np.array(["a"]), f"{KINDS} <U1; {CAST}"),
        (["x.npy", "y.npy"], f"{KINDS} <U5; {CAST}"),
        (np.zeros(3, complex), f"{KINDS} complex128; {CAST}"),
        (np.zeros(3, "M8[s]"), f"{KINDS} datetime64[s]; {CAST}"),
        (np.zeros(3, "m8[s]"), f"{KINDS} timedelta64[s]; {CAST}"),
        (np.zeros(3, [("a", float)]), f"{KINDS} [('a', '<f8')]; {CAST}"),
        (np.zeros(3, ml_dtypes.float8_e4m3fn), f"{KINDS} float8_e4m3fn; {CAST}"),
        (pd.DataFrame({"a": [1.0], "b": ["x"]}), f"{KINDS} object; {CAST}"),
        (
            np.ma.masked_array([1.0, 2.0], [True, False]),
            "values must be an array without a mask: fill it in with values.filled(np.nan)",
        ),
        ([np.zeros((3, 2)), np.zeros((3, 3))], "values must have the same channels in every series: got rows of (2,),"),
        ([np.zeros((3, 2)), np.zeros(3)], "values must have the same channels in every series: got rows of (), (2,)"),
        ([np.zeros(3), np.array(["a"])], f"{KINDS} <U32; {CAST}"),
    ],
)
def test_refuses_values(values, message: str) -> None:
    with refused(message):
        Series(values)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="long double is a double here")
def test_refuses_long_double() -> None:
    with refused("values must have at most 64 bits: got float128; use values.astype('float64')"):
        Series(np.zeros(3, np.longdouble))


def test_refuses_files(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    np.savez(tmp_path / "archive.npz", a=ROWS)
    (tmp_path / "table.csv").write_text("1,2\n3,4\n")
    (tmp_path / "empty.npy").touch()
    for name in ("objects.npy", "table.csv", "empty.npy"):
        path = str(tmp_path / name)
        with refused(f"values must be an .npy file of numbers, but {path!r} is none: write one with np.save ("):
            Series(path)
    path = str(tmp_path / "archive.npz")
    with refused(f"values must be one array in an .npy file, but {path!r} is an archive: open it first"):
        Series(path)
    with pytest.raises(FileNotFoundError, match=r"missing\.npy"):
        Series(tmp_path / "missing.npy")
    with refused("targets must be an .npy file of numbers"):
        Series(ROWS, targets=tmp_path / "table.csv")


@pytest.mark.parametrize(
    ("values", "targets", "message"),
    [
        (
            ROWS,
            np.zeros(5),
            "targets must have one entry for each row of values: targets has shape [5], values has 20 rows; give both "
            "the same length, or targets=None",
        ),
        (ROWS, [np.zeros(10), np.zeros(10)], "targets must have one entry for each row of values: targets has shape"),
        (ROWS, 3, "targets must be an array with time along its first axis, not 3"),
        (ROWS, [[1], [1, 2]], "targets must be an array, or a list of arrays: setting an array element"),
        (ROWS, np.ma.zeros(20), "targets must be an array without a mask"),
        ([ROWS, ROWS], np.zeros(40), "targets must be a list of 2 arrays, as values is: got float64 [40]"),
        ([ROWS, ROWS], [np.zeros(40)], "targets must be a list of 2 arrays, as values is: got 1 arrays"),
        ([ROWS, ROWS], list(range(40)), "targets must be a list of 2 arrays, as values is: got 40 arrays"),
        (
            [ROWS, ROWS],
            [np.zeros(20), np.zeros(4)],
            "targets[1] must have one entry for each row of values[1]: it has 4 for 20 rows",
        ),
        (
            [ROWS, ROWS],
            [np.zeros(20), np.zeros((20, 2))],
            "targets must have the same channels in every series: got rows of (), (2,)",
        ),
    ],
)
def test_refuses_targets(values, targets, message: str) -> None:
    with refused(message):
        Series(values, targets)


NO_ID = "groups must have an id in every row, but that of row"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a"] * 3, "groups must have one id for each row of values: groups has shape [3], values has 4 rows"),
        (np.zeros((4, 1)), "groups must have one id for each row of values: groups has shape [4, 1], values has 4"),
        ("abcd", "groups must have one id for each row of values: groups has shape [], values has 4 rows"),
        ([1, 2, (3, 4), 5], "groups must have one id for each row: setting an array element with a sequence"),
        (
            [1, 1, 2, 1],
            "groups must hold the rows of a series one after another, but 1 comes back after another id: sort "
            "everything first, by order = np.argsort(groups, kind='stable')",
        ),
        (
            np.array(["b", 1, "b", 1], object),
            "groups must hold the rows of a series one after another, but 'b', 1 comes",
        ),
        ([1.0, 1.0, 2.0, np.nan], f"{NO_ID} 3 is np.float64(nan): fill it in, or leave the rows out"),
        (["a", "a", None, None], f"{NO_ID} 2 is None"),
        (np.array(["a", np.nan, "b", "c"], object), f"{NO_ID} 1 is nan"),
        (pd.array(["a", "b", "c", None], dtype="string"), f"{NO_ID} 3 is "),
        (pd.Series(["a", pd.NA, "b", "c"], dtype=object), f"{NO_ID} 1 is <NA>"),
        (pd.array([1, 1, None, 2], dtype="Int64"), f"{NO_ID} 2 is "),
        (pd.Series(["a", "a", "b", None], dtype="category"), f"{NO_ID} 3 is nan"),
        (np.array(["2020", "2021", "2022", "NaT"], "M8[D]"), f"{NO_ID} 3 is np.datetime64('NaT','D')"),
    ],
)
def test_refuses_groups(groups, message: str) -> None:
    with refused(message):
        Series(np.zeros(4), groups=groups)


WHOLE = "segments must be whole numbers [M, 2], rows (start, stop)"
APART = "segments must be rows (start, stop) with 0 <= start < stop <= 9, in growing order and apart: segments"


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([], "segments must hold at least one stretch: got float64 [0]; None takes all rows"),
        (np.zeros((0, 2), int), "segments must hold at least one stretch: got int64 [0, 2]; None takes all rows"),
        ([0, 5], f"{WHOLE}: got int64 [2]"),
        ([[0, 5, 6]], f"{WHOLE}: got int64 [1, 3]"),
        ([[0.0, 5.0]], f"{WHOLE}: got float64 [1, 2]"),
        ([[0, np.nan]], f"{WHOLE}: got float64 [1, 2]"),
        ([[False, True]], f"{WHOLE}: got bool [1, 2]"),
        ([["0", "5"]], f"{WHOLE}: got <U1 [1, 2]"),
        ([[0, 5], [6]], f"{WHOLE}: setting an array element with a sequence"),
        (np.array([[0, 2**63]], np.uint64), "segments must fit int64: got uint64 up to 9223372036854775808"),
        ([[0, 2**64]], f"{WHOLE}: got object [1, 2]"),
        ([[-1, 5]], f"{APART}[0] is (-1, 5)"),
        ([[0, 10]], f"{APART}[0] is (0, 10)"),
        ([[0, 3], [5, 5]], f"{APART}[1] is (5, 5)"),
        ([[5, 3]], f"{APART}[0] is (5, 3)"),
        ([[0, 5], [4, 9]], f"{APART}[1] is (4, 9)"),
        ([[5, 9], [0, 4]], f"{APART}[1] is (0, 4)"),
    ],
)
def test_refuses_segments(segments, message: str) -> None:
    with refused(message):
        Series(np.zeros(9), segments=segments)


@pytest.mark.parametrize("argument", ["groups", "segments"])
def test_refuses_groups_and_segments_of_a_list(argument: str) -> None:
    with refused("groups and segments are for values in one array, but values is a list of series: leave them out, or"):
        Series([np.zeros(2), np.zeros(2)], **{argument: [0] * 4})


@pytest.mark.gpu
def test_arrays_on_a_gpu_stay_there() -> None:
    _require_device("cuda")
    tensor = torch.zeros((20, 3), device="cuda")
    series = Series(tensor, targets=np.arange(20))
    assert series.gpu == 0
    assert series.values.data.ptr == tensor.data_ptr()
    narrow = tensor.bfloat16()
    assert Series(narrow).values.dtype == ml_dtypes.bfloat16
    assert Series(narrow).values.data.ptr == narrow.data_ptr()
    assert Series(np.zeros(20), targets=tensor).gpu == 0
    assert Series([tensor, tensor]).bounds.tolist() == [0, 20, 40]
    with refused("values must lie all on the host or all on a GPU: bring the list together first"):
        Series([tensor, np.zeros((4, 3), np.float32)])


def advised(name: str) -> list[bool]:
    """Of each map of that file in this process, whether the system was told not to read ahead."""
    found, here = [], False
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            here = line.endswith(name)
        elif here and line.startswith("VmFlags:"):
            found.append("rr" in line.split())
    return found


@pytest.mark.skipif(not pathlib.Path("/proc/self/smaps").exists(), reason="only Linux tells what a map was advised")
def test_only_shuffled_windows_are_read_without_reading_ahead(tmp_path: pathlib.Path) -> None:
    """In a map of the loader's own: that of the user stays as it is, and both show the same numbers."""
    path = tmp_path / "unlike-any-other.npy"
    np.save(path, np.arange(4000.0).reshape(1000, 4))
    series = Series(path)
    assert advised(path.name) == [False]
    options = {"batch_size": 8, "device": "cpu", "seed": 0}
    in_order = Loader(series, Window(5), **options)
    assert advised(path.name) == [False]
    shuffled = Loader(series, Window(5), shuffle=True, **options)
    assert sorted(advised(path.name)) == [False, True]
    assert shuffled.source is series
    first = [np.sort(np.concatenate([batch[:, 0, 0] for batch in loader])) for loader in (in_order, shuffled)]
    np.testing.assert_array_equal(*first)
