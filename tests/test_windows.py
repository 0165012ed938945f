"""Windows of a series, from which there are to how they are delivered, beside plain Python, NumPy, pandas and SciPy."""

from __future__ import annotations

import gc
import itertools
import logging
import math
import os
import pathlib
import pickle
import re
import tracemalloc
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from conftest import GPU
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

import gpuload
from gpuload import Series, Window
from gpuload.core import available
from gpuload.core import device as cuda
from gpuload.plan.noise import normal, philox4x32
from gpuload.windows.choose import choose_for_windows
from gpuload.windows.index import Windows

RANDOM = np.random.default_rng(0)
LEVELS = RANDOM.normal(size=(300, 3)).astype(np.float32) * [1, 10, 0.1] + [0, 5, -3]
GAPS = np.where(RANDOM.uniform(size=LEVELS.shape) < 0.2, np.nan, LEVELS).astype(np.float32)
SINGLE = {"rtol": 2e-5, "atol": 2e-5}  # float32 on both sides, summed in another order


def refused(message: str, error: type[Exception] = ValueError):
    """The whole of the message, from its first word on."""
    return pytest.raises(error, match=f"^{re.escape(message)}")


class All(NamedTuple):
    """All windows of an epoch."""

    inputs: Any
    targets: Any = None
    extras: Any = None


def on_host(array: Any) -> np.ndarray:
    """NumPy's array, also of PyTorch's bfloat16."""
    if not isinstance(array, torch.Tensor):
        return array
    array = array.cpu()
    return array.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if array.dtype == torch.bfloat16 else array.numpy()


def cut(series: Series, window: Window, device: str = "cpu", batch_size: int = 7, **options: Any) -> All:
    """An epoch in one."""
    options = {"framework": "numpy", "seed": 0, **options}
    with gpuload.Loader(series, window, batch_size=batch_size, device=device, **options) as loader:
        batches = [batch if isinstance(batch, tuple) else (batch,) for batch in loader]
        assert len(batches) == len(loader)
    found = [
        list(map(on_host, parts)) if not isinstance(parts[0], dict) else parts for parts in zip(*batches, strict=True)
    ]
    axis = 1 if window.layout == "LBC" else 0
    extras = None
    if isinstance(found[-1][0], dict):
        columns = found.pop()
        extras = {
            name: np.concatenate([on_host(c[name]) for c in columns], axis if name == "mask" else 0)
            for name in columns[0]
        }
    inputs = np.concatenate(found[0], axis)
    targets = np.concatenate(found[1], axis if window.horizon else 0) if len(found) > 1 else None
    return All(inputs, targets, extras)


def bits_of(dtype: Any, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Any bits at all: with NaN of many kinds, infinity, zero below zero and the smallest numbers."""
    dtype, random = np.dtype(dtype), np.random.default_rng(seed)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    return np.frombuffer(random.bytes(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)


def same_bits(one: np.ndarray, other: np.ndarray) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.tobytes() == np.ascontiguousarray(other).tobytes()


def taken(array: np.ndarray, starts: Any, length: int, dilation: int = 1) -> np.ndarray:
    """[B, length, ...] by NumPy's own view of all windows."""
    view = sliding_window_view(array, (length - 1) * dilation + 1, axis=0)
    return np.moveaxis(view[np.asarray(starts, int)][..., ::dilation], -1, 1)


def arranged(windows: np.ndarray, layout: str) -> np.ndarray:
    """[B, L, ...] in a layout."""
    return {"BLC": windows, "BCL": np.moveaxis(windows, 1, -1), "LBC": windows.swapaxes(0, 1)}[layout]


# --- Which windows there are ---


def enumerated(
    stretches: list[tuple[int, int, int]], lengths: list[int], window: Window, has_targets: bool
) -> list[int]:
    """Rows of first steps, one at a time. `stretches`: (series, first row, end)."""
    begins = np.cumsum([0, *lengths]).tolist()
    found = []
    last = window.length - 1
    if has_targets:
        at = {"start": 0, "end": last, "after": last + 1}[window.target or ("after" if window.horizon else "end")]
        last = max(last, at + max(window.horizon, 1) - 1)
    for series, first, end in stretches:
        allowed = range(begins[series], begins[series + 1])[window.start_index : window.end_index]
        rows = [row for row in range(first, end) if row in allowed]
        for row in rows[:: window.stride]:
            if row + last * window.dilation in rows:
                found.append(row)
    return found


def existing(series: Series, window: Window, device: str, **options: Any) -> list[int]:
    try:
        return cut(series, window.replace(extras=["start"]), device, **options).extras["start"].tolist()
    except ValueError as error:
        if f"length={window.length} is too long: with" not in str(error):
            raise
        return []


indices = st.none() | st.integers(-12, 12)


@settings(max_examples=200)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any),
    gaps=st.sets(st.integers(0, 35), max_size=4),
    length=st.integers(1, 5),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    ahead=st.sampled_from([{}, {"target": "start"}, {"target": "after"}, {"horizon": 1}, {"horizon": 3}]),
    has_targets=st.booleans(),
    start_index=indices,
    end_index=indices,
)
def test_the_windows_that_exist(
    device, lengths, gaps, length, stride, dilation, ahead, has_targets, start_index, end_index
) -> None:
    """The same for groups, for a list of arrays and for segments, as plain Python finds them."""
    window = Window(length, stride=stride, dilation=dilation, start_index=start_index, end_index=end_index, **ahead)
    total = sum(lengths)
    values, ids = np.arange(total), np.repeat(np.arange(len(lengths)), lengths)
    targets = values * 10 if has_targets else None
    # Without targets of its own a series' future is all of its channels.
    wanted = has_targets or "horizon" in ahead or ahead.get("target") == "after"
    edges = np.cumsum([0, *lengths]).tolist()
    whole = [(number, *edges[number : number + 2]) for number in range(len(lengths))]
    expected = enumerated(whole, lengths, window, wanted)
    assert existing(Series(values, targets, groups=ids), window, device) == expected
    parts = [values[first:end] for _, first, end in whole]
    panel = Series(parts, None if targets is None else [p * 10 for p in parts])
    assert existing(panel, window, device) == expected
    present = [row not in gaps for row in range(total)]
    cuts = sorted({0, total, *edges, *(g for g in gaps if g < total), *(g + 1 for g in gaps if g < total)})
    stretches = [(int(ids[first]), first, end) for first, end in itertools.pairwise(cuts) if present[first]]
    if not stretches:
        return
    with_gaps = Series(values, targets, groups=ids, segments=[(first, end) for _, first, end in stretches])
    assert existing(with_gaps, window, device) == enumerated(stretches, lengths, window, wanted)


def test_a_hundred_thousand_short_series() -> None:
    """No object a window or a series: what is kept is a few numbers a series, and a step costs its own."""
    lengths = np.resize([3, 7, 2, 5], 100_000)
    ids = np.repeat(np.arange(len(lengths)), lengths)
    series = Series(np.arange(len(ids), dtype=np.float32), groups=ids)
    window = Window(3)
    tracemalloc.start()
    windows = Windows(window, series.segments, bounds=series.bounds)
    step = windows.step(np.arange(0, len(windows), 1000), seed=0, epoch=0, first=0)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    expected = np.array(
        [row for start, n in zip(series.bounds, lengths, strict=False) for row in range(start, start + n - 2)]
    )
    assert len(windows) == len(expected)
    np.testing.assert_array_equal(step.rows, expected[::1000])
    assert kept < 100_000 * 24
    assert peak < 100_000 * 120
    found = cut(series, window, batch_size=4096, shuffle=True, seed=3).inputs
    np.testing.assert_array_equal(np.sort(found[:, 0]), expected)
    np.testing.assert_array_equal(found, found[:, :1] + np.arange(3))


def test_too_short_series_are_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    series = Series([np.zeros(n) for n in (3, 9, 4, 5, 0)])
    with caplog.at_level(logging.WARNING, "gpuload"):
        loader = gpuload.Loader(series, Window(3, dilation=2), batch_size=2, device="cpu", prefetch=0)
        assert len(list(loader)) == len(list(loader)) == 3
    (record,) = caplog.records
    assert record.getMessage() == (
        "2 of 5 series or segments are shorter than the 5 rows that a window takes, and have no window"
    )
    caplog.clear()
    gpuload.Loader(Series([np.zeros(5), np.zeros(9)]), Window(5), batch_size=2, device="cpu")
    assert not caplog.records


