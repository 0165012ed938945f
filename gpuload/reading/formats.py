"""Headers of encoded images, from their bytes alone: no pixel is decoded, and no decoder is asked."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuload.reading import jpeg
from gpuload.reading.tiff import Directory, read_tiff

MOST_FRAMES = 10_000
MOST_BLOCKS = 1 << 20
"""Blocks of a GIF that are looked at: 256 MiB if they are full."""
MOST_TEXT = 1 << 16
"""Bytes of a header that is text, comments included."""


class HeaderError(ValueError):
    """An encoded image of a known format has no whole or no valid header. The message names the format."""


class Header(NamedTuple):
    """Format, size and kind of pixels of an encoded image. Of some formats only the name is read; numbers are 0 then.

    Args:
        format: Pillow's name of the format. "PPM" is any of PBM, PGM, PPM, PAM and PFM.
        width: Width in pixels, as stored, before the orientation is applied.
        height: Height in pixels, as stored.
        channels: Channels of a pixel as stored; 1 is grey or a palette, 2 grey and alpha.
        bits: Bits of a channel, and of an index into a palette. 8 in any GIF, 5 in a BMP of 16 bits per pixel.
        orientation: EXIF's orientation, 1 to 8. 1 if there is none, or an invalid one.
        progressive: Whether it is a progressive JPEG, or an interlaced PNG or GIF.
        frames: Images of a GIF, TIFF, animated WebP or PNG. Those of a GIF, TIFF and WebP are counted to 10000.
        coding: "huffman", "arithmetic" or "lossless" for a JPEG, else "".
    """

    format: str
    width: int
    height: int
    channels: int
    bits: int
    orientation: int = 1
    progressive: bool = False
    frames: int = 1
    coding: str = ""


def read_header(data: bytes | bytearray | memoryview | NDArray[np.uint8]) -> Header | None:
    """Return what an encoded image tells about itself, or None if its format is unknown.

    Raise HeaderError if the format is known and the header is cut short or invalid. What follows the header may be
    missing or broken.

    Args:
        data: Bytes of the file, from its beginning.
    """
    view = _bytes(data)
    start = bytes(view[:16])
    for signatures, name, reader in _FORMATS:
        if start.startswith(signatures):
            return _read(name, reader, view) if reader else Header(name, 0, 0, 0, 0)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _read("WEBP", _webp, view)
    return _brand(view, start)


def _read(name: str, reader: Callable[[memoryview], Header], view: memoryview) -> Header:
    try:
        return reader(view)
    except (struct.error, IndexError):  # Numbers, and text, that lie after the last byte.
        raise _broken(name, f"whose header is cut short after {len(view)} bytes") from None


def _bytes(data: Any) -> memoryview:
    view = memoryview(data)
    if view.nbytes == 0:
        return memoryview(b"")
    if not view.c_contiguous:
        view = memoryview(view.tobytes())
    return view if view.ndim == 1 and view.format == "B" else view.cast("B")


def _broken(name: str, reason: str) -> HeaderError:
    return HeaderError(f"a {name} file {reason}")


def _need_pixels(name: str, width: int, height: int) -> None:
    if width <= 0 or height <= 0:
        raise _broken(name, "without pixels: its width or height is 0")


def _orientation(view: memoryview, start: int, end: int) -> int:
    """Return the orientation in EXIF data. Some writers keep the name that it has in a JPEG."""
    end = min(end, len(view))
    if bytes(view[start : min(start + 6, end)]) == b"Exif\0\0":
        start += 6
    return jpeg.orientation_in(view, start, end) or 1  # type: ignore[no-untyped-call]


def _jpeg(view: memoryview) -> Header:
    status, marker, bits, height, width, channels, orientation, *_ = jpeg.scan(view, len(view))
    if status != jpeg.FOUND:
        raise _broken("JPEG", jpeg.REASONS[status].format(length=len(view)))
    # In the low bits of a marker: how it is coded, whether the frame is a difference, whether in arithmetic code.
    coding = "lossless" if marker & 3 == 3 else "arithmetic" if marker & 8 else "huffman"
    return Header("JPEG", width, height, channels, bits, orientation, progressive=marker & 3 == 2, coding=coding)


_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def _png(view: memoryview) -> Header:
    size, kind, width, height, bits, colour, interlaced = struct.unpack_from(">I4sIIBBxxB", view, 8)
    if kind != b"IHDR" or size != 13:
        raise _broken("PNG", "whose first chunk is no header")
    _need_pixels("PNG", width, height)
    if bits not in _PNG_BITS.get(colour, ()) or interlaced > 1 or max(width, height) >= 1 << 31:
        raise _broken("PNG", "whose header is invalid")
    at, orientation, claimed, pixels, drawn = 33, 1, 0, False, False
    for _ in range(MOST_FRAMES):
        if at + 12 > len(view):
            break
        size, kind, first = struct.unpack_from(">I4sI", view, at)
        if kind == b"acTL" and not pixels and first <= 1 << 31:
            claimed = first
        elif kind == b"fcTL" and not pixels:
            drawn = True
        elif kind == b"eXIf" and orientation == 1:
            orientation = _orientation(view, at + 8, at + 8 + size)
        pixels = pixels or kind == b"IDAT"
        at += 12 + size
    # Without `fcTL` before it, the image that other programs see is none of the animation's.
    frames = claimed + (not drawn) if claimed else 1
    return Header("PNG", width, height, _PNG_CHANNELS[colour], bits, orientation, interlaced == 1, frames)


def _bmp(view: memoryview) -> Header:
    (size,) = struct.unpack_from("<I", view, 14)
    compression = alpha = 0
    if size == 12:
        width, height, bits = struct.unpack_from("<HHxxH", view, 18)
    elif size in (16, 40, 52, 56, 64, 108, 124):
        width, height, bits = struct.unpack_from("<iixxH", view, 18)
        if size > 16:
            (compression,) = struct.unpack_from("<I", view, 30)
    else:
        raise _broken("BMP", "whose header has an unknown length")
    _need_pixels("BMP", width, abs(height))  # A negative height: the first row is the upper one.
    if bits not in (1, 2, 4, 8, 16, 24, 32):
        raise _broken("BMP", "whose number of bits per pixel is none of 1, 2, 4, 8, 16, 24 and 32")
    # Masks of red, green, blue and alpha. Without them, the fourth byte of a pixel is padding.
    if bits == 32 and ((compression == 3 and size in (56, 108, 124)) or compression == 6):
        (alpha,) = struct.unpack_from("<I", view, 66)
    channels = 1 if bits <= 8 else 4 if alpha else 3
    return Header("BMP", width, abs(height), channels, bits if bits <= 8 else 5 if bits == 16 else 8)


def _gif(view: memoryview) -> Header:
    width, height, flags = struct.unpack_from("<HHB", view, 6)
    at = 13 + _colours(flags)
    frames, interlaced, inside = 0, False, False
    for _ in range(MOST_BLOCKS):
        if at >= len(view) or frames == MOST_FRAMES:
            break
        kind = view[at]
        if inside:  # A block of data, or the zero after the last one.
            at, inside = at + 1 + kind, kind != 0
        elif kind == 0x3B:
            break
        elif kind == 0x21:
            at, inside = at + 2, True
        elif kind == 0x2C and at + 10 <= len(view):
            left, top, across, down, flags = struct.unpack_from("<HHHHB", view, at + 1)
            if frames == 0:  # As Pillow has it, the first image may be larger than the screen.
                width, height, interlaced = max(width, left + across), max(height, top + down), flags & 0x40 != 0
            frames += 1
            at, inside = at + 11 + _colours(flags), True
        else:
            at += 1
    if frames == 0:
        reason = f"is cut short after {len(view)} bytes" if at >= len(view) else "has no image after it"
        raise _broken("GIF", f"whose header {reason}")
    _need_pixels("GIF", width, height)
    return Header("GIF", width, height, 1, 8, progressive=interlaced, frames=frames)


def _colours(flags: int) -> int:
    """Return the number of bytes of a GIF's table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _tiff(view: memoryview) -> Header:
    found = read_tiff(view)
    if not isinstance(found, Directory):
        raise _broken("TIFF", found)
    return Header("TIFF", *found[:5], frames=found.frames)


