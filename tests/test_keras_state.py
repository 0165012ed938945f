"""Keras' doors broken off and taken up again: the same batches as without the break; and files that cannot be read.

The backend of this process is `KERAS_BACKEND`, or PyTorch; test_keras_backends.py tests `fit` with the others as well.
"""

import functools
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import Place
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing.image import ImageDataGenerator as KerasGenerator

import gpuload
from gpuload.keras import ImageDataGenerator, ImageSequence, dataset, timeseries_dataset_from_array

BACKEND = keras.backend.backend()
counted = pytest.mark.skipif(BACKEND == "tensorflow", reason="tf.data asks ahead: within an epoch nobody counts")
# Of the rest of an epoch; test_fit_has_the_rest_of_an_epoch_first sees that it does.
pytestmark = pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")


COUNT, BATCH, BATCHES = 22, 4, 6  # Samples; the last batch is short.
OPTIONS: dict[str, Any] = {"rescale": 1 / 255, "zoom_range": 0.2, "rotation_range": 20, "horizontal_flip": True}


def pictures() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (COUNT, 6, 6, 3), dtype=np.uint8)


def labels() -> np.ndarray:
    return np.arange(COUNT, dtype=np.float32)


def generator(**more: Any) -> ImageDataGenerator:
    return ImageDataGenerator(**{**OPTIONS, "device": "cpu", "engine": "numpy", **more})


def frame(photos: Path) -> pd.DataFrame:
    names = sorted(str(path.relative_to(photos)) for path in photos.glob("*/*"))[:COUNT]
    return pd.DataFrame({"filename": names, "row": labels(), "weight": labels() / 10})


def flow_of_directory(photos: Path, **more: Any) -> Any:
    flow = {"target_size": (6, 6), "batch_size": BATCH, "seed": 1, "class_mode": "sparse", **more}
    return generator().flow_from_directory(photos, **flow)


def image_loader(**more: Any) -> gpuload.Loader:
    source = gpuload.ImageArray(pictures(), labels=labels())
    options = {"batch_size": BATCH, "seed": 3, "shuffle": True, "device": "cpu", **more}
    return gpuload.Loader(source, gpuload.Augment(rescale=1 / 255, hflip=0.5), **options)


DATASETS: dict[str, Callable[[Path], Any]] = {
    "flow": lambda photos: generator().flow(pictures(), labels(), batch_size=BATCH, seed=1),
    "flow in order": lambda photos: generator().flow(pictures(), labels(), batch_size=BATCH, seed=1, shuffle=False),
    "flow_from_directory": flow_of_directory,
    "flow_from_dataframe": lambda photos: generator().flow_from_dataframe(
        frame(photos),
        photos,
        y_col="row",
        class_mode="raw",
        weight_col="weight",
        target_size=(6, 6),
        batch_size=BATCH,
        seed=1,
    ),
    "sequence": lambda photos: ImageSequence(
        [photos / name for name in frame(photos)["filename"]], labels(), BATCH, (6, 6), device="cpu"
    ),
    "timeseries": lambda photos: timeseries_dataset_from_array(
        np.random.default_rng(6).random((COUNT + 5, 3), np.float32),
        np.arange(COUNT, dtype=np.float32),
        6,
        batch_size=BATCH,
        shuffle=True,
        seed=7,
        device="cpu",
    ),
    "loader": lambda photos: dataset(image_loader()),
}
FLOWS = [name for name in DATASETS if name.startswith("flow")]
# The other backends ask for batches as PyTorch's does.
IN_FIT = [*DATASETS] if BACKEND == "torch" else ["flow", "timeseries", "loader"]


def saved(data: Any) -> Any:
    """Its state as a file would keep it."""
    text = json.dumps(data.state_dict())
    assert len(text) < 1000
    return json.loads(text)


def on_host(batch: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(leaf).copy() for leaf in keras.tree.flatten(batch)]


def same(ours: list[list[np.ndarray]], theirs: list[list[np.ndarray]]) -> None:
    """The same batches, bit by bit."""
    assert len(ours) == len(theirs)
    for batch, expected in zip(ours, theirs, strict=True):
        assert len(batch) == len(expected)
        for part, other in zip(batch, expected, strict=True):
            assert part.dtype == other.dtype
            np.testing.assert_array_equal(part, other)


# With `next`


@settings(max_examples=12)
@given(stop=st.integers(0, 3 * BATCHES), again=st.integers(0, 2 * BATCHES))
@pytest.mark.parametrize("name", FLOWS)
def test_flow_goes_on(name: str, photos: Path, stop: int, again: int) -> None:
    """Broken off twice, in any epoch: what follows is what would have followed."""
    whole = DATASETS[name](photos)
    expected = [on_host(next(whole)) for _ in range(stop + again + BATCHES)]
    found, flow = [], DATASETS[name](photos)
    for count in (stop, again, BATCHES):
        resumed = DATASETS[name](photos)
        resumed.load_state_dict(saved(flow))
        assert resumed.state_dict() == flow.state_dict()
        found += [on_host(next(resumed)) for _ in range(count)]
        flow = resumed
    same(found, expected)
    assert (flow.batch_index, flow.total_batches_seen) == (whole.batch_index, whole.total_batches_seen)
    np.testing.assert_array_equal(flow.index_array, whole.index_array)


