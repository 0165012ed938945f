"""What reading and decoding cost in DALI, whose graph does both in one: measured beside it, on a few samples."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuload.core.device import CPU, Device
from gpuload.core.errors import ErrorPolicy
from gpuload.decode.dali import feeds, pipeline_of_bytes
from gpuload.decode.dali_examine import obstacles
from gpuload.images.augment import Augment
from gpuload.reading.files import read_all
from gpuload.sources import ImageArray, ImageSource

log = logging.getLogger("gpuload")

RUNS = 3
"""After the first, which starts threads. The fastest counts: what disturbs a run makes it longer."""


def stage_seconds(
    source: ImageSource,
    transform: Augment,
    device: Device,
    indices: ArrayLike,
    threads: int = 1,
    *,
    policy: ErrorPolicy | None = None,
) -> dict[str, float]:
    """Seconds that a thread takes to "read" a sample, and to "decode" it, resizing included.

    On a GPU the last are seconds on the clock. What is measured are the samples `indices` [K], but for those that are
    bad. Returns {} for images in memory, and where nothing could be measured; raises nothing.
    """
    try:
        return _measured(source, transform, device, np.asarray(indices, np.int64), threads, policy or ErrorPolicy())
    except Exception as error:  # These are figures to look at: no training is to end for them.
        log.debug("what the stages cost could not be measured: %s: %s", type(error).__name__, error)
        return {}


def _measured(
    source: ImageSource,
    transform: Augment,
    device: Device,
    indices: NDArray[np.int64],
    threads: int,
    policy: ErrorPolicy,
) -> dict[str, float]:
    if isinstance(source, ImageArray):
        return {}
    paths = [source.path(int(index)) for index in indices]
    start = time.perf_counter()
    found = list(read_all(paths, policy.timeout))
    reading = (time.perf_counter() - start) / len(found)
    good = [reason is None for reason in obstacles(found, transform, device, policy.max_pixels)]
    indices = indices[good]
    files = [
        np.frombuffer(data, np.uint8)
        for data, usable in zip(found, good, strict=True)
        if usable and not isinstance(data, Exception)
    ]
    fed: dict[str, Any] = {"files": files}
    fed |= {
        name: values
        for name, values in feeds(source, transform.step(indices, seed=0, epoch=0, first=0)).items()
        if name == "crops"
    }

    options = {"batch_size": len(indices), "num_threads": threads, "device_id": device.index}
    pipe = pipeline_of_bytes(transform, "cpu" if device == CPU else "gpu", policy.max_pixels, **options)
    pipe.build()
    elapsed = []
    for _ in range(1 + RUNS):
        for name, values in fed.items():
            pipe.feed_input(name, values)
        start = time.perf_counter()
        pipe.schedule_run()
        pipe.share_outputs()
        elapsed.append(time.perf_counter() - start)
    decoding = min(elapsed[1:]) * (threads if device == CPU else 1) / len(indices)
    return {"read": reading, "decode": decoding}
