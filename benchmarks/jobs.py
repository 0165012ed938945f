"""What the contenders of `benchmarks.images` and `benchmarks.warm` share: the job, its files, its random matrices."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

SHEAR = 0.2
ZOOM = 0.2
Batches = Iterator[tuple[Any, Any]]


@dataclass(frozen=True)
class Job:
    """What every contender is asked for."""

    folder: Path
    """Holds one folder of images for each class."""
    size: int
    batch_size: int
    device: str
    """ "cpu" or "cuda"."""

    @cached_property
    def files(self) -> list[tuple[str, int]]:
        """All files with the number of their class."""
        folders = sorted(path for path in self.folder.iterdir() if path.is_dir())
        return [
            (str(file), number)
            for number, path in enumerate(folders)
            for file in sorted(path.iterdir())
            if file.suffix.lower() in (".jpg", ".jpeg", ".png")
        ]

    @property
    def cpus(self) -> int:
        """CPUs that this process may use."""
        return len(os.sched_getaffinity(0))


def warps(count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 2, 2] output to input, seen from the middle of the image: shear, zoom and flip."""
    tilt = np.deg2rad(rng.uniform(-SHEAR, SHEAR, count))
    zoom_x, zoom_y = rng.uniform(1 - ZOOM, 1 + ZOOM, (2, count))
    flip = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    rows = [[flip * zoom_x, -np.sin(tilt) * zoom_y], [np.zeros(count), np.cos(tilt) * zoom_y]]
    return np.moveaxis(np.array(rows), 2, 0)


def gpu_framework() -> str:
    """Whose arrays gpuload and DALI deliver on a GPU."""
    return "torch" if importlib.util.find_spec("cupy") is None else "cupy"


def synchronize() -> None:
    """Wait for all work on the GPU."""
    if gpu_framework() == "cupy":
        import cupy

        cupy.cuda.Device().synchronize()
    else:
        import torch

        torch.cuda.synchronize()
