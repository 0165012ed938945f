"""Why DALI could not make a batch: its error names no file, so each is tried on its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuload.cuda import CPU, Device
from gpuload.engines.dali_resize import pixels
from gpuload.engines.reading import in_words, opened, read_all
from gpuload.errors import ErrorPolicy
from gpuload.plan import Augment


def obstacles(paths: list[str], transform: Augment, device: Device, policy: ErrorPolicy) -> list[str | None]:
    """For each file why it cannot be decoded, or None."""
    from nvidia.dali import Pipeline, fn, types

    pipe = Pipeline(batch_size=1, num_threads=1, device_id=device.index, prefetch_queue_depth=1)
    with pipe:
        file = fn.external_source(name="file", dtype=types.UINT8, ndim=1)
        pipe.set_outputs(pixels(file, transform, "cpu" if device == CPU else "gpu", policy.max_pixels))
    return [
        in_words(found) if isinstance(found, Exception) else _obstacle(pipe, found, policy.max_pixels)
        for found in read_all(paths, policy.timeout)
    ]


def _obstacle(pipe: Any, data: bytes, max_pixels: int | None) -> str | None:
    pipe.feed_input("file", [np.frombuffer(data, np.uint8)])
    pipe.schedule_run()
    try:
        pipe.share_outputs()
    except RuntimeError as error:
        return _in_words(data, max_pixels, error)
    return None


def _in_words(data: bytes, max_pixels: int | None, error: RuntimeError) -> str:
    """Why DALI refuses the file: in Pillow's words, if Pillow refuses it too, since DALI's are few."""
    try:
        with opened(data, max_pixels) as image:
            image.load()
    except Exception as reason:  # Pillow's plugins raise far more than OSError for a broken file.
        return in_words(reason)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "DALI: " + next((line for line in lines if "fail" in line.lower()), lines[0])
