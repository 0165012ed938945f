"""Headers read from bytes, beside what Pillow wrote and reads; and bytes that are broken in every way."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from gpuload.reading import jpeg
from gpuload.reading.formats import MOST_FRAMES, Header, HeaderError, read_header

MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
MODES += ["I", "I;16", "I;16B", "I;16L", "F"]
SIZES = [(1, 1), (13, 7), (7, 301)]
ORIENTATION = 0x0112
GREY8, GREY16, RGB8, ALPHA8 = (1, 8), (1, 16), (3, 8), (4, 8)
WRITTEN = {
    "JPEG": {"1": GREY8, "L": GREY8, "RGB": RGB8, "RGBX": RGB8, "CMYK": (4, 8), "YCbCr": RGB8},
    "PNG": {"1": (1, 1), "L": GREY8, "LA": (2, 8), "P": GREY8, "RGB": RGB8, "RGBA": ALPHA8}
    | dict.fromkeys(("I", "I;16", "I;16B"), GREY16),
    # Pillow writes RGBA without a mask of alpha, and reads RGB.
    "BMP": {"1": (1, 1), "L": GREY8, "P": GREY8, "RGB": RGB8, "RGBA": RGB8},
    "GIF": dict.fromkeys(MODES, GREY8),
    "TIFF": {"1": (1, 1), "L": GREY8, "LA": (2, 8), "P": GREY8, "PA": (2, 8), "RGB": RGB8, "RGBA": ALPHA8}
    | {"RGBX": (4, 8), "CMYK": (4, 8), "YCbCr": RGB8, "LAB": RGB8, "I": (1, 32), "F": (1, 32)}
    | dict.fromkeys(("I;16", "I;16B", "I;16L"), GREY16),
    "WEBP": dict.fromkeys(MODES, RGB8) | dict.fromkeys(("LA", "PA", "RGBA", "RGBa"), ALPHA8),
    "PPM": {"1": (1, 1), "L": GREY8, "RGB": RGB8, "RGBA": RGB8, "F": (1, 32)}
    | dict.fromkeys(("I", "I;16", "I;16B"), GREY16),
}
"""(channels, bits) as stored, by Pillow's mode."""
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True, "icc_profile": bytes(200)}),
    ("PNG", {}),
    ("BMP", {}),
    ("GIF", {}),
    *(("TIFF", {"compression": name}) for name in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
    ("TIFF", {"big_tiff": True}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("PPM", {}),
]


def noise(mode: str, size: tuple[int, int], seed: int = 0) -> Image.Image:
    """An image that is opaque nowhere."""
    levels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 4), np.uint8)
    image = Image.fromarray(levels)
    if mode.startswith("I;16"):  # Pillow converts to it from few modes only.
        return Image.frombytes(mode, size, levels[..., :2].tobytes())
    if mode in ("PA", "La", "RGBa", "LAB", "HSV"):
        made = Image.new(mode, size)
        made.putdata([tuple(pixel[: len(made.getbands())]) for pixel in levels.reshape(-1, 4).tolist()])
        return made
    return image.convert("L" if mode in ("I", "F") else "RGBA" if mode in ("LA", "RGBA") else "RGB").convert(mode)


def saved(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def opened(data: bytes) -> Any:
    return Image.open(io.BytesIO(data))


def read(data: Any) -> Header:
    header = read_header(data)
    assert header is not None
    return header


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_what_pillow_writes_is_read(name: str, options: dict[str, Any]) -> None:
    read_modes = set()
    for mode, size in itertools.product(MODES, SIZES):
        try:
            data = saved(noise(mode, size), name, **options)
        except (OSError, ValueError):  # Pillow writes this format in few modes only.
            continue
        read_modes.add(mode)
        header = read(data)
        if (name, mode) == ("PNG", "P"):
            header = header._replace(bits=8)  # As few as its palette needs: test_palettes_of_png.
        assert (mode, header.channels, header.bits) == (mode, *WRITTEN[name][mode])
        assert header[:3] == (name, *size)
        assert header.progressive == (options.get("progressive", False) or (name == "GIF" and min(size) >= 16))
        assert header.coding == ("huffman" if name == "JPEG" else "")
        assert (header.orientation, header.frames) == (1, 1)
        if "big_tiff" not in options:  # Pillow does not read all that it writes.
            with opened(data) as image:
                assert (image.format, image.size) == (name, size)
    assert {"L", "RGB"} <= read_modes


@pytest.mark.parametrize(("colours", "bits"), [(2, 1), (4, 2), (5, 4), (16, 4), (17, 8), (256, 8)])
def test_palettes_of_png(colours: int, bits: int) -> None:
    image = Image.new("P", (5, 3))
    image.putpalette(list(range(256))[:colours] * 3)
    assert read(saved(image, "PNG"))[3:5] == (1, bits)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 261, 65535])
