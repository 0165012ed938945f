"""The `tf.data` door: the loader's own batches, their specs, epochs, what is freed, errors, Keras, strategies."""

import gc
import json
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Place

import gpuload

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

from gpuload.tensorflow import dataset  # noqa: E402

for _gpu in tf.config.list_physical_devices("GPU"):
    tf.config.experimental.set_memory_growth(_gpu, True)  # DALI needs some as well.

DALI = Place("numba", "cpu")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (11, 12, 10, 3), dtype=np.uint8)
MEMORY = gpuload.ImageArray(PIXELS, labels=np.arange(11))
RANDOM = gpuload.Augment(size=(12, 10), rotation=20, zoom=0.2, hflip=0.5, rescale=1 / 255)


@pytest.fixture
def files(photos: Path) -> gpuload.ImageFolder:
    return gpuload.ImageFolder(photos)


def loader_of(source: Any, transform: Any = RANDOM, place: Place = DALI, **options: Any) -> Any:
    defaults = {"batch_size": 4, "shuffle": True, "seed": 5, **place._asdict()}
    return gpuload.Loader(source, transform, **{**defaults, **options})


def assert_same(element: Any, batch: Any) -> None:
    """An element of a dataset is a batch of NumPy arrays, number by number."""
    tensors, arrays = tf.nest.flatten(element), tf.nest.flatten(batch)
    for tensor, array in zip(tensors, arrays, strict=True):
        values = tensor.numpy()
        if tensor.dtype == tf.string:
            values = values.astype(str)
        assert values.dtype == array.dtype
        np.testing.assert_array_equal(values, array)


def assert_epochs(loader: Any, epochs: int = 2) -> Any:
    """The dataset has the loader's batches, epoch by epoch, as it says beforehand."""
    batches = dataset(loader)
    reference = loader.replace(framework="numpy")
    assert len(batches) == len(reference)
    for epoch in range(epochs):
        expected = list(reference)
        found = list(batches)
        assert loader.epoch == reference.epoch == epoch + 1
        assert len(found) == len(expected)
        for element, batch in zip(found, expected, strict=True):
            tf.nest.assert_same_structure(batches.element_spec, element)
            for spec, tensor in zip(tf.nest.flatten(batches.element_spec), tf.nest.flatten(element), strict=True):
                assert spec.is_compatible_with(tensor)
                assert spec.shape.rank is not None
            assert_same(element, batch)
    return batches


LABELS: dict[str, Callable[[int], Any]] = {
    "none": lambda size: None,
    "classes": lambda size: np.arange(size, dtype=np.int32),
    "flags": lambda size: np.arange(size) % 3 == 0,
    "bytes": lambda size: np.arange(size, dtype=np.uint8).reshape(size, 1),
    "doubles": lambda size: np.linspace(0, 1, size * 6).reshape(size, 2, 3),
    "big-endian": lambda size: np.arange(size, dtype=">i2"),
    "strings": lambda size: np.array(list("abcdefghijklmnopqrstuvwxyz"[:size])),
}
TRANSFORMS = {
    "warp": RANDOM,
    "flips": gpuload.Augment(size=(9, 14), hflip=0.5, vflip=0.5, dtype="uint8"),
    "levels": gpuload.Augment(size=(16, 16), channel_shift=30, brightness=(0.5, 1.5), dtype="float16"),
    "crop": gpuload.Augment(size=(20, 16), crop=gpuload.RandomResizedCrop(), hflip=0.5, layout="CHW"),
    "ties": gpuload.Augment(size=(15, 21), interpolation="nearest", hflip=0.5),
    "nothing": gpuload.Augment(size=(8, 8), color="grayscale", dtype="bfloat16"),
}


def test_images(place: Place, files: gpuload.ImageFolder) -> None:
    """23 images in batches of 4: five whole ones and one of three."""
    batches = assert_epochs(loader_of(files, place=place))
    images, labels = batches.element_spec
    assert (images.shape.as_list(), images.dtype) == ([None, 12, 10, 3], tf.float32)
    assert (labels.shape.as_list(), labels.dtype) == ([None], tf.int32)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str, dali: Place, files: gpuload.ImageFolder) -> None:
    assert_epochs(loader_of(files, TRANSFORMS[name], dali))


@pytest.mark.parametrize("name", LABELS)
def test_labels(name: str) -> None:
    source = gpuload.ImageArray(PIXELS, labels=LABELS[name](len(PIXELS)))
    batches = dataset(loader_of(source))
    expected = list(loader_of(source))
    for element, batch in zip(batches, expected, strict=True):
        if isinstance(batch, tuple):  # TensorFlow has one order of bytes.
            batch = batch[0], batch[1].astype(batch[1].dtype.newbyteorder("="))
        assert_same(element, batch)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_images_in_memory(dtype: Any, dali: Place) -> None:
    """Also those with a number of channels that no file has."""
    images = RNG.uniform(0, 255, (11, 12, 10, 2)).astype(dtype)
    transform = gpuload.Augment(rotation=20, vflip=0.5)
    assert_epochs(loader_of(gpuload.ImageArray(images), transform, dali))


