"""The loaders that `benchmarks.warm` compares: the job of `benchmarks.contenders`, of images that were decoded before.

Each takes its first epoch before its first batch is measured; what it keeps is levels [size, size, 3] in uint8.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import contenders
from benchmarks.contenders import dali_augment, dali_batches, flow, gpuload_loader, tf_decode, tf_warp
from benchmarks.jobs import SHEAR, ZOOM, Batches, Job, warps

Pixels = tuple[np.ndarray, np.ndarray]


@functools.lru_cache(maxsize=1)
def pixels(job: Job) -> Pixels:
    """Levels [N, size, size, 3] uint8 and labels [N], in memory."""
    from PIL import Image

    def decoded(path: str) -> np.ndarray:
        with Image.open(path) as file:
            return np.array(file.convert("RGB").resize((job.size, job.size), Image.Resampling.NEAREST))

    with ThreadPoolExecutor(job.cpus) as pool:
        return np.stack(list(pool.map(decoded, [path for path, _ in job.files]))), np.array([n for _, n in job.files])


def orders(job: Job) -> Iterator[np.ndarray]:
    """Numbers [B] of the images of each batch, epoch after epoch, each in an order of its own."""
    rng = np.random.default_rng()
    while True:
        order = rng.permutation(len(job.files))
        for first in range(0, len(order) - job.batch_size + 1, job.batch_size):
            yield order[first : first + job.batch_size]


def gpuload_warm(job: Job) -> Batches:
    """gpuload.Loader with cache="auto", after its first epoch; on a GPU it delivers there."""
    with gpuload_loader(job, cache="auto") as loader:
        for _ in loader:
            pass
        while True:
            yield from loader


def gpuload_file(job: Job) -> Batches:
    """A second gpuload.Loader over the file that a first one filled, cache="pixels.cache"."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pixels.cache")
        with gpuload_loader(job, cache=path) as first:
            for _ in range(2):  # What the first epoch dropped, for want of a whole batch, comes in another one.
                for _ in first:
                    pass
        with gpuload_loader(job, cache=path) as loader:
            for _ in loader:
                pass
            while True:
                yield from loader