@pytest.mark.parametrize(("name", "options"), [("JPEG", {}), ("PNG", {}), ("TIFF", {}), ("TIFF", {"big_tiff": True}),
                                               ("WEBP", {}), ("WEBP", {"lossless": True})], ids=str)  # fmt: skip
def test_orientation_is_read(name: str, options: dict[str, Any], value: int, order: str) -> None:
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F], exif[ORIENTATION], exif[0x0131] = "Maker of cameras", value, "Program"
    header = read(saved(noise("RGB", (13, 7)), name, exif=exif, **options))
    assert header[:3] == (name, 13, 7)
    assert header.orientation == (value if 1 <= value <= 8 else 1)


def test_orientation_may_keep_its_name() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 5
    body = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    plain = saved(noise("RGB", (13, 7)), "PNG")
    # After the pixels, where Pillow reads it only when it has decoded them.
    assert read(plain[:-12] + chunk(b"eXIf", body) + plain[-12:]).orientation == 5


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize(("name", "options"), [("GIF", {}), ("TIFF", {}), ("TIFF", {"big_tiff": True}), ("WEBP", {}),
                                               ("WEBP", {"lossless": True}), ("PNG", {}),
                                               ("PNG", {"default_image": True})], ids=str)  # fmt: skip
def test_frames_are_counted(name: str, options: dict[str, Any], frames: int) -> None:
    frames += options.get("default_image", False)  # One for an animation beside it.
    images = [noise("RGB", (20, 17), seed) for seed in range(frames)]
    data = saved(images[0], name, save_all=True, append_images=images[1:], **options)
    with opened(data) as image:
        assert read(data).frames == image.n_frames == frames
    assert read(data)[:3] == (name, 20, 17)
    if name != "TIFF":  # The numbers of a TIFF may lie at its end.
        assert read(data[: len(data) * 9 // 10])[:3] == (name, 20, 17)


@pytest.mark.parametrize("interlaced", [False, True])
def test_interlacing_is_told(interlaced: bool) -> None:
    assert read(saved(noise("P", (33, 20)), "GIF", interlace=interlaced)).progressive == interlaced
    plain = saved(noise("RGB", (13, 7)), "PNG")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 13, 7, 8, 2, 0, 0, interlaced))
    data = plain[:8] + header + plain[33:]
    assert bool(opened(data).info.get("interlace")) == read(data).progressive == interlaced


def test_the_first_image_of_a_gif_may_be_larger_than_its_screen() -> None:
    data = bytearray(saved(noise("P", (33, 20)), "GIF"))
    data[6:10] = struct.pack("<HH", 5, 30)
    assert read(data)[1:3] == opened(bytes(data)).size == (33, 30)


# JPEG ----------------------------------------------------------------------------------------------------------------

PHOTO = saved(noise("RGB", (13, 7)), "JPEG", subsampling=2)
SOF = PHOTO.index(b"\xff\xc0")


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def frame(
    height: int = 7, width: int = 13, bits: int = 8, factors: bytes = b"\x22\x11\x11", marker: int = 0xC0
) -> bytes:
    parts = b"".join(bytes([number, each, 0]) for number, each in enumerate(factors))
    return segment(marker, struct.pack(">BHHB", bits, height, width, len(factors)) + parts)