@pytest.mark.parametrize("name", ["length", "stride", "dilation", "horizon", "start_index", "end_index"])
@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.uint64, np.int64])
def test_options_as_numbers_of_numpy(name: str, kind: type) -> None:
    """They do not overflow, and are shown as numbers."""
    options = {"length": 100, "stride": 2, "dilation": 2, "horizon": 2, name: kind(100 if name == "length" else 2)}
    given_, plain = (Window(**{k: to(v) for k, v in options.items()}) for to in (lambda v: v, int))
    assert repr(given_) == repr(plain)
    series = Series([np.arange(600), np.arange(600)])
    assert existing(series, given_, "cpu", batch_size=400) == existing(series, plain, "cpu", batch_size=400)


@pytest.mark.parametrize("large", [2**31, 2**62, 2**63 - 1, 2**63, 10**30])
def test_numbers_that_no_series_reaches(large: int) -> None:
    series = Series([np.zeros(20), np.zeros(20)])
    assert existing(series, Window(3, end_index=large), "cpu") == [*range(18), *range(20, 38)]
    assert existing(series, Window(3, start_index=-large), "cpu") == [*range(18), *range(20, 38)]
    assert existing(series, Window(3, stride=large), "cpu") == [0, 20]
    assert existing(series, Window(1, dilation=min(large, 2**40), missing="omit"), "cpu") == [*range(40)]
    for options in ({"start_index": large}, {"end_index": -large}, {"dilation": large}, {"horizon": large}):
        assert existing(series, Window(3, **options), "cpu") == []
    assert existing(series, Window(large), "cpu") == []


def test_none_is_long_enough() -> None:
    with refused(
        "length=30 is too long: with dilation=2 and horizon=4 a window and its targets take 67 rows, but the longest "
        "series or segment has 20; lower length, dilation or horizon"
    ):
        cut(Series([np.zeros(20), np.zeros(4)]), Window(30, dilation=2, horizon=4))
    with refused(
        "length=9 is too long: with dilation=1 and horizon=0 a window takes 9 rows, but the longest series or segment "
        "between start_index and end_index has 5; lower"
    ):
        cut(Series(np.zeros(20)), Window(9, start_index=-5))


# --- What they carry ---

DTYPES = ["bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", ">i2", ">f4", ">f8"]


