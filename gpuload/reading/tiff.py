"""Headers of TIFF and BigTIFF files: the first directory, and the number of directories."""

from __future__ import annotations

import struct
from typing import NamedTuple

WIDTH, HEIGHT, BITS, ORIENTATION, CHANNELS = 256, 257, 258, 274, 277
NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
"""Types of TIFF that are unsigned numbers, in the words of `struct`."""
MOST_DIRECTORIES = 10_000
BEYOND = (struct.error, OverflowError)
"""Errors of `struct` for a place that lies after the last byte, or farther than any file reaches."""


class Directory(NamedTuple):
    """The first image of a TIFF file.

    Args:
        width: Width in pixels, as stored.
        height: Height in pixels, as stored.
        channels: Samples of a pixel; 1 with a palette.
        bits: Bits of the first sample.
        orientation: 1 to 8, as in EXIF.
        frames: Number of directories of the file, up to MOST_DIRECTORIES.
    """

    width: int
    height: int
    channels: int
    bits: int
    orientation: int
    frames: int


class _Layout(NamedTuple):
    """How wide the numbers of a file are, in the words of `struct`."""

    counter: struct.Struct
    entry: struct.Struct
    """A tag, the type and the number of its values. The values, or their place, follow."""
    place: struct.Struct
    order: str


def read_tiff(view: memoryview) -> Directory | str:
    """Return the first directory of a TIFF file, or why there is none, as "a TIFF file" goes on.

    Args:
        view: Bytes of the file, which begin with "II" or "MM" and one of TIFF's two numbers.
    """
    try:
        return _first(view)
    except BEYOND:
        return f"whose header is cut short after {len(view)} bytes"


def _first(view: memoryview) -> Directory | str:
    order = "<" if view[0] == 0x49 else ">"
    (version,) = struct.unpack_from(order + "H", view, 2)
    words = ("Q", "HHQ", "Q") if version == 43 else ("H", "HHI", "I")
    counter, entry, place = (struct.Struct(order + word) for word in words)
    layout = _Layout(counter, entry, place, order)
    if version == 43 and struct.unpack_from(order + "HH", view, 4) != (8, 0):
        return "whose places are neither of 4 nor of 8 bytes"
    (start,) = layout.place.unpack_from(view, layout.place.size)
    (entries,) = layout.counter.unpack_from(view, start)
    if not 0 < entries < 1 << 16:
        return "whose first directory is empty, or claims more tags than exist"
    tags = _tags(view, layout, start + layout.counter.size, entries)
    width, height = tags.get(WIDTH, 0), tags.get(HEIGHT, 0)
    channels, bits, orientation = tags.get(CHANNELS, 1), tags.get(BITS, 1), tags.get(ORIENTATION, 1)
    if width == 0 or height == 0:
        return "without a width or a height"
    if channels == 0 or bits == 0:
        return "whose pixels have no channels or no bits"
    frames = _count(view, layout, start)
    return Directory(width, height, channels, bits, orientation if 1 <= orientation <= 8 else 1, frames)


def _tags(view: memoryview, layout: _Layout, at: int, entries: int) -> dict[int, int]:
    """Return the first number of each tag that is needed."""
    found: dict[int, int] = {}
    for _ in range(entries):
        tag, kind, count = layout.entry.unpack_from(view, at)
        at += layout.entry.size
        if tag in (WIDTH, HEIGHT, BITS, ORIENTATION, CHANNELS) and kind in NUMBERS and count > 0:
            number = struct.Struct(layout.order + NUMBERS[kind])
            # As many values as fit into a place stand in its stead.
            inside = number.size * count <= layout.place.size
            (found[tag],) = number.unpack_from(view, at if inside else layout.place.unpack_from(view, at)[0])
        at += layout.place.size
    return found


def _count(view: memoryview, layout: _Layout, start: int) -> int:
    """Return the number of directories in the chain. It ends where it comes back, and at what is no directory."""
    seen: set[int] = set()
    try:
        while start and start not in seen and len(seen) < MOST_DIRECTORIES:
            (entries,) = layout.counter.unpack_from(view, start)
            if entries == 0:
                break
            seen.add(start)
            end = start + layout.counter.size + entries * (layout.entry.size + layout.place.size)
            (start,) = layout.place.unpack_from(view, end)
    except BEYOND:
        pass
    return max(len(seen), 1)
