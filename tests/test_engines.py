"""Engines: the NumPy one against Pillow, SciPy and NumPy themselves; the others against it; errors; lifetimes."""

import itertools
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy import ndimage

from gpuload import (
    Augment,
    BadSample,
    CenterCrop,
    ImageArray,
    ImageFolder,
    ImageList,
    Loader,
    RandomResizedCrop,
    SampleError,
)
from gpuload.core import available
from gpuload.core import device as cuda
from gpuload.delivery.numpy import to_numpy
from gpuload.images.choose import settle, unsupported
from gpuload.images.open import open_engine
from tests.conftest import THREADS

pytestmark = pytest.mark.usefixtures("compiled_resize")

REFERENCE = {"engine": "numpy", "device": "cpu"}
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
SMOOTH = ["bilinear", "bicubic", "lanczos"]


def on(place):
    """A place, as arguments of Loader."""
    return {"engine": place.engine, "device": place.device}


def images(source, transform, *, seed=3, **where):
    """The whole source in one batch of NumPy arrays."""
    where = {"threads": THREADS, **(where or REFERENCE)}
    labels, source.labels = source.labels, None
    try:
        with Loader(source, transform, batch_size=len(source), seed=seed, framework="numpy", **where) as loader:
            (batch,) = loader
    finally:
        source.labels = labels
    return batch


def plan(source, transform, seed=3):
    """The step that `images` carries out."""
    with Loader(source, transform, batch_size=len(source), seed=seed, **REFERENCE) as loader:
        (step,) = loader.steps(0)
    return step


def memory(dtype="uint8", channels=3, *, count=4, height=37, width=23):
    """Parts of a photograph in memory: not square, odd, each another one. Floats have fractions."""
    from skimage import data

    coffee = data.coffee()
    coffee = np.concatenate([coffee, coffee[:, ::-1, :1]], axis=2)[..., :channels]
    cut = np.stack([coffee[17 * n :: 2, 29 * n :: 2][:height, :width] for n in range(count)])
    return ImageArray(cut if dtype == "uint8" else np.ascontiguousarray(cut * np.float32(0.99), np.dtype(dtype)))


@pytest.fixture(scope="session")
def gallery(photos):
    return ImageFolder(photos)


# The reference engine against Pillow ----------------------------------------------------------------------------------


@pytest.mark.parametrize("color", ["rgb", "grayscale", "rgba"])
@pytest.mark.parametrize("interpolation", FILTERS)
def test_reading_and_resizing_is_pillows(gallery, interpolation, color):
    transform = Augment(size=(40, 52), interpolation=interpolation, color=color)
    batch = images(gallery, transform)
    mode = {"rgb": "RGB", "grayscale": "L", "rgba": "RGBA"}[color]
    for index, found in enumerate(batch):
        with Image.open(gallery.path(index)) as opened:
            resized = np.asarray(opened.convert(mode).resize((52, 40), FILTERS[interpolation]))
        np.testing.assert_array_equal(found, resized.reshape(40, 52, -1), err_msg=gallery.filenames[index])
    assert batch.dtype == np.float32


def test_bilinear_without_antialias_reads_the_four_nearest_pixels(gallery):
    """Against SciPy's linear interpolation of the same positions; the engine counts in float32, whose last digit of 255
    is 1.5e-5, a few times over."""
    batch = images(gallery, Augment(size=(33, 150), antialias=False))
    for index, found in enumerate(batch):
        with Image.open(gallery.path(index)) as opened:
            pixels = np.asarray(opened.convert("RGB"), float)
        height, width = pixels.shape[:2]
        rows = (np.arange(33) + 0.5) * height / 33 - 0.5
        columns = (np.arange(150) + 0.5) * width / 150 - 0.5
        grid = np.meshgrid(rows, columns, indexing="ij")
        planes = [ndimage.map_coordinates(pixels[..., c], grid, order=1, mode="nearest") for c in range(3)]
        np.testing.assert_allclose(found, np.stack(planes, -1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
@pytest.mark.parametrize("fraction", [1.0, 0.6])
def test_center_crop_and_resize_is_pillows_with_a_box(gallery, fraction, interpolation):
    """As Keras' `load_img(keep_aspect_ratio=True)` does it, where the fraction is 1."""
    crop = CenterCrop(fraction=fraction)
    batch = images(gallery, Augment(size=(32, 64), crop=crop, interpolation=interpolation))
    for index, found in enumerate(batch):
        with Image.open(gallery.path(index)) as opened:
            image = opened.convert("RGB")
        ((top, left, high, wide),) = crop.boxes([image.height], [image.width], (32, 64))
        box = (left, top, left + wide, top + high)
        np.testing.assert_array_equal(found, np.asarray(image.resize((64, 32), FILTERS[interpolation], box=box)))


@pytest.mark.parametrize("interpolation", FILTERS)
def test_random_resized_crop_is_pillows_resize_of_a_box(gallery, interpolation):
    """Pillow's resize of what was cut out: the filter reads nothing around the box."""
    crop = RandomResizedCrop(scale=(0.2, 0.9))
    transform = Augment(size=(32, 64), crop=crop, interpolation=interpolation)
    batch, step = images(gallery, transform), plan(gallery, transform)
    for index, found in enumerate(batch):
        with Image.open(gallery.path(index)) as opened:
            image = opened.convert("RGB")
        (place,) = crop.boxes([image.height], [image.width], (32, 64), step.crops[[index]])
        top, left, high, wide = map(int, place)
        cut = image.crop((left, top, left + wide, top + high)).resize((64, 32), FILTERS[interpolation])
        np.testing.assert_array_equal(found, np.asarray(cut), err_msg=gallery.filenames[index])


@pytest.mark.parametrize("color", ["rgb", "grayscale"])
def test_brightness_is_pillows(gallery, color):
    transform = Augment(size=(30, 40), interpolation="nearest", brightness=(0.2, 2.5), color=color)
    batch, step = images(gallery, transform), plan(gallery, transform)
    for index, found in enumerate(batch):
        with Image.open(gallery.path(index)) as opened:
            image = opened.convert("RGB" if color == "rgb" else "L").resize((40, 30), Image.Resampling.NEAREST)
        bright = ImageEnhance.Brightness(image).enhance(float(step.brightness[index]))
        np.testing.assert_array_equal(found, np.asarray(bright).reshape(30, 40, -1))


def test_brightness_of_levels_beyond_255_stretches_them_first():
    """To 0..255 and back, as in Keras; whole levels in between, so that an image has 256 levels afterwards."""
    source = memory("float32")
    source.images = source.images / 100 - 1
    found = images(source, Augment(brightness=(0.5, 0.5)))
    for image, result in zip(source.images, found, strict=True):
        low, high = image.min(), image.max()
        levels = ((image - low) / (high - low) * 255).astype(np.uint8)
        halved = np.asarray(ImageEnhance.Brightness(Image.fromarray(levels)).enhance(0.5), float)
        # float32 may fall on the other side of a whole level: one level of the stretched image, halved, is 1/510.
        np.testing.assert_allclose(result, halved / 255 * (high - low) + low, rtol=0, atol=(high - low) / 255 * 1.01)
        assert len(np.unique(result)) <= 256


# The reference engine against SciPy and NumPy -------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("fill_mode", ["nearest", "constant", "reflect", "wrap"])
def test_warp_is_scipys(fill_mode, order):
    """Rotation, shift, shear and zoom by hand, in SciPy's coordinates: (row, column), pixels centred at whole numbers.

    Both call the same spline on positions that differ by 1e-13 or so: 1e-3 of 255 levels is a generous share of what
    float32 images round to.
    """
    source = memory()
    angle, tilt, zoom_x, zoom_y, share_x, share_y = 25.0, 15.0, 0.8, 1.3, 0.1, -0.2
    transform = Augment(
        rotation=(angle, angle),
        shear=(tilt, tilt),
        zoom=(zoom_x, zoom_y),
        width_shift=(share_x, share_x),
        height_shift=(share_y, share_y),
        warp_order=order,
        fill_mode=fill_mode,
        fill_value=99.0,
    )
    matrices = plan(source, transform).matrices
    height, width = source.images.shape[1:3]
    a, s = np.radians(angle), np.radians(tilt)
    turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])  # of (row, column)
    lean = np.array([[np.cos(s), 0], [-np.sin(s), 1]])
    middle = np.array([height / 2 - 0.5, width / 2 - 0.5])
    shift = turn @ (share_y * height, share_x * width)
    found = images(source, transform)
    for image, matrix, result in zip(source.images, matrices, found, strict=True):
        # What was drawn, zoom alone, is read back: along x from the length of the first column.
        zooms = np.diag([matrix[1, 1] / (turn @ lean)[0, 0], np.hypot(*matrix[:, 0])])
        linear = turn @ lean @ zooms
        offset = middle + shift - linear @ middle
        planes = [
            ndimage.affine_transform(plane, linear, offset, order=order, mode=fill_mode, cval=99.0)
            for plane in np.moveaxis(image.astype(np.float32), -1, 0)
        ]
        np.testing.assert_allclose(result, np.stack(planes, -1), rtol=0, atol=1e-3)