@pytest.mark.parametrize("item", [(), (1,), (3,), (2, 5)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_bit_for_bit(device, dtype: str, item: tuple[int, ...]) -> None:
    values, targets = bits_of(dtype, (50, *item)), bits_of(dtype, (50, *item), seed=1)
    series = Series(values, targets)
    native = np.dtype(dtype).newbyteorder("=")
    for dilation in (1, 3):
        found = cut(series, Window(5, dilation=dilation, extras=["start"]), device)
        starts = range(50 - 4 * dilation)
        assert found.extras["start"].tolist() == list(starts)
        same_bits(found.inputs, taken(values, starts, 5, dilation).astype(native))
        same_bits(found.targets, targets[4 * dilation :].astype(native))


def test_bfloat16_bit_for_bit(device) -> None:
    values = bits_of("u2", (50, 3)).view(ml_dtypes.bfloat16)
    with np.errstate(invalid="ignore"):  # A cast may change which NaN it is.
        quiet = np.where(np.isnan(values), ml_dtypes.bfloat16(1), values)
    for framework in ["torch"] + ["numpy"] * (device == "cpu"):
        found = cut(Series(quiet, targets=quiet), Window(4, horizon=2), device, framework=framework)
        same_bits(found.inputs, taken(quiet, range(45), 4))
        same_bits(found.targets, taken(quiet, np.arange(45) + 4, 2))


FORMS = {
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "reversed": lambda a: a[::-1],
    "mirrored": lambda a: a[:, ::-1],
    "second": lambda a: np.repeat(a, 2, 0)[::2],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "columns": lambda a: np.repeat(a, 2, 1)[:, ::2],
    "rows of a wider one": lambda a: np.concatenate([a, a], 1)[:, :3],
    "one column": lambda a: a[:, 1],
    "three axes": lambda a: a.reshape(-1, 3, 1).transpose(0, 2, 1),
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
}


@pytest.mark.parametrize("layout", ["BLC", "BCL", "LBC"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_memory(device, form: str, layout: str) -> None:
    values = FORMS[form](bits_of("f4", (60, 3)))
    for length, dilation, horizon in ((4, 1, 0), (4, 2, 3), (1, 1, 1), (1, 5, 2)):
        window = Window(length, dilation=dilation, horizon=horizon, target="after", layout=layout, extras=["mask"])
        found = cut(Series(values), window, device)
        starts = np.arange(60 - (length + max(horizon, 1) - 1) * dilation)
        expected = taken(values, starts, length, dilation)
        same_bits(found.inputs, arranged(expected, layout))
        same_bits(found.extras["mask"], arranged(~np.isnan(expected), layout))
        future = taken(values, starts + length * dilation, max(horizon, 1), dilation)
        same_bits(found.targets, arranged(future, layout) if horizon else future[:, 0])


@pytest.mark.parametrize("residency", ["auto", "host"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_mapped_files(device, tmp_path: pathlib.Path, dtype: str, order: str, residency: str) -> None:
    values = bits_of(dtype, (200, 4))
    np.save(tmp_path / "values.npy", np.asarray(values, order=order))
    mapped = np.memmap(tmp_path / "raw", dtype, "w+", shape=values.shape, order=order)
    mapped[:] = values
    expected = taken(values, range(198), 3).astype(np.dtype(dtype).newbyteorder("="))
    for source in (tmp_path / "values.npy", mapped):
        series = Series(source, targets=source)
        found = cut(series, Window(3), device, batch_size=50, residency=residency, threads=2)
        same_bits(found.inputs, expected)
        same_bits(found.targets, expected[:, 2])


def test_tensors_and_frames(device) -> None:
    values = LEVELS.astype(np.float32)
    frame = pd.DataFrame(values, columns=list("abc"))
    for source, targets in ((torch.from_numpy(values), torch.arange(300)), (frame, pd.Series(range(300)))):
        found = cut(Series(source, targets), Window(8, target="start"), device, batch_size=64)
        same_bits(found.inputs, taken(values, range(293), 8))
        same_bits(found.targets, np.arange(293))


class Reference(torch.utils.data.Dataset):
    """The program that people have."""

    def __init__(self, data: np.ndarray, labels: np.ndarray, seq_length: int):
        self.data, self.labels, self.seq_length = data, labels, seq_length

    def __len__(self) -> int:
        return len(self.data) - self.seq_length + 1

    def __getitem__(self, idx: int) -> tuple[np.ndarray, Any]:
        return self.data[idx : idx + self.seq_length], self.labels[idx + self.seq_length - 1]


def test_the_program_that_people_have(device) -> None:
    data, labels = LEVELS.astype(np.float32), np.arange(300)
    theirs = list(torch.utils.data.DataLoader(Reference(data, labels, 20), batch_size=64))
    ours = gpuload.Loader(
        Series(data, targets=labels), Window(20), batch_size=64, device=device, framework="torch", seed=0
    )
    assert len(ours) == len(theirs)
    for (inputs, targets), (x, y) in zip(ours, theirs, strict=True):
        assert inputs.dtype == x.dtype
        assert targets.dtype == y.dtype
        assert inputs.device.type == (GPU if device == GPU else "cpu")
        assert torch.equal(inputs.cpu(), x)
        assert torch.equal(targets.cpu(), y)


@pytest.mark.parametrize("item", [(), (3,)], ids=str)
@pytest.mark.parametrize(("target", "at"), [("start", 0), ("end", 4), ("after", 5), (None, 4)])
def test_where_a_label_stands(device, target, at: int, item: tuple[int, ...]) -> None:
    targets = bits_of("i8", (40, *item))
    found = cut(Series(np.arange(40.0), targets), Window(5, dilation=2, target=target), device)
    rows = np.arange(40 - 2 * max(at, 4))
    same_bits(found.targets, targets[rows + 2 * at])
    same_bits(found.inputs, taken(np.arange(40.0), rows, 5, 2))


@pytest.mark.parametrize("layout", ["BLC", "BCL", "LBC"])
@pytest.mark.parametrize("channels", [[2], [0, 2], [2, 0, 2], None])
@pytest.mark.parametrize("target", ["end", "after", "horizon"])
def test_channels_as_targets(device, target: str, channels, layout: str) -> None:
    values = LEVELS.astype(np.float32)
    options = {"horizon": 4} if target == "horizon" else {"target": target}
    window = Window(6, layout=layout, target_channels=channels, dtype="float16", **options)
    found = cut(Series(values), window, device)
    if channels is None and target == "end":
        assert found.targets is None
        return
    steps, first = (4, 6) if target == "horizon" else (1, 5 if target == "end" else 6)
    starts = np.arange(300 - max(6, first + steps) + 1)
    expected = taken(values, starts + first, steps)[..., channels or [0, 1, 2]].astype(np.float16)
    same_bits(found.targets, arranged(expected, layout) if target == "horizon" else expected[:, 0])
    # In place of the targets of the series.
    if channels:
        both = cut(Series(values, targets=np.zeros(300)), window, device)
        same_bits(both.targets, found.targets)


@pytest.mark.parametrize("horizon", [0, 2])
def test_targets_that_are_no_numbers(horizon: int) -> None:
    names = np.array([f"at {n}" for n in range(30)])
    rows = np.arange(30 - 4 - horizon + 1)
    expected = names[rows + 3] if not horizon else taken(names, rows + 4, 2)
    for targets in (names, names.astype(object), np.repeat(names.astype(object), 2)[::2]):
        found = cut(Series(np.zeros(30), targets=targets), Window(4, horizon=horizon)).targets
        assert found.dtype == targets.dtype
        assert (found == expected).all()
    times = np.arange(30).astype("M8[h]")
    assert (cut(Series(np.zeros(30), targets=times), Window(4)).targets == times[3:]).all()
    gc.collect()


def test_extras(device) -> None:
    assert cut(Series(GAPS), Window(9), device).extras is None
    found = cut(Series(GAPS, targets=np.zeros(300)), Window(9, stride=4, extras=("start", "mask")), device)
    assert list(found.extras) == ["start", "mask"]
    same_bits(found.extras["start"], np.arange(0, 292, 4))
    same_bits(found.extras["mask"], ~np.isnan(taken(GAPS, range(0, 292, 4), 9)))
    whole = cut(Series(np.arange(20)), Window(3, extras=(name for name in ["mask"])), device).extras["mask"]
    assert whole.all()
    assert whole.shape == (18, 3)


# --- Normalization ---


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "int64", "float16", "bool"])
@pytest.mark.parametrize("mean", [None, 2.5, [1, 2, 3]])
@pytest.mark.parametrize("std", [None, 4, np.array([0.5, 1, 2])])
def test_mean_and_std_of_the_series(device, dtype: str, mean, std) -> None:
    if mean is None and std is None:
        return
    values = (LEVELS * 3).astype(dtype)
    window = Window(4, mean=mean, std=std, horizon=2, target_channels=[2, 0])
    found = cut(Series(values), window, device)
    expected = (values.astype(float) - (0 if mean is None else mean)) / (1 if std is None else std)
    assert found.inputs.dtype == (dtype if dtype.startswith("float") else "float32")
    # One rounding to the output's dtype, and a few of float32.
    close = {"rtol": 1e-3 if dtype == "float16" else 1e-6, "atol": 2e-3 if dtype == "float16" else 1e-5}
    np.testing.assert_allclose(found.inputs, taken(expected, range(295), 4), **close)
    np.testing.assert_allclose(found.targets, taken(expected, np.arange(295) + 4, 2)[..., [2, 0]], **close)


def of_windows(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[B, 1, C] mean and standard deviation of each window, in double precision; 0 where it is all missing."""
    frame = np.moveaxis(windows.astype(float), 1, -1)
    rows = [pd.Series(row) for row in frame.reshape(-1, frame.shape[-1])]
    mean, std = (np.nan_to_num([getattr(r, f)(**o) for r in rows]) for f, o in (("mean", {}), ("std", {"ddof": 0})))
    return tuple(np.expand_dims(part.reshape(frame.shape[:-1]), 1) for part in (mean, std))


@pytest.mark.parametrize("layout", ["BLC", "BCL", "LBC"])
@pytest.mark.parametrize("per_sample", ["center", "standardize"])
@pytest.mark.parametrize("values", [LEVELS.astype(np.float32), GAPS, (LEVELS * 50).astype(np.int16), LEVELS])
def test_each_window_by_its_own_numbers(device, values: np.ndarray, per_sample, layout: str) -> None:
    window = Window(
        11, per_sample=per_sample, horizon=3, target_channels=[1], layout=layout, extras=["mean", "scale", "mask"]
    )
    # The mean of large numbers, in float32.
    close = SINGLE | {"atol": max(2e-5, 1e-7 * np.nanmax(np.abs(values.astype(float))))}
    found = cut(Series(values), window, device)
    raw = taken(values, range(287), 11)
    mean, std = of_windows(raw)
    scale = std + 1e-6 if per_sample == "standardize" else np.ones_like(std)
    np.testing.assert_allclose(found.inputs, arranged((raw - mean) / scale, layout), **close)
    future = taken(values, np.arange(287) + 11, 3)
    np.testing.assert_allclose(found.targets, arranged(((future - mean) / scale)[..., [1]], layout), **close)
    np.testing.assert_allclose(found.extras["mean"], mean[:, 0], **close)
    np.testing.assert_allclose(found.extras["scale"], scale[:, 0], **close)
    assert {found.extras[name].dtype.name for name in ("mean", "scale")} == {"float32"}


@pytest.mark.parametrize("offset", [1e6, -1e6])
def test_small_changes_on_a_high_level(device, offset: float) -> None:
    """Between 1e6 - 1 and 1e6 + 1 float32 has 33 numbers, and squares of those would have none of their digits left."""
    values = (offset + np.random.default_rng(1).uniform(-1, 1, (400, 2))).astype(np.float32)
    found = cut(Series(values), Window(100, per_sample="standardize", extras=["mean", "scale"]), device)
    raw = taken(values, range(301), 100)
    mean, std = of_windows(raw)
    np.testing.assert_allclose(found.inputs, (raw - mean) / (std + 1e-6), **SINGLE)
    np.testing.assert_allclose(found.extras["scale"], std[:, 0] + 1e-6, rtol=1e-5)
    back = found.inputs * found.extras["scale"][:, None] + found.extras["mean"][:, None]
    np.testing.assert_allclose(back, raw, rtol=1e-7)


@pytest.mark.parametrize("scaling", [0, 0.3])
@pytest.mark.parametrize("per_sample", ["center", "standardize"])
def test_mean_and_scale_turn_back(device, per_sample, scaling: float) -> None:
    window = Window(20, per_sample=per_sample, scaling=scaling, extras=["mean", "scale"], target="after")
    found = cut(Series(LEVELS.astype(np.float32)), window, device)
    mean, scale = found.extras["mean"], found.extras["scale"]
    np.testing.assert_allclose(found.inputs * scale[:, None] + mean[:, None], taken(LEVELS, range(280), 20), **SINGLE)
    np.testing.assert_allclose(found.targets * scale + mean, LEVELS[20:], **SINGLE)


@pytest.mark.parametrize("level", [0.0, 7.25, 3e7, np.nan])
@pytest.mark.parametrize("missing", ["keep", "zero", "forward"])
def test_windows_without_change(device, level: float, missing) -> None:
    """Constant ones become 0; of one that is all missing there is nothing to tell."""
    values = np.full((20, 2), level, np.float32)
    window = Window(5, per_sample="standardize", missing=missing, extras=["mean", "scale", "mask"])
    found = cut(Series(values), window, device)
    expected = np.nan if missing == "keep" and np.isnan(level) else 0
    np.testing.assert_array_equal(found.inputs, np.full((16, 5, 2), expected))
    np.testing.assert_array_equal(found.extras["mean"], np.full((16, 2), np.nan_to_num(level), np.float32))
    np.testing.assert_allclose(found.extras["scale"], 1e-6, rtol=1e-6)
    assert found.extras["mask"].all() == (not np.isnan(level))


def test_infinity_says_nothing(device) -> None:
    values = np.array([1, np.inf, 2, -np.inf, 3e38, -3e38, 5, 6], np.float32)
    for options in ({"per_sample": "standardize"}, {"zoom": 0.5}, {"jitter": 1.0}, {"scaling": 0.9}, {"std": 1e-6}):
        assert cut(Series(values), Window(3, **options), device).inputs.shape == (6, 3)


# --- fit ---


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ">f4", "int16", "uint8", "bool", "bfloat16"])
def test_fit(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = LEVELS.mean(0) < LEVELS if dtype == "bool" else LEVELS * 4
    values = levels.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    window = Window(8, stride=3, jitter=0.5)
    fitted = gpuload.fit(Series(values), window)
    assert repr(fitted).startswith("Window(8, stride=3, mean=(")
    assert (fitted.jitter, window.mean) == (0.5, None)
    for chunk in (2**20, 30, 1):
        monkeypatch.setattr("gpuload.statistics.NUMBERS_READ_AT_ONCE", chunk)
        fitted = gpuload.fit(Series(values), window)
        np.testing.assert_allclose(fitted.mean, values.astype(float).mean(0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(fitted.std, values.astype(float).std(0), rtol=1e-12)


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any),
    start_index=indices,
    end_index=indices,
    chunk=st.integers(1, 40),
)
def test_fit_of_the_rows_that_windows_may_use(monkeypatch, lengths, start_index, end_index, chunk) -> None:
    monkeypatch.setattr("gpuload.statistics.NUMBERS_READ_AT_ONCE", chunk)
    total = sum(lengths)
    values = GAPS[:total].astype(float)
    parts = np.split(np.arange(total), np.cumsum(lengths)[:-1])
    used = np.concatenate([part[start_index:end_index] for part in parts])
    rest = np.setdiff1d(np.arange(total), used)
    values[rest] = np.inf  # Would be seen at once.
    series, window = Series([values[part] for part in parts]), Window(2, start_index=start_index, end_index=end_index)
    frame = pd.DataFrame(values[used])
    mean, std = frame.mean().to_numpy(), frame.std(ddof=0).to_numpy()
    if not len(used) or np.isnan(mean).any() or not (frame.nunique() > 1).all():
        with pytest.raises(ValueError, match=r"^(start_index=.* leave no|every channel must|std must be above 0)"):
            gpuload.fit(series, window)
        return
    fitted = gpuload.fit(series, window)
    np.testing.assert_allclose(fitted.mean, mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fitted.std, std, rtol=1e-9)


def test_fit_reads_no_gap_and_keeps_digits() -> None:
    values = 1e9 + RANDOM.normal(size=(3000, 2))
    values[1000:2000] = np.nan
    values[2500:] = np.inf
    fitted = gpuload.fit(Series(values, segments=[(0, 1500), (1800, 2500)]), Window(10))
    used = np.concatenate([values[:1000], values[2000:2500]])
    np.testing.assert_allclose(fitted.mean, used.mean(0), rtol=1e-14)
    np.testing.assert_allclose(fitted.std, used.std(0), rtol=1e-6)
    normal_ = cut(Series(values[:1000]), fitted, batch_size=999).inputs
    np.testing.assert_allclose(normal_.std(axis=(0, 1)), 1, rtol=0.1)


@pytest.mark.gpu
def test_fit_on_a_gpu(device) -> None:
    if device != GPU:
        pytest.skip("for values on a GPU")
    tensor = torch.from_numpy(GAPS).to(device)
    for options in ({}, {"segments": [(0, 100), (150, 300)]}):
        expected = gpuload.fit(Series(GAPS, **options), Window(8))
        fitted = gpuload.fit(Series(tensor, **options), Window(8))
        np.testing.assert_allclose(fitted.mean, expected.mean, rtol=1e-9)
        np.testing.assert_allclose(fitted.std, expected.std, rtol=1e-9)


def test_fit_refuses() -> None:
    series = Series(LEVELS)
    with refused("transform must be a gpuload.Window for a Series, not Augment("):
        gpuload.fit(series, gpuload.Augment())
    with refused("transform must be a gpuload.Augment for images, not Window(3)"):
        gpuload.fit(gpuload.ImageArray(np.zeros((2, 3, 3, 3), np.uint8)), Window(3))
    with refused("device, zca_epsilon: for images, not for a Series; leave it out"):
        gpuload.fit(series, Window(3), zca_epsilon=1.0, device="cpu")
    with refused(
        "per_sample='center' normalizes each window by its own mean and std: leave per_sample out to fit those of the"
    ):
        gpuload.fit(series, Window(3, per_sample="center"))
    with refused(
        "std must be above 0 in every channel, but that of Series(values: float64 [300, 3], targets: none) is ("
    ):
        gpuload.fit(Series(LEVELS * [1, 0, 1]), Window(3))
    bad = (
        "every channel must have numbers, all of them finite, to be fitted, but channel 1 of "
        "Series(values: float64 [300, 3], targets: none) has"
    )
    with refused(f"{bad} no number: leave the channel out, or replace those values"):
        gpuload.fit(Series(LEVELS * [1, np.nan, 1]), Window(3))
    with refused(f"{bad} a mean of"):
        gpuload.fit(Series(np.where(LEVELS[7, 1] == LEVELS, np.inf, LEVELS)), Window(3))
    with refused("start_index=300 and end_index=None leave no row of Series(values: float64 [300, 3], targets: none)"):
        gpuload.fit(series, Window(3, start_index=300))


# --- Missing values ---


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("mean", [None, 2.0])
def test_missing_values(device, dtype: str, mean) -> None:
    values = GAPS.astype(dtype)
    values[40:60] = np.nan
    raw = taken(values, range(289), 12)
    shifted = (raw.astype(np.float32) if dtype == "float16" else raw) - (mean or 0)
    windows = [pd.DataFrame(w) for w in shifted]
    expected = {
        "keep": np.stack(windows),
        "zero": np.stack([w.fillna(0) for w in windows]),
        "forward": np.stack([w.ffill().fillna(0) for w in windows]),
    }
    for missing, rows in expected.items():
        found = cut(Series(values), Window(12, missing=missing, mean=mean, extras=["mask"]), device)
        np.testing.assert_array_equal(found.inputs, rows.astype(dtype))
        np.testing.assert_array_equal(found.extras["mask"], np.stack([~pd.DataFrame(w).isna() for w in raw]))


@pytest.mark.parametrize("per_sample", ["center", "standardize"])
def test_forward_repeats_normalized_values(device, per_sample) -> None:
    found = cut(Series(GAPS), Window(9, missing="forward", per_sample=per_sample), device).inputs
    keep = cut(Series(GAPS), Window(9, per_sample=per_sample), device).inputs
    np.testing.assert_array_equal(found, np.stack([pd.DataFrame(w).ffill().fillna(0) for w in keep]))


@given(
    length=st.integers(1, 6),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 4),
    ahead=st.sampled_from([{}, {"target": "after"}, {"target": "start"}, {"horizon": 3}]),
    source=st.sampled_from(["values", "targets", "labels", "channels"]),
    seed=st.integers(0, 5),
)
def test_omit(device, length, stride, dilation, ahead, source, seed) -> None:
    """Windows with a missing value, in their targets too, are not there; all others are, in their order."""
    random = np.random.default_rng(seed)
    values = np.where(random.uniform(size=(80, 2)) < 0.06, np.nan, random.normal(size=(80, 2)))
    targets = {
        "values": None,
        "channels": None,
        "targets": np.where(random.uniform(size=80) < 0.06, np.nan, 1.0),
        "labels": np.arange(80),
    }[source]
    window = Window(
        length,
        stride=stride,
        dilation=dilation,
        missing="omit",
        target_channels=[1] if source == "channels" else None,
        **ahead,
    )
    series = Series(values, targets, groups=np.repeat([0, 1], [50, 30]))
    every = cut(series, window.replace(missing="keep", extras=["start"]), device)
    whole = ~np.isnan(every.inputs).any(axis=(1, 2))
    if every.targets is not None and every.targets.dtype.kind == "f":
        whole &= ~np.isnan(every.targets.reshape(len(whole), -1)).any(axis=1)
    if not whole.any():
        with refused(f"missing='omit' leaves no window: each of the {len(whole)} has a missing value; pass missing="):
            cut(series, window, device)
        return
    found = cut(series, window.replace(extras=["start"]), device)
    np.testing.assert_array_equal(found.extras["start"], every.extras["start"][whole])
    same_bits(found.inputs, every.inputs[whole])


def test_omit_reads_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuload.windows.job.ROWS_READ_AT_ONCE", 7)
    found = cut(Series(GAPS), Window(2, dilation=3, missing="omit", extras=["start"])).extras["start"]
    raw = taken(GAPS, range(297), 2, 3)
    assert found.tolist() == np.flatnonzero(~np.isnan(raw).any(axis=(1, 2))).tolist()


# --- Random numbers ---


def philox_in_python(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4x32-10, word by word as its paper has it."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        one, two = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = two >> 32 ^ b ^ k, two & 0xFFFFFFFF, one >> 32 ^ d ^ m, one & 0xFFFFFFFF
        k, m = (k + 0x9E3779B9) & 0xFFFFFFFF, (m + 0xBB67AE85) & 0xFFFFFFFF
    return [a, b, c, d]


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_by_its_known_answers(counter: str, key: str, words: str) -> None:
    """Random123's kat_vectors."""
    counted, keyed, expected = ([int(word, 16) for word in text.split()] for text in (counter, key, words))
    assert philox_in_python(counted, keyed) == expected
    found = philox4x32(tuple(np.array([word], np.uint32) for word in counted), tuple(keyed))
    assert [int(word[0]) for word in found] == expected


@given(
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**33),
    positions=st.lists(st.integers(0, 2**40), min_size=1, max_size=3),
    count=st.integers(1, 9),
)
def test_noise_one_number_at_a_time(seed, epoch, positions, count) -> None:
    found = normal(seed, epoch, np.array(positions), count)
    assert found.shape == (len(positions), count)
    assert found.dtype == np.float32
    for row, position in zip(found, positions, strict=True):
        for number, drawn in enumerate(row):
            words = philox_in_python(
                [number // 4, epoch % 2**32, position % 2**32, position >> 32], [seed % 2**32, seed >> 32]
            )
            p, q = words[number % 4 // 2 * 2 :][:2]
            radius = math.sqrt(-2 * math.log(((p >> 8) + 1) / 2**24))
            angle = 2 * math.pi * (q >> 8) / 2**24
            expected = radius * (math.sin(angle) if number % 2 else math.cos(angle))
            # The angle in float32, and near u = 1 the logarithm.
            assert abs(drawn - expected) < 1e-5


def drawn(series: Series, window: Window, batch_size: int = 64, **options: Any) -> Iterator[Any]:
    """The steps of an epoch."""
    loader = gpuload.Loader(series, window, batch_size=batch_size, device="cpu", seed=options.pop("seed", 5), **options)
    return loader.steps(options.pop("epoch", 0))


def test_noise_is_normal(device) -> None:
    """Of every number that windows hold: over them all, at each step, and from one to the next."""
    found = cut(Series(np.zeros((3005, 2), np.float32)), Window(6, jitter=0.5), device, batch_size=300).inputs / 0.5
    assert found.shape == (3000, 6, 2)
    assert scipy.stats.kstest(found.ravel(), "norm").pvalue > 1e-3
    assert all(
        scipy.stats.kstest(found[:, step, channel], "norm").pvalue > 1e-4 for step in range(6) for channel in (0, 1)
    )
    correlations = np.corrcoef(np.concatenate([found[:-1].reshape(2999, 12), found[1:].reshape(2999, 12)], 1).T)
    # Of independent ones the largest of 276 is below 4.5 / sqrt(2999), but for one run in 500.
    assert np.abs(correlations - np.eye(24)).max() < 4.5 / math.sqrt(2999)


def test_noise_is_added_last(device) -> None:
    options = {"missing": "zero", "per_sample": "standardize", "scaling": 0.2, "zoom": 0.1}
    noise = cut(Series(np.zeros_like(GAPS)), Window(8, jitter=0.3), device).inputs
    without, found = (cut(Series(GAPS), Window(8, jitter=j, **options), device).inputs for j in (0, 0.3))
    np.testing.assert_allclose(found - without, noise, atol=1e-5)


def test_scaling(device) -> None:
    series, window = Series(LEVELS.astype(np.float32)), Window(4, scaling=(0.5, 1.5), horizon=2)
    found = cut(series, window, device)
    factors = np.concatenate([step.factors for step in drawn(series, window, seed=0)])
    np.testing.assert_allclose(found.inputs, taken(LEVELS, range(295), 4) * factors[:, None, None], **SINGLE)
    np.testing.assert_allclose(found.targets, taken(LEVELS, np.arange(295) + 4, 2) * factors[:, None, None], **SINGLE)
    factors = np.concatenate([step.factors for step in drawn(Series(np.zeros(4000)), window)])
    assert scipy.stats.kstest(factors, "uniform", (0.5, 1.0)).pvalue > 1e-3
    # Labels are no channels.
    labels = cut(Series(LEVELS, targets=np.arange(300.0)), Window(4, scaling=0.5), device).targets
    np.testing.assert_array_equal(labels, np.arange(3.0, 300))


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_reverse(device, length: int) -> None:
    series = Series(LEVELS.astype(np.float32), targets=np.arange(300))
    window = Window(length, reverse=1.0, extras=["mask"])
    found = cut(series, window, device)
    same_bits(found.inputs, taken(series.values, range(301 - length), length)[:, ::-1])
    assert found.targets.tolist() == list(range(length - 1, 300))
    backwards = np.concatenate([step.pace < 0 for step in drawn(Series(np.zeros(4000)), Window(3, reverse=0.25))])
    assert scipy.stats.binomtest(int(backwards.sum()), len(backwards), 0.25).pvalue > 1e-3
    none = cut(series, Window(length, reverse=0.0, zoom=(1.0, 1.0)), device)
    same_bits(none.inputs, taken(series.values, range(301 - length), length))


@pytest.mark.parametrize("reverse", [0, 0.5])
@pytest.mark.parametrize("layout", ["BLC", "BCL", "LBC"])
@pytest.mark.parametrize("length", [1, 9, 24])
def test_zoom(device, length: int, layout: str, reverse: float) -> None:
    """As np.interp reads between steps, clamped to the window; the targets are untouched."""
    series = Series(LEVELS.astype(np.float32))
    window = Window(length, zoom=(0.4, 2.0), reverse=reverse, horizon=2, layout=layout)
    found = cut(series, window, device)
    starts = np.arange(300 - length - 1)
    middle, steps = (length - 1) / 2, np.arange(length)
    paces = np.concatenate([step.pace for step in drawn(series, window, seed=0)])
    expected = np.empty((len(starts), length, 3))
    for number, (start, pace) in enumerate(zip(starts, paces, strict=True)):
        for channel in range(3):
            rows = LEVELS[start : start + length, channel]
            expected[number, :, channel] = np.interp(middle + (steps - middle) * float(pace), steps, rows)
    # A place in float32 is off by up to 1e-6 of a step, and steps by up to 60.
    np.testing.assert_allclose(found.inputs, arranged(expected, layout), rtol=1e-5, atol=2e-4)
    same_bits(found.targets, arranged(taken(series.values, starts + length, 2), layout))
    if length == 9:
        many = np.concatenate([step.pace for step in drawn(Series(np.zeros(4000)), window)])
        assert scipy.stats.kstest(np.abs(many), "uniform", (0.4, 1.6)).pvalue > 1e-3
        assert ((many < 0).any(), (many > 0).any()) == (reverse > 0, True)


def test_zoom_beside_missing_values(device) -> None:
    """A number between two steps is there where both are, and is NaN elsewhere."""
    series, window = Series(GAPS), Window(10, zoom=0.3, extras=["mask"])
    found = cut(series, window, device)
    np.testing.assert_array_equal(found.extras["mask"], ~np.isnan(found.inputs))
    zero = cut(series, window.replace(missing="zero"), device)
    np.testing.assert_array_equal(zero.extras["mask"], found.extras["mask"])
    assert not np.isnan(zero.inputs).any()


EVERYTHING = Window(
    6, zoom=0.3, reverse=0.5, scaling=0.2, jitter=0.1, per_sample="standardize", missing="forward", extras=["start"]
)


@pytest.mark.parametrize("last_batch", ["keep", "drop", "pad"])
def test_a_window_does_not_know_its_neighbours(device, last_batch) -> None:
    """Nor its batch, nor the piece that it was cut in, nor how many are made ahead."""
    expected = cut(Series(GAPS), EVERYTHING, device, 295, shuffle=True, seed=4)
    for size, prefetch in ((1, 0), (4, 1), (64, 2), (295, 0), (400, 3)):
        if last_batch == "drop" and size > 295:
            continue
        options = {"last_batch": last_batch, "prefetch": prefetch}
        found = cut(Series(GAPS), EVERYTHING, device, size, shuffle=True, seed=4, **options)
        count = {"keep": 295, "drop": 295 // size * size, "pad": -(-295 // size) * size}[last_batch]
        assert len(found.inputs) == count
        np.testing.assert_array_equal(found.extras["start"], np.resize(expected.extras["start"], count))
        np.testing.assert_array_equal(found.inputs[:295], expected.inputs[:count])


def test_draws_are_those_of_seed_epoch_and_position(device) -> None:
    def epochs(seed: int) -> list[np.ndarray]:
        loader = gpuload.Loader(Series(GAPS), EVERYTHING, batch_size=50, seed=seed, device=device, framework="numpy")
        return [np.concatenate([inputs for inputs, _ in loader]) for _ in range(3)]

    one, again, other = epochs(1), epochs(1), epochs(2)
    for first, second, third in zip(one, again, other, strict=True):
        same_bits(first, second)
        assert not (first == third).any(axis=(1, 2)).all()
    assert len({epoch.tobytes() for epoch in one}) == 3


@given(first=st.sampled_from([0, 5, 2**31, 2**32 - 2, 2**32, 2**40]), seed=st.integers(0, 2**64 - 1))
def test_a_step_from_anywhere(first: int, seed: int) -> None:
    """Also where the position takes more than 32 bits: the draws of a stretch are those of its parts."""
    windows = Windows(EVERYTHING, np.array([[0, 300]]))
    chosen = np.arange(20, 30)
    step = windows.step(chosen, seed=seed, epoch=3, first=first)
    assert step.positions.tolist() == list(range(first, first + 10))
    for number in range(0, 10, 3):
        part = windows.step(chosen[number : number + 2], seed=seed, epoch=3, first=first + number)
        for name in ("rows", "pace", "factors", "positions"):
            np.testing.assert_array_equal(getattr(part, name), getattr(step, name)[number : number + 2])
    far = windows.step(chosen, seed=seed, epoch=3, first=first + 2**32)
    assert not (far.pace == step.pace).any()
    noise = [normal(seed, 3, s.positions, 4) for s in (step, far)]
    assert not (noise[0] == noise[1]).any()


# --- Casts ---


@pytest.mark.parametrize("layout", ["BLC", "BCL", "LBC"])
@pytest.mark.parametrize("out", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
def test_casts(device, dtype: str, out, layout: str) -> None:
    """Rounded to nearest, as NumPy does (bfloat16 by way of float32); too large becomes infinity, without a warning."""
    given_ = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    values = bits_of("u2" if dtype == "bfloat16" else dtype, (60, 3)).view(given_)
    if given_.kind not in "biu":
        with np.errstate(invalid="ignore"):
            values = np.where(np.isnan(values), given_.type(0), values)
    found = cut(Series(values), Window(4, dtype=out, layout=layout), device, framework="torch")
    with np.errstate(over="ignore"):
        expected = values.astype("float32" if out == "bfloat16" else out)
        expected = expected.astype(ml_dtypes.bfloat16) if out == "bfloat16" else expected
    same_bits(found.inputs, arranged(taken(expected, range(57), 4), layout))


def test_dtypes_of_what_is_computed(device) -> None:
    for dtype, plain, computed in (
        ("bool", "bool", "float32"),
        ("int64", "int64", "float32"),
        ("float16", "float16", "float16"),
        ("float32", "float32", "float32"),
        ("float64", "float64", "float64"),
    ):
        series = Series(np.arange(20).astype(dtype))
        assert cut(series, Window(3), device).inputs.dtype == plain
        assert cut(series, Window(3, mean=0.0), device).inputs.dtype == computed
    # Whole numbers are computed in double precision where float32 does not hold them.
    large = cut(Series(np.arange(20) + 2**40), Window(3, per_sample="center"), device).inputs
    np.testing.assert_array_equal(large, np.broadcast_to([-1, 0, 1], (18, 3)))


def test_numpy_in_bfloat16() -> None:
    found = cut(Series(np.linspace(-1, 1, 30)), Window(3, dtype="bfloat16"))
    assert found.inputs.dtype == ml_dtypes.bfloat16


# --- The loader ---

PANEL = Series(
    [bits_of("u1", (n, 2), n) for n in (30, 3, 50, 21)], targets=[np.arange(n) + 1000 * n for n in (30, 3, 50, 21)]
)


@given(
    batch_size=st.integers(1, 120),
    last_batch=st.sampled_from(["keep", "drop", "pad"]),
    shuffle=st.booleans(),
    prefetch=st.integers(0, 3),
    stride=st.integers(1, 3),
    layout=st.sampled_from(["BLC", "LBC"]),
)
def test_length_is_exact(device, batch_size, last_batch, shuffle, prefetch, stride, layout) -> None:
    def loader() -> gpuload.Loader:
        options = {"last_batch": last_batch, "shuffle": shuffle, "prefetch": prefetch, "seed": 1, "device": device}
        window = Window(4, stride=stride, layout=layout, extras=["start"])
        return gpuload.Loader(PANEL, window, batch_size=batch_size, framework="numpy", **options)

    # Of 30, 50 and 21 rows; 3 are too few.
    every = [row for first, n in ((0, 30), (33, 50), (83, 21)) for row in range(first, first + n - 3, stride)]
    if last_batch == "drop" and len(every) < batch_size:
        with pytest.raises(ValueError, match=r"^last_batch='drop' leaves no batch"):
            loader()
        return
    with loader() as it:
        for _ in range(2):
            batches = iter(it)
            starts = []
            for left in reversed(range(len(it))):
                inputs, targets, extras = next(batches)
                assert len(batches) == left
                assert inputs.shape == ((4, len(targets), 2) if layout == "LBC" else (len(targets), 4, 2))
                np.testing.assert_array_equal(targets, PANEL.targets[extras["start"] + 3])
                starts.append(extras["start"])
            with pytest.raises(StopIteration):
                next(batches)
            assert [len(s) for s in starts[:-1]] == [batch_size] * (len(it) - 1)
            seen = np.concatenate(starts).tolist()
            if not shuffle:
                assert seen == np.resize(every, len(seen)).tolist()
            if last_batch == "keep":
                assert sorted(seen) == every
            elif last_batch == "drop":
                assert len(set(seen)) == len(seen) == len(every) // batch_size * batch_size
            else:
                assert len(seen) == len(it) * batch_size
                assert set(seen) == set(every)


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("window", [Window(4), EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("threads", [1, 3])
def test_held_batches_never_change(device, window: Window, framework: str, threads: int) -> None:
    loader = gpuload.Loader(
        Series(GAPS), window, batch_size=3, seed=1, device=device, framework=framework, threads=threads
    )
    held, copies = [], []
    for _ in range(3):
        for batch in loader:
            inputs = batch[0] if isinstance(batch, tuple) else batch
            held.append(inputs)
            copies.append(on_host(inputs).copy())
    for inputs, copy in zip(held, copies, strict=True):
        same_bits(on_host(inputs), copy)
    # A batch is the user's own: what is written to one is in no other, nor in the series.
    before = GAPS.copy()
    for inputs in held:
        inputs[...] = 7
    for number, inputs in enumerate(held):
        inputs[...] = number
    assert all((on_host(inputs) == number).all() for number, inputs in enumerate(held))
    same_bits(GAPS, before)


def test_batches_of_torch_are_tensors_in_their_own_right(device) -> None:
    loader = gpuload.Loader(Series(LEVELS), Window(4), batch_size=3, device=device, framework="torch")
    first, second, *_ = loader
    first.requires_grad_()
    first.sum().backward()
    second.add_(1)
    assert first.grad.shape == (3, 4, 3)


@pytest.mark.parametrize("window", [Window(4, extras=["start"]), EVERYTHING], ids=["plain", "everything"])
def test_iterators_side_by_side_breaks_and_close(device, window: Window) -> None:
    options = {"batch_size": 40, "seed": 9, "shuffle": True, "device": device, "framework": "numpy"}

    def epoch(loader: gpuload.Loader) -> np.ndarray:
        return np.concatenate([inputs for inputs, _ in loader])

    loader = gpuload.Loader(Series(GAPS), window, **options)
    alone = [epoch(loader) for _ in range(3)]
    loader.set_epoch(0)
    pairs = list(zip(loader, loader, strict=True))
    same_bits(np.concatenate([one for (one, _), _ in pairs]), alone[0])
    same_bits(np.concatenate([other for _, (other, _) in pairs]), alone[1])
    loader.set_epoch(0)
    for inputs, _ in loader:
        same_bits(inputs, alone[0][:40])
        break
    same_bits(epoch(loader), alone[1])
    loader.close()
    loader.close()
    same_bits(epoch(loader), alone[2])
    running = iter(loader)
    next(running)
    loader.close()
    loader.set_epoch(1)
    same_bits(epoch(loader), alone[1])
    assert len(list(running)) == len(loader) - 1


def test_loaders_tell_what_they_are() -> None:
    loader = gpuload.Loader(PANEL, Window(4), batch_size=8, device="cpu", seed=3)
    assert (loader.device, loader.engine) == ("cpu", "numpy")
    assert loader.source is PANEL
    assert loader.transform.length == 4
    assert repr(loader) == (
        "Loader(Series(values: uint8 [104, 2], targets: int64 [104], 4 series), Window(4), batch_size=8, seed=3, "
        "device='cpu', engine='numpy')"
    )


def test_the_series_is_there_once() -> None:
    """Neither a window nor an epoch is held beside it: what is made is a batch, and the order of the windows."""
    values = np.zeros((2**18, 16), np.float32)  # 16 MiB, of which windows are 64 times as much
    series = Series(values)
    tracemalloc.start()
    loader = gpuload.Loader(series, Window(64), batch_size=64, device="cpu", prefetch=0)
    batches = iter(loader)
    next(batches)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.shares_memory(series.values, values)
    # An order of 2 MiB, and a piece of 2 MiB; NumPy counts the 31 MiB that the engine takes and gives back untouched.
    assert peak < 42 * 2**20


@pytest.fixture
def mapped(tmp_path: pathlib.Path) -> pathlib.Path:
    """20,000 rows of 64 numbers, 5 MB."""
    np.save(tmp_path / "values.npy", np.arange(20_000 * 64, dtype=np.float32).reshape(-1, 64))
    return tmp_path / "values.npy"


@pytest.mark.parametrize("change", [-4096 * 300, 4096])
@pytest.mark.parametrize(("batch_size", "together"), [(256, 1), (30, 4)])
def test_a_file_that_changes_its_length(
    device, mapped: pathlib.Path, change: int, batch_size: int, together: int
) -> None:
    """The pieces concerned raise and are counted; the process lives, and goes on when the file is whole again."""
    size = mapped.stat().st_size
    window = Window(64, stride=16, extras=["start"])
    options = {"residency": "host"} if device == GPU else {}
    loader = gpuload.Loader(
        Series(mapped), window, batch_size=batch_size, device=device, framework="numpy", prefetch=0, **options
    )
    assert loader.pool.together == together
    batches = iter(loader)
    seen = [next(batches)[1]["start"] for _ in range(together)]
    os.truncate(mapped, size + change)
    with refused(
        f"values must keep their length while they are mapped, but {str(mapped)!r} had {size} bytes when it was opened",
        RuntimeError,
    ):
        next(batches)
    assert len(batches) == len(loader) - 2 * together
    os.truncate(mapped, size)
    seen += [extras["start"] for _, extras in batches]
    assert len(seen) == len(loader) - together
    count = batch_size * together
    np.testing.assert_array_equal(np.concatenate(seen) // 16, np.delete(np.arange(1247), np.s_[count : 2 * count]))
    # The last piece, a short one, lost too.
    batches = iter(loader)
    os.truncate(mapped, size + change)
    lost = 0
    while len(batches):
        with pytest.raises(RuntimeError, match=r"^values must keep their length"):
            next(batches)
        lost += 1
    assert lost == -(-len(loader) // together)
    assert not list(batches)


def test_omit_looks_at_the_file_first(mapped: pathlib.Path) -> None:
    series = Series(mapped)
    os.truncate(mapped, 4096)
    with pytest.raises(RuntimeError, match=r"^values must keep their length"):
        gpuload.Loader(series, Window(64, missing="omit"), batch_size=4, device="cpu")
    with pytest.raises(RuntimeError, match=r"^values must keep their length"):
        gpuload.fit(series, Window(64))


def resident() -> int:
    """Bytes of this process that are in memory, pages of files included."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="asks Linux what is in memory")
@pytest.mark.parametrize("shuffle", [False, True])
def test_ten_gigabytes_are_not_read(device, tmp_path: pathlib.Path, shuffle: bool) -> None:
    file = tmp_path / "large"
    rows = 10 * 2**30 // 256
    try:
        values = np.memmap(file, np.float32, "w+", shape=(rows, 64))
        if file.stat().st_blocks * 512 > 2**20:
            pytest.skip("this file system knows no sparse files")
        values[96 * 1000 : 96 * 1001] = 5
        before = resident()
        options = {"residency": "host"} if device == GPU else {}
        loader = gpuload.Loader(
            Series(values),
            Window(96, stride=96, extras=["start"]),
            batch_size=32,
            shuffle=shuffle,
            prefetch=0,
            seed=0,
            device=device,
            framework="numpy",
            **options,
        )
        assert len(loader) == -(-(rows // 96) // 32)
        inputs, extras = next(iter(loader))
        assert inputs.shape == (32, 96, 64)
        # On a GPU the driver's own memory is more than that of the batches.
        assert resident() - before < (2**31 if device == GPU else 2**28)
        if not shuffle:
            assert extras["start"].tolist() == list(range(0, 96 * 32, 96))
        same_bits(
            cut(Series(values[96 * 1000 : 96 * 1001]), Window(96), device).inputs, np.full((1, 96, 64), 5, np.float32)
        )
    finally:
        file.unlink(missing_ok=True)


# --- What is refused ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length must be an integer of at least 1, not 0"),
        ({"length": 3.0}, "length must be an integer of at least 1, not 3.0"),
        ({"length": True}, "length must be an integer of at least 1, not True"),
        ({"length": np.True_}, "length must be an integer of at least 1, not np.True_"),
        ({"length": "3"}, "length must be an integer of at least 1, not '3'"),
        ({"length": None}, "length must be an integer of at least 1, not None"),
        ({"stride": 0}, "stride must be an integer of at least 1, not 0"),
        ({"dilation": 0}, "dilation must be an integer of at least 1, not 0"),
        ({"dilation": 1.5}, "dilation must be an integer of at least 1, not 1.5"),
        ({"horizon": -1}, "horizon must be an integer of at least 0, not -1"),
        ({"target": "middle"}, "target must be one of start, end, after, not 'middle'"),
        (
            {"target": "end", "horizon": 2},
            "target must be 'after' with horizon=2, not 'end': leave it out",
        ),
        ({"target_channels": 1}, "target_channels must be a list, not 1"),
        ({"target_channels": "12"}, "target_channels must be a list, not '12'"),
        ({"target_channels": [-1]}, "target_channels must be an integer of at least 0, not -1"),
        ({"target_channels": [1.0]}, "target_channels must be an integer of at least 0, not 1.0"),
        ({"target_channels": [True]}, "target_channels must be an integer of at least 0, not True"),
        ({"start_index": 1.0}, "start_index must be an integer or None, not 1.0"),
        ({"start_index": True}, "start_index must be an integer or None, not True"),
        ({"end_index": "5"}, "end_index must be an integer or None, not '5'"),
        ({"end_index": np.True_}, "end_index must be an integer or None, not np.True_"),
        ({"mean": "1.5"}, "mean must be a finite number, or one for each channel, not '1.5'"),
        ({"mean": []}, "mean must be a finite number, or one for each channel, not []"),
        ({"mean": [[1, 2]]}, "mean must be a finite number, or one for each channel, not [[1, 2]]"),
        ({"mean": math.nan}, "mean must be a finite number, or one for each channel, not nan"),
        ({"mean": [1, None]}, "mean must be a finite number, or one for each channel, not [1, None]"),
        ({"std": math.inf}, "std must be a finite number, or one for each channel, not inf"),
        ({"std": [1, 0]}, "std must be above 0, not [1, 0]"),
        ({"std": -1}, "std must be above 0, not -1"),
        ({"per_sample": "minmax"}, "per_sample must be one of center, standardize, not 'minmax'"),
        (
            {"per_sample": "center", "std": 1},
            "per_sample='center' and mean or std exclude each other: leave out per_sample to normalize by the",
        ),
        ({"missing": "drop"}, "missing must be one of keep, zero, forward, omit, not 'drop'"),
        ({"jitter": -1}, "jitter must be a finite number of at least 0, not -1"),
        ({"jitter": math.inf}, "jitter must be a finite number of at least 0, not inf"),
        ({"jitter": [0.1]}, "jitter must be a finite number of at least 0, not [0.1]"),
        ({"jitter": math.nan}, "jitter must be a finite number of at least 0, not nan"),
        ({"reverse": 1.5}, "reverse must be a probability from 0 to 1, not 1.5"),
        ({"reverse": None}, "reverse must be a probability from 0 to 1, not None"),
        ({"zoom": 1.0}, "zoom must stay above 0, not 1.0"),
        ({"zoom": (2, 1)}, "zoom must be finite with low <= high, not (2, 1)"),
        ({"zoom": "x"}, "zoom must be a number or a pair (low, high), not 'x'"),
        ({"scaling": (0, 1)}, "scaling must stay above 0, not (0, 1)"),
        ({"scaling": (1, math.inf)}, "scaling must be finite with low <= high, not (1, inf)"),
        ({"scaling": (1, 2, 3)}, "scaling must be a number or a pair (low, high), not (1, 2, 3)"),
        ({"dtype": "float64"}, "dtype must be one of float32, float16, bfloat16, not 'float64'"),
        ({"dtype": np.float32}, "dtype must be one of float32, float16, bfloat16, not <class 'numpy.float32'>"),
        ({"layout": "CBL"}, "layout must be one of BLC, BCL, LBC, not 'CBL'"),
        ({"extras": "mask"}, "extras must be a list, not 'mask'"),
        ({"extras": ["std"]}, "extras must be one of mask, mean, scale, start, not 'std'"),
        (
            {"extras": ["mean"]},
            "extras=('mean',) needs per_sample='center' or 'standardize': without it windows have no",
        ),
        ({"extras": iter(["scale"])}, "extras=('scale',) needs per_sample='center' or 'standardize'"),
    ],
)
def test_windows_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with refused(message):
        Window(**{"length": 4, **options})
    # And so does a change.
    if not isinstance(options.get("extras"), Iterator):
        with refused(message):
            Window(4).replace(**options)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (
            np.arange(30),
            {"missing": "forward"},
            "missing='forward' needs float values, but the series has int64 values, which are never NaN: leave missing "
            "out, or convert the values to float",
        ),
        (
            np.zeros(30, bool),
            {"missing": "omit"},
            "missing='omit' needs float values, but the series has bool values",
        ),
        (
            np.zeros(30, np.uint8),
            {"missing": "zero"},
            "missing='zero' needs float values, but the series has uint8",
        ),
        (LEVELS, {"mean": [1, 2]}, "mean must be one number, or one for each of the series' 3 channels, not 2 numbers"),
        (LEVELS, {"std": [1] * 4}, "std must be one number, or one for each of the series' 3 channels, not 4 numbers"),
        (
            LEVELS,
            {"target_channels": [3]},
            "target_channels must be one or more channel numbers from 0 to 2, as the series has 3 channels, not [3]",
        ),
        (
            LEVELS,
            {"target_channels": []},
            "target_channels must be one or more channel numbers from 0 to 2, as the series has 3 channels, not []",
        ),
        (
            LEVELS.astype("f4"),
            {"std": 1e-50},
            "std must be in the range of float32, in which float32 values are normalized, not 1e-50: leave it out, or "
            "rescale the series",
        ),
        (LEVELS.astype("f4"), {"std": 1e-40}, "std must be in the range of float32, in which float32 values are"),
        (LEVELS.astype("i2"), {"mean": 1e300}, "mean must be in the range of float32, in which int16 values are"),
        (LEVELS, {"std": 1e-310}, "std must be in the range of float64, in which float64 values are normalized"),
    ],
)
def test_windows_that_do_not_fit_a_series(values: np.ndarray, options: dict[str, Any], message: str) -> None:
    with refused(message):
        gpuload.Loader(Series(values), Window(4, **options), batch_size=2, device="cpu")


SERIES = Series(np.zeros(30))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": gpuload.Augment()}, "transform must be a gpuload.Window for a Series, not Augment()"),
        ({"transform": 4}, "transform must be a gpuload.Window for a Series, not 4"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, not 0"),
        ({"batch_size": 2.0}, "batch_size must be an integer of at least 1, not 2.0"),
        ({"prefetch": -1}, "prefetch must be an integer of at least 0, not -1"),
        ({"threads": 0}, "threads must be an integer of at least 1, not 0"),
        ({"seed": -1}, "seed must be an integer of at least 0, not -1"),
        ({"seed": 2**64}, "seed must be below 2**64, not 18446744073709551616"),
        ({"last_batch": "fill"}, "last_batch must be one of keep, drop, pad, not 'fill'"),
        ({"framework": "paddle"}, "framework must be one of numpy, torch, tensorflow, jax, cupy, dlpack, not 'paddle'"),
        ({"framework": "cupy"}, "framework='cupy' needs a GPU, but batches are made on cpu"),
        ({"engine": "dali"}, "engine must be one of auto, cupy, numpy for windows, not 'dali'"),
        ({"residency": "gpu"}, "residency must be one of auto, device, host, not 'gpu'"),
        (
            {"residency": "device"},
            "residency='device' keeps the series on a GPU, but windows are cut on cpu: leave it out",
        ),
        ({"device": "tpu"}, "device must be"),
    ],
)
def test_loaders_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with refused(message):
        gpuload.Loader(SERIES, **{"transform": Window(4), "batch_size": 2, "device": "cpu", **options})


@pytest.mark.parametrize("targets", [["a"] * 30, np.zeros(30, "M8[s]"), np.array([None] * 30)])
def test_torch_takes_numbers_alone(targets) -> None:
    series = Series(np.zeros(30), targets=targets)
    with refused(
        f"targets must be of a dtype that framework='torch' has, not {series.targets.dtype.name}: number them with "
        "np.unique(targets, return_inverse=True)[1]"
    ):
        gpuload.Loader(series, Window(4), batch_size=2, device="cpu", framework="torch")
    # Channels in their place are numbers.
    assert cut(series, Window(4, target_channels=[0]), framework="torch").targets.shape == (27, 1)


class OnGpu(Series):
    """A series whose values lie on a GPU, as far as choosing an engine asks."""

    gpu = 1


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch):
    """Choose with that many GPUs, with or without CuPy; choosing touches none."""

    def chosen(series=SERIES, device="auto", engine="auto", residency="auto", *, gpus=2, cupy=True):
        monkeypatch.setattr(cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(available, "cupy_installed", lambda: cupy)
        place, name = choose_for_windows(series, device, engine, residency)
        return str(place), name

    return chosen


def test_what_is_chosen(choose, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(available, "_announced", set())
    there = OnGpu(np.zeros(30))
    with caplog.at_level(logging.INFO, "gpuload"):
        assert choose(gpus=0) == ("cpu", "numpy")
        assert choose(gpus=0) == ("cpu", "numpy")
        assert choose() == ("cuda:0", "cupy")
        assert choose(cupy=False) == ("cpu", "numpy")
        assert choose(device="cuda:1", engine="cupy", residency="device") == ("cuda:1", "cupy")
        assert choose(engine="numpy") == ("cpu", "numpy")
        assert choose(device="cpu") == ("cpu", "numpy")
        assert choose(there) == ("cuda:1", "cupy")
        assert choose(there, device="cuda:1") == ("cuda:1", "cupy")
    assert [record.getMessage() for record in caplog.records] == [
        "windows on cpu with NumPy",
        "windows on cuda:0 with CuPy",
        "windows on cpu with NumPy, since CuPy is not installed",
        "windows on cuda:1 with CuPy",
    ]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"engine": "dali"},
            ValueError,
            "engine must be one of auto, cupy, numpy for windows, not 'dali': DALI decodes images, a Series needs no "
            "decoder; leave engine out",
        ),
        (
            {"engine": "cuda"},
            ValueError,
            "engine must be one of auto, cupy, numpy for windows, not 'cuda': pass engine='cupy'",
        ),
        (
            {"engine": "gpu"},
            ValueError,
            "engine must be one of auto, cupy, numpy for windows, not 'gpu': pass engine='cupy'",
        ),
        ({"engine": ["cupy"]}, ValueError, "engine must be one of auto, cupy, numpy for windows, not ['cupy']"),
        ({"residency": 1}, ValueError, "residency must be one of auto, device, host, not 1"),
        (
            {"engine": "cupy", "cupy": False},
            ImportError,
            "engine='cupy' needs CuPy, which is not installed: pip install 'gpuload[cuda13]'",
        ),
        (
            {"engine": "cupy", "gpus": 0},
            ValueError,
            "engine='cupy' needs a GPU, but windows are cut on cpu: pass device='cuda', or engine='numpy'",
        ),
        (
            {"engine": "cupy", "device": "cpu"},
            ValueError,
            "engine='cupy' needs a GPU, but windows are cut on cpu: pass",
        ),
        (
            {"engine": "numpy", "device": "cuda"},
            ValueError,
            "engine='numpy' runs on the CPU, not on cuda:0: pass device='cpu', or engine='cupy'",
        ),
        (
            {"device": "cuda", "cupy": False},
            ImportError,
            "device='cuda' needs CuPy, which is not installed: pip install 'gpuload[cuda13]'",
        ),
        (
            {"residency": "device", "device": "cpu"},
            ValueError,
            "residency='device' keeps the series on a GPU, but windows are cut on cpu: leave it out",
        ),
        (
            {"residency": "device", "cupy": False},
            ValueError,
            "residency='device' keeps the series on a GPU, but windows",
        ),
        ({"device": "cuda", "gpus": 0}, RuntimeError, "device='cuda'"),
    ],
)
def test_what_cannot_be_chosen(choose, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with refused(message, error):
        choose(**options)


@pytest.mark.parametrize("options", [{"device": "cpu"}, {"device": "cuda:0"}, {"engine": "numpy"}])
def test_values_on_another_device(choose, options: dict[str, str]) -> None:
    asked = options.get("device", "cpu")
    with refused(
        f"the values of the series are on cuda:1, but windows are to be cut on {asked} with "
        f"engine={options.get('engine', 'auto')!r}: pass device='cuda:1', or copy the values to the host with "
        "values.get(), in PyTorch values.cpu()"
    ):
        choose(OnGpu(np.zeros(30)), **options)


def test_windows_can_be_pickled() -> None:
    """For a process that is handed one."""
    window = pickle.loads(pickle.dumps(EVERYTHING))
    assert repr(window) == repr(EVERYTHING)
    same_bits(cut(Series(GAPS), window).inputs, cut(Series(GAPS), EVERYTHING).inputs)
