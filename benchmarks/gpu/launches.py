"""One launch of every kind, for NVIDIA's compute-sanitizer: `compute-sanitizer python -m benchmarks.gpu.launches`."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import gpuload
from gpuload import Augment, Window

WINDOWS = (
    Window(20),
    Window(21, dtype="bfloat16"),
    Window(24, per_sample="standardize", missing="zero", extras=("mask", "mean", "scale", "start")),
    Window(24, layout="BCL", missing="forward"),
    Window(24, layout="LBC", jitter=0.1, scaling=0.2),
    Window(31, dilation=3, reverse=0.5, zoom=0.3, dtype="float16"),
    Window(16, horizon=7, layout="BCL", per_sample="center", target_channels=(1, 3)),
    Window(300, per_sample="standardize", missing="forward", layout="BCL", extras=("mask",)),
    Window(20, mean=0.1, std=2.0, missing="zero"),
)
IMAGES = (
    Augment(rotation=30, zoom=0.3, hflip=0.5),
    Augment(shear=20, fill_mode="reflect", dtype="bfloat16", layout="CHW"),
    Augment(rotation=40, fill_mode="wrap", channel_shift=30, brightness=(0.5, 1.5)),
    Augment(zoom=0.4, fill_mode="constant", fill_value=7, per_sample="standardize", layout="CHW"),
    Augment(warp_order=0, rotation=10, dtype="uint8"),
    Augment(vflip=0.5, mean=(1, 2, 3), std=(4, 5, 6), dtype="float16"),
)
BATCHES = 4


def main(device: str = "cuda") -> int:
    """Take a few batches of each job, from images that are kept on the device and from others."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((777, 5)).astype(np.float32)
    values[::17, 2] = np.nan
    pictures = rng.integers(0, 256, (40, 37, 53, 3), np.uint8)
    caches = (None,) if device == "cpu" else ("device", None)
    jobs: list[tuple[Any, Any, dict[str, Any]]] = [
        (gpuload.Series(values, None if window.target_channels else np.arange(777)), window, {}) for window in WINDOWS
    ]
    for augment, cache in itertools.product(IMAGES, caches):
        jobs.append((gpuload.ImageArray(pictures, labels=np.arange(40)), augment, {"cache": cache}))
    taken = 0
    framework = "numpy" if device == "cpu" else "cupy"
    common: dict[str, Any] = {"shuffle": True, "seed": 3, "device": device, "framework": framework}
    for source, transform, options in jobs:
        with gpuload.Loader(source, transform, batch_size=13, **common, **options) as loader:
            for _ in range(2):  # The second time images are read from the cache.
                taken += sum(1 for _ in itertools.islice(loader, BATCHES))
    return taken


if __name__ == "__main__":
    print(f"{main()} batches")