def test_flow_goes_on_as_keras(photos: Path, place: Place) -> None:
    flow = {"target_size": (24, 24), "batch_size": 6, "seed": 3, "class_mode": "sparse"}
    theirs = KerasGenerator(rotation_range=20).flow_from_directory(photos, **flow)
    state: Any = None
    # By `next` to the middle of the second epoch, then by number, as `fit` asks; with a break after each line.
    for script in (["next"] * 6, [0, 1, 2, 3, "end", 0], [1, 2, 3, "end"], ["next"] * 3):
        ours = ImageDataGenerator(rotation_range=20, **place._asdict()).flow_from_directory(photos, **flow)
        if state is not None:
            ours.load_state_dict(state)
        for action in script:
            if action == "end":
                ours.on_epoch_end(), theirs.on_epoch_end()
                continue
            (images, targets), (expected, expected_targets) = (
                next(each) if action == "next" else each[action] for each in (ours, theirs)
            )
            np.testing.assert_array_equal(targets, expected_targets)
            # As in tests/test_keras.py: DALI's float32 positions, and how six matrices are multiplied.
            assert (np.abs(images - expected) <= 2).mean() > 0.99
        state = saved(ours)


def test_flow_without_a_seed(photos: Path) -> None:
    flow = flow_of_directory(photos, seed=None)
    next(flow)
    with pytest.raises(RuntimeError, match=r"state_dict\(\) needs a flow with a seed, not seed=None"):
        flow.state_dict()


def test_flow_says_what_differs(photos: Path) -> None:
    flow = flow_of_directory(photos)
    next(flow)
    state = saved(flow)
    others = {
        "seed was 1, and is 2": flow_of_directory(photos, seed=2),
        "seed was 1, and is None": flow_of_directory(photos, seed=None),
        "batch_size was 4, and is 5": flow_of_directory(photos, batch_size=5),
        "shuffle was True, and is False": flow_of_directory(photos, shuffle=False),
        r"samples was 23, and is 13; source was \w+, and is \w+": flow_of_directory(
            photos, classes=["astronaut", "cat"]
        ),
        r"generator.size was \(6, 6\), and is \(8, 6\)": flow_of_directory(photos, target_size=(8, 6)),
        "generator.color was the default, and is 'grayscale'": flow_of_directory(photos, color_mode="grayscale"),
        r"generator.zoom was \(0.8, 1.2\), and is the default": generator(zoom_range=0.0).flow_from_directory(
            photos, target_size=(6, 6), batch_size=BATCH, seed=1
        ),
        "generator.fill_mode was the default, and is 'wrap'": generator(fill_mode="wrap").flow_from_directory(
            photos, target_size=(6, 6), batch_size=BATCH, seed=1
        ),
    }
    for message, other in others.items():
        with pytest.raises(ValueError, match=f"state is of another loader: {message}. Make the loader as it was"):
            other.load_state_dict(state)
    for message, wrong in [
        ("state must be what state_dict", [1]),
        ("it has no order", {name: state[name] for name in state if name != "order"}),
        ("batch must be below the 6 batches of an epoch, not 6", {**state, "batch": 6}),
        ("batches_seen must be an integer of at least 0, not -1", {**state, "batches_seen": -1}),
        ("version 1, not 2", {**state, "version": 2}),
        ("it has no seed", saved(DATASETS["sequence"](photos))),
    ]:
        with pytest.raises(ValueError, match=message):
            flow.load_state_dict(wrong)
    same(
        [on_host(next(flow))],
        [on_host(batch) for batch in itertools.islice(resumed(flow_of_directory(photos), state), 1)],
    )


def resumed(data: Any, state: Any) -> Any:
    data.load_state_dict(state)
    return data


def test_small_with_every_option(photos: Path) -> None:
    """Also the numbers that statistics were fitted to are told by a few letters."""
    images = pictures().astype(np.float32)
    every = generator(
        featurewise_center=True,
        featurewise_std_normalization=True,
        samplewise_center=True,
        width_shift_range=[-3, 0, 7],
        height_shift_range=0.123456789,
        shear_range=12.3456789,
        channel_shift_range=12.3456789,
        brightness_range=(0.123456789, 1.23456789),
        fill_mode="constant",
        cval=12.3456789,
        vertical_flip=True,
        data_format="channels_first",
        interpolation_order=3,
        preprocessing_function=np.negative,
    )
    every.fit(images.transpose(0, 3, 1, 2))
    flow = every.flow_from_directory(
        photos, target_size=(6, 7), interpolation="lanczos", keep_aspect_ratio=True, batch_size=5, seed=2**31
    )
    next(flow)
    state = saved(flow)
    every.fit(images.transpose(0, 3, 1, 2) + 1)
    with pytest.raises(ValueError, match=r"generator.mean was float32 \[3\] \w+, and is float32 \[3\] \w+"):
        flow.load_state_dict(state)


# By iteration