def test_flips_are_numpys(gallery, place):
    """On every engine; a flip alone interpolates nothing, whatever the fill mode."""
    for source, size in ((memory(), None), (memory("float32"), None), (gallery, (40, 30))):
        plain = images(source, Augment(size=size), **on(place))
        if isinstance(source, ImageArray):
            np.testing.assert_array_equal(plain, source.images)
        for flips, axes in (({"hflip": 1}, 2), ({"vflip": 1}, 1), ({"hflip": 1, "vflip": 1}, (1, 2))):
            for mode in ("nearest", "constant", "wrap"):
                found = images(source, Augment(size=size, fill_mode=mode, **flips), **on(place))
                np.testing.assert_array_equal(found, np.flip(plain, axes))


def test_which_images_flip_is_the_plans_word(place):
    source = memory(count=8)
    transform = Augment(hflip=0.5, vflip=0.5)
    matrices = plan(source, transform).matrices
    for image, matrix, found in zip(source.images, matrices, images(source, transform, **on(place)), strict=True):
        expected = image[:, ::-1] if matrix[0, 0] < 0 else image
        np.testing.assert_array_equal(found, expected[::-1] if matrix[1, 1] < 0 else expected)
    assert len(np.unique(np.sign(matrices[:, [0, 1], [0, 1]]), axis=0)) > 2


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_channel_shift_stays_within_the_images_own_levels(dtype):
    source = memory(dtype)
    transform = Augment(channel_shift=(-120, 150))
    shifts = plan(source, transform).channel_shift
    for image, levels, found in zip(source.images, shifts, images(source, transform), strict=True):
        expected = np.clip(image.astype(float) + levels, image.min(), image.max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # float32 near 400


def standardized(x):
    return (x - x.mean((1, 2, 3), keepdims=True)) / (x.std((1, 2, 3), keepdims=True) + 1e-6)


SCALINGS = {
    "rescale": ({"rescale": 1 / 255}, lambda x: x / 255),
    "rescale of 0 is none": ({"rescale": 0}, lambda x: x),
    "mean": ({"mean": 100.5}, lambda x: x - 100.5),
    "mean a channel": ({"mean": [1, 20, 300]}, lambda x: x - [1, 20, 300]),
    "std": ({"std": 2.5}, lambda x: x / 2.5),
    "std a channel": ({"std": (1, 20, 300)}, lambda x: x / [1, 20, 300]),
    "arrays": ({"mean": np.array([1.0, 2, 3]), "std": np.array([4.0, 5, 6])}, lambda x: (x - [1, 2, 3]) / [4, 5, 6]),
    "mean and std after rescale": (
        {"rescale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    ),
    "center": ({"per_sample": "center"}, lambda x: x - x.mean((1, 2, 3), keepdims=True)),
    "standardize": ({"per_sample": "standardize"}, standardized),
    "standardize after rescale, before mean and std": (
        {"rescale": 1 / 255, "per_sample": "standardize", "mean": 0.5, "std": 0.1},
        lambda x: (standardized(x / 255) - 0.5) / 0.1,
    ),
}


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "float16"])
@pytest.mark.parametrize("name", SCALINGS)
def test_scaling_is_arithmetic(place, name, dtype, layout):
    """On every engine. Against float64; engines count in float32, which has 24 bits, and subtract means of up to 255:
    errors of 255 / 2**24 times the division that follows, a few times over."""
    arguments, expected = SCALINGS[name]
    source = memory(dtype)
    result = expected(source.images.astype(float))
    found = images(source, Augment(**arguments, layout=layout), **on(place))
    assert found.dtype == np.float32
    if layout == "CHW":
        assert found.shape == (4, 3, 37, 23)
        found = found.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, result, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
def test_zca_multiplies_the_image_as_a_row_in_its_layout(layout):
    height, width = 5, 4
    source = memory(height=height, width=width)
    # Of a normal size, so that float32 keeps five digits of sums of 60 products.
    matrix = np.random.default_rng(0).normal(size=(60, 60))
    source_sized = Augment(size=(height, width), zca=matrix, rescale=1 / 255, mean=0.5, layout=layout)
    found = images(source, source_sized)
    rows = source.images if layout == "HWC" else source.images.transpose(0, 3, 1, 2)
    expected = (rows.reshape(len(rows), -1) / 255 - 0.5) @ matrix
    np.testing.assert_allclose(found.reshape(len(rows), -1), expected, rtol=0, atol=1e-4)


def test_uint8_is_rounded_and_clipped(place):
    levels = np.linspace(-40, 300, 4 * 6 * 3, dtype=np.float32).reshape(1, 4, 6, 3)
    found = images(ImageArray(levels), Augment(dtype="uint8"), **on(place))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.clip(np.rint(levels), 0, 255))


def test_halves_round_to_a_neighbour_on_every_engine(place):
    """NumPy rounds halves to even, DALI away from zero: either neighbour is right, cutting off is not."""
    levels = (np.arange(24, dtype=np.float32) + 0.5).reshape(1, 4, 6, 1)
    found = images(ImageArray(levels), Augment(dtype="uint8"), **on(place)).astype(float)
    assert (abs(found - levels) == 0.5).all()
    assert (found > levels).any()


def test_float16(place):
    source = memory("float32")
    found = images(source, Augment(dtype="float16", rescale=1 / 255), **on(place))
    assert found.dtype == np.float16
    # 11 bits: half a step of 2**-11 below 1, and once more for the rounding of float32 beside it.
    np.testing.assert_allclose(found.astype(float), source.images / 255.0, rtol=2**-10, atol=1e-6)


def test_bfloat16(place):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    source = memory("float32")
    found = images(source, Augment(dtype="bfloat16", rescale=1 / 255), **on(place))
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(found.astype(float), source.images / 255.0, rtol=2**-8, atol=1e-6)  # 8 bits


# The user's function --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
def test_function_sees_each_image_in_order_before_it_is_scaled(layout):
    source = memory()
    seen, threads = [], set()

    def negative(image):
        assert image.dtype == np.float32
        assert image.flags.c_contiguous
        seen.append(image.copy())
        threads.add(threading.get_ident())
        return 255 - image

    found = images(source, Augment(function=negative, rescale=0.5, vflip=1, layout=layout))
    levels = source.images[:, ::-1].astype(np.float32)
    levels = levels.transpose(0, 3, 1, 2) if layout == "CHW" else levels
    np.testing.assert_array_equal(np.stack(seen[:4]), levels)  # More are made ahead, for the next epoch.
    np.testing.assert_array_equal(found, (255 - levels) * np.float32(0.5))
    assert len(threads) == 1


def test_function_may_return_anything_that_is_an_array():
    source = memory(height=2, width=3)
    found = images(source, Augment(function=lambda image: image.astype(int).tolist()))
    np.testing.assert_array_equal(found, source.images)


def test_function_must_keep_the_shape():
    message = r"function must return an image of the shape it was given, \(37, 23, 3\), not \(37, 23\)"
    with pytest.raises(ValueError, match=message):
        images(memory(), Augment(function=lambda image: image[..., 0]))