def scanned(data: bytes) -> tuple[int, ...]:
    """The same from compiled code and from Python."""
    assert jpeg.scan(data, len(data)) == jpeg.walk(data, len(data))
    return jpeg.scan(data, len(data))


@pytest.mark.parametrize(("marker", "coding", "progressive"), [
    (0xC0, "huffman", False), (0xC1, "huffman", False), (0xC2, "huffman", True), (0xC3, "lossless", False),
    (0xC5, "huffman", False), (0xC6, "huffman", True), (0xC7, "lossless", False), (0xC9, "arithmetic", False),
    (0xCA, "arithmetic", True), (0xCB, "lossless", False), (0xCD, "arithmetic", False), (0xCE, "arithmetic", True),
    (0xCF, "lossless", False),
])  # fmt: skip
@pytest.mark.parametrize("bits", [8, 12])
def test_codings_of_jpeg(marker: int, coding: str, progressive: bool, bits: int) -> None:
    data = bytearray(PHOTO)
    data[SOF + 1], data[SOF + 4] = marker, bits
    assert read(data) == Header("JPEG", 13, 7, 3, bits, progressive=progressive, coding=coding)
    assert scanned(bytes(data)) == (jpeg.FOUND, marker, bits, 7, 13, 3, 1, -1, 0x111122, SOF)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_frames_of_jpeg(mode: str, subsampling: int) -> None:
    data = saved(noise(mode, (13, 7)), "JPEG", subsampling=subsampling)
    image = opened(data)
    found = scanned(data)
    factors = sum((across * 16 + down) << (8 * i) for i, (_, across, down, _) in enumerate(image.layer))
    assert found[7:9] == (image.info.get("adobe_transform", -1), factors)
    assert data[found[9] : found[9] + 2] == bytes([0xFF, found[1]])


def test_colour_transform_of_adobe() -> None:
    for transform in (0, 1, 2):
        app14 = segment(0xEE, b"Adobe" + bytes([0, 100, 0, 0, 0, 0, transform]))
        assert scanned(b"\xff\xd8" + app14 + frame())[7] == transform
    assert scanned(b"\xff\xd8" + segment(0xEE, b"Abode" + bytes(7)) + frame())[7] == -1
    assert scanned(b"\xff\xd8" + segment(0xEE, b"Adobe") + frame())[7] == -1