def _webp(view: memoryview) -> Header:
    view = view[: 8 + struct.unpack_from("<I", view, 4)[0]]
    kind, size, first = struct.unpack_from("<4sIB", view, 12)
    if kind == b"VP8 ":
        code, width, height = struct.unpack_from("<3sHH", view, 23)
        if first & 1 or code != b"\x9d\x01\x2a":
            raise _broken("WEBP", "whose frame header is invalid")
        _need_pixels("WEBP", width & 0x3FFF, height & 0x3FFF)
        return Header("WEBP", width & 0x3FFF, height & 0x3FFF, 3, 8)
    if kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", view, 21)
        if first != 0x2F:
            raise _broken("WEBP", "whose frame header is invalid")
        return Header("WEBP", (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1, 4 if packed >> 28 & 1 else 3, 8)
    if kind != b"VP8X":
        raise _broken("WEBP", "whose first chunk is unknown")
    wide, high = struct.unpack_from("<3s3s", view, 24)
    width, height = (int.from_bytes(each, "little") + 1 for each in (wide, high))
    at, orientation, frames = 20 + size + size % 2, 1, 0
    for _ in range(MOST_FRAMES):
        if at + 8 > len(view):
            break
        kind, size = struct.unpack_from("<4sI", view, at)
        if kind == b"EXIF" and orientation == 1:
            orientation = _orientation(view, at + 8, at + 8 + size)
        frames += kind == b"ANMF"
        at += 8 + size + size % 2
    animated = first & 2 != 0
    return Header(
        "WEBP", width, height, 4 if first & 16 else 3, 8, orientation, frames=max(frames, 1) if animated else 1
    )


_SPACE = rb"(?:[ \t\n\v\f\r]|#[^\r\n]*[\r\n])"
_WORD = re.compile(_SPACE + rb"+([^ \t\n\v\f\r#]{1,20})(?=[ \t\n\v\f\r#])")
_HALF = re.compile(_SPACE + rb"*(?:#[^\r\n]*|[^ \t\n\v\f\r#]{0,20})\Z")
"""A gap and the beginning of a word, up to the last byte."""
_PNM_CHANNELS = {"1": 1, "2": 1, "3": 3, "4": 1, "5": 1, "6": 3, "f": 1, "F": 3}


def _pnm(view: memoryview) -> Header:
    text, at, words = bytes(view[:MOST_TEXT]), 2, []
    kind = chr(text[1])
    for _ in range(2 if kind in "14" else 3):
        word = _WORD.match(text, at)
        if word is None:
            if len(text) < MOST_TEXT and _HALF.match(text, at):
                raise IndexError
            raise _broken("PPM", "whose header has a word that is too long, or too many comments")
        words.append(word[1])
        at = word.end()
    width, height, *most = words
    if kind in "fF":
        return _pnm_header(width, height, _PNM_CHANNELS[kind], 32 if _scale(most[0]) else 0)
    return _pnm_header(width, height, _PNM_CHANNELS[kind], _bits(most[0]) if most else 1)


def _pam(view: memoryview) -> Header:
    text = bytes(view[:MOST_TEXT])
    end = re.search(rb"\nENDHDR[ \t\r]*\n", text)
    if end is None:
        if len(text) < MOST_TEXT:
            raise IndexError
        raise _broken("PPM", "whose header does not end")
    found = {words[0]: words[1] for line in text[: end.start()].split(b"\n") if len(words := line.split()) == 2}
    width, height, depth, most = (found.get(name, b"") for name in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"))
    return _pnm_header(width, height, _number(depth), _bits(most))


def _pnm_header(width: bytes, height: bytes, channels: int, bits: int) -> Header:
    if channels == 0 or bits == 0:
        raise _broken("PPM", "without channels, or with levels that are out of range")
    header = Header("PPM", _number(width), _number(height), channels, bits)
    _need_pixels("PPM", header.width, header.height)
    return header


def _number(word: bytes) -> int:
    """Return a number in decimal digits. A word that is none is 0, which is no valid size."""
    return int(word) if word.isdigit() and len(word) <= 10 else 0


def _bits(most: bytes) -> int:
    """Return the bits in which levels up to this one are stored, or 0."""
    return 0 if not 0 < _number(most) < 1 << 16 else 8 if _number(most) < 256 else 16


def _scale(word: bytes) -> bool:
    try:
        return math.isfinite(float(word)) and float(word) != 0
    except ValueError:
        return False


def _brand(view: memoryview, start: bytes) -> Header | None:
    """Return AVIF or HEIF if the first box of the file names one of their brands."""
    if start[4:8] != b"ftyp" or len(start) < 12:
        return None
    size = min(int.from_bytes(start[:4], "big"), len(view), 256)
    brands = {start[8:12]} | {bytes(view[at : at + 4]) for at in range(16, size - 3, 4)}
    for name, own in (("AVIF", {b"avif", b"avis"}), ("HEIF", {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})):
        if brands & own:
            return Header(name, 0, 0, 0, 0)
    return Header("HEIF", 0, 0, 0, 0) if brands & {b"mif1", b"msf1"} else None


_NAMED = {
    "JPEG2000": (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"),
    "JXL": (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
    "ICO": (b"\0\0\1\0",),
    "EPS": (b"%!PS", b"\xc5\xd0\xd3\xc6"),
    "PDF": (b"%PDF",),
    "PSD": (b"8BPS",),
    "FITS": (b"SIMPLE",),
    "QOI": (b"qoif",),
}
_FORMATS: list[tuple[tuple[bytes, ...], str, Callable[[memoryview], Header] | None]] = [
    ((b"\xff\xd8\xff",), "JPEG", _jpeg),
    ((b"\x89PNG\r\n\x1a\n",), "PNG", _png),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF", _tiff),
    ((b"GIF87a", b"GIF89a"), "GIF", _gif),
    ((b"BM",), "BMP", _bmp),
    ((b"P7\n",), "PPM", _pam),
    (tuple(b"P%c%c" % (kind, space) for kind in b"123456fF" for space in b" \t\n\v\f\r#"), "PPM", _pnm),
    *((signatures, name, None) for name, signatures in _NAMED.items()),
]