def test_an_error_of_the_function_costs_its_own_batch():
    source = memory(count=6)
    calls = itertools.count()

    def third_fails(image):
        if next(calls) == 2:
            raise ZeroDivisionError("the user's own")
        return image

    with Loader(source, Augment(function=third_fails), batch_size=2, **REFERENCE) as loader:
        found = outcomes(loader)
    assert [type(batch).__name__ for batch in found] == ["ndarray", "ZeroDivisionError", "ndarray"]
    np.testing.assert_array_equal(found[2], source.images[4:])


# Engines agree --------------------------------------------------------------------------------------------------------
#
# The contract: within 2 of 255 levels on 99.5% of all values where pixels are read as they are (interpolation
# "nearest", and images in memory), on 98% where a smooth filter resizes them.
#
# Where the rest comes from:
# - Smooth resizing: at the border Pillow leaves out what lies outside of the image and shares out its weight, DALI
#   repeats the border's pixel. Inside, Pillow rounds and clips to whole levels between its two passes, DALI after both.
#   A warp that shows much of what lies outside repeats those border pixels: then 85%.
#
# Resizing with "nearest" has none of this: the DALI graph breaks its ties as Pillow does, and refuses where it cannot.

SIZES = [(64, 32), (32, 64)]
SCALING = {"rescale": None, "per_sample": None, "mean": None, "std": None, "dtype": "float32", "layout": "HWC"}


def assert_agree(source, transform, place, seed=3):
    """The contract on levels; and everything that only scales them, exactly, so that no gain blurs the contract."""
    levels = transform.replace(**SCALING)
    expected = images(source, levels, seed=seed).astype(float)
    found = images(source, levels, seed=seed, **on(place)).astype(float)
    assert found.shape == expected.shape
    allowed = 2.0
    if transform.brightness is not None:
        # A factor multiplies a difference; fractions are cut off before and after, where 127.9999 and 128 differ by 1.
        allowed = allowed * max(1.0, transform.brightness[1]) + 1.0
    exact = isinstance(source, ImageArray) or transform.interpolation == "nearest"
    least = 0.995 if exact else 0.85 if transform.warps else 0.98
    if isinstance(source, ImageArray) and transform.brightness is None:
        # Nothing is decoded: positions are SciPy's own, and what lies between two pixels is computed in float32, whose
        # last digit of 255 is 1.5e-5, a few times over.
        allowed, least = 1e-3, 1.0
    difference = abs(found - expected)
    share = (difference <= allowed).mean()
    assert share >= least, f"{share:.4f} of all values agree, {difference.max()} is the largest difference: {transform}"
    if any(getattr(transform, name) != value for name, value in SCALING.items()):
        assert_scales(images(source, transform, seed=seed, **on(place)), found, transform)


def assert_scales(found, levels, transform):
    """`found` is `levels`, HWC, scaled by the transform: against float64.

    Engines count in float32: 24 bits of numbers of up to 300 leave errors of 1e-4, which a division by a small
    deviation enlarges. Rounding of the output comes on top: halves of uint8 go to either neighbour, float16 has 11
    bits, bfloat16 8.
    """
    gain = np.full((len(levels), 1, 1, 1), abs(transform.rescale or 1.0))
    expected = levels * (transform.rescale or 1.0)
    if transform.per_sample is not None:
        expected = expected - expected.mean((1, 2, 3), keepdims=True)
    if transform.per_sample == "standardize":
        deviation = expected.std((1, 2, 3), keepdims=True) + 1e-6
        expected, gain = expected / deviation, gain / deviation
    expected = (expected - (0 if transform.mean is None else transform.mean)) / (
        1 if transform.std is None else transform.std
    )
    gain = gain / (1 if transform.std is None else np.min(transform.std))
    if transform.layout == "CHW":
        expected = expected.transpose(0, 3, 1, 2)
    rounding = 0.0
    if transform.dtype == "uint8":
        expected, rounding = np.clip(expected, 0, 255), 0.5
    last_bit = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(transform.dtype, 0.0) + 1e-5
    assert found.shape == expected.shape
    assert found.dtype.name == transform.dtype
    assert (abs(found.astype(float) - expected) <= 1e-3 * gain + rounding + last_bit * abs(expected) + 1e-6).all()


@pytest.fixture(scope="session")
def lossless(photos, tmp_path_factory):
    """The photographs as PNG, which every decoder reads alike: GPUs have a JPEG decoder of their own."""
    root = tmp_path_factory.mktemp("lossless")
    for number, path in enumerate(sorted(photos.rglob("*.*"))):
        with Image.open(path) as image:
            image.convert("RGB").save(root / f"{number:02}.png")
    paths = sorted(root.iterdir())
    return ImageList(paths, labels=np.arange(len(paths)))


@pytest.fixture
def files(dali, gallery, lossless):
    """Twelve photographs, all kinds of file on the CPU; on a GPU as PNG."""
    return (gallery if dali.device == "cpu" else lossless).take(slice(None, None, 2))


WARP = {"rotation": 35, "shear": 20, "zoom": (0.7, 1.4), "width_shift": 0.3, "height_shift": 0.2, "hflip": 0.5}
ALONE = [
    {},
    {"rotation": 180},
    {"rotation": (90, 90)},
    {"width_shift": 0.6},
    {"height_shift": (0.25, 0.25)},
    {"shear": 45},
    {"zoom": (0.3, 2.5)},
    {"zoom": (2, 2)},
    {"zoom": (0.5, 1.5), "center": (3.0, 20.5)},
    {"hflip": 0.5},
    {"vflip": 0.5},
    {"hflip": 0.5, "vflip": 0.5},
    *({**WARP, "fill_mode": mode, "warp_order": order} for mode in ("nearest", "reflect", "wrap") for order in (0, 1)),
    *({**WARP, "fill_mode": "constant", "fill_value": value, "warp_order": 1} for value in (0, 77.7, -300)),
    {**WARP, "fill_mode": "constant", "fill_value": 255, "warp_order": 0},
    {"hflip": 0.5, "warp_order": 3, "fill_mode": "wrap"},
    *({"zoom": (1, 9), "rotation": 180, "fill_mode": mode} for mode in ("reflect", "wrap")),
    {"channel_shift": 80},
    {"channel_shift": (40, 90)},
    {"brightness": (0, 3)},
    {"brightness": (0.5, 1)},
    {"rescale": 1 / 255},
    {"rescale": -2.0},
    {"per_sample": "center"},
    {"per_sample": "standardize", "rescale": 1 / 255},
    {"mean": 127.5, "std": 127.5},
    {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "rescale": 1 / 255},
    {"dtype": "float16"},
    {"dtype": "uint8", "rescale": 0.37},
    {"dtype": "bfloat16"},
    {"layout": "CHW"},
]


def named(options):
    return ",".join(f"{name}={value}" for name, value in options.items()).replace(" ", "") or "none"


@pytest.mark.parametrize("options", ALONE, ids=named)
def test_engines_agree_on_each_option(dali, files, options):
    assert_agree(files, Augment(size=(64, 32), interpolation="nearest", **options), dali)
    assert_agree(memory("uint8"), Augment(**options), dali)
    if "brightness" not in options:
        assert_agree(memory("float32"), Augment(**options), dali)