def test_thumbnails_and_what_does_not_belong_are_skipped() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    thumbnail = saved(noise("RGB", (5, 4)), "JPEG")
    app1 = segment(0xE1, b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0") + thumbnail)
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + thumbnail)
    junk = b"\x01\x02\x00junk\xff\x00\xff\xd3\xff\x01\xff\xff\xff"
    data = b"\xff\xd8" + xmp + junk + app1 + junk + segment(0xFE, thumbnail) + junk + frame()
    assert scanned(data)[:7] == (jpeg.FOUND, 0xC0, 8, 7, 13, 3, 6)
    # The orientation that comes first counts.
    exif[ORIENTATION] = 3
    other = segment(0xE1, b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0"))
    assert scanned(b"\xff\xd8" + app1 + other + frame())[6] == 6


SOI = b"\xff\xd8"
BROKEN = [
    (SOI + frame(height=0), jpeg.NO_HEIGHT, "height is told only after its first scan"),
    (SOI + frame()[:-1], jpeg.CUT_SHORT, "is cut short after 20 bytes"),
    (SOI + b"\xff\xe0\xff\xff" + bytes(9), jpeg.CUT_SHORT, "is cut short after 15 bytes"),
    (SOI + b"\xff" * 9, jpeg.CUT_SHORT, "is cut short after 11 bytes"),
    (SOI + segment(0xE0, b"") + bytes(1 << 17), jpeg.LOST, "65536 segments, or bytes that belong to none"),
    (SOI + b"\xff" * (1 << 17), jpeg.LOST, "65536 segments, or bytes that belong to none"),
    (SOI + b"\xff\xd0" * (1 << 17), jpeg.LOST, "65536 segments, or bytes that belong to none"),
    *((SOI + segment(marker, bytes(4)) + frame(), jpeg.BAD_MARKER, "a marker in its header that has no place")
      for marker in (0x02, 0xBF, 0xC8, 0xD8, 0xDE, 0xDF, 0xF0, 0xF7, 0xFD)),
    (SOI + b"\xff\xe0\0\1" + frame(), jpeg.BAD_LENGTH, "shorter than its own length"),
    (SOI + b"\xff\xe0\0\0" + frame(), jpeg.BAD_LENGTH, "shorter than its own length"),
    (SOI + b"\xff\xd9", jpeg.NO_FRAME, "without a frame header"),
    (SOI + segment(0xDB, bytes(65)) + segment(0xDA, bytes(4)), jpeg.NO_FRAME, "without a frame header"),
    (SOI + frame(width=0), jpeg.BAD_FRAME, "frame header is invalid"),
    (SOI + frame(factors=b""), jpeg.BAD_FRAME, "frame header is invalid"),
    (SOI + frame(bits=0), jpeg.BAD_FRAME, "frame header is invalid"),
    (SOI + frame(bits=17), jpeg.BAD_FRAME, "frame header is invalid"),
    *((SOI + frame(factors=bytes([each])), jpeg.BAD_FRAME, "frame header is invalid")
      for each in (0x00, 0x01, 0x10, 0x51, 0x15)),
    (SOI + segment(0xC0, bytes(3)), jpeg.BAD_FRAME, "frame header is invalid"),
    (SOI + segment(0xC2, frame()[4:] + b"\0"), jpeg.BAD_FRAME, "frame header is invalid"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "status", "message"), BROKEN, ids=range(len(BROKEN)))
def test_broken_jpegs_are_told(data: bytes, status: int, message: str) -> None:
    assert scanned(data)[0] == status
    with pytest.raises(HeaderError, match=f"^a JPEG file .*{message}"):
        read_header(data)


def test_what_is_no_jpeg() -> None:
    for data in (b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xfe\xff", bytes(100)):
        assert scanned(data)[0] == jpeg.NOT_JPEG
        assert read_header(data) is None


def test_python_takes_the_place_of_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "_compiled", lambda: None)
    for data in (PHOTO, bytearray(PHOTO), np.frombuffer(PHOTO, np.uint8)):
        assert read(data) == Header("JPEG", 13, 7, 3, 8, coding="huffman")
        assert jpeg.scan(data, SOF + 5)[0] == jpeg.CUT_SHORT


# TIFF ----------------------------------------------------------------------------------------------------------------


def tiff(order: str = "<", big: bool = False, following: list[int] | None = None, entries: int | None = None,
         tags: tuple[tuple[int, int, int, int], ...] = ((256, 3, 1, 13), (257, 4, 1, 7))) -> bytes:  # fmt: skip
    """A TIFF of directories one after the other. The number of its follower ends each; -1 is none, 99 lies nowhere."""
    place = "Q" if big else "I"
    following = [-1] if following is None else following
    start = 16 if big else 8
    body = struct.pack(order + ("Q" if big else "H"), len(tags) if entries is None else entries)
    for tag, kind, count, value in tags:
        number = struct.pack(order + {3: "H", 4: "I", 16: "Q"}[kind], value)
        body += struct.pack(order + "HH" + place, tag, kind, count) + number.ljust(8 if big else 4, b"\0")
    length = len(body) + struct.calcsize(place)
    head = struct.pack(order + "2sH", b"II" if order == "<" else b"MM", 43 if big else 42)
    head += struct.pack(order + "HHQ", 8, 0, start) if big else struct.pack(order + "I", start)
    nexts = [0 if each < 0 else start + each * length for each in following]
    return head + b"".join(body + struct.pack(order + place, each) for each in nexts)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_directories_of_tiff(order: str, big: bool) -> None:
    def frames(*following: int) -> int:
        header = read(tiff(order, big, list(following)))
        assert header[:5] == ("TIFF", 13, 7, 1, 1)
        return header.frames

    assert frames(-1) == 1
    assert frames(1, 2, -1) == 3
    assert frames(0) == 1
    assert frames(1, 2, 0) == 3
    assert frames(1, 2, 1) == 3
    assert frames(2, -1, 1) == 3
    assert frames(1, 99) == 2
    assert frames(*range(1, 2 * MOST_FRAMES), -1) == MOST_FRAMES


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_absurd_tiffs_are_told(order: str, big: bool) -> None:
    size = ((256, 3, 1, 13), (257, 3, 1, 7))
    most = (1 << 64) - 1 if big else (1 << 16) - 1
    for options, message in [
        ({"entries": most}, "cut short after|claims more tags than exist"),
        ({"entries": 0}, "first directory is empty"),
        ({"tags": size[:1]}, "without a width or a height"),
        ({"tags": (*size, (258, 3, (1 << 32) - 1, 99))}, "cut short after"),
        ({"tags": (*size, (277, 3, 1, 0))}, "no channels or no bits"),
        ({"tags": (*size, (258, 4, 1, 0))}, "no channels or no bits"),
        ({"tags": (*size[:1], (257, 3, 0, 7))}, "without a width or a height"),
    ]:
        with pytest.raises(HeaderError, match=f"^a TIFF file .*({message})"):
            read_header(tiff(order, big, **options))  # type: ignore[arg-type]
    assert read(tiff(order, big, tags=(*size, (274, 3, 1, 7), (258, 3, 1, 12))))[4:6] == (12, 7)
    for after in range(8, 16):  # Places that no file has.
        data = bytearray(tiff(order, True))
        data[8:16] = (1 << (8 * (after - 8) + 7)).to_bytes(8, "little" if order == "<" else "big")
        with pytest.raises(HeaderError, match="a TIFF file"):
            read_header(data)


# Other formats -------------------------------------------------------------------------------------------------------


def bitmap(size: int, width: int, height: int, bits: int, compression: int = 0, alpha: int = 0) -> bytes:
    words = struct.pack("<HHHH" if size == 12 else "<iiHH", width, height, 1, bits)
    body = struct.pack("<I", size) + words + struct.pack("<I", compression)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, alpha)
    header = body[:size] if size == 12 else body.ljust(40, b"\0") + masks + bytes(max(size - 56, 0))
    return struct.pack("<2sIII", b"BM", 0, 0, 14 + len(header)) + header + bytes(4 * 300 + 4 * 13 * 7)