@settings(max_examples=10)
@given(epochs=st.integers(0, 2), stop=st.integers(0, BATCHES - 1))
@pytest.mark.parametrize("name", ["sequence", "timeseries", "loader"])
def test_iteration_goes_on(name: str, photos: Path, epochs: int, stop: int) -> None:
    whole, data = DATASETS[name](photos), DATASETS[name](photos)
    for _ in range(epochs):
        same([on_host(batch) for batch in data], [on_host(batch) for batch in whole])
    under_way = iter(data) if stop else iter(())
    found = [on_host(batch) for batch in itertools.islice(under_way, min(stop, len(data) - 1))]
    again = resumed(DATASETS[name](photos), saved(data))
    found += [on_host(batch) for batch in again]
    same(found, [on_host(batch) for batch in whole])
    same([on_host(batch) for batch in again], [on_host(batch) for batch in whole])


def test_seed_that_was_drawn() -> None:
    """Where nobody gave a seed, a state brings it."""
    make = lambda **more: timeseries_dataset_from_array(np.arange(40), None, 2, batch_size=4, shuffle=True, **more)  # noqa: E731
    data = make()
    batches = iter(data)
    next(batches)
    other = resumed(make(), saved(data))
    assert [batch.tolist() for batch in other] == [batch.tolist() for batch in batches]
    with pytest.raises(ValueError, match=r"seed was \d+, and is 1000000"):
        make(seed=10**6).load_state_dict(saved(data))
    with pytest.raises(ValueError, match="shuffle was True, and is False"):
        timeseries_dataset_from_array(np.arange(40), None, 2, batch_size=4).load_state_dict(saved(data))


# In `fit`