@settings(max_examples=12)
@given(size=st.tuples(st.integers(1, 300), st.integers(1, 300)))
@example((64, 64))
@example((30, 50))
@example((200, 150))
@example((90, 270))
def test_nearest_resizing_is_pillows_to_the_pixel(dali, rulers, size):
    """Also where a position lies on the edge of two pixels, and Pillow's rounding chooses one."""
    expected, found = (
        images(rulers, Augment(size=size, interpolation="nearest"), **at) for at in (REFERENCE, on(dali))
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("color", ["rgb", "grayscale"])
@pytest.mark.parametrize("size", [(64, 32), (48, 40), (100, 150), (131, 75)], ids=str)
@pytest.mark.parametrize("interpolation", SMOOTH)
def test_engines_agree_on_smooth_resizing(dali, files, interpolation, size, color):
    assert_agree(files, Augment(size=size, interpolation=interpolation, color=color), dali)


@pytest.mark.parametrize("size", [(64, 32), (48, 40), (131, 75)], ids=str)
def test_bilinear_resizing_agrees_to_a_level_inside(dali, lossless, size):
    """Three pixels from the border, where the filter sees only pixels that there are: one level, that of rounding
    between the passes, on every single pixel."""
    transform = Augment(size=size)
    difference = abs(images(lossless, transform) - images(lossless, transform, **on(dali)))
    assert difference[:, 3:-3, 3:-3].max() <= 1


@pytest.mark.parametrize("size", [(64, 32), (48, 40), (131, 75)], ids=str)
def test_engines_agree_on_bilinear_without_antialias(dali, lossless, size):
    """Nothing is rounded here, on either side: a hundredth of a level."""
    transform = Augment(size=size, antialias=False)
    np.testing.assert_allclose(images(lossless, transform, **on(dali)), images(lossless, transform), rtol=0, atol=0.01)


CROPS = [
    CenterCrop(),
    CenterCrop(fraction=0.9),
    CenterCrop(fraction=0.7),
    CenterCrop(fraction=0.5),
    RandomResizedCrop(),
    RandomResizedCrop(scale=(0.3, 1.0), ratio=(0.5, 2.0)),
    RandomResizedCrop(scale=(1, 1), ratio=(0.7, 0.7)),
    RandomResizedCrop(scale=(0.9, 1), ratio=(3, 3)),
]


@pytest.mark.parametrize("crop", CROPS, ids=str)
@pytest.mark.parametrize("interpolation", ["nearest", *SMOOTH])
def test_engines_agree_on_crops(dali, files, interpolation, crop):
    for size in SIZES:
        assert_agree(files, Augment(size=size, crop=crop, interpolation=interpolation), dali)


@pytest.fixture(scope="session")
def rulers(tmp_path_factory):
    """Files of many sizes, each pixel's red its column and its green its row: a box that is off by one shows."""
    root = tmp_path_factory.mktemp("rulers")
    sizes = [(1, 1), (1, 60), (60, 1), (5, 5), (15, 25), (25, 15), (45, 45), (45, 90), (55, 95), (85, 65), (128, 200)]
    for number, (height, width) in enumerate(sizes):
        row, column = np.mgrid[:height, :width].astype(np.uint8)
        Image.fromarray(np.stack([column, row, row * 0], -1)).save(root / f"{number:02}.png")
    return ImageList(sorted(root.iterdir()))


@pytest.mark.parametrize(
    "crop",
    [
        *(CenterCrop(fraction=fraction) for fraction in (1.0, 0.9, 0.875, 0.7, 0.5, 0.3, 0.1)),
        *(RandomResizedCrop(scale=(1, 1), ratio=(ratio, ratio)) for ratio in (0.1, 0.3, 0.7, 1.0, 1.1, 1.3, 3.0)),
        RandomResizedCrop(),
        RandomResizedCrop(scale=(0.01, 0.1)),
        RandomResizedCrop(scale=(0.5, 1), ratio=(0.2, 5)),
    ],
    ids=str,
)
def test_engines_cut_the_same_box(dali, rulers, crop):
    """To the pixel, also where a side is a half before it is rounded (0.9 of 45): "nearest" to one pixel in the middle
    of the box, to its corners by a large size."""
    for size in ((1, 1), (64, 128), (256, 32)):
        transform = Augment(size=size, crop=crop, interpolation="nearest")
        expected, found = images(rulers, transform), images(rulers, transform, **on(dali))
        differs = [name for name, a, b in zip(rulers.filenames, expected, found, strict=True) if (a != b).any()]
        assert not differs, size


def test_engines_agree_on_the_fast_transform(dali, gallery):
    """DALI has libjpeg's own, Pillow the nearest that it can be talked into: within the contract all the same, and
    nearer to each other than to the exact transform, so that both did take it."""
    if dali.device != "cpu":
        pytest.skip("GPUs have a JPEG decoder of their own")
    source = gallery.take([n for n, name in enumerate(gallery.filenames) if Path(name).stem.isdigit()])
    transform = Augment(size=(64, 64), interpolation="nearest", fast_idct=True)
    assert_agree(source, transform, dali)
    fast, found = images(source, transform), images(source, transform, **on(dali))
    exact = images(source, transform.replace(fast_idct=False))
    assert abs(found - fast).mean() < min(abs(found - exact).mean(), abs(fast - exact).mean())


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("fill_mode", ["nearest", "constant", "reflect", "wrap"])
def test_engines_agree_on_images_of_few_pixels(dali, fill_mode, size):
    source = memory(height=size[0], width=size[1])
    # All positions of a turned row are on the border of "constant", but for rounding.
    turn = {} if fill_mode == "constant" and 1 in size else {"rotation": (30, 30)}
    for options in (turn, {"width_shift": 0.4, "height_shift": 0.4}, {"zoom": (1.5, 1.5)}):
        transform = Augment(size=size, fill_mode=fill_mode, **options)
        if unsupported(getattr(source, "images", None), transform) is None:
            assert_agree(source, transform, dali)


@pytest.mark.parametrize("fill_mode", ["reflect", "wrap"])
def test_engines_agree_where_the_center_lies_outside_the_image(dali, fill_mode):
    """A zoom below 1 about a distant point moves the whole image."""
    assert_agree(memory(), Augment(zoom=(0.5, 1.0), center=(-40, 60), fill_mode=fill_mode), dali)


def spans(low, high):
    return st.tuples(st.floats(low, high), st.floats(low, high)).map(sorted).map(tuple)


def degrees(most):
    """Whole ones. DALI takes a position that misses the border by a thousandth of a pixel for one on it, since float32
    knows no better; an image turned by a hundredth of a degree has whole stretches of its border there."""
    whole = st.integers(-most, most)
    return st.integers(1, most) | st.tuples(whole, whole).map(sorted).map(tuple)


anywhere = {
    "rotation": degrees(180),
    "width_shift": st.floats(0.01, 0.8) | spans(-0.8, 0.8),
    "height_shift": st.floats(0.01, 0.8) | spans(-0.8, 0.8),
    "shear": degrees(60),
    "zoom": st.floats(0.01, 0.7) | spans(0.3, 2.0),
    # Not at the border either, which a small shear leaves in place to a thousandth.
    "center": st.tuples(st.floats(4, 19), st.floats(4, 33)),
    "hflip": st.sampled_from([0.5, 1.0]),
    "vflip": st.sampled_from([0.5, 1.0]),
    "fill_mode": st.sampled_from(["nearest", "constant", "reflect", "wrap"]),
    "fill_value": st.floats(0, 255),
    "warp_order": st.sampled_from([0, 1]),
    "channel_shift": st.floats(1, 150) | spans(-150, 150),
    "rescale": st.sampled_from([1 / 255, 1 / 127.5, 0.5, 0]),
    "per_sample": st.sampled_from(["center", "standardize"]),
    "mean": st.floats(-1, 130),
    "std": st.floats(0.2, 130),
    "dtype": st.sampled_from(["float32", "float16", "bfloat16", "uint8"]),
    "layout": st.sampled_from(["HWC", "CHW"]),
    "antialias": st.just(True),
}
brightness = {"brightness": spans(0, 3)}
from_files = {
    "color": st.sampled_from(["rgb", "grayscale"]),
    # Cut boxes and smooth filters meet at the box's border, and have a test of their own.
    "crop": st.just(CenterCrop()) | st.builds(RandomResizedCrop, scale=spans(0.2, 1.0), ratio=spans(0.5, 2.0)),
    "antialias": st.booleans(),
}


def draw_options(data, *tables):
    table = {name: strategy for one in tables for name, strategy in one.items()}
    return data.draw(st.fixed_dictionaries({}, optional=table), "options")


def check(source, transform, place, seed):
    """Agreement, or the refusal that `unsupported` announces."""
    obstacle = unsupported(getattr(source, "images", None), transform)
    if obstacle is None:
        assert_agree(source, transform, place, seed)
        return
    event("refused")
    with pytest.raises(ValueError, match="cannot do"):
        images(source, transform, **on(place))


a_seed = st.integers(0, 2**32)


@settings(max_examples=100)
@given(data=st.data(), channels=st.sampled_from([1, 3, 4]), dtype=st.sampled_from(["uint8", "float32"]), seed=a_seed)
def test_engines_agree_on_images_in_memory(dali, data, channels, dtype, seed):
    source = memory(dtype, channels)
    # Brightness takes whole levels, and an alpha channel has a test of its own.
    extra = brightness if dtype == "uint8" and channels != 4 else {}
    options = draw_options(data, anywhere, extra)
    if channels != 3:  # mean and std are for the channels of `color`
        options.pop("mean", None)
        options.pop("std", None)
    check(source, Augment(size=source.images.shape[1:3], **options), dali, seed)


@settings(max_examples=80)
@given(data=st.data(), size=st.sampled_from(SIZES), seed=a_seed)
def test_engines_agree_on_files(dali, files, data, size, seed):
    options = draw_options(data, anywhere, brightness, from_files)
    check(files, Augment(size=size, interpolation="nearest", **options), dali, seed)


@settings(max_examples=60)
@given(data=st.data(), size=st.sampled_from([*SIZES, (40, 56)]), interpolation=st.sampled_from(SMOOTH), seed=a_seed)
def test_engines_agree_on_files_resized_smoothly(dali, files, data, size, interpolation, seed):
    options = draw_options(data, anywhere, brightness, {"color": from_files["color"]})
    check(files, Augment(size=size, interpolation=interpolation, **options), dali, seed)


def test_engines_agree_over_short_batches_and_epochs(dali, files):
    """Through the loader as it is used: shuffled, several epochs, a short last batch."""
    transform = Augment(size=(64, 32), interpolation="nearest", **WARP, brightness=(0.5, 1.5))
    batches = []
    for where in (REFERENCE, on(dali)):
        options = {"batch_size": 5, "shuffle": True, "seed": 8, "framework": "numpy", **where}
        with Loader(files, transform, **options) as loader:
            batches.append([batch for _ in range(3) for batch in loader])
    for (expected, expected_labels), (found, labels) in zip(*batches, strict=True):
        np.testing.assert_array_equal(labels, expected_labels)
        assert found.shape == expected.shape
        # Twice 1.5, and 1 for what is cut off, as in `assert_agree`.
        assert (abs(found.astype(float) - expected) <= 4).mean() >= 0.995


# What DALI cannot do --------------------------------------------------------------------------------------------------

NOT_DECODED = {  # On a GPU.
    "rgba": ({"color": "rgba"}, "color='rgba'"),
    "box": ({"interpolation": "box"}, "interpolation='box'"),
    "hamming": ({"interpolation": "hamming"}, "interpolation='hamming'"),
    "crop": (
        {"interpolation": "nearest", "crop": CenterCrop()},
        "interpolation='nearest' with a CenterCrop, except for sizes that are powers of two",
    ),
}


@pytest.mark.parametrize("name", NOT_DECODED)
def test_options_that_dali_lacks_on_a_gpu(dali, gallery, name, monkeypatch, caplog):
    options, words = NOT_DECODED[name]
    transform = Augment(**{"size": (8, 6), **options})
    if dali.device == "cpu":  # gpuload resizes there, and decodes alone are DALI's.
        with Loader(gallery, transform, batch_size=4, decoder="dali", **on(dali)) as loader:
            assert loader.decoder == "dali"
        np.testing.assert_array_equal(images(gallery, transform, **on(dali)), images(gallery, transform))
        return
    with pytest.raises(ValueError, match="cannot do") as refusal:
        Loader(gallery, transform, batch_size=4, decoder="dali", **on(dali))
    assert (
        str(refusal.value) == f"decoder='dali' cannot do {words}: pass decoder='pillow', or 'auto' to have one chosen"
    )
    monkeypatch.setattr(available, "_announced", set())
    with caplog.at_level(logging.INFO, "gpuload"), Loader(gallery, transform, batch_size=4, **on(dali)) as loader:
        assert (loader.engine, loader.decoder) == (dali.engine, "pillow")
        next(iter(loader))
    augments = f"images on {loader.device}: pillow decodes, {dali.engine} augments"
    assert caplog.messages == [f"{augments}, since DALI cannot do {words}"]


REFUSED = {
    **{
        f"order {order}": ({"rotation": 5, "warp_order": order}, source, f"warp_order={order}")
        for order, source in zip((2, 3, 4, 5), ("files", "uint8", "files", "float32"), strict=True)
    },
    "function": ({"function": np.negative}, "files", "function, which runs in Python"),
    "zca": ({"size": (3, 2), "zca": np.eye(18)}, "files", "zca"),
    "brightness": ({"brightness": (0.5, 1)}, "float32", "brightness of float32 images of 3 channels"),
    **{
        f"brightness and fill {value}": (
            {"rotation": 5, "fill_mode": "constant", "fill_value": value, "brightness": (0.5, 1)},
            "uint8",
            f"brightness with fill_value={value}, which is no level from 0 to 255",
        )
        for value in (-60, 300)
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_compiled_code_refuses_by_name_and_auto_takes_numpy(dali, gallery, name, monkeypatch, caplog):
    options, kind, words = REFUSED[name]
    source = gallery if kind == "files" else memory(kind)
    transform = Augment(**{"size": (8, 6), **options} if kind == "files" else options)
    with pytest.raises(ValueError, match="cannot do") as refusal:
        Loader(source, transform, batch_size=4, **on(dali))
    if dali.device == "cpu":
        assert str(refusal.value) == (
            f"engine='numba' cannot do {words}: pass engine='numpy', or 'auto' to have one chosen"
        )
    monkeypatch.setattr(available, "_announced", set())
    with caplog.at_level(logging.INFO, "gpuload"), Loader(source, transform, batch_size=4) as loader:
        assert (loader.engine, loader.device) == ("numpy", "cpu")
        assert len(next(iter(loader))) == (2 if source.labels is not None else 4)
    decodes = "pillow decodes, " if kind == "files" else ""
    assert caplog.messages == [f"images on cpu: {decodes}numpy augments, since compiled code cannot do {words}"]


@pytest.mark.parametrize("channels", [2, 4])
def test_dali_refuses_brightness_of_alpha(dali, channels):
    """Pillow brightens the colours and leaves the alpha alone."""
    source, transform = memory("uint8", channels=channels), Augment(brightness=(0.5, 0.5))
    with pytest.raises(ValueError, match=f"cannot do brightness of uint8 images of {channels} channels"):
        images(source, transform, **on(dali))
    np.testing.assert_array_equal(images(source, transform)[..., -1], source.images[..., -1])


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"interpolation": "box"}, "uint8"),
        ({"warp_order": 5, "hflip": 0.5}, "uint8"),
        ({"zoom": (1, 9), "fill_mode": "nearest"}, "uint8"),
        ({"zoom": (1, 9), "fill_mode": "constant"}, "float32"),
        ({"fill_mode": "wrap", "hflip": 0.5}, "uint8"),
    ],
)
def test_dali_refuses_nothing_that_has_no_effect(dali, options, kind):
    """No file is resized, or nothing is warped, or nothing has to be repeated."""
    assert_agree(memory(kind), Augment(**options), dali)


