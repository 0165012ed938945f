"""What each stage costs in the DALI engine, whose graph does all in one: measured beside it, on a few samples."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuload.cuda import CPU, Device
from gpuload.engines.dali_examine import obstacles
from gpuload.engines.image_dali import augmented, external, feeds, graph, pipeline, resized
from gpuload.engines.reading import read_all
from gpuload.errors import ErrorPolicy
from gpuload.plan import Augment
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
    """Seconds that a thread takes to "read" a sample, to "decode" it (resizing included) and to "augment" it.

    On a GPU the last two are seconds on the clock. Images in memory have "augment" alone. What is measured are the
    samples `indices` [K], but for those that are bad. Returns {} where nothing could be measured; raises nothing.
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
    from nvidia.dali import fn, types
    from nvidia.dali.pipeline import do_not_convert

    place = "cpu" if device == CPU else "gpu"

    def run(outputs: Callable[[], Any], fed: dict[str, Any]) -> tuple[float, Any]:
        """Seconds for a sample, and the images."""
        pipe = pipeline(
            source, transform, outputs, batch_size=len(indices), num_threads=threads, device_id=device.index
        )
        pipe.build()
        elapsed = []
        for _ in range(1 + RUNS):
            for name, values in fed.items():
                pipe.feed_input(name, values)
            start = time.perf_counter()
            pipe.schedule_run()
            (images,) = pipe.share_outputs()
            elapsed.append(time.perf_counter() - start)
        return min(elapsed[1:]) * (threads if device == CPU else 1) / len(indices), images

    if isinstance(source, ImageArray):
        fed = feeds(source, transform, transform.step(indices, seed=0, epoch=0, first=0))
        return {"augment": run(functools.partial(graph, source, transform, place, external), fed)[0]}

    paths = [source.path(int(index)) for index in indices]
    start = time.perf_counter()
    found = list(read_all(paths, policy.timeout))
    reading = (time.perf_counter() - start) / len(found)
    good = [reason is None for reason in obstacles(paths, transform, device, policy)]
    indices = indices[good]
    files = [
        np.frombuffer(data, np.uint8)
        for data, usable in zip(found, good, strict=True)
        if usable and not isinstance(data, Exception)
    ]
    fed = feeds(source, transform, transform.step(indices, seed=0, epoch=0, first=0))

    def decoded() -> Any:
        files = external("files", types.UINT8, 1)
        return resized(source, transform, place, external, files=files, max_pixels=policy.max_pixels)

    def finished() -> Any:
        images = fn.external_source(name="images", device=place, ndim=3, layout="HWC")
        return do_not_convert(augmented)(images, transform, place, external)

    crops = {"crops": fed.pop("crops")} if "crops" in fed else {}
    decoding, images = run(decoded, {"files": files, **crops})
    rest = {name: values for name, values in fed.items() if name not in ("paths", "lengths")}
    augmenting, _ = run(finished, {"images": images, **rest})
    return {"read": reading, "decode": decoding, "augment": augmenting}
