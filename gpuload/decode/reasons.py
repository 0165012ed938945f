"""The reason why an encoded image cannot be decoded, in words that name its format and the next step."""

from __future__ import annotations

from PIL import Image, UnidentifiedImageError

from gpuload.reading.files import Bytes, in_words
from gpuload.reading.formats import HeaderError, read_header


def reason(data: Bytes, error: BaseException) -> str:
    """Return why Pillow, which raised `error`, cannot decode these bytes."""
    if isinstance(error, Image.DecompressionBombError):  # It says all.
        return in_words(error)
    try:
        header = read_header(data)
        kind = None if header is None else header.format
    except HeaderError as broken:
        return f"{in_words(error)} ({broken})"
    if kind is None:
        return f"{in_words(error)} (it begins like no image that is known)"
    if isinstance(error, UnidentifiedImageError):
        return f"{in_words(error)} (it begins like {kind}, which this Pillow does not read: convert it to PNG or JPEG)"
    return f"{in_words(error)} (in a file that begins like {kind})"