# Files that cannot be read --------------------------------------------------------------------------------------------

COUNT, BATCH = 13, 3


@pytest.fixture
def pile(photos, tmp_path):
    """Thirteen JPEGs that may be broken; labels are their numbers."""
    originals = sorted(path for path in photos.rglob("*.jpg") if path.stem.isdigit())[:COUNT]
    paths = [tmp_path / f"{number:02}.jpg" for number in range(COUNT)]
    for original, path in zip(originals, paths, strict=True):
        shutil.copy(original, path)
    return paths


def pile_loader(pile, place, **options):
    transform = Augment(size=(24, 32), rotation=30, hflip=0.5)
    # Files are read in each epoch.
    where = {"cache": None, "threads": THREADS, **on(place)}
    options = {"batch_size": BATCH, "seed": 2, "framework": "numpy", **where, **options}
    return Loader(ImageList(pile, labels=np.arange(len(pile))), transform, **options)


def outcomes(batches):
    """Each batch, or the error that came in its place."""
    found, batches = [], iter(batches)
    while True:
        try:
            found.append(next(batches))
        except StopIteration:
            return found
        except Exception as error:
            found.append(error)


def assert_only_these_are_lost(found, clean, numbers):
    """Batches `numbers` raised SampleError; all others came as in a run over sound files, to the last bit."""
    assert [number for number, batch in enumerate(found) if isinstance(batch, Exception)] == numbers
    for number in numbers:
        assert isinstance(found[number], SampleError), found[number]
    for number in set(range(len(clean))) - set(numbers):
        for part, expected in zip(found[number], clean[number], strict=True):
            np.testing.assert_array_equal(part, expected)


