"""The Keras door against Keras itself: order, labels, pixels, state, attributes, statistics, training."""

import random
import warnings
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import Place
from hypothesis import given
from hypothesis import strategies as st
from keras.src.legacy.preprocessing.image import ImageDataGenerator as KerasGenerator

import gpuload
from gpuload.keras import ImageDataGenerator, ImageSequence

GEOMETRY = {
    "rotation_range": 40,
    "width_shift_range": 0.3,
    "height_shift_range": 0.2,
    "shear_range": 20,
    "zoom_range": 0.3,
    "horizontal_flip": True,
    "vertical_flip": True,
}
JOBS = {
    "the main job": {"rescale": 1 / 255, "shear_range": 0.2, "zoom_range": 0.2, "horizontal_flip": True},
    "nothing": {},
    "nearest": GEOMETRY,
    "constant": {**GEOMETRY, "fill_mode": "constant", "cval": 50.0},
    "reflect": {**GEOMETRY, "fill_mode": "reflect"},
    "wrap": {**GEOMETRY, "fill_mode": "wrap"},
    "pixels": {"width_shift_range": 5, "height_shift_range": [-3, 0, 7], "fill_mode": "constant"},
    "long shifts": {"width_shift_range": 2.5, "height_shift_range": 0.5},
    "colours": {"channel_shift_range": 50.0, "brightness_range": (0.5, 1.5), "shear_range": 10},
    "standardized": {
        "samplewise_center": True,
        "samplewise_std_normalization": True,
        "rescale": 1 / 255,
        "zoom_range": [0.7, 1.6],
    },
    "nearest pixel": {"rotation_range": 30, "interpolation_order": 0},
}


def near(ours: np.ndarray, theirs: np.ndarray, share: float = 1.0) -> None:
    """Equal within 1 level everywhere; or within 2 levels on a `share` of the pixels.

    Decoded on the CPU and resized to the nearest pixel, images are the same, and warps read the same positions; what
    lies between two pixels is float32 here and float64 in SciPy, which brightness may make a level of, since it cuts
    off fractions. A GPU decodes a little otherwise (0.995). Smooth resizes of DALI's (0.98) differ at the border, where
    it repeats the last pixel and Pillow weighs the others more.
    """
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    difference = np.abs(ours.astype(float) - theirs)
    if share == 1.0:
        assert difference.max() <= 1
    else:
        assert (difference <= 2).mean() >= share


def share_of(place: Place) -> float:
    """What `near` may ask of a place."""
    return 1.0 if place.device == "cpu" else 0.995


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("target_size", [(48, 48), (40, 56)])
def test_same_seed_same_batches(photos: Path, place: Place, job: str, target_size: tuple[int, int]) -> None:
    # Three epochs of 23 photographs, the last batch short.
    options = JOBS[job]
    for seed in (0, 7):
        flow = {"target_size": target_size, "batch_size": 5, "seed": seed}
        theirs = KerasGenerator(**options).flow_from_directory(photos, **flow)
        ours = ImageDataGenerator(**options, **place._asdict()).flow_from_directory(photos, **flow)
        batches = [next(ours) for _ in range(3 * len(ours))]
        level = 255 if options.get("rescale") and "samplewise_std_normalization" not in options else 1
        for images, labels in batches:
            expected, expected_labels = next(theirs)
            np.testing.assert_array_equal(labels, expected_labels)
            assert labels.dtype == expected_labels.dtype
            near(images * np.float32(level), expected * np.float32(level), share_of(place))
        assert (ours.batch_index, ours.total_batches_seen) == (theirs.batch_index, theirs.total_batches_seen)
        np.testing.assert_array_equal(ours.index_array, theirs.index_array)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("keep_aspect_ratio", [False, True])