class Recorder(keras.Model):
    """A layer that keeps what its steps get."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(1)
        self.taken: list[list[np.ndarray]] = []

    def call(self, x: Any) -> Any:
        return self.dense(self.flatten(x))

    def train_step(self, *arguments: Any) -> Any:  # (data) or, with JAX, (state, data)
        self.taken.append(on_host(arguments[-1]))
        return super().train_step(*arguments)


def recorder(data: Any = None) -> Recorder:
    """A new model; `data`: trained on it before, so that `fit` needs no look at a first batch."""
    model = Recorder()
    model.compile("sgd", "mse", run_eagerly=True, jit_compile=False)
    if data is not None:
        model.fit(data, verbose=0)
        model.taken.clear()
    return model


class Killed(Exception):
    """What breaks a training off."""


class Saving(keras.callbacks.Callback):
    """Keeps the state of a data set at every batch and epoch, and breaks off where it is told."""

    def __init__(self, data: Any, stop: tuple[int, int] | None = None, by_batch: bool = True):
        super().__init__()
        self.data, self.stop, self.by_batch = data, stop, by_batch
        self.states: dict[tuple[int, int], Any] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.by_batch:
            self.states[self.epoch, batch + 1] = saved(self.data)
        if self.stop == (self.epoch, batch + 1):
            raise Killed

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.states[epoch + 1, 0] = saved(self.data)


class Logged(keras.utils.PyDataset):
    """Tells what Keras asks of it: a letter each."""

    def __init__(self) -> None:
        super().__init__()
        self.events = ""

    @property
    def num_batches(self) -> int:
        self.events += "n"
        return 4

    def __getitem__(self, number: int) -> Any:
        self.events += "."
        return np.ones((2, 6, 6), np.float32), np.ones(2, np.float32)

    def on_epoch_begin(self) -> None:
        self.events += "("

    def on_epoch_end(self) -> None:
        self.events += ")"


@counted
def test_what_fit_asks() -> None:
    """What gpuload.keras.passes relies on, by a data set that is not gpuload's. A new Keras that fails here needs it.

    An epoch before which `num_batches` is read, without an `on_epoch_end` in between, is a look at a first batch,
    unless there are more. Right before the `on_epoch_end` that comes before the first epoch, `num_batches` is read.
    """
    look, before, epoch = r"n+\(n+\.n+\)", r"n+\)", r"\(n+\.{4}n*\)"
    data, model = Logged(), recorder()
    model.fit(data, epochs=2, shuffle=False, verbose=0)
    assert re.fullmatch(look + 2 * epoch, data.events)
    for ask in (lambda: model.fit(data, epochs=2, verbose=0), lambda: model.fit(data, validation_data=data, verbose=0)):
        data.events = ""
        ask()
        assert re.fullmatch(before + epoch + f"(?:{before})?" + epoch, data.events)
    for ask in (lambda: model.evaluate(data, verbose=0), lambda: model.predict(data, verbose=0)):
        data.events = ""
        ask()
        assert re.fullmatch(f"(?:{before}|n+)" + epoch, data.events)


@functools.cache
def unbroken(name: str, photos: Path) -> tuple[int, list[list[np.ndarray]]]:
    """The number of batches in an epoch, and those of four epochs of `fit`."""
    data, model = DATASETS[name](photos), recorder()
    model.fit(data, epochs=4, shuffle=False, verbose=0)
    return len(data), model.taken


@counted
@settings(max_examples=8 if BACKEND == "torch" else 3)
@given(epoch=st.integers(0, 2), batch=st.integers(1, BATCHES), built=st.booleans())
@pytest.mark.parametrize("name", IN_FIT)
def test_fit_goes_on(name: str, photos: Path, epoch: int, batch: int, built: bool) -> None:
    """Broken off after a batch of an epoch: with the same samples, in this and in later epochs."""
    batches, expected = unbroken(name, photos)
    batch = min(batch, batches)
    data, first = DATASETS[name](photos), recorder()
    saving = Saving(data, stop=(epoch, batch))
    with pytest.raises(Killed):
        first.fit(data, epochs=4, shuffle=False, verbose=0, callbacks=[saving])
    state = saving.states[epoch, batch]
    again, second = DATASETS[name](photos), recorder(DATASETS[name](photos) if built else None)
    again.load_state_dict(state)
    second.fit(again, initial_epoch=epoch + batch // batches, epochs=4, shuffle=False, verbose=0)
    same(first.taken + second.taken, expected)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("name", IN_FIT)
def test_fit_goes_on_with_an_epoch(name: str, photos: Path, shuffle: bool) -> None:
    """Between epochs states are told also where fit shuffles, or asks ahead."""
    if name == "loader" and BACKEND == "tensorflow":
        pytest.skip("gpuload.tensorflow makes its data set")
    data, model = DATASETS[name](photos), recorder()
    saving = Saving(data, by_batch=False)
    random.seed(4)
    model.fit(data, epochs=3, shuffle=shuffle, verbose=0, callbacks=[saving])
    again, second = DATASETS[name](photos), recorder()
    again.load_state_dict(saving.states[2, 0])
    second.fit(again, initial_epoch=2, epochs=3, shuffle=shuffle, verbose=0)
    found, expected = second.taken, model.taken[2 * len(data) :]
    if shuffle and name in ("sequence", "timeseries", "loader"):
        found, expected = (sorted(batches, key=lambda batch: batch[1].tolist()) for batches in (found, expected))
    if not shuffle or name not in FLOWS:  # A flow's random numbers go by the turn of a batch.
        same(found, expected)
    assert sorted(np.concatenate([batch[1] for batch in found])) == sorted(
        np.concatenate([batch[1] for batch in expected])
    )


@pytest.mark.parametrize("name", ["flow", "sequence", "timeseries"])
def test_fit_has_the_rest_of_an_epoch_first(name: str, photos: Path) -> None:
    """Of an iteration, or of a flow by hand; and Keras says what it thinks of the shorter epoch."""
    counts = [0]

    class Counter(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            counts[-1] += 1

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            counts.append(0)

    data = DATASETS[name](photos)
    state = saved(data)
    data.load_state_dict({**state, "batch": 2})
    model = recorder()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[Counter()])
    assert [str(warning.message).split(";")[0] for warning in said].count("Your input ran out of data") == 1
    assert counts == [len(data) - 2, len(data), len(data), 0]


@pytest.mark.parametrize("name", IN_FIT)
def test_fit_that_shuffles_or_asks_ahead(name: str, photos: Path) -> None:
    data = DATASETS[name](photos)
    if name == "loader" and BACKEND == "tensorflow":
        pytest.skip("gpuload.tensorflow makes its data set")
    message = (
        "Keras' tensorflow backend asks for some ahead: save at the end of an epoch"
        if BACKEND == "tensorflow"
        else r"state_dict\(\) cannot tell within an epoch .* pass fit\(shuffle=False\)"
    )

    def first(seed: int) -> int:
        """Of the order that Keras draws."""
        numbers = list(range(len(data)))
        random.Random(seed).shuffle(numbers)
        return numbers[0]

    model = recorder(DATASETS[name](photos))
    random.seed(next(seed for seed in itertools.count() if first(seed) == 0))  # As if it were not shuffled.
    with pytest.raises(RuntimeError, match=message):
        model.fit(data, verbose=0, callbacks=[Saving(data, stop=(0, 1))])


@counted
@pytest.mark.parametrize("name", ["flow", "sequence", "timeseries", "loader"])
def test_fit_with_a_backend_that_asks_ahead(name: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JAX's does for a GPU: within an epoch it cannot be told which batches were trained on, after it can."""
    monkeypatch.setattr("gpuload.keras.passes.asks_ahead", lambda: "jax")
    data, told = DATASETS[name](photos), []

    class Asking(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            for each in (data, data.loader) if name == "loader" else (data,):
                with pytest.raises(RuntimeError, match="Keras' jax backend asks for some ahead: save at the end"):
                    each.state_dict()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            told.append(saved(data))

    model = recorder()
    model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[Asking()])
    again, second = resumed(DATASETS[name](photos), told[0]), recorder()
    second.fit(again, initial_epoch=1, epochs=2, shuffle=False, verbose=0)
    same(second.taken, model.taken[len(data) :])