def remove(path):
    path.unlink()


def replace_with_folder(path):
    path.unlink()
    path.mkdir()


RUINS = {
    "empty": (lambda path: path.write_bytes(b""), "empty|cannot identify"),
    "garbage": (lambda path: path.write_bytes(bytes(range(256)) * 8), "cannot identify"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "truncated"),
    "missing": (remove, "No such file"),
    "folder": (replace_with_folder, "Is a directory"),
}


@pytest.mark.parametrize("prefetch", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", RUINS)
def test_a_bad_file_costs_its_own_batch(place, pile, kind, prefetch):
    ruin, reason = RUINS[kind]
    with pile_loader(pile, place, prefetch=prefetch, shuffle=True) as loader:
        clean = list(loader)
    number = next(n for n, (_, labels) in enumerate(clean) if 4 in labels)
    ruin(pile[4])
    with pile_loader(pile, place, prefetch=prefetch, shuffle=True) as loader:
        found = outcomes(loader)
    assert_only_these_are_lost(found, clean, [number])
    error = found[number]
    (sample,) = error.samples
    assert (sample.index, sample.path) == (4, str(pile[4]))
    assert error.batch_size == len(clean[number][1])
    assert str(error) == (
        f"cannot read {str(pile[4])!r} (sample 4): {sample.reason}. Repair or remove the file; the other "
        f"{error.batch_size - 1} samples of its batch were not delivered, the next batch can be."
    )
    assert re.search(reason, sample.reason)


@pytest.mark.parametrize("prefetch", [0, 1, 2, 3])
def test_several_bad_files_in_several_batches(place, pile, prefetch):
    """Two in the first batch, all three of the third, and the only one of the short last batch."""
    with pile_loader(pile, place, prefetch=prefetch) as loader:
        clean = list(loader)
    ruined = {0: "empty", 2: "missing", 6: "garbage", 7: "folder", 8: "truncated", 12: "missing"}
    for number, kind in ruined.items():
        RUINS[kind][0](pile[number])
    with pile_loader(pile, place, prefetch=prefetch) as loader:
        found, again = outcomes(loader), outcomes(loader)
    assert_only_these_are_lost(found, clean, [0, 2, 4])
    assert [isinstance(batch, SampleError) for batch in again] == [True, False, True, False, True]
    for number, expected in ((0, [0, 2]), (2, [6, 7, 8]), (4, [12])):
        samples = found[number].samples
        assert [sample.index for sample in samples] == expected
        assert [sample.path for sample in samples] == [str(pile[index]) for index in expected]
        for sample in samples:
            assert re.search(RUINS[ruined[sample.index]][1], sample.reason)
    assert "(sample 0): " in str(found[0])
    assert " (and 1 more: see .samples). Repair" in str(found[0])
    assert "the other 1 samples of its batch" in str(found[0])


@pytest.mark.parametrize("prefetch", [0, 1, 2, 3])
def test_a_file_that_goes_missing_in_the_middle_of_an_epoch(place, pile, prefetch):
    with pile_loader(pile, place, prefetch=prefetch) as loader:
        clean = list(loader)
        loader.set_epoch(0)
        batches = iter(loader)
        found = [next(batches)]
        # Of the last batch, which is read once fewer than four others are under way.
        pile[12].unlink()
        found += outcomes(batches)
    assert_only_these_are_lost(found, clean, [4])
    assert "No such file" in found[4].samples[0].reason


def test_a_loader_recovers_once_its_files_do(place, pile):
    kept = [path.read_bytes() for path in pile]
    with pile_loader(pile, place) as loader:
        clean = list(loader)
        for path in pile:
            path.unlink()
        loader.set_epoch(5)  # Of the one that comes next, the first batches have been made already.
        assert [type(batch) for batch in outcomes(loader)] == [SampleError] * len(clean)
        for path, data in zip(pile, kept, strict=True):
            path.write_bytes(data)
        loader.set_epoch(0)
        assert_only_these_are_lost(outcomes(loader), clean, [])


def test_an_error_of_the_function_is_not_taken_for_a_bad_file(pile):
    pile[1].write_bytes(b"")
    source = ImageList(pile)

    def fails(image):
        raise ZeroDivisionError("the user's own")

    with Loader(source, Augment(size=(4, 4), function=np.negative), batch_size=BATCH, **REFERENCE) as loader:
        kinds = [type(batch).__name__ for batch in outcomes(loader)]
    assert kinds == ["SampleError", *["ndarray"] * 4]
    with Loader(source, Augment(size=(4, 4), function=fails), batch_size=BATCH, **REFERENCE) as loader:
        kinds = [type(batch).__name__ for batch in outcomes(loader)]
    assert kinds[1:] == ["ZeroDivisionError"] * 4


def test_sample_errors_travel_between_processes():
    error = SampleError([BadSample(3, "a.jpg", "gone"), BadSample(9, "b.jpg", "empty")], batch_size=8)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.samples, copy.batch_size) == (str(error), error.samples, 8)


# Which engine, which device -------------------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch):
    """Have the driver show that many GPUs; choosing touches none."""

    def show(count):
        monkeypatch.setattr(cuda, "device_count", lambda: count)

    return show


def chosen(transform=None, source=None, **choice):
    job = settle(source or memory(), transform or Augment(size=(37, 23)), **choice)
    return (str(job.device), job.engine) if job.decoder is None else (str(job.device), job.engine, job.decoder)


FUNCTION = Augment(size=(37, 23), function=np.negative)


@pytest.mark.parametrize("engine", ["pil", "DALI", "", None, 3])
def test_unknown_engines(engine):
    with pytest.raises(ValueError, match=rf"^engine must be one of auto, numpy, numba, cupy, not {engine!r}"):
        Loader(memory(), Augment(), batch_size=1, device="cpu", engine=engine)


@pytest.mark.parametrize("name", ["gpu", "CPU", "cuda:", "cuda:-1", "cuda:0 ", "", None, 0])
def test_unknown_devices(name):
    with pytest.raises(ValueError, match=rf"^device must be 'auto', 'cpu', 'cuda' or 'cuda:N', not {name!r}"):
        Loader(memory(), Augment(), batch_size=1, device=name)


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
@pytest.mark.parametrize("engine", ["auto", "cupy", "numba", "numpy"])
def test_a_gpu_that_is_not_there(gpus, name, count, engine):
    gpus(count)
    message = (
        f"^device='{name}' needs NVIDIA GPU number {name[5:] or 0}, but the driver shows {count or 'none'}: "
        "pass device='cpu', or device='auto' to take what is there$"
    )
    with pytest.raises(RuntimeError, match=message):
        Loader(memory(), Augment(), batch_size=1, device=name, engine=engine)


def test_numpy_on_a_named_gpu(gpus):
    gpus(2)
    message = "^engine='numpy' runs on the CPU, not on cuda:1: pass device='cpu', or engine='cupy'$"
    with pytest.raises(ValueError, match=message):
        Loader(memory(), Augment(), batch_size=1, device="cuda:1", engine="numpy")


def test_a_named_gpu_that_cannot_do_the_job(gpus):
    gpus(1)
    message = "^device='cuda' cannot do function, which runs in Python: pass device='cpu', or leave that option out$"
    with pytest.raises(ValueError, match=message):
        chosen(FUNCTION, device="cuda")


def test_what_is_chosen(gpus, monkeypatch):
    monkeypatch.setattr(available, "dali_installed", lambda: True)
    monkeypatch.setattr(available, "cupy_installed", lambda: True)
    gpus(2)
    monkeypatch.setattr(available, "numba_installed", lambda: True)
    assert chosen() == chosen(engine="cupy") == chosen(device="cuda") == ("cuda:0", "cupy")
    assert chosen(device="cuda:1") == ("cuda:1", "cupy")
    assert chosen(device="cpu") == chosen(engine="numba") == ("cpu", "numba")
    assert chosen(engine="numpy") == ("cpu", "numpy")
    assert chosen(FUNCTION) == chosen(FUNCTION, device="cpu") == ("cpu", "numpy")
    gpus(0)
    assert chosen() == chosen(engine="numba") == ("cpu", "numba")
    assert chosen(FUNCTION, engine="numpy") == ("cpu", "numpy")
    with pytest.raises(ValueError, match="engine='cupy' needs a GPU, but images are made on cpu: pass device='cuda'"):
        chosen(engine="cupy")