def gpuload_keras(job: Job) -> Batches:
    """gpuload.keras.ImageDataGenerator, taken with next(), after its first epoch; always NumPy arrays."""
    from gpuload.keras import ImageDataGenerator

    batches = flow(ImageDataGenerator, job, device=job.device)
    for _ in range(-(-len(job.files) // job.batch_size)):
        next(batches)
    yield from batches


def keras(job: Job) -> Batches:
    """Keras' own ImageDataGenerator, which keeps nothing: one thread, on the CPU."""
    return contenders.keras(job)


def tf_dataset(job: Job, layers: bool) -> Any:
    """One epoch of tf.data: decoded, resized, cached, shuffled, warped by Keras' layers or TensorFlow's operation."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    auto = tf.data.AUTOTUNE
    paths, labels = (list(column) for column in zip(*job.files, strict=True))
    data = tf.data.Dataset.from_tensor_slices((paths, labels))
    data = data.map(lambda path, label: (tf_decode(path, job.size), label), num_parallel_calls=auto).cache()
    data = data.shuffle(len(paths))
    if not layers:
        data = data.map(lambda levels, label: (tf_warp(levels), label), num_parallel_calls=auto, deterministic=False)
        return data.batch(job.batch_size).prefetch(auto)
    import keras

    shear = math.tan(math.radians(SHEAR))  # Keras' layer takes a share of the width.
    steps = [
        keras.layers.Rescaling(1 / 255),
        keras.layers.RandomShear(x_factor=shear, fill_mode="nearest"),
        keras.layers.RandomZoom((-ZOOM, ZOOM), (-ZOOM, ZOOM), fill_mode="nearest"),
        keras.layers.RandomFlip("horizontal"),
    ]

    def augment(levels: Any, label: Any) -> Any:
        for step in steps:  # One by one they run in tf.data with any of Keras' backends.
            levels = step(levels, training=True)
        return levels, label

    return data.batch(job.batch_size).map(augment, num_parallel_calls=auto).prefetch(auto)


def tf_data_layers(job: Job) -> Batches:
    """tf.data with .cache(), then Keras' RandomShear, RandomZoom and RandomFlip on batches, everything AUTOTUNE."""
    return _endless(job, layers=True)


def tf_data(job: Job) -> Batches:
    """tf.data with .cache(), then ImageProjectiveTransformV3 image by image, everything AUTOTUNE and in any order."""
    return _endless(job, layers=False)


def _endless(job: Job, layers: bool) -> Batches:
    """Whole batches, epoch after epoch."""
    data = tf_dataset(job, layers)
    for _ in data:
        pass
    yield from data.repeat().as_numpy_iterator()


def dali(job: Job) -> Batches:
    """A DALI pipeline by hand, fed with batches of pixels in memory, two ahead, arrays without a copy."""
    from nvidia.dali import fn, pipeline_def

    levels, labels = pixels(job)
    gpu = job.device != "cpu"
    numbers = orders(job)

    def feed() -> Pixels:
        chosen = next(numbers)
        return levels[chosen], labels[chosen]

    @pipeline_def(batch_size=job.batch_size, num_threads=job.cpus, device_id=0 if gpu else None, prefetch_queue_depth=2)
    def graph() -> Any:
        images, classes = fn.external_source(feed, num_outputs=2, layout=["HWC", ""], batch=True)
        return dali_augment(images.gpu() if gpu else images, job.size), classes.gpu() if gpu else classes

    yield from dali_batches(graph(), gpu)


def torch(job: Job) -> Batches:
    """PyTorch's affine_grid and grid_sample on batches of a tensor of all pixels, on the GPU if there is one; CHW."""
    import torch
    import torch.nn.functional as F

    device = "cpu" if job.device == "cpu" else "cuda"
    levels, labels = (torch.from_numpy(array).to(device) for array in pixels(job))
    levels = levels.permute(0, 3, 1, 2).contiguous()
    rng = np.random.default_rng()
    for numbers in orders(job):
        chosen = torch.from_numpy(numbers).to(device)
        matrices = np.concatenate([warps(len(chosen), rng), np.zeros((len(chosen), 2, 1))], axis=2).astype(np.float32)
        images = levels[chosen].float().div_(255)
        grid = F.affine_grid(torch.from_numpy(matrices).to(device), list(images.shape), align_corners=False)
        yield F.grid_sample(images, grid, padding_mode="border", align_corners=False), labels[chosen]


def cast(job: Job) -> Batches:
    """The limit: each pixel in memory is read once, scaled, and written in float32, by all CPUs or the GPU."""
    levels: Any
    labels: Any
    levels, labels = pixels(job)
    if job.device != "cpu":
        import torch

        levels, labels = (torch.from_numpy(array).to("cuda") for array in (levels, labels))
        for numbers in orders(job):
            chosen = torch.from_numpy(numbers).to("cuda")
            yield levels[chosen] * (1 / 255), labels[chosen]
    with ThreadPoolExecutor(job.cpus) as pool:
        for numbers in orders(job):
            images = np.empty((len(numbers), *levels.shape[1:]), np.float32)

            def part(first: int, numbers: np.ndarray = numbers, images: np.ndarray = images) -> None:
                for place in range(first, len(numbers), job.cpus):
                    np.multiply(levels[numbers[place]], np.float32(1 / 255), out=images[place])

            list(pool.map(part, range(job.cpus)))
            yield images, labels[numbers]


CONTENDERS = {
    "gpuload": gpuload_warm,
    "gpuload file": gpuload_file,
    "gpuload.keras": gpuload_keras,
    "dali": dali,
    "torch": torch,
    "tf.data": tf_data,
    "tf.data layers": tf_data_layers,
    "keras": keras,
    "cast": cast,
}