@counted
def test_fit_loaded_by_a_callback(photos: Path) -> None:
    """As keras.callbacks.BackupAndRestore does it, between the look at a first batch and the first epoch."""
    whole, model = flow_of_directory(photos), recorder()
    saving = Saving(whole)
    model.fit(whole, epochs=2, shuffle=False, verbose=0, callbacks=[saving])

    class Restoring(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            data.load_state_dict(saving.states[1, 2])

    data, second = flow_of_directory(photos), recorder()
    second.fit(data, initial_epoch=1, epochs=2, shuffle=False, verbose=0, callbacks=[Restoring()])
    same(second.taken, model.taken[BATCHES + 2 :])


@counted
def test_fit_with_validation_and_a_loss_before(photos: Path) -> None:
    """The order of an epoch may come from the generator of another flow, or one without a seed is used in between."""
    runs = []
    for stop in (None, (2, 3)):
        data, held_out = flow_of_directory(photos), flow_of_directory(photos, seed=None, shuffle=False)
        model, saving = recorder(), Saving(data, stop)
        if stop is None:
            model.fit(data, epochs=4, validation_data=held_out, shuffle=False, verbose=0, callbacks=[saving])
            runs.append(model.taken)
            continue
        with pytest.raises(Killed):
            model.fit(data, epochs=4, validation_data=held_out, shuffle=False, verbose=0, callbacks=[saving])
        again, second = flow_of_directory(photos), recorder()
        second.evaluate(held_out, verbose=0)
        again.load_state_dict(saving.states[stop])
        second.fit(again, initial_epoch=2, epochs=4, validation_data=held_out, shuffle=False, verbose=0)
        runs.append(model.taken + second.taken)
    same(*runs)


@counted
def test_fit_after_a_flow_without_a_seed(photos: Path) -> None:
    """The generator that such a flow leaves behind is nobody's; a flow with a seed goes on by its own."""
    data, model = flow_of_directory(photos), recorder()
    model.fit(data, shuffle=False, verbose=0)
    model.evaluate(flow_of_directory(photos, seed=None), verbose=0)
    model.taken.clear()
    saving = Saving(data)
    model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[saving])
    again, second = resumed(flow_of_directory(photos), saving.states[0, 3]), recorder()
    second.fit(again, epochs=2, shuffle=False, verbose=0)
    same(second.taken, model.taken[3:])


@counted
def test_order_from_the_global_generator(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a model is built, Keras draws the first order before anything was seeded."""
    model = recorder(DATASETS["sequence"](photos))
    monkeypatch.setattr("gpuload.keras.draws.Shared.generator", np.random)
    data = flow_of_directory(photos)
    with pytest.raises(RuntimeError, match=r"NumPy's global generator drew it.*with flow\[0\]"):
        model.fit(data, shuffle=False, verbose=0, callbacks=[Saving(data)])
    monkeypatch.setattr("gpuload.keras.draws.Shared.generator", np.random)
    data = flow_of_directory(photos)
    data[0]
    model.fit(data, shuffle=False, verbose=0, callbacks=[Saving(data)])


@counted
def test_loader_and_data_set_have_one_state(photos: Path) -> None:
    """It may be asked of either, and loaded into either, before or after the data set was made."""
    loader = image_loader()
    data, model = dataset(loader), recorder()
    saving, other, before = Saving(loader), Saving(data), saved(loader)
    begun = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: other.states.update({(0, 0): saved(loader)}))
    model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[saving, other, begun])
    assert other.states.pop((0, 0)) == before  # Keras' look at a first batch is none.
    assert saving.states == other.states
    reference = image_loader()
    for _ in range(2):
        assert len(list(reference)) == BATCHES
    batches = iter(reference)
    next(batches), next(batches)
    assert saving.states[2, 2] == reference.state_dict()
    for when in ("before", "after", "data set"):
        loader = image_loader()
        if when == "before":
            loader.load_state_dict(saving.states[1, 5])
        data, second = dataset(loader), recorder()
        if when != "before":
            (loader if when == "after" else data).load_state_dict(saving.states[1, 5])
        second.fit(data, initial_epoch=1, epochs=3, shuffle=False, verbose=0)
        same(second.taken, model.taken[BATCHES + 5 :])
        assert loader.epoch == 3


# Figures


@pytest.mark.parametrize("name", DATASETS)
def test_what_is_delivered_is_counted(name: str, photos: Path) -> None:
    data = DATASETS[name](photos)
    assert data.stats()["batches"] == 0
    with data:
        for number in range(3):
            data[number]
        stats = data.stats()
        assert (stats["batches"], stats["samples"], stats["errors"]) == (3, 3 * BATCH, 0)
        assert 0 < stats["wait_share"] <= 1
        assert data.stats(last=1)["samples"] == BATCH
        if name in FLOWS:
            next(data)
        else:
            next(iter(data))
        assert data.stats()["batches"] == 4 if name != "timeseries" else 4 <= data.stats()["batches"] <= 3 + BATCHES
        if name.startswith("flow_from") or name == "sequence":
            assert {"augment_ms"} <= set(data.stats())
            assert data.stats()["bytes_read"] > 0
    assert data._course is None
    data[0]  # It can be used again.


@counted
def test_figures_of_fit(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a loader, told by the loader: epochs of Keras are counted and shown as its own are."""
    loader = image_loader(progress="summary")
    data, model = dataset(loader), recorder()
    model.fit(data, epochs=2, verbose=0)
    looks = loader.stats()["batches"] - 2 * BATCHES  # From which Keras builds the model.
    assert 0 <= looks <= 1
    assert loader.stats() == data.stats()
    # The batch that is looked at is any of them, the short one too.
    assert looks <= loader.stats()["samples"] - 2 * COUNT <= looks * BATCH
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"epoch 0: {BATCHES} batches, {COUNT} samples in ")
    assert second.startswith(f"epoch 1: {BATCHES} batches, {COUNT} samples in ")
    loader.close()  # What Keras was handed batches from is closed too.
    model.fit(data, epochs=1, verbose=0)
    assert loader.stats()["batches"] == 3 * BATCHES + looks


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("method", ["submit", "take"])
@pytest.mark.parametrize("name", DATASETS)
def test_goes_on_after_an_interrupt(name: str, method: str, error: type[BaseException], photos: Path) -> None:
    """By number, whichever is asked for."""
    expected = [on_host(DATASETS[name](photos)[number]) for number in range(2)]
    data = DATASETS[name](photos)
    same([on_host(data[0])], expected[:1])
    reference = DATASETS[name](photos)
    reference[0]
    if error is MemoryError and method == "take":
        reference[1]  # A batch that was made, and failed, is lost as one with a bad sample is.
    data._drop()
    pool = data._ready()
    original = getattr(pool, method)

    def once(*arguments: Any) -> Any:
        setattr(pool, method, original)
        original(*arguments)
        raise error

    setattr(pool, method, once)
    with pytest.raises(error):
        data[1]
    same([on_host(data[2])], [on_host(reference[2])])


