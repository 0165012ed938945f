"""Pillow decodes an encoded image and resizes it: the reference, and what other decoders cannot do."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gpuload.decode.spec import Decoding, Interpolation
from gpuload.reading.header import opened

FILTERS = {name: Image.Resampling[name.upper()] for name in get_args(Interpolation)}
MODES = {"rgb": "RGB", "grayscale": "L", "rgba": "RGBA"}

Place = tuple[int, int, int, int]
"""(top, left, height, width) of a picture in memory. The memory may hold more than the picture, or a region of it."""
Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the picture: the part of it that is resized."""


def picture(
    data: Any, decoding: Decoding, drawn: NDArray[np.float64] | None = None, max_pixels: int | None = None
) -> tuple[Image.Image, NDArray[np.float64] | None]:
    """Return an encoded image as Pillow's, in the mode wanted, and the crop's box [4]: top, left, height, width.

    The box is None for all of the image. Raise what `opened` raises, and anything that Pillow raises for a broken file.
    """
    with opened(data, max_pixels) as encoded:
        height, width = encoded.height, encoded.width
        box = None if decoding.crop is None else _box(decoding, drawn, height, width)
        shrunk = 1
        if decoding.decode == "scaled" and encoded.format == "JPEG":
            shrunk = reduction(decoding, height, width, box)
            encoded.draft(None, (width // shrunk, height // shrunk))
        mode = MODES[decoding.color]
        image: Image.Image = encoded
        if decoding.fast_idct and encoded.format == "JPEG" and shrunk == 1:
            image = _fast_jpeg(encoded, data)
        image.load()
        # Greys of more than 8 bits stay as they are if grey is wanted, as in Keras.
        if image.mode != mode and not (mode == "L" and image.mode in ("I", "I;16")):
            image = image.convert(mode)
        if shrunk > 1:  # The last row and column may stand for a part of so many pixels.
            box = (np.array([0.0, 0.0, height, width]) if box is None else box) / shrunk
        return image, box


def reduction(decoding: Decoding, height: int, width: int, box: NDArray[np.float64] | None) -> int:
    """Return 8, 4, 2 or 1: by how much a JPEG's sides can be divided, and what is resized is no smaller than `size`.

    `box` [4] is the part of the image that is resized: top, left, height, width; None: all of it.
    """
    high, wide = (height, width) if box is None else box[2:]
    spare = min(high / decoding.size[0], wide / decoding.size[1])
    return next(scale for scale in (8, 4, 2, 1) if scale <= max(spare, 1.0))


def placed(
    size: NDArray[np.int64], box: NDArray[np.float64] | None, region: NDArray[np.int64] | None, decoding: Decoding
) -> tuple[Place, Box]:
    """Return where a picture lies in memory, and its part that is resized.

    Args:
        size: [2] height and width of the whole picture.
        box: [4] box of the crop in the whole picture: top, left, height, width. None: there is no crop.
        region: [4] region of the picture that the memory holds, likewise. None: all of it.
        decoding: The levels wanted. What a random crop cuts out is a picture of its own, so that the resize reads
            nothing around it.
    """
    y, x = (0, 0) if region is None else region[:2].tolist()
    top, left, high, wide = (0.0, 0.0, *map(float, size)) if box is None else box.tolist()
    if decoding.random:
        row, end, column, last = (math.floor(side + 0.5) for side in (top, top + high, left, left + wide))
        return (row - y, column - x, end - row, last - column), (0.0, 0.0, float(last - column), float(end - row))
    right, bottom = min(left + wide, float(size[1])), min(top + high, float(size[0]))
    return (-y, -x, int(size[0]), int(size[1])), (left, top, right, bottom)


def cut_and_resized(image: Image.Image, decoding: Decoding, box: NDArray[np.float64] | None) -> NDArray[Any]:
    """Return the levels [H, W, C] of an image of the right mode. `box` [4]: top, left, height, width; None: all."""
    return resized_at(image, decoding, *placed(np.array([image.height, image.width]), box, None, decoding))


def resized_at(image: Image.Image, decoding: Decoding, place: Place, box: Box) -> NDArray[Any]:
    """Return the levels [H, W, C] of an image of the right mode, given `place` and `box` of `placed`."""
    top, left, high, wide = place
    if top >= 0 and left >= 0 and (wide, high) != image.size:
        image, (top, left) = image.crop((left, top, left + wide, top + high)), (0, 0)
    return resized(image, decoding, (box[0] + left, box[1] + top, box[2] + left, box[3] + top))


def resized(image: Image.Image, decoding: Decoding, box: tuple[float, float, float, float]) -> NDArray[Any]:
    """Return the levels [H, W, C] of a box (left, top, right, bottom) of an image of the right mode."""
    if not decoding.antialias and decoding.interpolation == "bilinear":
        return _bilinear(np.asarray(image).reshape(image.height, image.width, -1), decoding.size, box)
    size = decoding.size[::-1]
    if image.size != size or box != (0, 0, *size):
        image = image.resize(size, FILTERS[decoding.interpolation], box=box)
    return np.asarray(image).reshape(image.height, image.width, -1)


def recut(pixels: NDArray[np.uint8], decoding: Decoding, drawn: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the crop [H, W, C] of an image [h, w, C] that was resized before."""
    height, width, channels = pixels.shape
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    return cut_and_resized(image, decoding, _box(decoding, drawn, height, width))


def _box(decoding: Decoding, drawn: Any, height: int, width: int) -> NDArray[np.float64]:
    """Return the crop's box [4] in an image of that size: top, left, height, width."""
    assert decoding.crop is not None
    row = None if drawn is None else drawn[np.newaxis]
    found: NDArray[np.float64] = decoding.crop.boxes([height], [width], decoding.size, row)[0]
    return found


def _fast_jpeg(image: Image.Image, data: Any) -> Image.Image:
    """Decode as libjpeg's fast transform does, as nearly as Pillow can.

    Pillow takes the fast transform only together with blocky colours. So the brightness comes from a decode with it,
    and the smooth colours from one without.
    """
    if image.mode != "RGB":
        return image
    planes = []
    for draft in (1, 0):
        with opened(data, None) as encoded:
            encoded.draft("YCbCr", None)
            encoded.decoderconfig = (1, draft)
            encoded.load()
            planes.append(encoded.split())
    return Image.merge("YCbCr", (planes[0][0], *planes[1][1:])).convert("RGB")


def _bilinear(
    pixels: NDArray[Any], size: tuple[int, int], box: tuple[float, float, float, float]
) -> NDArray[np.float32]:
    """Return the box (left, top, right, bottom) at `size` (height, width), each pixel from its four neighbours."""
    result = pixels.astype(np.float32)
    for axis, start, stop in ((0, box[1], box[3]), (1, box[0], box[2])):
        length, count = result.shape[axis], size[axis]
        position = np.clip(start + (np.arange(count) + 0.5) * ((stop - start) / count) - 0.5, 0, length - 1)
        first = np.floor(position).astype(int)
        share = (position - first).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        below, above = (result.take(np.minimum(first + step, length - 1), axis) for step in (0, 1))
        result = below + (above - below) * share
    return result
