"""From a decoded picture, or a region of it, to levels of the size and colour wanted, with Pillow's very pixels."""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gpuload.core.available import numba_installed
from gpuload.decode.pillow import MODES, Box, Place, placed, resized_at
from gpuload.decode.spec import Decoding

Pixels = NDArray[np.uint8]


def put_levels(pixels: Pixels, decoding: Decoding, place: Place, box: Box, out: NDArray[Any]) -> None:
    """Write the levels of one picture.

    Args:
        pixels: [h, w, 3] memory, RGB; or [h, w, 1] if grey is wanted.
        decoding: The levels wanted.
        place: Place of the picture in that memory, see `placed`.
        box: Part of the picture that is resized, see `placed`.
        out: [H, W, C] memory that is written to, of the dtype of `decoding`.
    """
    if ready(decoding):
        _put(pixels, decoding, place, box, out)
        return
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image = image if image.mode == MODES[decoding.color] else image.convert(MODES[decoding.color])
    out[...] = resized_at(image, decoding, place, box)


def levels_of(image: Image.Image, decoding: Decoding, box: NDArray[np.float64] | None) -> NDArray[Any]:
    """Return the levels [H, W, C] of Pillow's image of mode RGB or L; `box` [4] as for `placed`."""
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    place, part = placed(np.array(pixels.shape[:2]), box, None, decoding)
    out = np.empty(decoding.shape, decoding.dtype)
    put_levels(pixels, decoding, place, part, out)
    return out


def ready(decoding: Decoding) -> bool:
    """Whether the compiled resize is there. Nobody waits for it, since Pillow does the same."""
    return _compiling(decoding.color == "grayscale", decoding.dtype).is_set()


def prepare(decoding: Decoding) -> None:
    """Wait until the compiled resize is there, which needs numba."""
    _compiling(decoding.color == "grayscale", decoding.dtype).wait()


@functools.cache
def _compiling(grey: bool, dtype: str) -> threading.Event:
    """Begin to compile, in a thread. The event tells that it is done; without numba it never is."""
    done = threading.Event()
    if numba_installed():
        threading.Thread(target=_compile, args=(grey, dtype, done), name="gpuload-compile").start()
    return done


def _compile(grey: bool, dtype: str, done: threading.Event) -> None:
    decoding = Decoding(size=(2, 2), color="grayscale" if grey else "rgb", antialias=dtype == "uint8")
    out = np.empty(decoding.shape, dtype)
    _put(np.zeros((4, 4, 3), np.uint8), decoding, (0, 0, 4, 4), (0.0, 0.0, 4.0, 4.0), out)
    done.set()


def _put(pixels: Pixels, decoding: Decoding, place: Place, box: Box, out: NDArray[Any]) -> None:
    """Write the levels by compiled code."""
    from gpuload.decode import resize

    pixels = _read_only(pixels)
    channels, levels = 3, out
    if decoding.color == "grayscale":
        channels, pixels = 1, _read_only(resize.grey_of(pixels)) if pixels.shape[2] == 3 else pixels
    elif decoding.color == "rgba":  # RGB is opaque.
        out[:, :, 3] = 255
        levels = np.empty((*out.shape[:2], 3), out.dtype)
    planes = tuple(range(channels))
    if decoding.dtype == "float32":
        resize.blend_into(pixels, place, box, levels, planes)
    else:
        resize.resize_into(pixels, place, box, levels, resize.CODES[decoding.interpolation], planes)
    if levels is not out:
        out[:, :, :3] = levels


def _read_only(pixels: Pixels) -> Pixels:
    """Return a view that cannot be written: only this kind of array is compiled."""
    view: Pixels = np.ascontiguousarray(pixels).view()
    view.flags.writeable = False
    return view
