"""Images per second from the second epoch on: gpuload's cache beside other loaders of images that were decoded before.

    python -m benchmarks.warm                    photographs made by benchmarks.photos, on the CPU
    python -m benchmarks.warm --device cuda

Measured as in `benchmarks.images`. Each contender takes its first epoch before its first batch is measured, and keeps
levels [size, size, 3] in uint8. No contender but Keras' generator decodes.
"""

import functools
import itertools
import math
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import contenders
from benchmarks.contenders import keras
from benchmarks.images import compare
from benchmarks.jobs import SHEAR, ZOOM, Batches, Job, endless
from benchmarks.pillow_contenders import decoded


@functools.lru_cache(maxsize=1)
def pixels(job: Job) -> tuple[np.ndarray, np.ndarray]:
    """Levels [N, size, size, 3] uint8 and labels [N], in memory."""
    with ThreadPoolExecutor(job.cpus) as pool:
        levels = np.stack(list(pool.map(lambda file: np.array(decoded(file[0], job.size)), job.files)))
    return levels, np.array([label for _, label in job.files])


def after_first(loader: Iterable[Any], skipped: int = 1) -> Batches:
    """Batches of a loader after its first epoch, or after several, in which it fills its cache."""
    for _ in range(skipped):
        for _ in loader:
            pass
    return endless(loader)


def gpuload_warm(job: Job) -> Batches:
    """gpuload.Loader with cache="auto", after its first epoch; on a GPU it delivers there."""
    with contenders.gpuload_loader(job, cache="auto") as loader:
        yield from after_first(loader)


def gpuload_file(job: Job) -> Batches:
    """A second gpuload.Loader over the file that a first one filled, cache="pixels.cache"."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pixels.cache")
        with contenders.gpuload_loader(job, cache=path) as first:
            after_first(first, skipped=2)  # The first epoch dropped its short last batch; the second has its samples.
        with contenders.gpuload_loader(job, cache=path) as loader:
            yield from after_first(loader)


def gpuload_keras(job: Job) -> Batches:
    """gpuload.keras.ImageDataGenerator, taken with next(), after its first epoch; always NumPy arrays."""
    batches = contenders.flow("gpuload.keras", job, device=job.device)
    yield from itertools.islice(batches, len(batches), None)


def tf_dataset(job: Job, layers: bool) -> Any:
    """One epoch of tf.data: decoded, resized, cached, shuffled, warped by Keras' layers or TensorFlow's operation."""
    import tensorflow as tf

    auto = tf.data.AUTOTUNE
    data = contenders.tf_files(job)
    data = data.map(lambda path, label: (contenders.tf_decoded(path, job.size), label), num_parallel_calls=auto)
    data = data.cache().shuffle(len(job.files))
    if not layers:
        warp = functools.partial(data.map, num_parallel_calls=auto, deterministic=False)
        data = warp(lambda levels, label: (contenders.tf_warped(levels), label))
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
    return _tf_batches(tf_dataset(job, layers=True))


def tf_data(job: Job) -> Batches:
    """tf.data with .cache(), then ImageProjectiveTransformV3 image by image, everything AUTOTUNE and in any order."""
    return _tf_batches(tf_dataset(job, layers=False))


def _tf_batches(data: Any) -> Batches:
    after_first(data)
    yield from data.repeat().as_numpy_iterator()


def dali(job: Job) -> Batches:
    """A DALI pipeline by hand, fed with batches of pixels in memory, two ahead, arrays without a copy."""
    from nvidia.dali import fn

    levels, labels = pixels(job)

    def graph() -> Any:
        batches = ((levels[numbers], labels[numbers]) for numbers in job.orders())
        images, classes = fn.external_source(batches, num_outputs=2, layout=["HWC", ""], batch=True)
        images, classes = (images.gpu(), classes.gpu()) if job.gpu else (images, classes)
        return contenders.dali_augmented(images, job.size), classes

    yield from contenders.dali_batches(contenders.dali_pipeline(job, graph), job)


def torch(job: Job) -> Batches:
    """PyTorch's affine_grid and grid_sample on batches of a tensor of all pixels, on the GPU if there is one; CHW."""
    import torch

    levels, labels = (torch.from_numpy(array).to(job.device) for array in pixels(job))
    levels = levels.permute(0, 3, 1, 2).contiguous()
    rng = np.random.default_rng()
    for numbers in job.orders():
        chosen = torch.from_numpy(numbers).to(job.device)
        yield contenders.torch_warped(levels[chosen], rng), labels[chosen]


def cast(job: Job) -> Batches:
    """The limit: each pixel in memory is read once, scaled, and written in float32, by all CPUs or the GPU."""
    levels: Any
    levels, labels = pixels(job)
    if job.gpu:
        import torch

        levels, labels = (torch.from_numpy(array).to("cuda") for array in (levels, labels))
        chosen = (torch.from_numpy(numbers).to("cuda") for numbers in job.orders())
        yield from ((levels[numbers] * (1 / 255), labels[numbers]) for numbers in chosen)
    with ThreadPoolExecutor(job.cpus) as pool:
        for numbers in job.orders():
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


def main(*arguments: str) -> None:
    compare("warm", CONTENDERS, __doc__, arguments)


if __name__ == "__main__":
    main()
