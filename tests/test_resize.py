"""Resize in compiled code against Pillow, bit for bit, and against the bilinear resize in NumPy."""

from typing import Any, get_args

import numba
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gpuload.decode import pillow
from gpuload.decode.resize import CODES, resize, resize_into
from gpuload.decode.spec import Interpolation

FILTERS = get_args(Interpolation)
# Pillow resizes the channels of CMYK one by one, unlike those of RGBA.
MODES = {1: "L", 3: "RGB", 4: "CMYK"}
Box = tuple[float, float, float, float]


def by_pillow(image: NDArray[Any], size: tuple[int, int], interpolation: str, box: Box | None = None) -> NDArray[Any]:
    height, width, channels = image.shape
    picture = Image.frombytes(MODES[channels], (width, height), image.tobytes())
    resized = picture.resize(size[::-1], Image.Resampling[interpolation.upper()], box=box)
    return np.asarray(resized).reshape(*size, channels)


def picture(height: int, width: int, channels: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise; with an odd seed black and white, so that sums leave 0 to 255."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return noise // 128 * 255 if seed % 2 else noise


@st.composite
def sides(draw: st.DrawFn, length: int) -> tuple[float, float]:
    """Both ends of a box along one axis: all of it, whole numbers, one pixel, or any."""
    kind = draw(st.sampled_from(["all", "whole", "pixel", "any"]))
    if kind == "all":
        return 0.0, float(length)
    if kind == "any":
        start = draw(st.floats(0, length - 0.5, width=32))
        return start, draw(st.floats(start, length, width=32).filter(lambda stop: stop - start > 1e-3))
    start = draw(st.integers(0, length - 1))
    return float(start), float(start + 1 if kind == "pixel" else draw(st.integers(start + 1, length)))


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[np.uint8], tuple[int, int], Box]:
    """An image, a size, and a box."""
    # Smaller images are likelier to be read beyond their end, longer ones have more weights.
    length = st.integers(1, 80) | st.integers(1, 6)
    height, width = draw(length), draw(length | st.just(300))
    (left, right), (top, bottom) = draw(sides(width)), draw(sides(height))
    image = picture(height, width, draw(st.sampled_from(list(MODES))), draw(st.integers(0, 9)))
    return image, (draw(length), draw(length)), (left, top, right, bottom)


@pytest.mark.parametrize("interpolation", FILTERS)
@given(case=cases())
@example(case=(picture(1, 300, 3), (1, 1), (0.0, 0.0, 300.0, 1.0)))
@example(case=(picture(300, 1, 3), (1, 1), (0.0, 0.0, 1.0, 300.0)))
@example(case=(picture(1, 1, 3), (5, 80), (0.0, 0.0, 1.0, 1.0)))
@example(case=(picture(60, 20, 3, 1), (40, 30), (3.25, 7.5, 20.0, 60.0)))  # Pillow 13 starts with the columns,
@example(case=(picture(60, 50, 3, 1), (40, 40), (3.25, 7.5, 50.0, 60.0)))  # and here, on the border, with the rows.
def test_equals_pillow(interpolation: Interpolation, case: Any) -> None:
    image, size, box = case
    np.testing.assert_array_equal(resize(image, size, interpolation, box), by_pillow(image, size, interpolation, box))


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (480, 640), (640, 480), (224, 500), (500, 224), (150, 224)])
def test_photographs_equal_pillow(shape: tuple[int, int], interpolation: Interpolation) -> None:
    image = picture(*shape, 3)
    np.testing.assert_array_equal(resize(image, (224, 224), interpolation), by_pillow(image, (224, 224), interpolation))


@pytest.mark.parametrize("count", [224, 96, 100, 299])
def test_ties_of_nearest_fall_as_in_pillow(count: int) -> None:
    for length in range(1, 701):
        row = np.arange(length).astype(np.uint8).reshape(1, -1, 1)
        np.testing.assert_array_equal(resize(row, (1, count), "nearest"), by_pillow(row, (1, count), "nearest"))
        column = row.reshape(-1, 1, 1)
        np.testing.assert_array_equal(resize(column, (count, 1), "nearest"), by_pillow(column, (count, 1), "nearest"))


@given(case=cases())
def test_bilinear_without_antialiasing(case: Any) -> None:
    image, size, box = case
    expected = pillow._bilinear(image, size, box)
    found = resize(image, size, "bilinear", box, antialias=False)
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@numba.njit
def fill(image: Any, place: Any, box: Any, batch: Any, code: int, planes: tuple[int, ...]) -> None:
    resize_into(image, place, box, batch[1], code, planes)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(60, 90), (90, 20)])
def test_compiled_code_writes_one_image_of_a_batch(shape: tuple[int, int], interpolation: Interpolation) -> None:
    image = picture(*shape, 3)
    image.flags.writeable = False
    batch = np.full((3, 37, 41, 3), 7, np.uint8)
    box = (1.5, 2.25, float(shape[1]), float(shape[0]))
    fill(image, (0, 0, *shape), box, batch, CODES[interpolation], (0, 1, 2))
    np.testing.assert_array_equal(batch[1], by_pillow(image, (37, 41), interpolation, box))
    assert (batch[::2] == 7).all()  # The neighbours may be another thread's.


@given(case=cases(), interpolation=st.sampled_from(FILTERS), data=st.data())
def test_a_picture_may_be_a_part_of_the_image(case: Any, interpolation: Interpolation, data: Any) -> None:
    """What lies around it in memory is not read."""
    image, size, box = case
    height, width, channels = image.shape
    top, left, below, right = (data.draw(st.integers(0, 5)) for _ in range(4))
    around = picture(height + top + below, width + left + right, channels, 4)
    around[top : top + height, left : left + width] = image
    around.flags.writeable = False
    out, place = np.empty((*size, channels), np.uint8), (top, left, height, width)
    resize_into(around, place, tuple(map(float, box)), out, CODES[interpolation], tuple(range(channels)))
    np.testing.assert_array_equal(out, by_pillow(image, size, interpolation, box))


def test_image_may_have_gaps_and_stays_writeable() -> None:
    part = picture(40, 60, 4)[3:30:2, 5:50, :3]
    np.testing.assert_array_equal(resize(part, (20, 20)), by_pillow(part, (20, 20), "bilinear"))
    whole = picture(40, 60, 3)
    resize(whole, (20, 20))
    assert whole.flags.writeable


@pytest.mark.parametrize("box", [(0, 0, 6, 4), (-1, 0, 5, 4), (2, 0, 2, 4), (0, 3, 5, 1), (0, 0, float("nan"), 4)])
def test_box_lies_inside_the_image(box: Box) -> None:
    with pytest.raises(ValueError, match="cannot resize"):
        resize(picture(4, 5, 3), (2, 2), "bilinear", box)


def test_sizes_are_positive() -> None:
    with pytest.raises(ValueError, match="cannot resize"):
        resize(picture(4, 5, 3), (0, 2))
