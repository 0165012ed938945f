"""Why DALI could not make a batch: its error names no file, so each is tried on its own."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from gpuload.core.device import CPU, Device
from gpuload.decode.dali_graph import pixels
from gpuload.images.augment import Augment
from gpuload.reading.files import in_words
from gpuload.reading.header import opened

LONGEST_JPEG = 65_500
"""Height or width that Pillow writes."""


def obstacles(
    files: Iterable[bytes | Exception], transform: Augment, device: Device, max_pixels: int | None
) -> list[str | None]:
    """For each file, or what reading it raised, why it cannot be decoded, or None.

    Raises RuntimeError where DALI does not decode a sound picture as large as those that it alone refuses: then it is
    not these files that are bad, but the device, or memory, is in trouble.
    """
    from nvidia.dali import Pipeline, fn, types

    pipe = Pipeline(batch_size=1, num_threads=1, device_id=device.index, prefetch_queue_depth=1)
    with pipe:
        file = fn.external_source(name="file", dtype=types.UINT8, ndim=1)
        pipe.set_outputs(pixels(file, transform, "cpu" if device == CPU else "gpu", max_pixels))
    reasons: list[str | None] = []
    largest = 0
    """Pixels, of the images that only DALI refuses."""
    for found in files:
        if isinstance(found, Exception):
            reasons.append(in_words(found))
            continue
        try:
            _decode(pipe, found)
        except RuntimeError as error:
            try:  # In Pillow's words, if Pillow refuses it too, since DALI's are few.
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
    """A JPEG of about so many pixels, no more."""
    side = min(math.isqrt(count), LONGEST_JPEG)
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "JPEG")
    return file.getvalue()


def _in_words(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "DALI: " + next((line for line in lines if "fail" in line.lower()), lines[0])
