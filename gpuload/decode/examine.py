"""The reason why DALI failed: its error names no file, so each file is tried alone."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from gpuload.core.device import CPU, Device
from gpuload.decode.graph import pixels
from gpuload.decode.spec import Decoding
from gpuload.reading.files import in_words
from gpuload.reading.header import opened

LONGEST_JPEG = 65_500
"""Greatest height or width that Pillow writes."""


def obstacles(
    files: Iterable[bytes | Exception], decoding: Decoding, device: Device, max_pixels: int | None
) -> list[str | None]:
    """Return for each file, given as its bytes or the exception that reading it raised, why it cannot be decoded.

    None: it can. Raise RuntimeError if DALI on `device` refuses even a sound picture as large as those that it alone
    refuses: then the device or its memory is in trouble, not the files.
    """
    from nvidia.dali import Pipeline, fn, types

    pipe = Pipeline(batch_size=1, num_threads=1, device_id=device.index, prefetch_queue_depth=1)
    with pipe:
        file = fn.external_source(name="file", dtype=types.UINT8, ndim=1)
        pipe.set_outputs(pixels(file, decoding, "cpu" if device == CPU else "gpu", max_pixels))
    reasons: list[str | None] = []
    largest = 0  # Pixels of the largest image that only DALI refuses.
    for found in files:
        if isinstance(found, Exception):
            reasons.append(in_words(found))
            continue
        try:
            _decode(pipe, found)
        except RuntimeError as error:
            try:  # If Pillow refuses the file too, its message says more than DALI's.
                with opened(found, max_pixels) as image:
                    image.load()
                    largest = max(largest, image.width * image.height)
                reasons.append(_in_words(error))
            except Exception as reason:  # Pillow's plugins raise far more than OSError for a broken file.
                reasons.append(in_words(reason))
        else:
            reasons.append(None)
    if largest:
        _decode(pipe, _sound(largest))
    return reasons


def _decode(pipe: Any, data: bytes) -> None:
    pipe.feed_input("file", [np.frombuffer(data, np.uint8)])
    pipe.schedule_run()
    pipe.share_outputs()


def _sound(count: int) -> bytes:
    """Return a JPEG of about `count` pixels, not more."""
    side = min(math.isqrt(count), LONGEST_JPEG)
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "JPEG")
    return file.getvalue()


def _in_words(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "DALI: " + next((line for line in lines if "fail" in line.lower()), lines[0])
