"""From a decoded picture, or a region of it, to levels of the size and colour wanted, with Pillow's very pixels."""

from __future__ import annotations

import functools
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gpuload.core.available import numba_installed
from gpuload.decode.pillow import MODES, resized
from gpuload.decode.spec import Decoding

Picture = NDArray[np.uint8]


def put_levels(
    pixels: Picture,
    decoding: Decoding,
    size: NDArray[np.int64],
    box: NDArray[np.float64] | None,
    region: NDArray[np.int64] | None,
    out: NDArray[Any],
) -> None:
    """Write the levels of one picture.

    Args:
        pixels: [h, w, 3] the picture, or a region of it, RGB.
        decoding: The levels wanted.
        size: [2] height and width of the whole picture.
        box: [4] box of the crop in the whole picture: top, left, height, width. None: there is no crop.
        region: [4] the region, likewise. None: `pixels` are the whole picture.
        out: [H, W, C] memory that is written to, of the dtype of `decoding`.
    """
    if decoding.random:  # The region was cut out: the resize reads nothing around it.
        size, box, region = np.array(pixels.shape[:2]), None, None
    y, x = (0, 0) if region is None else region[:2].tolist()
    if numba_installed() and (ready := _compiled(decoding.color == "grayscale", decoding.dtype)):
        top, left, high, wide = (0.0, 0.0, *map(float, size)) if box is None else box.tolist()
        ready[0](pixels, decoding, (-y, -x, *size.tolist()), (left, top, left + wide, top + high), out)
        return
    image = Image.fromarray(pixels)
    image = image if image.mode == MODES[decoding.color] else image.convert(MODES[decoding.color])
    out[...] = resized(image, decoding, None if box is None else box - [y, x, 0, 0])


def prepare(decoding: Decoding) -> None:
    """Wait until the compiled resize is there."""
    ready = _compiled(decoding.color == "grayscale", decoding.dtype)
    while not ready:
        time.sleep(0.01)


@functools.cache
def _compiled(grey: bool, dtype: str) -> list[Any]:
    """Begin to compile in a thread. The list will hold `_put`: nobody waits for it, since Pillow does the same."""
    ready: list[Any] = []
    threading.Thread(target=_compile, args=(grey, dtype, ready), name="gpuload-compile", daemon=True).start()
    return ready


def _compile(grey: bool, dtype: str, ready: list[Any]) -> None:
    decoding = Decoding(size=(2, 2), color="grayscale" if grey else "rgb", antialias=dtype == "uint8")
    out = np.empty(decoding.shape, dtype)
    _put(np.zeros((4, 4, 3), np.uint8), decoding, (0, 0, 4, 4), (0.0, 0.0, 4.0, 4.0), out)
    ready.append(_put)


def _put(
    pixels: Picture, decoding: Decoding, place: tuple[int, ...], box: tuple[float, ...], out: NDArray[Any]
) -> None:
    """Write the levels by compiled code; `place` and `box` are those of `resize.resize_into`."""
    from gpuload.decode import resize

    pixels = pixels.view()
    pixels.flags.writeable = False  # Only this kind of array is compiled.
    channels, levels = 3, out
    if decoding.color == "grayscale":
        channels, pixels = 1, resize.grey_of(pixels)
        pixels.flags.writeable = False
    elif decoding.color == "rgba":  # A JPEG is opaque.
        out[:, :, 3] = 255
        levels = np.empty((*out.shape[:2], 3), out.dtype)
    planes = tuple(range(channels))
    if decoding.dtype == "float32":
        resize.blend_into(pixels, place, box, levels, planes)
    else:
        resize.resize_into(pixels, place, box, levels, resize.CODES[decoding.interpolation], planes)
    if levels is not out:
        out[:, :, :3] = levels
