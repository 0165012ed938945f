"""The reference decoder: Pillow reads and resizes."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gpuload.decode.crop import Ops
from gpuload.images.augment import Augment
from gpuload.reading.header import opened

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


MODES = {"rgb": "RGB", "grayscale": "L", "rgba": "RGBA"}


class NumpyOps:
    """NumPy's words for `Ops`."""

    array = staticmethod(np.asarray)
    floor = staticmethod(np.floor)
    sqrt = staticmethod(np.sqrt)
    minimum = staticmethod(np.minimum)
    maximum = staticmethod(np.maximum)
    max = staticmethod(np.max)


def decode(
    data: bytes, transform: Augment, draws: NDArray[np.float64] | None = None, max_pixels: int | None = None
) -> NDArray[Any]:
    """[H, W, C] of the transform's size and colour, levels from 0 to 255; greys of more bits as the file has them.

    `data`: the encoded file. `draws`: what the crop drew for this image. Raises what `opened` does, and what Pillow
    raises for a broken file.
    """
    with opened(data, max_pixels) as encoded:
        mode = MODES[transform.color]
        image: Image.Image = _fast_jpeg(encoded, data) if transform.fast_idct and encoded.format == "JPEG" else encoded
        # Greys of more than 8 bits stay as they are where grey was asked for, as in Keras.
        if image.mode != mode and not (mode == "L" and image.mode in ("I", "I;16")):
            image = image.convert(mode)
        assert transform.size is not None
        size = (transform.size[1], transform.size[0])
        box = (0.0, 0.0, float(image.width), float(image.height))
        if transform.crop is not None:
            top, left, high, wide = transform.crop.box(box[3], box[2], transform.size, draws, cast(Ops, NumpyOps))
            box = (left, top, left + wide, top + high)
        if not transform.antialias and transform.interpolation == "bilinear":
            return _bilinear(np.asarray(image).reshape(image.height, image.width, -1), transform.size, box)
        if image.size != size or transform.crop is not None:
            image = image.resize(size, FILTERS[transform.interpolation], box=box)
        return np.asarray(image).reshape(image.height, image.width, -1)


def recut(pixels: NDArray[np.uint8], transform: Augment, draws: NDArray[np.float64]) -> NDArray[np.uint8]:
    """[H, W, C] of the transform's size: what its crop cuts out of an image that was resized before, [h, w, C]."""
    assert transform.size is not None
    assert transform.crop is not None
    height, width, channels = pixels.shape
    drawn = transform.crop.box(float(height), float(width), transform.size, draws, cast(Ops, NumpyOps))
    top, left, high, wide = map(float, drawn)
    picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    size, box = (transform.size[1], transform.size[0]), (left, top, left + wide, top + high)
    return np.asarray(picture.resize(size, FILTERS[transform.interpolation], box=box)).reshape(
        *transform.size, channels
    )


def _fast_jpeg(image: Image.Image, data: bytes) -> Image.Image:
    """The image as libjpeg's fast transform decodes it, as nearly as Pillow can.

    Pillow takes the fast transform only together with blocky colours. So brightness is taken from a decode with it, and
    the colours, which are smooth, from one without.
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
    """The box (left, top, right, bottom) of the pixels at `size` (height, width), from the four nearest pixels each."""
    result = pixels.astype(np.float32)
    for axis, start, stop in ((0, box[1], box[3]), (1, box[0], box[2])):
        length, count = result.shape[axis], size[axis]
        position = np.clip(start + (np.arange(count) + 0.5) * ((stop - start) / count) - 0.5, 0, length - 1)
        first = np.floor(position).astype(int)
        share = (position - first).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        below, above = (result.take(np.minimum(first + step, length - 1), axis) for step in (0, 1))
        result = below + (above - below) * share
    return result