class Stopping(keras.callbacks.Callback):
    """Ends fit within an epoch, as keras.callbacks.TerminateOnNaN does."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.stop_training = True


@counted
def test_pass_of_one_batch_is_no_look(photos: Path) -> None:
    """A pass that was broken off after a batch has used its epoch up, as an iteration has that is left early."""
    loader, model = image_loader(), recorder()
    data = dataset(loader)
    model.fit(data, shuffle=False, verbose=0, callbacks=[Stopping()])
    assert loader.state_dict()["seen"] == BATCH
    assert loader.epoch == 1
    model.fit(data, shuffle=False, verbose=0)
    assert loader.epoch == 2
    reference = image_loader()
    first = [on_host(batch) for batch in reference][:1]
    same(model.taken, first + [on_host(batch) for batch in reference])


@counted
def test_programs_that_read_num_batches(photos: Path) -> None:
    """They are no part of what Keras does, wherever they read it."""

    class Reading(Saving):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_begin(epoch, logs)
            assert self.data.num_batches == BATCHES

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.data.num_batches  # noqa: B018
            super().on_train_batch_end(batch, logs)

    for name in ("loader", "flow_from_directory"):
        runs = []
        for kind in (Saving, Reading):
            data, model = DATASETS[name](photos), recorder()
            saving = kind(data)
            model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[saving])
            again, second = resumed(DATASETS[name](photos), saving.states[1, 2]), recorder()
            more = kind(again)
            second.fit(again, initial_epoch=1, epochs=3, shuffle=False, verbose=0, callbacks=[more])
            runs.append((model.taken + second.taken, saving.states, [*more.states.values()]))
        same(runs[0][0], runs[1][0])
        assert runs[0][1:] == runs[1][1:]


PROGRAM = """
import json, os, pathlib, sys
import keras, numpy as np
from gpuload.keras import ImageDataGenerator
photos, folder, kill = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
flow = ImageDataGenerator(rescale=1 / 255, shear_range=5, zoom_range=0.2, horizontal_flip=True).flow_from_directory(
    photos, target_size=(8, 8), batch_size=5, seed=7)