@pytest.mark.parametrize(("data", "channels", "bits", "mode"), [
    (bitmap(12, 13, 7, 24), 3, 8, "RGB"),
    (bitmap(12, 13, 7, 4), 1, 4, "P"),
    (bitmap(40, 13, -7, 24), 3, 8, "RGB"),
    (bitmap(40, 13, 7, 8, 1), 1, 8, "P"),
    (bitmap(40, 13, 7, 16), 3, 5, "RGB"),
    (bitmap(40, 13, 7, 32), 3, 8, "RGB"),
    (bitmap(64, 13, 7, 24), 3, 8, "RGB"),
    (bitmap(108, 13, 7, 32, 3, 0xFF000000), 4, 8, "RGBA"),
    (bitmap(124, 13, 7, 32, 3, 0), 3, 8, "RGB"),
    (bitmap(124, 13, 7, 32, 0, 0xFF000000), 3, 8, "RGB"),
], ids=range(10))  # fmt: skip
def test_kinds_of_bmp(data: bytes, channels: int, bits: int, mode: str) -> None:
    assert read(data) == Header("BMP", 13, 7, channels, bits)
    image = opened(data)
    assert image.size == (13, 7)
    assert image.mode == mode or mode == "P"  # Palettes of greys.


PORTABLE = [
    (b"P1 13 7\n", 1, 1, True),
    (b"P2\n# comment\n13 # more\n7\r\n#\n255\n", 1, 8, True),
    (b"P3\t13\n7\n65535 ", 3, 16, True),
    (b"P4#\n13 7 ", 1, 1, False),
    (b"P5 13 7 1 ", 1, 8, True),
    (b"P5 13 7 256 ", 1, 16, True),
    (b"P6 13 7 255\n", 3, 8, True),
    (b"Pf 13 7 -1.0\n", 1, 32, True),
    (b"PF 13 7 1e-3\n", 3, 32, False),
    (b"P7\nWIDTH 13\nHEIGHT 7\nDEPTH 2\nMAXVAL 65535\n# of more words\nTUPLTYPE ANY_ALPHA\nENDHDR\n", 2, 16, False),
]  # fmt: skip