@pytest.mark.parametrize("color_mode", ["rgb", "grayscale", "rgba"])
def test_reading(photos: Path, interpolation: str, keep_aspect_ratio: bool, color_mode: str) -> None:
    flow = {
        "target_size": (40, 32),
        "batch_size": 23,
        "shuffle": False,
        "interpolation": interpolation,
        "keep_aspect_ratio": keep_aspect_ratio,
        "color_mode": color_mode,
    }
    expected, _ = next(KerasGenerator().flow_from_directory(photos, **flow))
    for engine in ("numpy", "auto"):
        images, _ = next(ImageDataGenerator(device="cpu", engine=engine).flow_from_directory(photos, **flow))
        near(images, expected, 1.0 if engine == "numpy" or interpolation == "nearest" else 0.98)


@pytest.mark.parametrize("class_mode", ["categorical", "binary", "sparse", "input", None])
def test_directory_targets(photos: Path, class_mode: str | None) -> None:
    flow = {"target_size": (16, 16), "class_mode": class_mode, "batch_size": 7, "seed": 1}
    theirs = KerasGenerator().flow_from_directory(photos, **flow)
    ours = ImageDataGenerator(device="cpu").flow_from_directory(photos, **flow)
    for _ in range(4):
        mine, expected = next(ours), next(theirs)
        for a, b in zip(*((x,) if class_mode is None else x for x in (mine, expected)), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    if class_mode == "input":
        assert not np.shares_memory(*mine)


ATTRIBUTES = [
    *("n", "samples", "batch_size", "shuffle", "seed", "batch_index", "total_batches_seen", "filenames", "filepaths"),
    *("class_indices", "class_mode", "color_mode", "data_format", "dtype", "image_shape", "target_size", "subset"),
    *("interpolation", "keep_aspect_ratio", "save_to_dir", "save_prefix", "save_format", "split", "sample_weight"),
    *("num_classes", "directory", "num_batches", "white_list_formats", "workers", "use_multiprocessing"),
]


@pytest.mark.parametrize("subset", [None, "training", "validation"])
def test_attributes_and_subsets(photos: Path, subset: str | None) -> None:
    theirs = KerasGenerator(validation_split=0.3).flow_from_directory(photos, subset=subset)
    ours = ImageDataGenerator(validation_split=0.3, device="cpu").flow_from_directory(photos, subset=subset)
    for name in ATTRIBUTES:
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("classes", "labels"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert len(ours) == len(theirs)
    assert isinstance(ours, keras.utils.PyDataset)


def test_reset_and_numbers(photos: Path, place: Place) -> None:
    """next, reset, indexing in any order and the end of an epoch, mixed, leave both in the same state."""
    flow = {"target_size": (24, 24), "batch_size": 6, "seed": 3}
    theirs = KerasGenerator(rotation_range=20).flow_from_directory(photos, **flow)
    ours = ImageDataGenerator(rotation_range=20, **place._asdict()).flow_from_directory(photos, **flow)
    script = ["next", "next", "reset", "next", 3, 0, 1, "end", 2, "next", "end", 0, 1, 2, 3, "end", "next"]
    for action in script:
        if action == "reset":
            ours.reset(), theirs.reset()
        elif action == "end":
            ours.on_epoch_end(), theirs.on_epoch_end()
        else:
            (images, labels), (expected, expected_labels) = (
                next(f) if action == "next" else f[action] for f in (ours, theirs)
            )
            near(images, expected, share_of(place))
            np.testing.assert_array_equal(labels, expected_labels)
    with pytest.raises(ValueError, match="batch number must be from 0 to 3, not 4"):
        ours[4]


def test_global_seed(photos: Path) -> None:
    """Without a seed NumPy's global generator decides, as in Keras."""
    batches = []
    for generator in (KerasGenerator(rotation_range=20), ImageDataGenerator(rotation_range=20, device="cpu")):
        np.random.seed(5)  # noqa: NPY002 - what users do
        batches.append(next(generator.flow_from_directory(photos, target_size=(24, 24), batch_size=6)))
    np.testing.assert_array_equal(batches[0][1], batches[1][1])
    near(batches[1][0], batches[0][0])


def test_seeded_flow_leaves_the_global_generator_alone(photos: Path) -> None:
    before = np.random.get_state()[1]  # noqa: NPY002
    next(ImageDataGenerator(rotation_range=20, device="cpu").flow_from_directory(photos, target_size=(8, 8), seed=1))
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


class Counter:
    """A function with a memory, as users write them."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.seen.append(float(x.mean()))
        return x[..., ::-1] - 100.0 + len(self.seen)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_preprocessing_function(photos: Path, data_format: str) -> None:
    """Called in order, with what Keras calls it with; it may keep a state."""
    flow = {"target_size": (20, 24), "batch_size": 6, "seed": 3}
    options = {"rotation_range": 20, "rescale": 0.5, "data_format": data_format}
    functions = Counter(), Counter()
    theirs = KerasGenerator(preprocessing_function=functions[0], **options).flow_from_directory(photos, **flow)
    ours = ImageDataGenerator(preprocessing_function=functions[1], device="cpu", **options).flow_from_directory(
        photos, **flow
    )
    for _ in range(5):
        near(next(ours)[0], next(theirs)[0])
    count = len(functions[0].seen)
    np.testing.assert_allclose(functions[1].seen[:count], functions[0].seen, rtol=1e-5)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_statistics(data_format: str) -> None:
    images = np.random.default_rng(0).uniform(0, 255, (20, 8, 6, 3)).astype(np.float32)
    if data_format == "channels_first":
        images = images.transpose(0, 3, 1, 2)
    for options in (
        {"featurewise_center": True, "featurewise_std_normalization": True, "rescale": 1 / 255},
        {"featurewise_center": True, "zca_whitening": True, "zca_epsilon": 0.1},
    ):
        generators = [
            KerasGenerator(data_format=data_format, **options),
            ImageDataGenerator(data_format=data_format, device="cpu", **options),
        ]
        for generator in generators:
            generator.fit(images, augment=True, rounds=2, seed=4)
        for name in ("mean", "std", "zca_whitening_matrix"):
            expected, got = (getattr(g, name) for g in generators)
            assert (expected is None) == (got is None)
            if expected is not None:
                np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
        expected, got = (next(g.flow(images, batch_size=7, seed=2)) for g in generators)
        np.testing.assert_allclose(got, expected, atol=2e-3)
        np.testing.assert_allclose(
            generators[1].standardize(images[0].copy()), generators[0].standardize(images[0].copy()), atol=2e-3
        )


def test_mean_image() -> None:
    """Statistics of another shape than one number a channel are honoured too."""
    images = np.random.default_rng(0).uniform(0, 255, (6, 5, 4, 3)).astype(np.float32)
    generator = ImageDataGenerator(featurewise_center=True, device="cpu")
    generator.mean = images.mean(axis=0)
    np.testing.assert_allclose(
        next(generator.flow(images, shuffle=False, batch_size=6)), images - images.mean(axis=0), atol=1e-4
    )


@given(
    rotation=st.sampled_from([0, 25]),
    shift=st.sampled_from([0.0, 0.2, 3, 1.5]),
    shear=st.sampled_from([0.0, 15.0]),
    zoom=st.sampled_from([0.0, 0.4, (0.5, 0.9)]),
    flip=st.booleans(),
    channel=st.sampled_from([0.0, 30.0]),
    brightness=st.sampled_from([None, (0.5, 1.5)]),
    fill=st.sampled_from(["nearest", "constant", "reflect", "wrap"]),
    order=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_single_images(rotation, shift, shear, zoom, flip, channel, brightness, fill, order, seed) -> None:
    options = {
        "rotation_range": rotation,
        "width_shift_range": shift,
        "height_shift_range": shift,
        "shear_range": shear,
        "zoom_range": zoom,
        "horizontal_flip": flip,
        "vertical_flip": flip,
        "channel_shift_range": channel,
        "brightness_range": brightness,
        "fill_mode": fill,
        "interpolation_order": order,
    }
    theirs, ours = KerasGenerator(**options), ImageDataGenerator(**options)
    image = np.random.default_rng(seed).uniform(0, 255, (13, 17, 3)).astype(np.float32)
    drawn, expected = (g.get_random_transform(image.shape, seed=seed) for g in (ours, theirs))
    assert drawn == expected
    near(ours.apply_transform(image.copy(), drawn), theirs.apply_transform(image.copy(), expected))
    near(ours.random_transform(image, seed=seed), theirs.random_transform(image, seed=seed))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8"])
@pytest.mark.parametrize("kind", ["uint8", "levels", "unit", "grey", "first"])
def test_flow(place: Place, dtype: str, kind: str) -> None:
    """Images in memory, with every dtype of the output; further inputs and weights come along."""
    x = np.random.default_rng(1).integers(0, 256, (17, 12, 10, 3), dtype=np.uint8)
    options = {"rotation_range": 20, "zoom_range": 0.2, "horizontal_flip": True, "dtype": dtype}
    if kind != "uint8":
        x = x.astype(np.float32) / (255 if kind == "unit" else 1)
    if kind == "grey":
        x = x[..., :1]
    if kind == "first":
        x, options["data_format"] = x.transpose(0, 3, 1, 2), "channels_first"
    y, extra, weights = np.arange(17), np.arange(34).reshape(17, 2), np.linspace(0, 1, 17)
    flow = {"batch_size": 5, "seed": 2, "sample_weight": weights}
    if dtype == "float16":
        options.pop("rotation_range"), options.pop("zoom_range")  # SciPy warps no float16, so Keras does not either.
    theirs = KerasGenerator(**options).flow((x, extra), y, **flow)
    ours = ImageDataGenerator(**options, **place._asdict()).flow((x, extra), y, **flow)
    for _ in range(8):
        (images, more), labels, weight = next(ours)
        (expected, expected_more), expected_labels, expected_weight = next(theirs)
        near(images, expected)
        np.testing.assert_array_equal(more, expected_more)
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(weight, expected_weight)


def test_flow_subsets_and_errors() -> None:
    x, y = np.zeros((10, 4, 4, 3), np.float32), np.arange(10) % 2
    generator = ImageDataGenerator(validation_split=0.4, device="cpu")
    assert generator.flow(x, y, subset="validation").n == 4
    assert generator.flow(x, y, subset="training").n == 6
    with pytest.raises(ValueError, match="same classes after the split"):
        generator.flow(x, np.arange(10) < 4, subset="training")
    assert generator.flow(x, np.arange(10) < 4, subset="training", ignore_class_split=True).n == 6
    with pytest.raises(ValueError, match="y must be as long as the images, 10, not 9"):
        generator.flow(x, y[:9])
    with pytest.raises(ValueError, match=r"x must have rank 4.*not shape \(10, 4, 4\)"):
        generator.flow(x[..., 0], y)
    with pytest.raises(ValueError, match="subset must be 'training', 'validation' or None, not 'test'"):
        generator.flow(x, y, subset="test")


@pytest.fixture
def frame(photos: Path) -> pd.DataFrame:
    names = sorted(str(p.relative_to(photos)) for p in photos.glob("*/*"))
    rows = np.arange(len(names))
    return pd.DataFrame(
        {
            "filename": names,
            "class": [name.split("/")[0] for name in names],
            "two": np.where(rows % 3, "a", "b"),
            "several": [["a", "b"] if r % 2 else ["c"] for r in rows],
            "x": rows * 1.5,
            "y": rows**2,
            "weight": rows / 10,
        }
    )


@pytest.mark.parametrize(
    ("class_mode", "y_col"),
    [
        *(("categorical", "class"), ("categorical", "several"), ("sparse", "class"), ("binary", "two")),
        *(("raw", "x"), ("raw", ["x", "y"]), ("multi_output", ["x", "y"]), ("input", "class"), (None, None)),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_dataframe(photos: Path, frame: pd.DataFrame, class_mode: str | None, y_col, weighted: bool) -> None:
    flow = {"y_col": y_col, "class_mode": class_mode, "target_size": (8, 8), "batch_size": 5, "seed": 1}
    flow |= {"weight_col": "weight"} if weighted else {}
    theirs = KerasGenerator(validation_split=0.3).flow_from_dataframe(frame, str(photos), subset="training", **flow)
    generator = ImageDataGenerator(validation_split=0.3, device="cpu")
    ours = generator.flow_from_dataframe(frame, photos, subset="training", **flow)
    assert ours.filenames == theirs.filenames
    assert ours.filepaths == theirs.filepaths
    for _ in range(2 * len(theirs)):
        assert_equal(next(ours), next(theirs))


def assert_equal(ours, theirs) -> None:
    """Equal in structure, dtype and value."""
    assert type(ours) is type(theirs)
    if isinstance(ours, tuple | list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_equal(a, b)
    else:
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_dataframe_classes_and_missing_files(photos: Path, frame: pd.DataFrame) -> None:
    frame.loc[0, "filename"] = "gone.jpg"
    flow = {"classes": ["scenery", "cat"], "target_size": (8, 8), "shuffle": False, "batch_size": 50}
    with pytest.warns(UserWarning, match="invalid image filename"):
        theirs = KerasGenerator().flow_from_dataframe(frame, str(photos), **flow)
    with pytest.warns(UserWarning, match="1 of 23 file names in x_col='filename' are left out"):
        ours = ImageDataGenerator(device="cpu").flow_from_dataframe(frame, photos, **flow)
    assert ours.filenames == theirs.filenames
    assert ours.class_indices == theirs.class_indices
    assert_equal(next(ours), next(theirs))
    generator = ImageDataGenerator(device="cpu")
    frame = frame.drop(index=0)
    for error, message, change in [
        (ValueError, "y_col must be a column of the dataframe, not 'nope'", {"y_col": "nope"}),
        (ValueError, "class_mode must be one of .*not 'other_mode'", {"class_mode": "other_mode"}),
        (TypeError, "column 'x' must hold strings", {"y_col": "x", "class_mode": "sparse"}),
        (ValueError, "class_mode='binary' needs 2 classes, but 3", {"class_mode": "binary"}),
        (TypeError, "y_col must be a list of columns", {"class_mode": "multi_output"}),
        (TypeError, "weight_col='class' must hold numbers", {"weight_col": "class"}),
        (TypeError, "no argument 'colour'", {"colour": 1}),
    ]:
        with pytest.raises(error, match=message):
            generator.flow_from_dataframe(frame, photos, **change)


def test_save_to_dir(photos: Path, tmp_path: Path) -> None:
    """The same pictures under the same names, and the same orders after them: Keras draws the names in between."""
    flows = []
    for name, generator in (("keras", KerasGenerator), ("gpuload", ImageDataGenerator)):
        (tmp_path / name).mkdir()
        flow = {"target_size": (16, 16), "batch_size": 12, "seed": 2, "save_prefix": "p", "save_format": "png"}
        flows.append(generator(zoom_range=0.2).flow_from_directory(photos, save_to_dir=tmp_path / name, **flow))
    for _ in range(4):
        theirs, ours = (next(f) for f in flows)
        np.testing.assert_array_equal(theirs[1], ours[1])
    assert sorted(p.name for p in (tmp_path / "keras").iterdir()) == sorted(
        p.name for p in (tmp_path / "gpuload").iterdir()
    )


def test_fit_is_foreseen(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches that fit asks for are made ahead, though it shuffles their numbers: once an epoch it starts anew."""
    starts = []
    restart = gpuload.keras.prefetch.PrefetchedDataset._restart  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "gpuload.keras.prefetch.PrefetchedDataset._restart", lambda s, v, n: (starts.append(1), restart(s, v, n))
    )
    flow = ImageDataGenerator(device="cpu").flow_from_directory(photos, target_size=(8, 8), batch_size=1, seed=1)
    for _ in range(3):
        numbers = list(range(flow.num_batches))
        random.shuffle(numbers)
        for number in numbers:
            flow[number]
        flow.on_epoch_end()
    assert len(starts) == 3


def test_tensorflow_sequence(photos: Path, place: Place) -> None:
    """ImageSequence against the program it replaces, in TensorFlow.

    DALI decodes and samples exactly alike. Pillow's fast transform comes without smooth colours, so that they are taken
    from an exact decode: a level of difference here and there.
    """
    tf = pytest.importorskip("tensorflow")
    paths = [str(p) for p in sorted(photos.glob("*/*.jpg")) if p.stem not in ("cmyk",)]
    labels = np.arange(2 * len(paths)).reshape(-1, 2)
    for size in ((64, 64), (30, 200)):
        sequence = ImageSequence(paths, labels, batch_size=6, target_size=size, **place._asdict())
        assert len(sequence) == len(paths) // 6
        for number in (2, 0, 1):
            images, targets = sequence[number]
            read = [tf.image.decode_jpeg(tf.io.read_file(p), channels=3) for p in paths[6 * number : 6 * number + 6]]
            expected = np.stack([tf.image.resize(image, size).numpy() / 255 for image in read])
            difference = np.abs(images - expected) * 255
            assert images.dtype == np.float32
            assert (difference <= 2).mean() >= 0.98
            if place == Place("numba", "cpu"):
                assert difference.max() < 0.1
            np.testing.assert_array_equal(targets, labels[6 * number : 6 * number + 6])


def test_sequence_errors(photos: Path) -> None:
    paths = sorted(map(str, photos.glob("cat/*")))
    assert ImageSequence(paths, ["label"] * 8, 3, device="cpu")[1][1].tolist() == ["label"] * 3
    with pytest.raises(ValueError, match="labels must be as many as image_paths, 8, not 7 labels"):
        ImageSequence(paths, [0] * 7, 3)
    with pytest.raises(ValueError, match="batch_size must be at most the number of image_paths, 8, not 9"):
        ImageSequence(paths, [0] * 8, 9)
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, not 0"):
        ImageSequence(paths, [0] * 8, 0)
    with pytest.raises(ValueError, match="size must be an integer of at least 1, not 0"):
        ImageSequence(paths, [0] * 8, 4, (0, 4))


def test_bad_file_names_itself_and_the_next_batch_comes(photos: Path, tmp_path: Path, place: Place) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(4):
            (tmp_path / name / f"{number}.jpg").write_bytes((photos / "cat" / "0.jpg").read_bytes())
    (tmp_path / "a" / "2.jpg").write_bytes(b"no image")
    generator = ImageDataGenerator(**place._asdict())
    flow = generator.flow_from_directory(tmp_path, target_size=(8, 8), batch_size=2, shuffle=False)
    next(flow)
    with pytest.raises(gpuload.SampleError, match=r"a/2\.jpg"):
        next(flow)
    assert next(flow)[1].argmax(1).tolist() == [1, 1]


def test_bad_arguments(photos: Path, tmp_path: Path) -> None:
    for message, options in [
        ("fill_mode must be one of nearest, constant, reflect, wrap, not 'mirror'", {"fill_mode": "mirror"}),
        ("data_format must be 'channels_last' or 'channels_first', not 'NCHW'", {"data_format": "NCHW"}),
        ("validation_split must be between 0 and 1", {"validation_split": 1.5}),
        ("zoom_range must be a number or a pair of numbers, not 'far'", {"zoom_range": "far"}),
        ("brightness_range must be a pair of numbers, not 1", {"brightness_range": 1}),
        ("warp_order must be an integer from 0 to 5, not 9", {"interpolation_order": 9}),
    ]:
        with pytest.raises(ValueError, match=message):
            ImageDataGenerator(**options)
    generator = ImageDataGenerator(device="cpu")
    for message, options in [
        ("class_mode must be one of .*, not 'multi_output'", {"class_mode": "multi_output"}),
        ("color_mode must be one of rgb, grayscale, rgba, not 'cmyk'", {"color_mode": "cmyk"}),
        ("interpolation must be one of nearest", {"interpolation": "cubic"}),
        ("batch_size must be an integer of at least 1, not 0", {"batch_size": 0}),
        ("size must be an integer of at least 1, not -1", {"target_size": (-1, 4)}),
        ("subset='validation' has no image", {"subset": "validation"}),
        ("save_to_dir must be a folder that exists", {"save_to_dir": str(tmp_path / "nope")}),
    ]:
        with pytest.raises(ValueError, match=message):
            generator.flow_from_directory(photos, **options)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        generator.flow_from_directory(tmp_path / "nope")
    with pytest.raises(ValueError, match="function, which runs in Python"):
        next(ImageDataGenerator(preprocessing_function=abs, engine="numba").flow_from_directory(photos))


def test_warnings(photos: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="featurewise_center is set to True"):
        generator = ImageDataGenerator(featurewise_std_normalization=True, device="cpu")
    with pytest.warns(UserWarning, match="nothing was fitted"):
        next(generator.flow_from_directory(photos, target_size=(8, 8)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "1.jpg").write_bytes((photos / "cat" / "0.jpg").read_bytes())
    with pytest.warns(UserWarning, match="no images in 1 of 2 class folders: empty"):
        flow = ImageDataGenerator(device="cpu").flow_from_directory(tmp_path)
    assert flow.class_indices == {"empty": 0, "full": 1}
    assert next(flow)[1].tolist() == [[0, 1]]


def test_says_what_it_found(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keras.config.enable_interactive_logging()  # Keras' own default, which a benchmark in this process turns off.
    ImageDataGenerator(device="cpu").flow_from_directory(photos)
    assert capsys.readouterr().out == "Found 23 images belonging to 3 classes.\n"


def test_overridden_standardize(photos: Path) -> None:
    class Mine(ImageDataGenerator):
        def standardize(self, x):
            return np.full_like(x, 3.0)

    assert (next(Mine(device="cpu").flow_from_directory(photos, target_size=(8, 8)))[0] == 3).all()


def test_statistics_fitted_between_batches(photos: Path) -> None:
    flow = {"target_size": (16, 16), "batch_size": 5, "seed": 1}
    options = {"featurewise_center": True}
    theirs, ours = KerasGenerator(**options), ImageDataGenerator(device="cpu", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flows = theirs.flow_from_directory(photos, **flow), ours.flow_from_directory(photos, **flow)
        for number in range(4):
            (expected, _), (images, _) = (next(f) for f in flows)
            near(images, expected)
            if number == 1:
                theirs.fit(expected), ours.fit(expected)


def test_methods_that_would_not_be_called() -> None:
    class Transform(ImageDataGenerator):
        def apply_transform(self, x, transform_parameters):
            return x

    with pytest.raises(NotImplementedError, match=r"Transform\.apply_transform is not called by the iterators"):
        Transform(device="cpu").flow(np.zeros((2, 4, 4, 3), np.uint8))

    class Flow(gpuload.keras.NumpyArrayIterator):
        def _get_batches_of_transformed_samples(self, index_array):
            return None

    with pytest.raises(NotImplementedError, match="gpuload makes whole batches ahead"):
        Flow(np.zeros((2, 4, 4, 3), np.uint8), None, ImageDataGenerator(device="cpu"))


def test_workers_have_no_effect(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = sorted(map(str, photos.glob("cat/*")))
    with caplog.at_level("INFO", "gpuload"):
        sequence = ImageSequence(paths, np.arange(8), 2, (8, 8), device="cpu", workers=4, use_multiprocessing=True)
    assert (sequence.workers, sequence.use_multiprocessing) == (1, False)
    assert "have no effect" in caplog.text


def test_data_set_outlives_threads(photos: Path) -> None:
    """Asked for by several threads at once, as `workers` does, every batch comes once."""
    from concurrent.futures import ThreadPoolExecutor

    flow = ImageDataGenerator(device="cpu").flow_from_directory(
        photos, target_size=(8, 8), batch_size=2, shuffle=False, class_mode="sparse"
    )
    with ThreadPoolExecutor(4) as pool, warnings.catch_warnings():
        labels = np.concatenate([batch[1] for batch in pool.map(flow.__getitem__, range(len(flow)))])
    np.testing.assert_array_equal(labels, flow.classes)