keras.utils.set_random_seed(3)
model = keras.Sequential([keras.layers.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
model.compile("sgd", "mse")
path, first = pathlib.Path(folder, "state.json"), 0
if path.exists():
    state = json.loads(path.read_text())
    flow.load_state_dict(state["flow"])
    model.load_weights(os.path.join(folder, "model.weights.h5"))
    first = state["epoch"]
class Saving(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
    def on_train_batch_end(self, batch, logs=None):
        if [self.epoch, batch] == kill:
            model.save_weights(os.path.join(folder, "model.weights.h5"))
            path.write_text(json.dumps({"flow": flow.state_dict(), "epoch": self.epoch}))
            os._exit(9)
model.fit(flow, initial_epoch=first, epochs=3, shuffle=False, verbose=0, callbacks=[Saving()])
weights = [np.ravel(keras.ops.convert_to_numpy(weight.value)) for weight in model.weights]
np.save(os.path.join(folder, "weights.npy"), np.concatenate(weights))
"""


def test_process_that_was_killed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that goes on in another process ends with the same weights."""
    if BACKEND != "torch":
        pytest.skip("one backend will do")
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    command = [sys.executable, "-c", PROGRAM, str(photos), str(folders[1]), json.dumps([1, 2])]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == 9, killed.stderr[-3000:]
    for folder in folders:
        monkeypatch.setattr(sys, "argv", ["-c", str(photos), str(folder), "null"])
        exec(PROGRAM, {})
    results = [np.load(folder / "weights.npy") for folder in folders]
    # To rounding: PyTorch may sum over a batch in another order where its memory is aligned otherwise.
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-7)


# Files that cannot be read


@pytest.fixture
def broken(photos: Path, tmp_path: Path) -> Path:
    """The photographs, of which three cannot be read."""
    root = shutil.copytree(photos, tmp_path / "photos")
    for name in BAD:
        (root / name).write_bytes(b"no image")
    return root


BAD = ["astronaut/1.jpg", "cat/3.jpg", "scenery/0.jpg"]


def flow_with(kind: str, root: Path, place: Place, batch_size: int = 5, **policy: Any) -> Any:
    """Targets that tell each sample, and its weight: its number, and that by 10."""
    if kind == "sequence":
        paths = sorted(str(path) for path in root.glob("*/*"))
        return ImageSequence(paths, np.arange(23), batch_size, (8, 8), **place._asdict(), **policy)
    options = {"target_size": (8, 8), "batch_size": batch_size, "seed": 3}
    made = ImageDataGenerator(**place._asdict(), **policy)
    if kind == "directory":
        return made.flow_from_directory(root, class_mode="sparse", **options)
    table = pd.DataFrame({"filename": sorted(str(path.relative_to(root)) for path in root.glob("*/*"))})
    table["row"], table["weight"] = np.arange(23), np.arange(23) / 10
    return made.flow_from_dataframe(table, root, y_col="row", class_mode="raw", weight_col="weight", **options)


def epoch_of(data: Any, kind: str) -> list[list[np.ndarray]]:
    return [on_host(data[number] if kind == "sequence" else next(data)) for number in range(len(data))]


def names_of(data: Any) -> list[str]:
    return [os.path.join(*Path(sample.path).parts[-2:]) for sample in data.errors]


@pytest.mark.parametrize("kind", ["directory", "dataframe", "sequence"])
def test_skip(kind: str, broken: Path, photos: Path, place: Place) -> None:
    """The batches of a folder that is whole, without the rows of the bad samples."""
    data = flow_with(kind, broken, place, on_error="skip")
    assert data.errors == []
    whole = flow_with("dataframe" if kind == "directory" else kind, photos, place)
    reference = flow_with(kind, photos, place)
    bad = [sorted(str(path.relative_to(photos)) for path in photos.glob("*/*")).index(name) for name in BAD]
    for ours, theirs, numbers in zip(*(epoch_of(d, kind) for d in (data, reference, whole)), strict=True):
        kept = ~np.isin(numbers[1], bad)
        same([ours], [[part[kept] for part in theirs]])
    assert sorted(names_of(data)) == (BAD if kind != "sequence" else BAD[:3])


@pytest.mark.parametrize("kind", ["directory", "dataframe", "sequence"])
def test_replace(kind: str, broken: Path, photos: Path, place: Place, tmp_path: Path) -> None:
    """Whole batches: pixels, label and weight of another sample in a bad one's place, the others as ever."""
    log = tmp_path / "errors.jsonl"
    data = flow_with(kind, broken, place, errors=gpuload.Errors(on_error="replace", log=log, max_errors=3))
    reference = flow_with(kind, photos, place)
    whole = flow_with("dataframe" if kind == "directory" else kind, photos, place)
    bad = [sorted(str(path.relative_to(photos)) for path in photos.glob("*/*")).index(name) for name in BAD]
    found: list[Any] = []
    for ours, theirs, numbers in zip(*(epoch_of(d, kind) for d in (data, reference, whole)), strict=True):
        kept = ~np.isin(numbers[1], bad)
        same([[part[kept] for part in ours]], [[part[kept] for part in theirs]])
        assert len(ours[0]) == len(theirs[0])
        found += ours[1][~kept].tolist()
        if kind == "dataframe":
            np.testing.assert_array_equal(ours[1] / 10, ours[2])
        if kind == "sequence":  # Nothing random: the pixels are those of the sample that the label tells.
            every = flow_with("sequence", photos, place, batch_size=23)[0][0]
            same([[ours[0]]], [[every[ours[1]]]])
    assert len(found) == 3
    assert kind == "directory" or not set(found) & set(bad)
    assert sorted(names_of(data)) == BAD
    assert [json.loads(line)["on_error"] for line in log.read_text().splitlines()] == ["replace"] * 3


def test_saved_under_the_name_of_what_was_delivered(broken: Path, photos: Path, tmp_path: Path) -> None:
    for policy, count in (("skip", 20), ("replace", 23)):
        folder = tmp_path / policy
        folder.mkdir()
        made = ImageDataGenerator(device="cpu", on_error=policy)
        flow = made.flow_from_directory(
            broken, target_size=(8, 8), batch_size=5, shuffle=False, save_to_dir=folder, class_mode=None
        )
        for _ in range(len(flow)):
            next(flow)
        bad = [flow.filenames.index(name) for name in BAD]
        taken = [int(path.name.split("_")[1]) for path in folder.iterdir()]
        assert len(taken) == count
        assert not set(taken) & set(bad)


@settings(max_examples=6)
@given(stop=st.integers(1, 12))
def test_what_stands_in_goes_on(broken: Path, stop: int) -> None:
    """What was known to be bad before the break is found again, and the same samples stand in."""
    place = Place("numpy", "cpu")
    whole = flow_with("dataframe", broken, place, on_error="replace")
    expected = [on_host(next(whole)) for _ in range(15)]
    first = flow_with("dataframe", broken, place, on_error="replace")
    found = [on_host(next(first)) for _ in range(stop)]
    second = resumed(flow_with("dataframe", broken, place, on_error="replace"), saved(first))
    same(found + [on_host(next(second)) for _ in range(15 - stop)], expected)


def test_others_stand_in_elsewhere(broken: Path) -> None:
    """Not one sample for all the bad ones, nor the same one in every epoch."""
    paths = sorted(str(path) for path in broken.glob("*/*"))
    bad = next(number for number, path in enumerate(paths) if path.endswith(BAD[0]))
    paths[::4] = [paths[bad]] * len(paths[::4])
    sequence = ImageSequence(paths, np.arange(23), 4, (8, 8), device="cpu", on_error="replace")
    assert len({int(numbers[0]) for _, numbers in sequence}) > 1
    flow = flow_with("dataframe", broken, Place("numpy", "cpu"), batch_size=23, on_error="replace")
    flow.shuffle = False
    assert len({next(flow)[1][bad] for _ in range(5)}) > 1


def test_nothing_left_of_a_batch(broken: Path, photos: Path, place: Place) -> None:
    """By number, as fit asks, that is an error; `next` has the next one."""
    sequence = flow_with("sequence", broken, place, batch_size=1, on_error="skip")
    with pytest.raises(RuntimeError, match=r"on_error='skip' leaves nothing of batch 1, .*pass on_error='replace'"):
        list(sequence)
    assert sequence[2][1].tolist() == [2]
    flow, reference = (flow_with("dataframe", root, place, batch_size=1, on_error="skip") for root in (broken, photos))
    names = [name for name, _ in zip(flow.filenames, range(23), strict=True)]
    expected = [on_host(next(reference)) for _ in range(23)]
    kept = [batch for batch in expected if names[int(batch[1][0])] not in BAD]
    same([on_host(next(flow)) for _ in range(20)], kept)


def test_policy_is_checked_and_kept(broken: Path, place: Place, tmp_path: Path) -> None:
    for message, policy in [
        ("on_error must be one of raise, skip, replace, not 'ignore'", {"on_error": "ignore"}),
        ("max_errors as a float is a share", {"max_errors": 2.5}),
        ("max_pixels must be an integer of at least 1", {"max_pixels": 0}),
        ("timeout must be seconds above 0", {"timeout": 0}),
    ]:
        with pytest.raises(ValueError, match=message):
            ImageDataGenerator(errors=gpuload.Errors(**policy))
        with pytest.raises(ValueError, match=message):
            ImageSequence([broken / BAD[0]], [0], 1, errors=gpuload.Errors(**policy))
    for kind in ("directory", "sequence"):
        with pytest.raises(gpuload.TooManyErrors, match="max_errors=1 allows 1 bad samples of 23"):
            epoch_of(flow_with(kind, broken, place, errors=gpuload.Errors(on_error="skip", max_errors=1)), kind)


@pytest.mark.parametrize("kind", ["directory", "sequence"])
def test_max_pixels(kind: str, photos: Path, place: Place) -> None:
    data = flow_with(kind, photos, place, errors=gpuload.Errors(on_error="replace", max_pixels=64 * 64))
    epoch_of(data, kind)
    assert 0 < len(data.errors) < 23
    assert all("pixels" in sample.reason for sample in data.errors)


def test_bad_samples_outlive_new_statistics(broken: Path) -> None:
    """Another pool makes the batches then, and knows what the one before it found."""
    made = ImageDataGenerator(device="cpu", featurewise_center=True, on_error="skip")
    made.mean = 1.0
    flow = made.flow_from_directory(broken, target_size=(8, 8), batch_size=23)
    next(flow)
    made.mean = 2.0
    next(flow)
    assert sorted(names_of(flow)) == BAD


@pytest.mark.parametrize("labels", ["array", "tensor", "list"])
def test_labels_of_a_sequence(labels: str, broken: Path) -> None:
    """Sliced as they stand; where another sample stands in, its label too."""
    rows = np.arange(23.0, dtype=np.float32)
    given_labels = {"array": rows, "tensor": keras.ops.convert_to_tensor(rows), "list": rows.tolist()}[labels]
    paths = sorted(map(str, broken.glob("*/*")))
    sequence = ImageSequence(paths, given_labels, 23, (8, 8), device="cpu", on_error="replace")
    (found,) = (keras.ops.convert_to_numpy(batch[1]) for batch in sequence)
    bad = [number for number, path in enumerate(paths) if os.path.join(*Path(path).parts[-2:]) in BAD]
    assert set(np.flatnonzero(found != rows)) == set(bad)
    assert not set(found.astype(int)) & set(bad)


@counted
def test_fit_with_bad_samples(broken: Path) -> None:
    """In fit, and by a loader, whose list of bad samples is one with the data set's."""
    source = gpuload.ImageFolder(broken)
    loader = gpuload.Loader(
        source, gpuload.Augment(size=(6, 6)), batch_size=5, seed=1, device="cpu", on_error="replace"
    )
    data, model = dataset(loader), recorder()
    model.fit(data, shuffle=False, verbose=0)
    assert [len(batch[0]) for batch in model.taken] == [5, 5, 5, 5, 3]
    assert sorted(names_of(data)) == sorted(names_of(loader)) == BAD
    same(model.taken, [on_host(batch) for batch in loader.replace(framework="numpy").batches(0)])
