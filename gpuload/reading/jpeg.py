"""Headers of JPEG files: a walk over the segments up to the frame's, compiled by numba if that is installed."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.available import numba_installed

# To numba, globals are constants.
FOUND, NO_HEIGHT, CUT_SHORT, LOST, BAD_MARKER, BAD_LENGTH, NO_FRAME, BAD_FRAME, NOT_JPEG = range(9)
"""Statuses. Only the first two come with a frame; the height is 0 in the second, and told after the first scan."""
REASONS = {
    NO_HEIGHT: "whose height is told only after its first scan",
    CUT_SHORT: "whose header is cut short after {length} bytes",
    LOST: "whose header holds 65536 segments, or bytes that belong to none",
    BAD_MARKER: "with a marker in its header that has no place there",
    BAD_LENGTH: "with a segment that claims to be shorter than its own length",
    NO_FRAME: "without a frame header before its first scan or its end",
    BAD_FRAME: "whose frame header is invalid",
    NOT_JPEG: "that does not begin like one",
}
NO_TRANSFORM = -1
"""The colour transform of a file without an APP14 segment of Adobe's."""
ALONE, SEGMENT, FRAME, APP1, APP14 = range(16, 21)
"""Kinds of markers: without a segment, with one, with one that is read. Others have the status that ends the walk."""
MOST_ROOM = 1 << 16
NAME_OF_EXIF, NAME_OF_ADOBE = 0x457869660000, 0x41646F6265  # "Exif" and two zeros; "Adobe"
ORIENTATION, SHORT = 274, 3  # A tag and a type of TIFF, and so of EXIF.


def _kind(marker: int) -> int:
    if marker in (0xE1, 0xEE):
        return APP1 if marker == 0xE1 else APP14
    if marker <= 0x01 or 0xD0 <= marker <= 0xD7:  # A zero, before which 0xFF is a mere byte; TEM; restarts.
        return ALONE
    if marker in (0xD9, 0xDA):
        return NO_FRAME
    # Reserved markers, those of hierarchies and of extensions, and another start: libjpeg gives up at them too.
    if marker < 0xC0 or marker in (0xC8, 0xD8, 0xDE, 0xDF) or 0xF0 <= marker <= 0xFD:
        return BAD_MARKER
    return FRAME if marker <= 0xCF and marker not in (0xC4, 0xCC) else SEGMENT


KINDS = bytes(map(_kind, range(256)))


# The arithmetic of both functions: products, not shifts, since numba makes a float of unsigned + signed; no `min`, no
# `int`, no tuples to look in, each of which numba would compile first.
def orientation_in(data, start, end):
    """Return the orientation, 1 to 8, in the first directory of the TIFF structure at data[start:end]. 0: none.

    Args:
        data: Bytes of a file. In Python, each item is an int.
        start: Where the structure begins, after the name "Exif" if there is one.
        end: Where it ends. At most the length of the data.
    """
    if end - start < 8:
        return 0
    order = data[start] * 256 + data[start + 1]
    # Where the lowest byte of two and of four is. The others follow in steps.
    low, lowest, step = 0, 0, 1
    if order == 0x4D4D:
        low, lowest, step = 1, 3, -1
    elif order != 0x4949:
        return 0
    if data[start + 2 + low] != 42:
        return 0
    at = start + 4 + lowest
    at = start + data[at] + data[at + step] * 256 + (data[at + 2 * step] + data[at + 3 * step] * 256) * 65536
    if at + 2 > end:
        return 0
    entries = data[at + low] + data[at + low + step] * 256
    at += 2
    while entries > 0 and at + 12 <= end:
        if data[at + low] + data[at + low + step] * 256 == ORIENTATION:
            value = data[at + 8 + low] + data[at + 8 + low + step] * 256
            if data[at + 2 + low] == SHORT and data[at + 4 + lowest] == 1 and value <= 8:
                return value
            return 0
        entries -= 1
        at += 12
    return 0


