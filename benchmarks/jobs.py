"""Parts that the contenders share: the job, its files, its random matrices, loops over epochs, and a series."""

import importlib.util
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

SHEAR = 0.2
ZOOM = 0.2
BATCH_SIZE = 32
Batches = Iterator[Any]


@dataclass(frozen=True)
class Job:
    """The images that every contender delivers."""

    folder: Path  # Holds one folder of images for each class.
    size: int
    batch_size: int
    device: str = "cpu"  # "cpu" or "cuda".

    @cached_property
    def files(self) -> list[tuple[str, int]]:
        """All files with the number of their class."""
        folders = sorted(path for path in self.folder.iterdir() if path.is_dir())
        files = ((file, number) for number, path in enumerate(folders) for file in sorted(path.iterdir()))
        return [(str(file), number) for file, number in files if file.suffix.lower() in (".jpg", ".jpeg", ".png")]

    @property
    def gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def cpus(self) -> int:
        """CPUs that this process may use."""
        return len(os.sched_getaffinity(0))

    def orders(self) -> Iterator[np.ndarray]:
        """Numbers [B] of the images of each whole batch, epoch after epoch, each in an order of its own."""
        return orders(len(self.files), self.batch_size, whole=True)


def orders(count: int, batch_size: int, whole: bool) -> Iterator[np.ndarray]:
    """Numbers of the samples of each batch, for ever; with `whole`, a short last batch is left out."""
    rng = np.random.default_rng()
    while True:
        order = rng.permutation(count)
        for first in range(0, count - (batch_size - 1) * whole, batch_size):
            yield order[first : first + batch_size]


def endless(loader: Iterable[Any]) -> Batches:
    """Epoch after epoch of a loader."""
    while True:
        yield from loader


def warps(count: int, rng: np.random.Generator) -> np.ndarray:
    """Matrices [count, 2, 2] from output to input, seen from the middle of the image: shear, zoom and flip."""
    tilt = np.deg2rad(rng.uniform(-SHEAR, SHEAR, count))
    zoom_x, zoom_y = rng.uniform(1 - ZOOM, 1 + ZOOM, (2, count))
    flip = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    rows = [[flip * zoom_x, -np.sin(tilt) * zoom_y], [np.zeros(count), np.cos(tilt) * zoom_y]]
    return np.moveaxis(np.array(rows), 2, 0)


def series(channels: int = 7, rows: int = 17_420) -> tuple[np.ndarray, np.ndarray]:
    """Noise [rows, channels] in float32, and labels [rows].

    By default it is as large as the ETT data sets, on which forecasters are compared, and lies in a CPU's cache.
    """
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, channels), dtype=np.float32), rng.integers(0, 5, rows)


def gpu_framework() -> str:
    """The framework whose arrays gpuload and DALI deliver on a GPU."""
    return "torch" if importlib.util.find_spec("cupy") is None else "cupy"


def synchronize(device: str) -> None:
    """Wait for all work on the GPU, if the device is one."""
    if device != "cpu":
        name = gpu_framework()
        cuda = importlib.import_module(name).cuda
        (cuda.Device() if name == "cupy" else cuda).synchronize()
