"""Images whose pixels are kept on the device: gpuload beside PyTorch's grid_sample, and the kernel beside a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import gpuload
from benchmarks.contenders import torch_warped
from benchmarks.gpu.ceilings import copy_bytes_per_second
from benchmarks.gpu.effort import Effort
from benchmarks.gpu.kernels import kernel_seconds
from benchmarks.images import measure
from benchmarks.jobs import SHEAR, ZOOM, Batches, orders
from benchmarks.warm import after_first

WARP: dict[str, Any] = {"shear": SHEAR, "zoom": ZOOM, "hflip": 0.5, "rescale": 1 / 255}
VARIANTS: dict[str, dict[str, Any]] = {
    "float32, CHW": {**WARP, "dtype": "float32", "layout": "CHW"},
    "bfloat16, CHW": {**WARP, "dtype": "bfloat16", "layout": "CHW"},
    "float32, HWC": {**WARP, "dtype": "float32", "layout": "HWC"},
    "flip alone": {"hflip": 0.5, "rescale": 1 / 255, "dtype": "float32", "layout": "CHW"},
    "standardized": {**WARP, "per_sample": "standardize", "dtype": "float32", "layout": "CHW"},
}


class Job(NamedTuple):
    """Images [N, H, W, 3] uint8, in batches."""

    images: np.ndarray
    batch: int
    device: str
    transform: dict[str, Any]


def of_gpuload(job: Job) -> Batches:
    """Return batches of gpuload.Loader with cache="device"."""
    options: dict[str, Any] = {"shuffle": True, "seed": 0, "device": job.device, "framework": "torch"}
    options |= {"cache": None if job.device == "cpu" else "device", "last_batch": "drop"}
    source = gpuload.ImageArray(job.images, labels=np.arange(len(job.images)))
    augment = gpuload.Augment(**job.transform)
    with gpuload.Loader(source, augment, batch_size=job.batch, **options) as loader:
        yield from after_first(loader)


def of_torch(job: Job) -> Batches:
    """Return batches by affine_grid and grid_sample, CHW."""
    import torch

    kept = torch.from_numpy(job.images).to(job.device).permute(0, 3, 1, 2).contiguous()
    rng = np.random.default_rng(0)
    for numbers in orders(len(job.images), job.batch, whole=True):
        chosen = torch.from_numpy(numbers).to(job.device)
        yield torch_warped(kept[chosen], rng), chosen


def run(effort: Effort, device: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each size, variant and contender."""
    copied, rng = copy_bytes_per_second(effort.copied, device), np.random.default_rng(0)
    for side, (count, batch) in effort.sides.items():
        images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
        for variant, transform in VARIANTS.items():
            job = Job(images, batch, device, transform)
            some: dict[str, Callable[[Any], Batches]] = {"gpuload": of_gpuload}
            if variant == "float32, CHW":
                some["torch grid_sample"] = of_torch
            rows, _ = measure(job, some, "gpuload", "images_per_second", effort.rounds, effort.seconds, settles=False)
            moved = side * side * 3 * (1 + (2 if transform["dtype"] == "bfloat16" else 4))
            if kernel := kernel_seconds(of_gpuload(job), device):
                rows[0] |= {"kernel_us": kernel * 1e6, "kernel_share_of_copy": batch * moved / kernel / copied}
            for row in rows:
                yield {"side": side, "batch": batch, "variant": variant, **row}