def test_decoders_and_engines_cross(gpus, monkeypatch):
    """Each decoder with each engine; "auto" takes DALI, and Pillow for the reference or where DALI is missing."""
    files, rgba = ImageList(["a.jpg"]), Augment(size=(8, 6), color="rgba")
    for name in ("dali_installed", "cupy_installed", "numba_installed"):
        monkeypatch.setattr(available, name, lambda: True)
    gpus(1)
    places = {"numpy": "cpu", "numba": "cpu", "cupy": "cuda:0"}
    for engine, place in places.items():
        for decoder in ("dali", "pillow"):
            assert chosen(source=files, engine=engine, decoder=decoder) == (place, engine, decoder)
        reader = "pillow" if engine == "numpy" else "dali"
        assert chosen(source=files, engine=engine) == (place, engine, reader)
        assert chosen(rgba, files, engine=engine) == (place, engine, "dali" if engine == "numba" else "pillow")
    assert chosen(FUNCTION, files) == ("cpu", "numpy", "pillow")
    assert chosen(FUNCTION, files, decoder="dali") == ("cpu", "numpy", "dali")
    monkeypatch.setattr(available, "dali_installed", lambda: False)
    assert chosen(source=files) == ("cuda:0", "cupy", "pillow")
    assert chosen(source=files, device="cpu") == ("cpu", "numba", "pillow")
    monkeypatch.setattr(available, "cupy_installed", lambda: False)
    assert chosen() == ("cpu", "numba")
    monkeypatch.setattr(available, "numba_installed", lambda: False)
    assert chosen() == ("cpu", "numpy")
    with pytest.raises(
        ImportError, match=r"engine='numba' needs numba, which is not installed: pip install 'gpuload\[cpu\]'"
    ):
        chosen(engine="numba")
    with pytest.raises(
        ImportError, match=r"engine='cupy' needs CuPy, which is not installed: pip install 'gpuload\[cuda13\]'"
    ):
        chosen(engine="cupy")


@pytest.mark.parametrize("decoder", ["dali", "pillow"])
@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_crossed_batches(photos, monkeypatch, decoder, engine):
    """What decodes settles the levels, what augments changes them alike: engines agree for each decoder."""
    if decoder == "dali" and not available.dali_installed():
        pytest.skip("NVIDIA DALI is not installed")
    source, transform = ImageFolder(photos), Augment(size=(24, 20), rotation=20, hflip=0.5, channel_shift=9)
    options = {"batch_size": 5, "device": "cpu", "seed": 3, "shuffle": True, "decoder": decoder}
    with Loader(source, transform, engine=engine, **options) as crossed:
        assert (crossed.engine, crossed.decoder) == (engine, decoder)
        found = [images for _ in range(2) for images, _ in crossed]
    with Loader(source, transform, engine="numpy", **options) as reference:
        wanted = [images for _ in range(2) for images, _ in reference]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)  # Sums in float32 and in SciPy's doubles.


@pytest.mark.parametrize("decoder", ["dali", "pillow"])
def test_images_in_memory_have_no_decoder(decoder):
    message = f"^decoder='{decoder}' is for images that are read from files; these are in memory$"
    with pytest.raises(ValueError, match=message):
        Loader(memory(), Augment(), batch_size=1, device="cpu", decoder=decoder)


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("dali", "DALI decodes: pass decoder='dali'"),
        ("cuda", "pass engine='cupy'"),
        ("GPU", "pass engine='cupy'"),
        ("numbas", "did you mean 'numba'?"),
    ],
)
def test_other_words_for_an_engine_are_answered(word, advice):
    with pytest.raises(ValueError, match=rf"not '{word}': {advice}".replace("?", r"\?")):
        Loader(memory(), Augment(), batch_size=1, device="cpu", engine=word)


def test_a_loader_says_where_it_runs(device):
    """On a device that is there, through the public door."""
    with Loader(memory(), Augment(), batch_size=2, device=device, framework="numpy") as loader:
        assert loader.device.startswith(device)
        assert sum(len(batch) for batch in loader) == 4


def test_the_environment_overrides_auto_alone(gpus, monkeypatch):
    monkeypatch.setattr(available, "dali_installed", lambda: True)
    monkeypatch.setattr(available, "cupy_installed", lambda: True)
    gpus(2)
    monkeypatch.setenv("GPULOAD_DEVICE", "cpu")
    assert chosen() == ("cpu", "numba")
    assert chosen(device="cuda:1") == ("cuda:1", "cupy")
    monkeypatch.setenv("GPULOAD_DEVICE", "cuda:1")
    assert chosen() == ("cuda:1", "cupy")
    assert chosen(device="cpu") == ("cpu", "numba")
    monkeypatch.setenv("GPULOAD_DEVICE", "auto")
    assert chosen() == ("cuda:0", "cupy")


def test_an_environment_that_makes_no_sense(gpus, monkeypatch):
    gpus(1)
    monkeypatch.setenv("GPULOAD_DEVICE", "fast")
    with pytest.raises(ValueError, match=r"^GPULOAD_DEVICE must be 'auto', 'cpu', 'cuda' or 'cuda:N', not 'fast'$"):
        chosen()
    assert chosen(device="cpu")[0] == "cpu"
    monkeypatch.setenv("GPULOAD_DEVICE", "cuda:4")
    with pytest.raises(
        RuntimeError, match=r"^GPULOAD_DEVICE='cuda:4' needs NVIDIA GPU number 4, but the driver shows 1: "
    ):
        chosen()


def test_the_choice_is_told_once(gpus, monkeypatch, caplog):
    monkeypatch.setattr(available, "dali_installed", lambda: True)
    monkeypatch.setattr(available, "cupy_installed", lambda: True)
    monkeypatch.setattr(available, "_announced", set())
    gpus(1)
    with caplog.at_level(logging.INFO, "gpuload"):
        for _ in range(3):
            chosen()
            chosen(device="cpu")
            chosen(engine="numpy")
    assert caplog.messages == [
        "images on cuda:0: cupy augments",
        "images on cpu: numba augments",
        "images on cpu: numpy augments",
    ]
    assert {record.levelname for record in caplog.records} == {"INFO"}


WITHOUT_DALI = """
import logging, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "nvidia" or name.startswith("nvidia."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stdout)

import numpy as np
import gpuload
from gpuload.core import device

files = gpuload.ImageList(["a.jpg"])
source = gpuload.ImageArray(np.arange(48, dtype=np.uint8).reshape(2, 4, 2, 3))

def attempt(given, **options):
    try:
        transform = gpuload.Augment(hflip=1, size=(4, 2))
        return gpuload.Loader(given, transform, batch_size=2, framework="numpy", **options)
    except Exception as error:
        print(f"{type(error).__name__}: {error}")

attempt(files, decoder="dali", device="cpu")
for _ in range(2):
    attempt(files, device="cpu")
    (batch,) = attempt(source, device="cpu")
print((batch == source.images[:, :, ::-1]).all())
device.device_count = lambda: 1
attempt(files, decoder="dali")
attempt(files, device="cuda")
"""


