"""Which decoder takes an encoded image: DALI has the JPEGs that it decodes as Pillow does, Pillow all others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpuload.decode.pillow import reduction
from gpuload.decode.spec import Decoding
from gpuload.reading.files import Bytes
from gpuload.reading.jpeg import FOUND, scan

_SEQUENTIAL, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_END = b"\xff\xd9"
_YCC = (-1, 1)
"""Adobe's colour transforms that mean what a file without one means."""


class Jpeg(NamedTuple):
    """Height and width of a JPEG."""

    height: int
    width: int


def plain_jpeg(data: Bytes) -> Jpeg | None:
    """Return the size if it is a JPEG that DALI decodes as Pillow does, else None.

    Such a JPEG has grey or YCbCr pixels of 8 bits in Huffman's code, sequential or progressive, and an end. Others are
    CMYK, RGB, of 12 bits, lossless or in arithmetic code; with some of them DALI gives other pixels, fails, or ends the
    process. A file that is cut short is decoded by a GPU as if nothing were missing.
    """
    if len(data) < 2 or data[0] != 0xFF or data[1] != 0xD8:
        return None
    status, frame, bits, height, width, components, _, transform, _, offset = scan(data, len(data))
    plain = status == FOUND and bits == 8 and frame in (_SEQUENTIAL, _EXTENDED, _PROGRESSIVE)
    grey_or_ycc = components == 1 or (components == 3 and transform in _YCC)
    if not (plain and grey_or_ycc and height and width and _has_end(data, offset)):
        return None
    return Jpeg(height, width)


def _has_end(data: Bytes, start: int) -> bool:
    """Whether the end marker stands behind `start`, the frame header: most often it is the last thing in the file.

    Within the coded pixels no 0xFF is followed by 0xD9. Before the frame, a thumbnail may have an end of its own.
    """
    return (data[-2] == 0xFF and data[-1] == 0xD9) or data.tobytes().find(_END, start) >= 0


def dali_takes(jpeg: Jpeg, decoding: Decoding, box: np.ndarray | None) -> bool:
    """Whether DALI decodes a plain JPEG with this box [4]. It knows no decoding at a smaller scale."""
    return decoding.decode == "exact" or reduction(decoding, jpeg.height, jpeg.width, box) == 1
