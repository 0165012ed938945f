"""The loaders of `benchmarks.images` that decode and warp with Pillow, each in parallel in its own way.

Pillow fills with black beyond the border.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.jobs import Batches, Job, endless, orders, warps


def decoded(path: str, size: int) -> Any:
    """A file as Pillow's image, resized with the nearest pixel."""
    with Image.open(path) as file:
        return file.convert("RGB").resize((size, size), Image.Resampling.NEAREST)


def load(path: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Levels [size, size, 3] in uint8: a file, decoded, resized and warped."""
    (matrix,) = warps(1, rng)
    affine = np.column_stack([matrix, size / 2 * (1 - matrix.sum(axis=1))]).ravel().tolist()
    image = decoded(path, size).transform((size, size), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    return np.array(image)


def scaled(file: tuple[str, int], size: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """A file in 0..1 in float32, and its label."""
    return load(file[0], size, rng) * np.float32(1 / 255), file[1]


@dataclass
class PillowDataset:
    """A map-style data set for PyTorch."""

    files: list[tuple[str, int]]
    size: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        import torch

        path, label = self.files[index]
        seed = int(torch.randint(2**62, ()))  # PyTorch seeds its own generator anew in each worker.
        pixels = torch.from_numpy(load(path, self.size, np.random.default_rng(seed)))
        return pixels.permute(2, 0, 1).contiguous().float().div_(255), label


def torch(job: Job) -> Batches:
    """PyTorch's DataLoader with Pillow, one worker process for each CPU; CHW, copied to the GPU if there is one."""
    from torch.utils.data import DataLoader

    options = {"pin_memory": job.gpu, "num_workers": job.cpus, "persistent_workers": True}
    options["multiprocessing_context"] = "spawn"  # A fork would copy threads of other contenders in an unknown state.
    dataset: Any = PillowDataset(job.files, job.size)
    for batch in endless(DataLoader(dataset, job.batch_size, shuffle=True, drop_last=True, **options)):
        yield [tensor.to("cuda", non_blocking=True) for tensor in batch] if job.gpu else batch


def spdl(job: Job) -> Batches:
    """SPDL's pipeline with Pillow in one thread for each CPU; its own decoder needs FFmpeg's libraries."""
    from spdl.pipeline import PipelineBuilder

    rng = np.random.default_rng()
    samples = ((job.files[index], int(rng.integers(2**62))) for (index,) in orders(len(job.files), 1, whole=True))

    def sample(drawn: tuple[tuple[str, int], int]) -> tuple[np.ndarray, int]:
        return scaled(drawn[0], job.size, np.random.default_rng(drawn[1]))

    def batch(items: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
        images, labels = zip(*items, strict=True)
        return np.stack(images), np.array(labels)

    builder = PipelineBuilder().add_source(samples).pipe(sample, concurrency=job.cpus)
    pipeline = builder.aggregate(job.batch_size).pipe(batch).add_sink(2).build(num_threads=job.cpus + 1)
    with pipeline.auto_stop():
        yield from pipeline


def grain(job: Job) -> Batches:
    """Grain's MapDataset with Pillow in one thread for each CPU."""
    import grain

    samples = grain.MapDataset.source(job.files).seed(0).shuffle().repeat()
    samples = samples.random_map(lambda file, rng: scaled(file, job.size, rng))
    options = grain.ReadOptions(num_threads=job.cpus, prefetch_buffer_size=2 * job.batch_size)
    yield from samples.to_iter_dataset(options).batch(job.batch_size)
