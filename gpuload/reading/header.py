"""Headers of encoded images, read by Pillow. An image that claims too many pixels is refused."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from PIL import IcnsImagePlugin, IcoImagePlugin, Image, ImageFile, UnidentifiedImageError


def opened(data: Any, max_pixels: int | None) -> ImageFile.ImageFile:
    """Return the image in encoded bytes, of which Pillow has read only the header.

    Raise DecompressionBombError if the header claims more pixels than `max_pixels`, or than twice Pillow's own
    `Image.MAX_IMAGE_PIXELS`; UnidentifiedImageError if the format is unknown. Pillow may raise other errors.
    """
    # `Image.open` warns of each image above `Image.MAX_IMAGE_PIXELS`. Warnings cannot be silenced for one thread only.
    for register in (Image.preinit, Image.init):
        register()
        for name in list(Image.ID):
            factory, accepts = Image.OPEN[name]
            accepted = accepts is None or accepts(bytes(data[:16]))
            if not accepted or isinstance(accepted, str):  # A string tells why this Pillow cannot decode it.
                continue
            with contextlib.suppress(SyntaxError):  # The first bytes fit, but it is another format.
                for icon in _icons(name, data):
                    _check(icon, max_pixels)
                image = factory(io.BytesIO(data), "")
                _check(image, max_pixels)
                return image
    raise UnidentifiedImageError("cannot identify image file")


def _check(image: ImageFile.ImageFile, max_pixels: int | None) -> None:
    # In a file of icons, a bitmap is the image and, below it, its mask.
    height = image.height // 2 if image.format == "DIB" else image.height
    if (reason := too_large(height, image.width, max_pixels)) is not None:
        raise Image.DecompressionBombError(reason)


def too_large(height: int, width: int, max_pixels: int | None) -> str | None:
    """Return why an image of that size is not decoded, or None."""
    most = Image.MAX_IMAGE_PIXELS
    for name, limit in (("max_pixels", max_pixels), ("2 * Image.MAX_IMAGE_PIXELS", None if most is None else 2 * most)):
        if limit is not None and width * height > limit:
            return f"its header claims {height} x {width} pixels, more than {name}={limit}"
    return None


def _icons(name: str, data: Any) -> Iterator[ImageFile.ImageFile]:
    """Yield the images in a file of icons that Pillow may decode. Their sizes may differ from the file's claim."""
    if name == "ICO":
        formats = ["PNG", "DIB"]
        starts = [entry.offset for entry in IcoImagePlugin.IcoFile(io.BytesIO(data)).entry[:1]]
    elif name == "ICNS":
        formats, icons = ["PNG", "JPEG2000"], IcnsImagePlugin.IcnsFile(io.BytesIO(data))
        starts = [icons.dct[code][0] for code, _ in icons.SIZES[icons.bestsize()] if code in icons.dct]
    else:
        return
    for start in starts:
        for factory, accepts in (Image.OPEN[each] for each in formats):
            if accepts is not None and accepts(bytes(data[start : start + 16])):
                yield factory(io.BytesIO(data[start:]), "")