@pytest.mark.parametrize(("data", "channels", "bits", "pillow"), PORTABLE, ids=range(len(PORTABLE)))
def test_portable_maps(data: bytes, channels: int, bits: int, pillow: bool) -> None:
    assert read(data + b"\0") == Header("PPM", 13, 7, channels, bits)
    if pillow:
        assert opened(data + b"\0").size == (13, 7)
    for length in range(3, len(data)):
        with pytest.raises(HeaderError, match=f"^a PPM file whose header is cut short after {length} bytes"):
            read_header(data[:length])


PNG = saved(noise("RGB", (13, 7)), "PNG")
GIF = saved(noise("P", (13, 7)), "GIF")
LOSSY = saved(noise("RGB", (13, 7)), "WEBP")
LOSSLESS = saved(noise("RGB", (13, 7)), "WEBP", lossless=True)


def changed(data: bytes, **at: bytes) -> bytes:
    """The data with other bytes at some places: changed(data, _8=b"..")."""
    for key, new in at.items():
        place = int(key[1:])
        data = data[:place] + new + data[place + len(new) :]
    return data


@pytest.mark.parametrize(("data", "message"), [
    (PNG[:20], "a PNG file whose header is cut short after 20 bytes"),
    (changed(PNG, _12=b"CgBI"), "a PNG file whose first chunk is no header"),
    (changed(PNG, _16=bytes(4)), "a PNG file without pixels: its width or height is 0"),
    (changed(PNG, _16=b"\xff"), "a PNG file whose header is invalid"),
    (changed(PNG, _24=b"\4"), "a PNG file whose header is invalid"),
    (changed(PNG, _25=b"\5"), "a PNG file whose header is invalid"),
    (changed(PNG, _28=b"\2"), "a PNG file whose header is invalid"),
    (b"BM", "a BMP file whose header is cut short after 2 bytes"),
    (bitmap(41, 13, 7, 24), "a BMP file whose header has an unknown length"),
    (bitmap(40, 13, 0, 24), "a BMP file without pixels"),
    (bitmap(40, -13, 7, 24), "a BMP file without pixels"),
    (bitmap(40, 13, 7, 0, 5), "a BMP file whose number of bits per pixel is none of"),
    (GIF[:13], "a GIF file whose header is cut short after 13 bytes"),
    (GIF[:13] + bytes(3 << 8) + b";", "a GIF file whose header has no image after it"),
    (b"GIF89a" + bytes(7) + b"," + bytes(11) + b";", "a GIF file without pixels"),
    (LOSSY[:24], "a WEBP file whose header is cut short after 24 bytes"),
    (changed(LOSSY, _4=b"\4\0\0\0"), "a WEBP file whose header is cut short"),
    (changed(LOSSY, _12=b"VP9 "), "a WEBP file whose first chunk is unknown"),
    (changed(LOSSY, _20=b"\1"), "a WEBP file whose frame header is invalid"),
    (changed(LOSSY, _23=b"\0"), "a WEBP file whose frame header is invalid"),
    (changed(LOSSY, _26=b"\0\xc0"), "a WEBP file without pixels"),
    (changed(LOSSLESS, _20=b"\0"), "a WEBP file whose frame header is invalid"),
    (b"P5 13 0 255 ", "a PPM file without pixels"),
    (b"P5 13 x 255 ", "a PPM file without pixels"),
    (b"P5 13 7 65536 ", "a PPM file without channels, or with levels that are out of range"),
    (b"Pf 13 7 nan ", "a PPM file without channels, or with levels that are out of range"),
    (b"Pf 13 7 one ", "a PPM file without channels, or with levels that are out of range"),
    (b"P5 " + b"1" * 50, "a PPM file whose header has a word that is too long"),
    (b"P5 " + b"#\n" * (1 << 16), "a PPM file whose header has a word that is too long, or too many comments"),
    (b"P7\n" + b"#\n" * (1 << 16), "a PPM file whose header does not end"),
    (b"P7\nWIDTH 1\nENDHDR\n", "a PPM file without channels"),
], ids=range(31))  # fmt: skip
def test_broken_headers_are_told(data: bytes, message: str) -> None:
    with pytest.raises(HeaderError) as caught:
        read_header(data)
    assert str(caught.value).startswith(message)