def test_without_dali():
    """A machine that has no DALI: in a process of its own, where it cannot be imported."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_DALI],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert result.stderr == ""
    missing = "needs NVIDIA DALI, which is not installed: pip install 'gpuload[cpu]'"
    assert result.stdout.splitlines() == [
        f"ImportError: decoder='dali' {missing}",
        "INFO gpuload: images on cpu: pillow decodes, numba augments, since NVIDIA DALI is not installed",
        "INFO gpuload: images on cpu: numba augments",
        "True",
        f"ImportError: decoder='dali' {missing}",
        "ImportError: device='cuda' needs CuPy, which is not installed: pip install 'gpuload[cuda13]'",
    ]


# Lifetimes ------------------------------------------------------------------------------------------------------------


class Bench:
    """One engine, with steps of whole numbers: step n asks for images n, n + 1 and n + 2."""

    def __init__(self, place, source, transform):
        self.device = cuda.resolve(place.device)
        self.engine = open_engine(
            settle(source, transform, **place._asdict()).in_layout("HWC"), batch_size=3, threads=2
        )
        self.transform = transform

    def submit(self, *numbers):
        for number in numbers:
            self.engine.submit(self.transform.step(number + np.arange(3), seed=0, epoch=0, first=number))

    def result(self):
        return to_numpy(self.engine.result(), self.device)


@pytest.fixture
def bench(place):
    source = memory(count=12)
    made = Bench(place, source, Augment(size=source.images.shape[1:3], vflip=1.0))
    made.expected = source.images[:, ::-1]
    yield made
    made.engine.close()


def test_results_come_in_the_order_of_their_steps(bench):
    assert bench.engine.pending == 0
    bench.submit(0, 5, 2)
    assert bench.engine.pending == 3
    for left, number in ((2, 0), (1, 5), (0, 2)):
        np.testing.assert_array_equal(bench.result(), bench.expected[number : number + 3])
        assert bench.engine.pending == left


def test_discarded_steps_are_gone(bench):
    bench.submit(0, 1, 2)
    bench.result()
    bench.engine.discard()
    assert bench.engine.pending == 0
    bench.engine.discard()
    bench.submit(7, 8)
    bench.engine.discard()
    bench.submit(9, 4)
    assert bench.engine.pending == 2
    for number in (9, 4):
        np.testing.assert_array_equal(bench.result(), bench.expected[number : number + 3])


def test_errors_of_discarded_steps_are_gone(place, pile):
    pile[4].write_bytes(b"")
    bench = Bench(place, ImageList(pile), Augment(size=(24, 32)))
    bench.submit(3, 2, 0)
    bench.engine.discard()
    bench.submit(8, 4, 5)
    assert len(bench.result()) == 3
    with pytest.raises(SampleError, match=r"04\.jpg"):
        bench.result()
    assert bench.engine.pending == 1
    assert len(bench.result()) == 3
    bench.engine.close()


def test_an_engine_closes_with_steps_pending_and_twice(bench):
    bench.submit(0, 1, 2)
    bench.engine.close()
    assert bench.engine.pending == 0
    bench.engine.close()


def test_a_closed_loader_opens_again(place):
    source = memory(count=6)
    loader = Loader(source, Augment(hflip=1), batch_size=2, framework="numpy", **on(place))
    clean = [batch.copy() for batch in loader]
    loader.close()
    loader.close()
    batches = iter(loader)
    next(batches)
    loader.close()  # What runs ends.
    with pytest.raises(RuntimeError, match="the loader was closed while it was iterated over"):
        next(batches)
    found = list(loader)
    loader.close()
    np.testing.assert_array_equal(np.stack(found), np.stack(clean))


def test_an_epoch_left_early_is_followed_by_the_next(place):
    source = memory(count=6)
    options = {"batch_size": 2, "seed": 1, "shuffle": True, "framework": "numpy", **on(place)}
    with Loader(source, Augment(hflip=0.5), **options) as loader:
        epochs = [list(loader) for _ in range(3)]
    with Loader(source, Augment(hflip=0.5), prefetch=3, **options) as loader:
        for _ in loader:
            break
        second = list(loader)
        first, third = iter(loader), iter(loader)  # side by side, each with an engine of its own
        opening = next(first)  # Settles which epoch it is.
        loader.set_epoch(0)
        beside = list(zip(itertools.chain([opening], first), loader, strict=True))
        del third
    np.testing.assert_array_equal(np.stack(second), np.stack(epochs[1]))
    np.testing.assert_array_equal(np.stack([a for a, _ in beside]), np.stack(epochs[2]))
    np.testing.assert_array_equal(np.stack([b for _, b in beside]), np.stack(epochs[0]))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_that_are_held_never_change(place, gallery, prefetch):
    transform = Augment(size=(48, 64), rotation=20)
    options = {"batch_size": 4, "prefetch": prefetch, "seed": 0, "framework": "numpy", **on(place)}
    loader = Loader(gallery, transform, **options)
    batches = iter(loader)
    held = [next(batches)[0] for _ in range(2)]
    copies = [batch.copy() for batch in held]
    for _ in range(2):
        list(batches)
        batches = iter(loader)
    loader.close()
    del batches, loader
    for batch, copy in zip(held, copies, strict=True):
        np.testing.assert_array_equal(batch, copy)


def test_a_batch_belongs_to_its_user(place):
    """Writing into it changes neither the source nor another batch."""
    source = memory(count=6)
    before = source.images.copy()
    with Loader(source, Augment(), batch_size=2, seed=0, framework="numpy", **on(place)) as loader:
        clean = [batch.copy() for batch in loader]
        for _ in range(2):
            for batch, expected in zip(loader, clean, strict=True):
                np.testing.assert_array_equal(batch, expected)
                batch[...] = -1
    np.testing.assert_array_equal(source.images, before)


def test_the_result_is_delivered_without_a_copy(dali):
    if dali.device != "cpu":
        pytest.skip("NumPy has no GPU memory: the batch is copied to the host")
    source = memory()
    bench = Bench(dali, source, Augment(size=source.images.shape[1:3]))
    bench.submit(0)
    made = bench.engine.result()
    batch = to_numpy(made, bench.device)
    assert batch.ctypes.data == made.ctypes.data
    expected = source.images[:3].astype(np.float32)
    # The array keeps its memory where the engine is gone.
    del made
    bench.submit(1, 0, 1)
    bench.engine.close()
    np.testing.assert_array_equal(batch, expected)


def test_global_random_state_is_neither_read_nor_moved(place):
    transform = Augment(rotation=30, brightness=(0.5, 1.5), hflip=0.5)
    found = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        before = np.random.get_state()  # noqa: NPY002
        found.append(images(memory(), transform, **on(place)))
        assert all(np.array_equal(a, b) for a, b in zip(before, np.random.get_state(), strict=True))  # noqa: NPY002
    np.testing.assert_array_equal(*found)


# Kinds of file --------------------------------------------------------------------------------------------------------


def by_size(gallery, mode):
    """The sizes (width, height) in a gallery, each with the numbers of its files and their pixels, by Pillow."""
    found = {}
    for index in range(len(gallery)):
        with Image.open(gallery.path(index)) as opened:
            found.setdefault(opened.size, {})[index] = np.asarray(opened.convert(mode))
    return found.items()


def test_every_kind_of_file_decodes_to_pillows_pixels(dali, gallery):
    """At the size of the file, and at a third of it where that is whole: "nearest" then takes the middle of three, and
    nothing is rounded. EXIF is left alone, and so is alpha: colours under it come as they are.

    On a GPU JPEGs have another decoder, whose inverse transform and conversion of colours round on their own: 4 levels
    on 98% of values.
    """
    for size, pictures in by_size(gallery, "RGB"):
        third = tuple(length // 3 if length % 3 == 0 else length for length in size)
        for width, height in dict.fromkeys((size, third)):
            transform = Augment(size=(height, width), interpolation="nearest")
            down, right = size[1] // height, size[0] // width
            found = images(gallery.take(list(pictures)), transform, **on(dali))
            for (index, pixels), levels in zip(pictures.items(), found, strict=True):
                name, expected = gallery.filenames[index], pixels[down // 2 :: down, right // 2 :: right]
                if dali.device == "cpu" or not name.endswith(".jpg"):
                    np.testing.assert_array_equal(levels, expected, err_msg=name)
                else:
                    assert (abs(levels - expected) <= 4).mean() >= 0.98, name


def test_grey_from_every_kind_of_file(dali, gallery):
    """A grey file keeps its levels. For others the weights of red, green and blue are the same, but Pillow counts them
    in whole numbers: one level."""
    for (width, height), pictures in by_size(gallery, "L"):
        transform = Augment(size=(height, width), interpolation="nearest", color="grayscale")
        found = images(gallery.take(list(pictures)), transform, **on(dali))
        for (index, pixels), levels in zip(pictures.items(), found, strict=True):
            name, off = gallery.filenames[index], abs(levels[..., 0] - pixels)
            if dali.device != "cpu" and name.endswith(".jpg"):
                assert (off <= 4).mean() >= 0.98, name
            else:
                assert off.max() <= (0 if name == "cat/grey.jpg" else 1), name