@pytest.mark.parametrize(
    ("last_batch", "batch_size", "expected"),
    [("keep", 4, None), ("drop", 4, 4), ("pad", 4, 4), ("keep", 11, 11), ("keep", 20, None), ("pad", 20, 20)],
)
def test_the_axis_of_samples_is_known_where_it_can_be(last_batch: str, batch_size: int, expected: int | None) -> None:
    loader = loader_of(MEMORY, batch_size=batch_size, last_batch=last_batch)
    images, labels = assert_epochs(loader).element_spec
    assert images.shape[0] == labels.shape[0] == expected


WINDOWS = {
    "channels": (gpuload.Window(5, horizon=2, dilation=2), None),
    "targets": (gpuload.Window(5, target="end", mean=1.0, std=2.0), np.arange(40, dtype=np.int32)),
    "several": (gpuload.Window(5, horizon=3, layout="BCL"), np.ones((40, 2))),
    "time first": (gpuload.Window(5, horizon=3, layout="LBC", dtype="float16"), None),
    "inputs alone": (gpuload.Window(5, dtype="bfloat16"), None),
    "names": (gpuload.Window(5), np.array([f"row {row}" for row in range(40)])),
    "extras": (
        gpuload.Window(5, target_channels=[2], per_sample="standardize", extras=["mask", "mean", "scale", "start"]),
        None,
    ),
    "extras alone": (gpuload.Window(5, layout="BCL", extras=["start"]), None),
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("last_batch", ["keep", "drop"])
def test_windows(name: str, last_batch: str, device: str) -> None:
    window, targets = WINDOWS[name]
    series = gpuload.Series(RNG.normal(size=(40, 3)).astype(np.float32), targets=targets)
    loader = gpuload.Loader(series, window, batch_size=5, shuffle=True, seed=1, last_batch=last_batch, device=device)
    if name == "names" and device != "cpu":
        loader = loader.replace(framework="numpy")
    batches = assert_epochs(loader)
    inputs = tf.nest.flatten(batches.element_spec)[0]
    short = last_batch == "keep" and loader.order.size % 5
    assert inputs.shape[1 if window.layout == "LBC" else 0] == (None if short else 5)


def test_a_series_without_channels() -> None:
    series = gpuload.Series(np.arange(20.0), targets=np.arange(20))
    window = gpuload.Window(3, per_sample="center", extras=["mean"])
    assert_epochs(gpuload.Loader(series, window, batch_size=4, seed=1, device="cpu"))


@pytest.mark.parametrize("framework", ["torch", "tensorflow", "jax", "dlpack"])
def test_the_framework_of_the_loader_is_set_aside(framework: str) -> None:
    """Images are in NumPy's layout and labels of the source's dtype, whatever the loader itself yields."""
    if framework != "dlpack":
        pytest.importorskip(framework)
    batches = assert_epochs(loader_of(MEMORY, framework=framework), epochs=1)
    assert batches.element_spec[0].shape.as_list() == [None, 12, 10, 3]


def labels_of(batches: Any) -> list[list[int]]:
    return [labels.numpy().tolist() for _, labels in batches]


def epoch(number: int) -> list[list[int]]:
    loader = loader_of(MEMORY)
    loader.set_epoch(number)
    return [labels.tolist() for _, labels in loader]


def test_epochs() -> None:
    """Each iteration is the loader's next epoch, an early end included; the number is one for all that read it."""
    loader = loader_of(MEMORY)
    batches = dataset(loader)
    for _ in batches:
        break
    assert loader.epoch == 1
    assert labels_of(batches) == epoch(1)
    assert [labels.tolist() for _, labels in loader] == epoch(2)
    assert labels_of(batches) == epoch(3)
    loader.set_epoch(9)
    assert labels_of(batches.repeat(2)) == epoch(9) + epoch(10)
    iter(batches)
    assert loader.epoch == 11, "an iterator that was asked for nothing takes no epoch"


def test_iterators_side_by_side() -> None:
    batches = dataset(loader_of(MEMORY))
    one, two = iter(batches), iter(batches)
    pairs = [(next(one)[1].numpy().tolist(), next(two)[1].numpy().tolist()) for _ in range(3)]
    assert [list(labels) for labels in zip(*pairs, strict=True)] == [epoch(0), epoch(1)]
    assert next(one, None) is next(two, None) is None


def stopped(loader: Any, count: int) -> tuple[Any, Any]:
    """The loader's state after so many batches, and what follows: the rest of the epoch, and the next one."""
    batches = iter(loader)
    for _ in range(count):
        next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    return state, [list(batches), list(loader)]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("framework", ["numpy", "tensorflow"])
def test_the_rest_of_an_epoch_and_whole_ones_after_it(framework: str, count: int) -> None:
    """Of a loader that was put into the middle of one, pixel by pixel."""
    state, follow = stopped(loader_of(MEMORY), count)
    loader = loader_of(MEMORY, framework=framework)
    loader.load_state_dict(state)
    batches = dataset(loader)
    assert batches.cardinality() == tf.data.UNKNOWN_CARDINALITY
    for expected in follow:
        found = list(batches)
        assert len(found) == len(expected)
        for element, batch in zip(found, expected, strict=True):
            assert_same(element, batch)
    assert (loader.state_dict()["epoch"], loader.state_dict()["seen"]) == (2, 0)
    assert len(dataset(loader)) == 3


def test_a_state_that_is_loaded_too_late() -> None:
    """The length was told; and a seed that the state brings is not that of a loader of the dataset's own."""
    message = r"load_state_dict was called after this dataset was made: make the dataset after load_state_dict"
    state, _ = stopped(loader_of(MEMORY), 2)
    for changes, kept in (({}, state), ({"seed": None, "framework": "tensorflow"}, {**state, "seen": 0})):
        loader = loader_of(MEMORY, **changes)
        batches = dataset(loader)
        loader.load_state_dict(kept)
        with pytest.raises(tf.errors.OpError, match=message):
            list(batches)
    # Another epoch is as good as one that set_epoch names.
    loader = loader_of(MEMORY)
    batches = dataset(loader)
    loader.load_state_dict({**state, "epoch": 5, "seen": 0})
    assert labels_of(batches) == epoch(5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_state_counts_what_tf_data_has_taken(count: int) -> None:
    """Left to itself, it reads ahead."""
    options = tf.data.Options()
    options.autotune.enabled = False
    loader = loader_of(MEMORY)
    batches = iter(dataset(loader).map(lambda images, labels: labels).with_options(options))
    for _ in range(count):
        next(batches)
    state = loader.state_dict()
    assert (state["epoch"], state["seen"]) == (0, min(4 * count, 11))
    again = loader_of(MEMORY)
    again.load_state_dict(state)
    assert [labels.tolist() for _, labels in again] == [labels.numpy().tolist() for labels in batches]


def dali_threads() -> int:
    """Threads of all DALI pipelines of this process."""
    names = (path.read_text() for path in Path("/proc/self/task").glob("*/comm"))
    return sum("DALI" in name for name in names)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc, which Linux has")
def test_an_iteration_that_is_left_frees_what_it_holds(files: gpuload.ImageFolder) -> None:
    gc.collect()
    before = dali_threads()
    loader = loader_of(files, threads=3, batch_size=1, cache=None)  # Which decodes in every epoch.
    batches = dataset(loader)
    labels_of(batches)
    standing = dali_threads()
    iterators = [iter(batches) for _ in range(3)]
    for iterator in iterators:
        next(iterator)
    assert dali_threads() > standing
    del iterators, iterator
    gc.collect()
    assert dali_threads() == standing
    gone = weakref.ref(loader)
    del loader, batches
    gc.collect()
    assert gone() is None
    assert dali_threads() == before


def test_the_dataset_must_be_kept() -> None:
    """What TensorFlow itself keeps of a dataset does not suffice, and says so."""
    variant = tf.data.experimental.to_variant(dataset(loader_of(MEMORY)))
    gc.collect()
    spec = (tf.TensorSpec((None, 12, 10, 3)), tf.TensorSpec((None,), tf.int64))
    with pytest.raises(tf.errors.OpError, match=r"this tf\.data\.Dataset was deleted: keep it"):
        next(iter(tf.data.experimental.from_variant(variant, spec)))


@pytest.fixture
def broken(tmp_path: Path, photos: Path) -> gpuload.ImageList:
    """Eight files, of which the sixth is no image."""
    (tmp_path / "broken.jpg").write_bytes(b"this is no image")
    names = [photos / f"scenery/{number}.jpg" for number in range(8)]
    names[5] = tmp_path / "broken.jpg"
    return gpuload.ImageList(names)


def test_a_broken_file(place: Place, broken: gpuload.ImageList) -> None:
    batches = iter(dataset(loader_of(broken, place=place, shuffle=False)))
    next(batches)
    with pytest.raises(tf.errors.UnknownError, match=r"SampleError: cannot read '.*broken.jpg' \(sample 5\)"):
        next(batches)


@pytest.mark.parametrize("on_error", ["skip", "replace"])
def test_broken_files_that_are_no_error(place: Place, broken: gpuload.ImageList, on_error: str) -> None:
    """Skipped, they leave a batch shorter, or out: nobody knows how many come. Replaced, they leave the length."""
    source = broken.take([*range(8), 5, 5])
    options = {"place": place, "shuffle": False, "batch_size": 2, "on_error": on_error}
    expected = list(loader_of(source, **options))
    batches = dataset(loader_of(source, **options))
    assert [len(images) for images in expected] == ([2, 2, 1, 2] if on_error == "skip" else [2] * 5)
    assert batches.cardinality() == (tf.data.UNKNOWN_CARDINALITY if on_error == "skip" else 5)
    for element, batch in zip(batches, expected, strict=True):
        assert_same(element, batch)


def test_what_is_made_of_a_dataset() -> None:
    loader = loader_of(MEMORY)
    batches = dataset(loader)
    doubled = batches.map(lambda images, labels: (images, labels * 2)).prefetch(2)
    assert labels_of(doubled.take(2)) == (np.array(epoch(0)[:2]) * 2).tolist()
    assert len(doubled.take(2)) == 2
    assert [labels.item() for _, labels in batches.unbatch().as_numpy_iterator()] == [n for b in epoch(1) for n in b]

    @tf.function
    def total() -> Any:
        result = tf.constant(0, tf.int64)
        for _, labels in batches:
            result += tf.reduce_sum(labels)
        return result

    assert total() == total() == sum(range(11))
    assert loader.epoch == 4


def test_strategy() -> None:
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    with strategy.scope():
        batches = dataset(loader_of(MEMORY))
    spread = strategy.experimental_distribute_dataset(batches)
    for number in range(2):
        assert labels_of(spread) == epoch(number)


def run(program: str, **environment: str) -> str:
    """What a program prints that must not warn."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "GPULOAD_DEVICE": "cpu", **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


KERAS = """
import keras, numpy as np, gpuload, tensorflow as tf
from gpuload.tensorflow import dataset

labels = np.arange(22) % 2
images = np.zeros((22, 8, 8, 3), np.uint8) + (labels * 200).astype(np.uint8)[:, None, None, None]
options = {"batch_size": 4, "seed": 1, "engine": "numba", "device": "cpu"}
source, transform = gpuload.ImageArray(images, labels), gpuload.Augment(rotation=10, hflip=0.5, rescale=1 / 255)
train = gpuload.Loader(source, transform, shuffle=True, **options)
test = gpuload.Loader(source, gpuload.Augment(rescale=1 / 255), **options)

def model():
    layers = [keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model

batches, held_out = dataset(train), dataset(test)
quiet = {"verbose": 0, "shuffle": False}
learner = model()
history = learner.fit(batches, epochs=3, validation_data=held_out, class_weight={0: 1.0, 1: 2.0}, **quiet).history
print(len(history["val_loss"]), train.epoch, test.epoch)
learner.fit(batches.repeat(), epochs=8, steps_per_epoch=5, **quiet)
print(learner.evaluate(held_out, verbose=0)[1], learner.predict(held_out, verbose=0).shape)
with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
    learner = model()
print(len(learner.fit(batches, epochs=2, **quiet).history["loss"]))
train.load_state_dict({**train.replace().state_dict(), "seen": 12})
steps = []
count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: steps.append(1))
rest = {"epochs": 1, "steps_per_epoch": len(iter(train))}
learner.fit(dataset(train), callbacks=[count], **rest, **quiet)
print(len(steps))
learner.fit(dataset(train), epochs=2, callbacks=[count], **quiet)
print(len(steps))
"""


def test_keras() -> None:
    """Each epoch of `fit` is one of the loader, validation included; the rest of one is fitted on its own."""
    pytest.importorskip("keras")
    printed = run(KERAS, KERAS_BACKEND="tensorflow")
    assert printed.splitlines() == ["3 3 3", "1.0 (22, 2)", "2", "3", "15"]


def test_tensorflow_is_optional() -> None:
    program = """
    import sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name == "tensorflow":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Blocker())
    try:
        import gpuload.tensorflow
    except ImportError as error:
        print(error)
    """
    assert run(program) == (
        "gpuload.tensorflow needs TensorFlow, which is not installed: pip install 'gpuload[tensorflow]'\n"
    )


def test_refusals() -> None:
    loader = loader_of(MEMORY)
    with pytest.raises(
        TypeError, match=r"loader must be a gpuload\.Loader, .*Batches object.*: pass the Loader itself"
    ):
        dataset(iter(loader))
    dates = gpuload.ImageArray(PIXELS, labels=np.full(11, "2024-01-01", "datetime64[D]"))
    with pytest.raises(
        ValueError, match=r"labels must be of a dtype that TensorFlow has, not datetime64\[D\]: convert"
    ):
        dataset(loader_of(dates))