def test_work_is_bounded() -> None:
    image = b"," + struct.pack("<HHHHB", 0, 0, 3, 2, 0) + b"\2\0"
    assert read(b"GIF89a" + bytes(7) + image * (2 * MOST_FRAMES)) == Header("GIF", 3, 2, 1, 8, frames=MOST_FRAMES)
    assert read(b"GIF89a" + bytes(7) + image + b"!\1" + b"\1" * (1 << 22)).frames == 1
    vp8x = b"VP8X" + struct.pack("<IB9x", 10, 2)
    assert read(b"RIFF\xff\xff\xff\xffWEBP" + vp8x + b"ANMF\0\0\0\0" * (2 * MOST_FRAMES)).frames == MOST_FRAMES


@pytest.mark.parametrize(("data", "name"), [
    (b"\xff\x4f\xff\x51\0", "JPEG2000"), (b"\0\0\0\x0cjP  \r\n\x87\n\0", "JPEG2000"),
    (b"\xff\x0a\0", "JXL"), (b"\0\0\0\x0cJXL \r\n\x87\n\0", "JXL"),
    (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "HEIF"), (b"\0\0\0\x14ftypmif1\0\0\0\0miaf", "HEIF"),
    (b"\0\0\0\x1cftypmif1\0\0\0\0miafavif", "AVIF"), (b"\0\0\0\x14ftypavis\0\0\0\0msf1", "AVIF"),
    (b"\0\0\1\0\1\0", "ICO"), (b"%!PS-Adobe", "EPS"), (b"%PDF-1.4", "PDF"), (b"8BPS\0\1", "PSD"),
    (b"SIMPLE  =", "FITS"), (b"qoif\0", "QOI"),
])  # fmt: skip
def test_formats_known_by_name_only(data: bytes, name: str) -> None:
    assert read(data) == Header(name, 0, 0, 0, 0)


def test_names_are_those_of_pillow() -> None:
    for name, feature in (("JPEG2000", "jpg_2000"), ("AVIF", "avif"), ("ICO", None), ("EPS", None), ("PDF", None)):
        if feature is None or features.check(feature):
            assert read(saved(noise("RGB", (16, 16)), name)).format == name
    assert read(saved(noise("RGB", (16, 16)), "JPEG2000", no_jp2=True)).format == "JPEG2000"


def test_other_bytes_are_unknown() -> None:
    others = [
        b"",
        b"P",
        b"P6",
        b"P6x",
        b"P8 1 1",
        b"RIFF\0\0\0\0WAVE",
        b"\x89PNG\r\n",
        b"GIF88a",
        b"II*",
        b"text\n",
        bytes(9),
    ]
    for data in [*others, b"\0\0\0\x14ftypisom\0\0\0\0mp42"]:
        assert read_header(data) is None


# Bytes that are broken in every way ----------------------------------------------------------------------------------


def outcome(data: Any) -> Header | str | None:
    """A header, the message of the one error that is allowed, or nothing."""
    try:
        return read_header(data)
    except HeaderError as error:
        return str(error)


def everywhere(data: bytes) -> Header | str | None:
    """The outcome, the same wherever and however the bytes lie."""
    found = outcome(data)
    around = b"\xff\xd8\xff\xc0" + data + bytes(range(255, 0, -1))
    for other in (memoryview(around)[4 : 4 + len(data)], np.frombuffer(around, np.uint8)[4 : 4 + len(data)],
                  np.repeat(np.frombuffer(data, np.uint8), 2)[::2], bytearray(data)):  # fmt: skip
        assert outcome(other) == found
    inside = np.frombuffer(around, np.uint8)[4:]
    assert jpeg.scan(inside, len(data)) == jpeg.walk(data, len(data))
    return found


