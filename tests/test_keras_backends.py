"""Keras' `fit`, `evaluate` and `predict` on gpuload's data sets, with each of Keras' backends.

The backend of this process is `KERAS_BACKEND`, or PyTorch; `test_other_backends` runs this file again with the others,
and with it the tests of `fit` in test_keras_state.py: a process for each backend, since starting one takes long.
"""

import functools
import importlib.util
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from keras.src.legacy.preprocessing.image import ImageDataGenerator as KerasGenerator

import gpuload
from gpuload.keras import ImageDataGenerator, ImageSequence, dataset, timeseries_dataset_from_array

BACKEND = keras.backend.backend()
# TensorFlow's trainer gets a `tf.data.Dataset`, made from NumPy arrays; the tests of what the others are handed, and of
# the moment at which they ask for it, are not for it.
by_number = pytest.mark.skipif(
    BACKEND == "tensorflow", reason="TensorFlow's trainer asks for batches ahead, by tf.data"
)


# JAX compiles each operation for each shape, and again for each new model, which takes most of its time. Small programs
# compile twice as fast without these passes, and the same ones are compiled once a run.
QUICK_JAX = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


@pytest.mark.skipif(BACKEND != "torch", reason="the run with PyTorch starts the others")
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_other_backends(backend: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if backend == "jax":
        environment |= {**QUICK_JAX, "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    files = [Path(__file__), Path(__file__).with_name("test_keras_state.py")]
    command = [sys.executable, "-m", "pytest", *files, "-k", f"{files[0].stem} or fit", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-8000:]


COUNT, BATCH, BATCHES = 30, 8, 4  # Samples; the last batch is short.
# A batch of windows has 8 * 6 * 3 * 4 bytes, a multiple of 64: JAX copies arrays that begin elsewhere.


def pictures() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (COUNT, 6, 6, 3), dtype=np.uint8)


def image_loader(**options: Any) -> gpuload.Loader:
    """Of small images, each with its number for a label."""
    source = gpuload.ImageArray(pictures(), labels=np.arange(COUNT, dtype=np.float32))
    transform = gpuload.Augment(rescale=1 / 255, hflip=0.5)
    return gpuload.Loader(source, transform, **{"batch_size": BATCH, "seed": 3, "shuffle": True, **options})


def window_loader(**options: Any) -> gpuload.Loader:
    values = np.random.default_rng(6).random((COUNT + 7, 3), np.float32)
    window = gpuload.Window(6, horizon=2, **options.pop("window", {}))
    return gpuload.Loader(
        gpuload.Series(values), window, **{"batch_size": BATCH, "seed": 3, "shuffle": True, **options}
    )


def paths_of(photos: Path) -> list[str]:
    paths = sorted(map(str, photos.glob("scenery/*.jpg")))
    return (paths * 4)[:COUNT]


# Images or windows, and targets [B] or [B, some].
DATASETS: dict[str, Callable[[Path, str], Any]] = {
    "loader of images": lambda photos, device: dataset(image_loader(device=device)),
    "loader of windows": lambda photos, device: dataset(
        window_loader(device=device), lambda inputs, targets: (inputs, targets[:, 0])
    ),
    "flow": lambda photos, device: ImageDataGenerator(rescale=1 / 255, zoom_range=0.2, device=device).flow(
        pictures(), np.arange(COUNT, dtype=np.float32), batch_size=BATCH, seed=1
    ),
    "flow_from_directory": lambda photos, device: ImageDataGenerator(
        rescale=1 / 255, device=device
    ).flow_from_directory(photos, target_size=(6, 6), batch_size=BATCH, seed=1),
    "sequence": lambda photos, device: ImageSequence(
        paths_of(photos), np.arange(COUNT, dtype=np.float32), BATCH, (6, 6), device=device
    ),
    "timeseries": lambda photos, device: timeseries_dataset_from_array(
        np.random.default_rng(6).random((60, 3), np.float32),
        np.arange(60, dtype=np.float32),
        6,
        batch_size=BATCH,
        device=device,
    ),
}
# A loader's are the backend's arrays for whoever asks.
NUMPY_OUTSIDE = [name for name in DATASETS if not name.startswith("loader")]


class Recorder(keras.Model):
    """A layer that tells what its steps get."""

    def __init__(self, outputs: int = 1):
        super().__init__()
        self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(outputs)
        self.steps: list[tuple[str, Any]] = []

    def call(self, x: Any) -> Any:
        return self.dense(self.flatten(x))

    def train_step(self, *arguments: Any) -> Any:  # (data) or, with JAX, (state, data)
        self.steps.append(("train", arguments[-1]))
        return super().train_step(*arguments)

    def test_step(self, *arguments: Any) -> Any:
        self.steps.append(("test", arguments[-1]))
        return super().test_step(*arguments)

    def predict_step(self, *arguments: Any) -> Any:
        self.steps.append(("predict", arguments[-1]))
        return super().predict_step(*arguments)

    def taken(self, part: int = 1) -> list[np.ndarray]:
        """That part of the batches trained on so far; forgotten thereafter."""
        found = [keras.ops.convert_to_numpy(data[part]) for step, data in self.steps if step == "train"]
        self.steps.clear()
        return found


def recorder(outputs: int = 1) -> Recorder:
    keras.utils.set_random_seed(1)
    model = Recorder(outputs)
    # Neither traced nor compiled: steps get the arrays themselves.
    model.compile("sgd", "mse", run_eagerly=True, jit_compile=False)
    return model


def outputs_for(data: Any) -> int:
    """How many numbers a target has."""
    target = data[0][1]
    return 1 if target.ndim == 1 else target.shape[-1]


def address(array: Any) -> int:
    for name in ("data_ptr", "unsafe_buffer_pointer"):
        if hasattr(array, name):
            return getattr(array, name)()
    return array.ctypes.data


def kinds(device: str) -> type:
    """The backend's own arrays, which fit is handed; NumPy's where the backend does not use the device."""
    import gpuload.keras.backend
    from gpuload.core.device import CPU, Device

    framework = gpuload.keras.backend.backend_framework(CPU if device == "cpu" else Device(0))
    if framework.name == "torch":
        import torch

        return torch.Tensor
    if framework.name == "jax":
        import jax

        return jax.Array
    return np.ndarray


@by_number
@pytest.mark.parametrize("name", DATASETS)
def test_steps_get_the_backends_arrays_without_a_copy(
    name: str, photos: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engine made is what steps get, at the same place; whoever else asks a flow gets NumPy arrays."""
    made = set()
    kept = []  # So that no address is used again.
    convert = gpuload.keras.prefetch.of_framework  # type: ignore[attr-defined]

    def noted(batch: Any, *arguments: Any) -> Any:
        images = keras.tree.flatten(batch)[0]
        made.add(address(images))
        kept.append(images)
        return convert(batch, *arguments)

    monkeypatch.setattr("gpuload.keras.prefetch.of_framework", noted)
    data, held_out = DATASETS[name](photos, device), DATASETS[name](photos, device)
    outside = np.ndarray if name in NUMPY_OUTSIDE else kinds(device)
    assert isinstance(data[0][0], outside)
    model = recorder(outputs_for(data))
    model.fit(data, validation_data=held_out, epochs=2, verbose=0)
    model.evaluate(data, verbose=0)
    model.predict(data, verbose=0)
    assert [step for step, _ in model.steps].count("train") == 2 * len(data)
    assert [step for step, _ in model.steps].count("test") == 3 * len(data)
    assert [step for step, _ in model.steps].count("predict") == len(data)
    for _, batch in model.steps:
        assert isinstance(batch[0], kinds(device))
        assert str(getattr(batch[0], "device", "cpu")).startswith(("cpu", "TFRT_CPU") if device == "cpu" else "cuda")
        # Plain windows are gathered by NumPy, at an address that XLA may not take as it is.
        if kinds(device).__module__ == "torch" or name not in ("loader of windows", "timeseries"):
            assert address(batch[0]) in made
    assert isinstance(data[0][0], outside)
    assert isinstance(held_out[0][0], outside)


class Broken(keras.callbacks.Callback):
    """Ends fit with an error at a batch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1:
            raise ZeroDivisionError


@pytest.mark.parametrize("name", NUMPY_OUTSIDE)
def test_numpy_arrays_again_after_a_fit_that_raised(name: str, photos: Path) -> None:
    data = DATASETS[name](photos, "cpu")
    model = recorder(outputs_for(data))
    with pytest.raises(ZeroDivisionError):
        model.fit(data, verbose=0, callbacks=[Broken()])
    model.fit(data, verbose=0)
    assert type(data[0][0]) is np.ndarray
    assert type(data[0][1]) is np.ndarray


class Stopping(keras.callbacks.Callback):
    """Ends fit within an epoch, as keras.callbacks.TerminateOnNaN does."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.stop_training = True


def test_numpy_arrays_from_next_after_a_fit_that_stopped(photos: Path) -> None:
    """Keras calls no `on_epoch_end` then."""
    flow = DATASETS["flow"](photos, "cpu")
    recorder().fit(flow, verbose=0, callbacks=[Stopping()])
    assert type(next(flow)[0]) is np.ndarray


class Logged(keras.utils.PyDataset):
    """Tells what Keras asks of it."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def __len__(self) -> int:
        return 3

    @property
    def num_batches(self) -> int:
        self.events.append("num_batches")
        return 3

    def __getitem__(self, number: int) -> Any:
        self.events.append("batch")
        return np.ones((2, 6, 6), np.float32), np.ones(2, np.float32)

    def on_epoch_begin(self) -> None:
        self.events.append("begin")

    def on_epoch_end(self) -> None:
        self.events.append("end")


@by_number
@pytest.mark.parametrize("steps", [None, 3, 1])
def test_what_keras_does_with_a_data_set(steps: int | None) -> None:
    """What gpuload.keras.prefetch relies on, by a data set that is not gpuload's. A new Keras that fails here needs it.

    Passes lie between `on_epoch_begin` and `on_epoch_end`, one after another, with `num_batches` read in each before
    its first batch, except where an epoch goes on with the pass of the one before it.
    """
    data = Logged()
    model = recorder()

    def passes(epochs: int) -> list[list[str]]:
        events, data.events = data.events, []
        found: list[list[str]] = []
        inside = False
        for event in events:
            if event == "begin":
                assert not inside
                inside = True
                found.append([])
            elif event == "end":
                inside = False
            elif inside:
                if found[-1][-1:] != ["num_batches"] or event == "batch":  # It may be read more than once.
                    found[-1].append(event)
            else:
                assert event == "num_batches", "a batch was asked for outside of a pass"
        assert not inside
        assert len(found) == epochs
        # Between the last batch and `on_epoch_end` it may be read as well, for the next pass.
        return [events[:-1] if events[-1] == "num_batches" else events for events in found]

    model.fit(data, epochs=1, steps_per_epoch=steps, verbose=0)
    build, first = passes(2)  # A new model is built from a first batch.
    assert build[:2] == ["num_batches", "batch"]
    assert build.count("batch") == 1
    assert first[:2] == ["num_batches", "batch"]
    model.fit(data, epochs=3, steps_per_epoch=steps, verbose=0)
    for number, events in enumerate(passes(3)):
        assert events.count("batch") == (steps or 3)
        if steps != 1 or number == 0:
            assert events[:2] == ["num_batches", "batch"]
    for function in (model.evaluate, model.predict):
        function(data, verbose=0)
        (events,) = passes(1)
        assert events[:2] == ["num_batches", "batch"]
        assert events.count("batch") == 3


def epochs_of(loader: gpuload.Loader, count: int, first: int = 0) -> list[list[Any]]:
    """The targets of its epochs, by the loader itself."""
    reference = loader.replace(framework="numpy", device="cpu")
    reference.set_epoch(first)
    return [[targets for _, targets in reference] for _ in range(count)]


def joined(epochs: list[list[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(epochs))


def same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    assert [batch.tolist() for batch in ours] == [batch.tolist() for batch in theirs]


def test_epochs_of_a_loader_follow_each_other() -> None:
    """One after another, from 0 on, though a new model is built from a batch; evaluate and predict take one each."""
    loader = image_loader()
    data, model = dataset(loader), recorder()
    expected = epochs_of(loader, 9)
    model.fit(data, epochs=3, shuffle=False, verbose=0)
    same(model.taken(), joined(expected[:3]))
    assert loader.epoch == 3
    model.evaluate(data, verbose=0)
    model.predict(data, verbose=0)
    model.fit(data, epochs=2, shuffle=False, verbose=0)
    same(model.taken(), joined(expected[5:7]))
    recorder().evaluate(data, verbose=0)
    assert loader.epoch == 8
    loader.set_epoch(4)
    model.fit(data, initial_epoch=4, epochs=6, shuffle=False, verbose=0)
    same(model.taken(), joined(expected[4:6]))


@by_number
def test_shuffled_fit_sees_every_sample_once_an_epoch() -> None:
    """The batches of the loader's epoch, in another order."""
    loader = image_loader()
    model = recorder()
    model.fit(dataset(loader), epochs=3, verbose=0)
    taken = model.taken()
    for number, expected in enumerate(epochs_of(loader, 3)):
        ours = taken[number * BATCHES : (number + 1) * BATCHES]
        assert sorted(batch.tolist() for batch in ours) == sorted(batch.tolist() for batch in expected)
    unshuffled = joined(epochs_of(loader, 3))
    assert any(len(mine) != len(other) or (mine != other).any() for mine, other in zip(taken, unshuffled, strict=True))


@pytest.mark.parametrize("shuffle", [False, pytest.param(True, marks=by_number)])
@pytest.mark.parametrize(("steps", "epochs"), [(1, 8), (2, 6), (4, 2)])
def test_steps_per_epoch(shuffle: bool, steps: int, epochs: int) -> None:
    """A pass of the loader goes on over the epochs of fit: its samples come once each."""
    loader = image_loader()
    model = recorder()
    model.fit(dataset(loader), steps_per_epoch=steps, epochs=epochs, shuffle=shuffle, verbose=0)
    taken = model.taken()
    passes = steps * epochs // BATCHES
    assert len(taken) == steps * epochs
    for number, expected in enumerate(epochs_of(loader, passes)):
        ours = taken[number * BATCHES : (number + 1) * BATCHES]
        assert sorted(batch.tolist() for batch in ours) == sorted(batch.tolist() for batch in expected)
        if not shuffle:
            same(ours, expected)


@by_number
@pytest.mark.parametrize("name", ["flow", "sequence", "timeseries"])
def test_steps_per_epoch_of_a_data_set(name: str, photos: Path) -> None:
    data = DATASETS[name](photos, "cpu")
    model = recorder()
    model.fit(data, epochs=1, shuffle=False, verbose=0)
    once = np.sort(np.concatenate(model.taken()))
    half = len(data) // 2
    if name == "flow":  # on_epoch_end draws the next order, as Keras' own does, also in the middle of a pass.
        half = len(data)
    model.fit(data, steps_per_epoch=half, epochs=len(data) // half, verbose=0)
    taken = np.concatenate(model.taken())
    assert len(np.unique(taken)) == len(taken)
    assert set(taken) <= set(once)


class Batches(keras.callbacks.Callback):
    """Counts the batches of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.counts.append(0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.counts[-1] += 1


def test_callbacks() -> None:
    """A loss that cannot fall by so much stops fit after its second epoch, and the next fit goes on from there."""
    loader, model, counter = image_loader(), recorder(), Batches()
    early = keras.callbacks.EarlyStopping("loss", min_delta=1e9)
    data = dataset(loader)
    history = model.fit(data, epochs=9, callbacks=[counter, early], shuffle=False, verbose=0).history
    assert counter.counts == [BATCHES, BATCHES]
    assert len(history["loss"]) == 2
    model.steps.clear()
    model.fit(data, shuffle=False, verbose=0)
    same(model.taken(), epochs_of(loader, 1, first=2)[0])


def dense(outputs: int | dict[str, int] = 1, shape: tuple[int, ...] = (6, 6, 3)) -> keras.Model:
    keras.utils.set_random_seed(2)
    inputs = keras.layers.Input(shape)
    flat = keras.layers.Flatten()(inputs)
    if isinstance(outputs, dict):
        found: Any = {name: keras.layers.Dense(count, name=name)(flat) for name, count in outputs.items()}
    else:
        found = keras.layers.Dense(outputs)(flat)
    model = keras.Model(inputs, found)
    model.compile("adam", dict.fromkeys(outputs, "mse") if isinstance(outputs, dict) else "mse")
    return model


def numbers(weights: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(weight.value) for weight in weights]


def same_weights(ours: keras.Model, theirs: keras.Model) -> None:
    """To rounding: sums over a batch may be taken in another order where its memory is aligned otherwise."""
    for mine, expected in zip(numbers(ours.weights), numbers(theirs.weights), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)
    assert all(np.abs(bias).min() > 1e-4 for bias in numbers(ours.weights)[1::2]), "biases begin as 0: nothing learnt"


def by_hand(
    model: keras.Model, loader: gpuload.Loader, epochs: int, arrange: Any = lambda *batch: batch, **more
) -> None:
    loader = loader.replace(framework="numpy", device="cpu")
    for _ in range(epochs):
        for batch in loader:
            x, y, *weights = arrange(*batch)
            model.train_on_batch(x, y, *weights, **more)


@pytest.mark.parametrize("class_weight", [None, {number: number / 4 for number in range(COUNT)}])
def test_fit_equals_a_loop_by_hand(class_weight: dict[int, float] | None, device: str) -> None:
    """Unshuffled fit trains on the batches of the loader, in its order, with the same weights of classes."""
    loader = image_loader(device=device)
    ours, theirs = dense(), dense()
    by_hand(theirs, loader, 2, class_weight=class_weight)
    ours.fit(dataset(loader), epochs=2, shuffle=False, class_weight=class_weight, verbose=0)
    same_weights(ours, theirs)
    held_out = image_loader(device=device, shuffle=False)
    batches = list(held_out.replace(framework="numpy"))
    x, y = (np.concatenate(column) for column in zip(*batches, strict=True))
    history = ours.fit(dataset(loader), shuffle=False, validation_data=dataset(held_out), verbose=0).history
    np.testing.assert_allclose(history["val_loss"], ours.evaluate(x, y, batch_size=BATCH, verbose=0), rtol=1e-4)
    held_out.set_epoch(0)
    predicted = ours.predict(dataset(held_out), verbose=0)
    np.testing.assert_allclose(predicted, ours.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


def test_fit_gives_the_numbers_of_keras(photos: Path) -> None:
    """With validation, class weights and fewer steps than batches; evaluate and predict too."""
    results = []
    for generator in (KerasGenerator, functools.partial(ImageDataGenerator, device="cpu", engine="numpy")):
        made = generator(rescale=1 / 255, shear_range=5, zoom_range=0.2, horizontal_flip=True, validation_split=0.25)
        flow = {"target_size": (16, 16), "batch_size": 4, "seed": 7}
        train = made.flow_from_directory(photos, subset="training", **flow)
        held_out = made.flow_from_directory(photos, subset="validation", shuffle=False, **flow)
        keras.utils.set_random_seed(3)
        layers = [keras.layers.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
        model = keras.Sequential(layers)
        model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
        weights = {0: 1.0, 1: 2.0, 2: 0.5}
        history = model.fit(train, epochs=3, validation_data=held_out, class_weight=weights, verbose=0).history
        # TensorFlow's trainer reads ahead across the ends of epochs, so that Keras itself is left to chance there.
        model.fit(train, epochs=2, steps_per_epoch=None if BACKEND == "tensorflow" else 2, verbose=0)
        losses = [x for name in sorted(history) for x in history[name]]
        scores = model.evaluate(held_out, verbose=0)
        results.append(losses + scores + model.predict(held_out, verbose=0).ravel().tolist())
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-5)


def weighted(x: Any, y: Any) -> Any:
    """Two outputs, and weights for each sample of each."""
    return x, {"a": y[:, None], "b": y[:, None] / 2}, {"a": y / 10, "b": 1 - y / 30}


def test_arranged_targets_and_weights() -> None:
    loader = image_loader()
    ours, theirs = dense({"a": 1, "b": 1}), dense({"a": 1, "b": 1})
    by_hand(theirs, loader, 2, weighted)
    ours.fit(dataset(loader, weighted), epochs=2, shuffle=False, verbose=0)
    same_weights(ours, theirs)


def test_sample_weights_of_a_flow() -> None:
    """As Keras' own flow trains; at once with several targets of a sample."""
    x, y = pictures(), np.arange(2.0 * COUNT, dtype=np.float32).reshape(COUNT, 2)
    models = []
    for generator in (KerasGenerator(rescale=1 / 255), ImageDataGenerator(rescale=1 / 255, device="cpu")):
        flow = generator.flow(x, y, sample_weight=np.linspace(0, 2, COUNT, dtype=np.float32), batch_size=BATCH, seed=4)
        model = dense(2)
        model.fit(flow, epochs=2, verbose=0)
        models.append(model)
    same_weights(*models)


@pytest.mark.parametrize("weight_col", [None, "weight"])
@pytest.mark.parametrize("class_mode", ["multi_output", "raw"])
def test_targets_and_weights_of_a_frame(photos: Path, class_mode: str, weight_col: str | None) -> None:
    if class_mode == "multi_output" and BACKEND == "tensorflow":
        pytest.skip("Keras gives TensorFlow a list of targets, of which a tf.data.Dataset cannot be made, its own too")
    names = [str(path.relative_to(photos)) for path in sorted(photos.glob("scenery/*.jpg"))]
    rows = np.arange(len(names), dtype=np.float32)
    frame = pd.DataFrame({"filename": names, "a": rows, "b": rows**2 / 10, "weight": rows / 5})
    flow = {"y_col": ["a", "b"], "class_mode": class_mode, "target_size": (6, 6), "batch_size": 4, "seed": 1}
    flow |= {"weight_col": weight_col}
    models = []
    for generator in (
        KerasGenerator(rescale=1 / 255),
        ImageDataGenerator(rescale=1 / 255, device="cpu", engine="numpy"),
    ):
        keras.utils.set_random_seed(2)
        inputs = keras.layers.Input((6, 6, 3))
        flat = keras.layers.Flatten()(inputs)
        several = class_mode == "multi_output"
        model = keras.Model(
            inputs, [keras.layers.Dense(1)(flat) for _ in range(2)] if several else keras.layers.Dense(2)(flat)
        )
        model.compile("adam", ["mse", "mse"] if several else "mse")
        model.fit(generator.flow_from_dataframe(frame, str(photos), **flow), epochs=2, verbose=0)
        models.append(model)
    same_weights(*models)


def test_windows_with_a_horizon(device: str) -> None:
    """Targets [B, horizon, channels]; extras become the weights of samples."""

    def arranged(inputs: Any, targets: Any, extras: Any) -> Any:
        return inputs, targets[:, 0], 1 / extras["scale"][:, 0]

    options = {"per_sample": "standardize", "extras": ["scale"], "dtype": "float32"}
    loader = window_loader(device=device, window=options)
    ours, theirs = dense(3, (6, 3)), dense(3, (6, 3))
    by_hand(theirs, loader, 2, arranged)
    ours.fit(dataset(loader, arranged), epochs=2, shuffle=False, verbose=0)
    same_weights(ours, theirs)
    with pytest.raises(ValueError, match=r"extras=\['scale'\] come third in a batch, .* pass arrange"):
        dataset(loader)


def test_no_loader() -> None:
    with pytest.raises(TypeError, match=r"loader must be a gpuload\.Loader, not Batches: pass the loader itself"):
        dataset(iter(image_loader()))


class Waiting(keras.callbacks.Callback):
    """Stays in the middle of an epoch until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.go_on = threading.Event(), threading.Event()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.inside.set()
        assert self.go_on.wait(60)


@by_number
def test_fit_in_two_threads() -> None:
    """The second is told; when the first is through, others may begin."""
    data, first, second, waiting = dataset(image_loader()), recorder(), recorder(), Waiting()
    thread = threading.Thread(
        target=first.fit, args=(data,), kwargs={"verbose": 0, "callbacks": [waiting]}, name="first"
    )
    thread.start()
    try:
        assert waiting.inside.wait(60)
        with pytest.raises(RuntimeError, match=r"this data set is being consumed by fit.* in thread 'first'"):
            second.fit(data, verbose=0)
    finally:
        waiting.go_on.set()
        thread.join()
    assert [step for step, _ in first.steps].count("train") == BATCHES
    second.fit(data, verbose=0)
