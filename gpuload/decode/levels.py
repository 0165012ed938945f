"""From a decoded picture, or a region of it, to levels of the size and colour wanted, with Pillow's very pixels."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gpuload.core.available import numba_installed
from gpuload.decode.pillow import MODES, resized
from gpuload.decode.spec import Decoding


def put_levels(
    pixels: NDArray[np.uint8],
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
    image = Image.fromarray(pixels)
    if image.mode != MODES[decoding.color]:
        image = image.convert(MODES[decoding.color])
    if decoding.random:
        box = np.array([0.0, 0.0, *pixels.shape[:2]])
    elif box is not None and region is not None:
        box = box - [*region[:2], 0, 0]
    out[...] = resized(image, decoding, box)