def walk(data, length):
    """Walk over the segments of a JPEG file up to its frame's. See `scan`. In Python, each item of `data` is an int."""
    status, marker, bits, height, width, components, sampling, offset = FOUND, 0, 0, 0, 0, 0, 0, -1
    orientation, transform = 0, NO_TRANSFORM
    if length < 3 or data[0] * 65536 + data[1] * 256 + data[2] != 0xFFD8FF:
        status = NOT_JPEG
    # Number of markers, and of bytes outside of segments, that are still put up with: no file takes long.
    room = MOST_ROOM
    at = 2
    while status == FOUND:
        # To the next marker, over bytes that do not belong here, as libjpeg does, and over fill bytes.
        filled = 0
        while at < length and room > 0 and (filled == 0 or data[at] == 0xFF):
            filled = data[at] // 0xFF
            room -= 1
            at += 1
        if at >= length or room == 0:
            status = CUT_SHORT if at >= length else LOST
            break
        kind = KINDS[data[at]]
        at += 1
        if kind == ALONE:
            continue
        if kind < ALONE:
            status = kind
            break
        size = data[at] * 256 + data[at + 1] if at + 2 <= length else length
        end = at + size
        if size < 2 or end > length:
            status = BAD_LENGTH if size < 2 else CUT_SHORT
            break
        if kind == FRAME:
            if size >= 8:
                bits, components = data[at + 2], data[at + 7]
                height, width = data[at + 3] * 256 + data[at + 4], data[at + 5] * 256 + data[at + 6]
            if components == 0 or size != 8 + 3 * components or width == 0 or bits < 2 or bits > 16:
                status = BAD_FRAME
                break
            if height == 0:
                status = NO_HEIGHT
            marker, offset = data[at - 1], at - 2
            place = 1
            for i in range(components):
                factors = data[at + 9 + 3 * i]
                if factors < 0x10 or factors > 0x4F or factors % 16 > 4 or factors % 16 == 0:
                    status = BAD_FRAME
                if i < 4:
                    sampling += factors * place
                    place *= 256
            break
        if kind > FRAME and size >= 14:
            name = 0
            for i in range(6):
                name = name * 256 + data[at + 2 + i]
            if kind == APP1 and name == NAME_OF_EXIF and orientation == 0:
                orientation = orientation_in(data, at + 8, end)
            elif kind == APP14 and name // 256 == NAME_OF_ADOBE:
                transform = data[at + 13]
        at = end
    if orientation == 0:
        orientation = 1
    return status, marker, bits, height, width, components, orientation, transform, sampling, offset


@functools.cache
def _compiled() -> Any:
    """Return `walk`, compiled for one type of data, or None if there is no numba, or none that compiles."""
    if not numba_installed():
        return None
    import numba

    if numba.config.DISABLE_JIT:
        return None
    # What is compiled for arrays that are only read takes all others too.
    data = numba.types.Array(numba.types.uint8, 1, "C", readonly=True)
    signature = numba.types.UniTuple(numba.types.int64, 10)(data, numba.types.int64)
    numba.extending.register_jitable(orientation_in)
    compiler = functools.partial(numba.njit, [signature], nogil=True, error_model="numpy", no_cfunc_wrapper=True)
    try:
        # numba keeps compiled code beside this file, or in the user's cache folder.
        return compiler(cache=True)(walk)
    except (RuntimeError, OSError):  # Neither folder can be written to.
        return compiler()(walk)


def scan(data: bytes | bytearray | memoryview | NDArray[np.uint8], length: int) -> tuple[int, ...]:
    """Return what the header of a JPEG file tells, as ten numbers.

    They are: the status, `FOUND` or one of its neighbours; the marker of the frame, 0xC0 to 0xCF; bits of a sample;
    height; width; number of components; the orientation of EXIF, 1 to 8; the colour transform that Adobe's APP14
    segment tells, or `NO_TRANSFORM`; the sampling factors of the first four components, each horizontal * 16 +
    vertical, the first one in the lowest byte; where the frame's marker begins, or -1. What follows the frame header
    is not read. The first call compiles the walk, or loads it compiled.

    Args:
        data: Bytes of the file, contiguous and in one dimension.
        length: Number of bytes, from the beginning, that are the file.
    """
    if length > len(data):  # Compiled code would read on.
        length = len(data)
    compiled = _compiled()
    if compiled is None:
        plain: Any = data
        found: tuple[int, ...] = walk(memoryview(plain), length)
    else:
        found = compiled(data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8), length)
    return found
