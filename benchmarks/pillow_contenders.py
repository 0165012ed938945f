"""The loaders of `benchmarks.images` that decode and warp with Pillow: what differs is who does it side by side.

Pillow fills with black beyond the border.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.jobs import Batches, Job, warps


def load(path: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """[size, size, 3] uint8: a file, decoded, resized and warped."""
    from PIL import Image

    with Image.open(path) as file:
        image = file.convert("RGB").resize((size, size), Image.Resampling.NEAREST)
    (matrix,) = warps(1, rng)
    offset = size / 2 * (1 - matrix.sum(axis=1))
    affine = np.column_stack([matrix, offset]).ravel().tolist()
    return np.array(image.transform((size, size), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR))


def scaled(levels: np.ndarray) -> np.ndarray:
    """0..1 in float32."""
    return levels * np.float32(1 / 255)


class PillowDataset:
    """A map-style data set for PyTorch."""

    def __init__(self, files: list[tuple[str, int]], size: int):
        self.files = files
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        import torch

        path, label = self.files[index]
        seed = int(torch.randint(2**62, ()))  # PyTorch seeds its own generator anew in each worker
        pixels = torch.from_numpy(load(path, self.size, np.random.default_rng(seed)))
        return pixels.permute(2, 0, 1).contiguous().float().div_(255), label


def torch(job: Job) -> Batches:
    """PyTorch's DataLoader with Pillow, one worker process for each CPU; CHW, copied to the GPU if there is one."""
    from torch.utils.data import DataLoader

    gpu = job.device != "cpu"
    loader = DataLoader(
        PillowDataset(job.files, job.size),  # type: ignore[arg-type]
        batch_size=job.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=job.cpus,
        persistent_workers=True,
        pin_memory=gpu,
        multiprocessing_context="spawn",  # a fork would copy the other contenders' threads in whatever state they are
    )
    while True:
        for images, labels in loader:
            if gpu:
                images, labels = (tensor.to("cuda", non_blocking=True) for tensor in (images, labels))
            yield images, labels


def spdl(job: Job) -> Batches:
    """SPDL's pipeline with Pillow in one thread for each CPU; its own decoder needs FFmpeg's libraries."""
    from spdl.pipeline import PipelineBuilder

    def samples() -> Iterator[tuple[str, int, int]]:
        rng = np.random.default_rng()
        while True:
            for index in rng.permutation(len(job.files)):
                yield (*job.files[index], int(rng.integers(2**62)))

    def sample(drawn: tuple[str, int, int]) -> tuple[np.ndarray, int]:
        path, label, seed = drawn
        return scaled(load(path, job.size, np.random.default_rng(seed))), label

    def batch(items: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
        images, labels = zip(*items, strict=True)
        return np.stack(images), np.array(labels)

    pipeline = (
        PipelineBuilder()
        .add_source(samples())
        .pipe(sample, concurrency=job.cpus)
        .aggregate(job.batch_size)
        .pipe(batch)
        .add_sink(2)
        .build(num_threads=job.cpus + 1)
    )
    with pipeline.auto_stop():
        yield from pipeline


def grain(job: Job) -> Batches:
    """Grain's MapDataset with Pillow in one thread for each CPU."""
    import grain

    def sample(file: tuple[str, int], rng: np.random.Generator) -> tuple[np.ndarray, int]:
        path, label = file
        return scaled(load(path, job.size, rng)), label

    samples = grain.MapDataset.source(job.files).seed(0).shuffle().repeat().random_map(sample)
    options = grain.ReadOptions(num_threads=job.cpus, prefetch_buffer_size=2 * job.batch_size)
    yield from samples.to_iter_dataset(options).batch(job.batch_size)