def small_files() -> Iterator[tuple[str, bytes]]:
    exif = Image.Exif()
    exif[0x010F], exif[ORIENTATION] = "M", 6
    grey, colour = noise("L", (5, 3)), noise("RGB", (5, 3))
    more = {"save_all": True, "append_images": [noise("RGB", (5, 3), 1)]}
    yield (
        "JPEG",
        SOI
        + segment(0xE1, b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0"))
        + segment(0xEE, b"Adobe" + bytes(7))
        + frame()
        + bytes(9),
    )
    yield "JPEG", saved(colour, "JPEG", exif=exif)
    yield "PNG", saved(colour, "PNG", exif=exif, **more)
    yield "BMP", bitmap(124, 5, 3, 32, 3, 0xFF000000)[:200]
    yield "GIF", saved(grey, "GIF", **more)
    yield "TIFF", saved(colour, "TIFF", exif=exif)
    yield "TIFF", saved(noise("I;16B", (5, 3)), "TIFF")
    yield "TIFF", saved(colour, "TIFF", big_tiff=True, **more)
    yield "WEBP", saved(colour, "WEBP")
    yield "WEBP", saved(colour, "WEBP", lossless=True, exif=exif)
    yield "WEBP", saved(colour, "WEBP", **more)
    yield "PPM", saved(grey, "PPM")
    yield "PPM", PORTABLE[-1][0] + b"0"
    yield "AVIF", b"\0\0\0\x1cftypmif1\0\0\0\0miafavif"


FILES = list(small_files())


@pytest.mark.parametrize(("name", "data"), FILES, ids=range(len(FILES)))
def test_files_cut_short(name: str, data: bytes) -> None:
    whole = read(data)
    assert whole.format == name
    lengths = range(len(data)) if len(data) < 1000 else [*range(700), *range(700, len(data), 7)]
    known = False
    for length in lengths:
        found = everywhere(data[:length])
        if isinstance(found, str):
            assert found.startswith(f"a {name} file ")
            assert found.endswith(f"cut short after {length} bytes")
        elif found is not None:
            assert found[:5] == whole[:5] or name == "AVIF"
        assert not (known and found is None)
        known = known or found is not None


@settings(max_examples=400)
@given(st.sampled_from([data for _, data in FILES]), st.data())
def test_files_with_other_bytes(file: bytes, draw: st.DataObject) -> None:
    data = bytearray(file)
    near = st.integers(0, min(len(data) - 1, 120)) | st.integers(0, len(data) - 1)
    for place, byte in draw.draw(
        st.lists(st.tuples(near, st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255)))
    ):
        data[place] = byte
    everywhere(bytes(data))


@settings(max_examples=200)
@given(
    st.sampled_from([b"", *{data[:12] for _, data in FILES}, b"P6 ", b"BM", b"\xff\xd8\xff"]), st.binary(max_size=200)
)
def test_random_bytes(start: bytes, rest: bytes) -> None:
    everywhere(start + rest)


SEGMENTS = st.builds(
    segment, st.integers(0xC0, 0xFE) | st.sampled_from([0xE0, 0xE1, 0xEE, 0xDB]), st.binary(max_size=40)
)
EXIF = st.builds(
    lambda order, body: segment(0xE1, b"Exif\0\0" + order + body),
    st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II*\0", b"MM"]),
    st.binary(max_size=60) | st.builds(lambda count, tag, rest: count + tag + rest, st.sampled_from([b"\1\0", b"\0\1"]),
                                       st.sampled_from([b"\x12\1\3\0", b"\1\x12\0\3"]), st.binary(max_size=12)),
)  # fmt: skip
FRAMES = st.builds(frame, st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 17), st.binary(max_size=5),
                   st.integers(0xC0, 0xCF))  # fmt: skip


@settings(max_examples=300)
@given(st.lists(SEGMENTS | EXIF | FRAMES | st.binary(max_size=4), max_size=6), FRAMES)
def test_segments_in_any_order(parts: list[bytes], last: bytes) -> None:
    everywhere(SOI + b"".join([*parts, last]))
