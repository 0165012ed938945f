"""Headers of JPEG files: a walk over the segments up to the frame's, compiled by numba if that is installed."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.available import numba_installed

FOUND, NO_HEIGHT, CUT_SHORT, LOST, BAD_MARKER, BAD_LENGTH, NO_FRAME, BAD_FRAME, NOT_JPEG = range(9)
"""Statuses of a walk. Only with the first two is there a frame."""
REASONS = {
    CUT_SHORT: "whose header is cut short after {length} bytes",
    LOST: "whose header holds more than 64 KiB that belong to no segment",
    BAD_MARKER: "with a marker that has no place in its header",
    BAD_LENGTH: "with a segment that claims less than its own length",
    NO_FRAME: "whose scan begins, or which ends, before its size is told",
    BAD_FRAME: "whose frame header contradicts itself or the standard",
    NOT_JPEG: "that does not begin like one",
}
NO_TRANSFORM = -1
"""The colour transform of a file without an APP14 segment of Adobe's."""
# To numba, globals are constants.
MOST_ROOM = 1 << 16
ORIENTATION, SHORT = 274, 3


def number(data, at, size, little):
    """Return an unsigned number of `size` bytes."""
    value = 0
    for i in range(size):
        # A product, not a shift: in numba, a shift of an unsigned byte is unsigned, and unsigned + signed is a float.
        value = value * 256 + int(data[at + size - 1 - i if little else at + i])
    return value


def orientation_in(data, start, end):
    """Return the orientation, 1 to 8, that the first directory of the TIFF structure in data[start:end] tells, or 0.

    Args:
        data: Bytes, as Python or NumPy has them.
        start: Where the structure begins, after "Exif" and two zeros.
        end: Where it ends. At most the length of the data.
    """
    if end - start < 8 or data[start] != data[start + 1] or data[start] not in (0x49, 0x4D):
        return 0
    little = data[start] == 0x49
    if number(data, start + 2, 2, little) != 42:
        return 0
    at = start + number(data, start + 4, 4, little)
    if at + 2 > end:
        return 0
    entries = number(data, at, 2, little)
    at += 2
    for _ in range(min(entries, (end - at) // 12)):
        if number(data, at, 2, little) == ORIENTATION:
            if number(data, at + 2, 2, little) != SHORT or number(data, at + 4, 4, little) != 1:
                return 0
            value = number(data, at + 8, 2, little)
            return value if 1 <= value <= 8 else 0
        at += 12
    return 0


def walk(data, length):
    """Walk over the segments of a JPEG file up to its frame's. See `scan`."""
    status, bits, height, width, components, sampling, offset = NOT_JPEG, 0, 0, 0, 0, 0, -1
    frame, orientation, transform = 0, 0, NO_TRANSFORM
    # Bytes outside of segments, and markers, that are still put up with: no file keeps the walk busy for long.
    room = MOST_ROOM
    at = 2
    if length > 2 and data[0] == 0xFF and data[1] == 0xD8 and data[2] == 0xFF:
        status = FOUND
    while status == FOUND:
        # To the next marker. As in libjpeg, other bytes are skipped, and so are fill bytes before it.
        start, stop = at, min(length, at + room)
        while at < stop and data[at] != 0xFF:
            at += 1
        while at < stop and data[at] == 0xFF:
            at += 1
        if at >= stop:
            status = CUT_SHORT if stop == length else LOST
            break
        marker = int(data[at])
        at += 1
        room -= at - start - 1
        if marker <= 0x01 or 0xD0 <= marker <= 0xD7:  # A zero, which makes 0xFF a mere byte; TEM; restarts.
            continue
        if marker == 0xD9 or marker == 0xDA:
            status = NO_FRAME
            break
        # libjpeg knows none of these: reserved ones, those of hierarchies and of extensions, another start.
        if marker < 0xC0 or marker in (0xC8, 0xD8, 0xDE, 0xDF) or 0xF0 <= marker <= 0xFD:
            status = BAD_MARKER
            break
        size = number(data, at, 2, False) if at + 2 <= length else length
        if size < 2:
            status = BAD_LENGTH
            break
        end = at + size
        if end > length:
            status = CUT_SHORT
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xCC):
            frame, offset = marker, at - 2
            components = int(data[at + 7]) if size >= 8 else 0
            if components == 0 or size != 8 + 3 * components:
                status = BAD_FRAME
                break
            bits, height, width = int(data[at + 2]), number(data, at + 3, 2, False), number(data, at + 5, 2, False)
            place = 1
            for i in range(components):
                pair = int(data[at + 9 + 3 * i])
                if not (0x10 <= pair < 0x50 and 1 <= pair % 16 <= 4):
                    status = BAD_FRAME
                if i < 4:
                    sampling += pair * place
                    place *= 256
            if width == 0 or bits < 2 or bits > 16:
                status = BAD_FRAME
            elif status == FOUND and height == 0:
                status = NO_HEIGHT
            break
        if marker == 0xE1 and orientation == 0 and size >= 8:
            name = number(data, at + 2, 4, False) * 65536 + number(data, at + 6, 2, False)
            if name == 0x457869660000:  # "Exif", 0, 0
                orientation = orientation_in(data, at + 8, end)
        elif marker == 0xEE and size >= 14:
            name = number(data, at + 2, 4, False) * 256 + int(data[at + 6])
            if name == 0x41646F6265:  # "Adobe"
                transform = int(data[at + 13])
        at = end
    return status, frame, bits, height, width, components, max(orientation, 1), transform, sampling, offset


@functools.cache
def _compiled() -> Any:
    """Return `walk`, compiled for one type of data, or None if there is no numba to compile it.

    Compiled code is kept beside this file, or in the user's cache folder.
    """
    if not numba_installed():
        return None
    import numba

    # Code compiled for an array that is only read takes others too.
    data = numba.types.Array(numba.types.uint8, 1, "C", readonly=True)
    signature = numba.types.UniTuple(numba.types.int64, 10)(data, numba.types.int64)
    for helper in (number, orientation_in):
        numba.extending.register_jitable(helper)
    try:
        return numba.njit([signature], nogil=True, error_model="numpy", cache=True)(walk)
    except (RuntimeError, OSError):  # Neither folder can be written to.
        return numba.njit([signature], nogil=True, error_model="numpy")(walk)


def scan(data: bytes | bytearray | memoryview | NDArray[np.uint8], length: int) -> tuple[int, ...]:
    """Return what the header of a JPEG file tells, as ten integers.

    They are: the status, `FOUND` or another one above; the marker of the frame, 0xC0 to 0xCF; bits per sample; height;
    width; components; the orientation of EXIF, 1 to 8; the colour transform of Adobe's APP14 segment, 0 to 2, or
    `NO_TRANSFORM`; the sampling factors of the first four components, horizontal * 16 + vertical, the first component
    in the lowest byte; where the frame's marker is, or -1. The first call compiles, or loads compiled code.

    Args:
        data: Bytes of the file, contiguous, in one dimension.
        length: Number of bytes at their beginning that belong to the file. At most their number.
    """
    compiled = _compiled()
    if compiled is None:
        return walk(memoryview(data), length)  # type: ignore[no-any-return]
    return compiled(data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8), length)  # type: ignore[no-any-return]
