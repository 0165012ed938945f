"""`gpuload.keras.timeseries_dataset_from_array` against Keras' own, which runs on TensorFlow."""

import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuload.keras import WindowDataset, timeseries_dataset_from_array

tf = pytest.importorskip("tensorflow")
kerass = keras.utils.timeseries_dataset_from_array


def on_host(batches: Any) -> list[tuple[np.ndarray, ...]]:
    return [tuple(map(np.asarray, batch if isinstance(batch, tuple) else (batch,))) for batch in batches]


def same(ours: Any, theirs: Any) -> None:
    """The same batches, to the bit."""
    ours, theirs = on_host(ours), on_host(theirs)
    assert len(ours) == len(theirs)
    for mine, expected in zip(ours, theirs, strict=True):
        assert len(mine) == len(expected)
        for a, b in zip(mine, expected, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert a.tobytes() == b.tobytes()


DTYPES = st.sampled_from(["float32", "float64", "float16", "int64", "int32", "int16", "uint8", "bool"])
ITEMS = st.sampled_from([(), (3,), (2, 2)])


def array(rows: int, item: tuple[int, ...], dtype: str) -> np.ndarray:
    return (np.random.default_rng(rows).random((rows, *item)) * 100).astype(dtype)


@settings(max_examples=150)
@given(
    data=st.builds(array, st.integers(2, 40), ITEMS, DTYPES),
    targets=st.none() | st.builds(array, st.integers(1, 50), ITEMS, DTYPES),
    options=st.fixed_dictionaries(
        {
            "sequence_length": st.integers(1, 6) | st.integers(1, 40),
            "sequence_stride": st.integers(1, 4) | st.integers(-1, 45),
            "sampling_rate": st.integers(1, 4) | st.integers(-1, 45),
            "batch_size": st.none() | st.integers(1, 9),
            "start_index": st.none() | st.integers(0, 9) | st.integers(-1, 42),
            "end_index": st.none() | st.integers(15, 30) | st.integers(-1, 42),
            "format": st.sampled_from(["tf"] * 19 + ["jax"]),
        }
    ),
)
def test_same_windows_as_keras(
    data: np.ndarray, targets: np.ndarray | None, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    try:
        theirs = kerass(data, targets, **options)
    except ValueError:
        with pytest.raises(ValueError, match=r"must be"):
            timeseries_dataset_from_array(data, targets, **options, device="cpu")
        return
    caplog.clear()
    ours = timeseries_dataset_from_array(data, targets, **options, device="cpu")
    assert isinstance(ours, keras.utils.PyDataset)
    try:
        expected = list(theirs)
    except tf.errors.InvalidArgumentError:
        # It ends at a window that begins where there is no target any more. What comes before is the same.
        assert targets is not None
        assert options["start_index"]
        singles = kerass(data, targets, **{**options, "batch_size": None}).apply(tf.data.experimental.ignore_errors())
        size = options["batch_size"]
        expected = list(singles if size is None else singles.batch(size))
    same(ours, expected)
    same((ours[number] for number in range(len(ours))), expected)
    assert ("the data set is empty" in caplog.text) == (not expected)


SHUFFLED = {"sequence_length": 5, "sequence_stride": 2, "sampling_rate": 3, "batch_size": 8, "shuffle": True}


def columns(batches: Any) -> list[np.ndarray]:
    return [np.concatenate(column) for column in zip(*on_host(batches), strict=True)]


def test_shuffled() -> None:
    """Each epoch has the windows of Keras, with their targets, in an order of its own that the seed repeats."""
    data, targets = array(200, (2,), "float32"), np.arange(200)
    ours, again = (timeseries_dataset_from_array(data, targets, seed=3, device="cpu", **SHUFFLED) for _ in range(2))
    theirs = kerass(data, targets, seed=3, **SHUFFLED)
    windows = dict(zip(range(0, 188, 2), kerass(data, None, 5, 2, 3, batch_size=None), strict=True))
    starts = np.arange(0, 188, 2)
    generator = np.random.RandomState(3)
    for _ in range(3):
        generator.shuffle(starts)
        inputs, ends = columns(ours)
        np.testing.assert_array_equal(ends, starts)
        np.testing.assert_array_equal(inputs, [windows[start] for start in starts])
        np.testing.assert_array_equal(np.sort(ends), np.sort(columns(theirs)[1]))
        np.testing.assert_array_equal(columns(again)[1], ends)


def test_shuffled_without_a_seed() -> None:
    """NumPy's global generator is asked for one, as by Keras."""
    states = []
    for function in (kerass, timeseries_dataset_from_array):
        np.random.seed(11)  # noqa: NPY002 - what users do
        function(np.zeros(50), None, **SHUFFLED)
        states.append(np.random.get_state()[1])  # noqa: NPY002
    np.testing.assert_array_equal(*states)


def test_epochs_of_fit_and_iterators() -> None:
    ours = timeseries_dataset_from_array(np.zeros(100), np.arange(100), seed=1, device="cpu", **SHUFFLED)
    first = [ours[number][1] for number in range(len(ours))]
    one, other = iter(ours), iter(ours)
    sides = [[batch[1] for batch in side] for side in zip(*itertools.zip_longest(one, other), strict=True)]
    np.testing.assert_array_equal(np.concatenate(sides[0]), np.concatenate(first))
    assert (np.concatenate(sides[1]) != np.concatenate(first)).any()
    before = ours[0][1]
    ours.on_epoch_end()
    assert (ours[0][1] != before).any()


@pytest.mark.parametrize(
    "data",
    [
        [0.5, 1.5, 2.5, 3.5, 4.5, 5.5],
        [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]],
        tf.range(12.0),
        keras.ops.arange(9),
        pd.DataFrame({"a": np.arange(7.0), "b": np.arange(7.0) ** 2}, index=np.arange(7.0) * 10),
        pd.Series(np.arange(9), index=np.arange(9)[::-1].astype(float)),
    ],
    ids=lambda data: type(data).__name__,
)
def test_other_arrays(data: Any) -> None:
    options = {"sequence_length": 2, "batch_size": 2, "start_index": 1}
    expected = data if isinstance(data, list) else np.asarray(data)
    same(timeseries_dataset_from_array(data, data, **options, device="cpu"), kerass(expected, expected, **options))


def test_memory_map(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", array(100, (3,), "float32"))
    data = np.load(tmp_path / "data.npy", mmap_mode="r")
    options = {"sequence_length": 7, "sampling_rate": 2, "batch_size": 8}
    same(timeseries_dataset_from_array(data, data[:, 0], **options, device="cpu"), kerass(data, data[:, 0], **options))


def test_take() -> None:
    ours = timeseries_dataset_from_array(np.arange(50), None, 4, batch_size=8, device="cpu")
    same(ours.take(2), kerass(np.arange(50), None, 4, batch_size=8).take(2))


def test_device(device: str) -> None:
    data, targets = array(300, (7,), "float32"), array(300, (), "float64")
    ours = timeseries_dataset_from_array(data, targets, 24, sampling_rate=2, batch_size=32, device=device)
    theirs = kerass(data, targets, 24, sampling_rate=2, batch_size=32)
    same(ours, theirs)
    same((ours[number] for number in range(len(ours))), theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_index": -1}, "start_index must be from 0 to below the 20 rows of data, not -1"),
        ({"start_index": 20}, "start_index must be from 0 to below the 20 rows of data, not 20"),
        ({"end_index": 20}, "end_index must be above 0 and below the 20 rows of data, not 20; None takes all"),
        ({"end_index": -3}, "end_index must be above 0 and below the 20 rows of data, not -3"),
        ({"start_index": 5, "end_index": 5}, "end_index must be above start_index=5, not 5"),
        ({"sampling_rate": 0}, "sampling_rate must be an integer of at least 1, not 0"),
        ({"sampling_rate": 20}, "sampling_rate must be below the 20 rows of data, not 20"),
        ({"sequence_stride": 0}, "sequence_stride must be an integer of at least 1, not 0"),
        ({"sequence_stride": 21}, "sequence_stride must be below the 20 rows of data, not 21"),
        ({"format": "torch"}, "format must be one of tf, grain, not 'torch'"),
        ({"sequence_length": 0}, "sequence_length must be an integer of at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, not 0"),
        ({"engine": "dali"}, "engine must be one of auto, cupy, numpy for windows, not 'dali'"),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timeseries_dataset_from_array(np.zeros(20), None, **{"sequence_length": 3, **options})


def test_batch_number() -> None:
    ours = timeseries_dataset_from_array(np.zeros(20), None, 3, batch_size=4, device="cpu")
    with pytest.raises(IndexError, match="batch number must be from 0 to 4, not 5"):
        ours[5]


MODEL = """
    import keras, numpy as np
    from gpuload.keras import timeseries_dataset_from_array
    data = np.random.default_rng(0).random((200, 3)).astype("float32")
    targets = data[:, :1] + data[:, 1:2]
    options = {"sequence_length": 12, "sampling_rate": 2, "batch_size": 16}
    losses, predictions = [], []
    for function in (keras.utils.timeseries_dataset_from_array, timeseries_dataset_from_array):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Input((12, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        train = function(data, targets, end_index=150, **options)
        validation = function(data, targets, start_index=150, **options)
        history = model.fit(train, epochs=2, shuffle=False, validation_data=validation, verbose=0).history
        losses.append([history["loss"], history["val_loss"], model.evaluate(validation, verbose=0)])
        predictions.append(model.predict(function(data, None, **options), verbose=0))
    np.testing.assert_allclose(np.hstack(losses[0]), np.hstack(losses[1]), rtol=1e-5)
    np.testing.assert_allclose(*predictions, rtol=1e-5)
    shuffled = timeseries_dataset_from_array(data, targets, shuffle=True, seed=1, **options)
    assert len(model.fit(shuffled, epochs=2, verbose=0).history["loss"]) == 2
    print("same", keras.backend.backend())
"""


def test_fit_evaluate_predict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model learns and predicts what it does from Keras' own data set."""
    monkeypatch.setenv("GPULOAD_DEVICE", "cpu")
    exec(textwrap.dedent(MODEL), {})


def test_fit_evaluate_predict_with_tensorflow() -> None:
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "GPULOAD_DEVICE": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MODEL)], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "same tensorflow" in run.stdout


def test_exported() -> None:
    assert isinstance(timeseries_dataset_from_array(np.zeros(9), None, 3, device="cpu"), WindowDataset)
