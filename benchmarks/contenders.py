"""The loaders that `benchmarks.images` compares: each a generator that yields (images, labels) for ever.

All of them do the same work on the same files, in random order and in batches: read, decode, resize to size x size with
the nearest pixel, shear by up to 0.2 degrees, zoom by 0.8 to 1.2 in x and y, bilinear, flip half of them, scale to 0..1
in float32. Each is written as its users write it, with all CPUs where it can use them; its docstring says what differs.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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


def gpuload_loader(job: Job) -> Any:
    """The loader of the contender `gpuload`."""
    import gpuload

    return gpuload.Loader(
        gpuload.ImageFolder(job.folder),
        gpuload.Augment(
            size=(job.size, job.size),
            interpolation="nearest",
            shear=SHEAR,
            zoom=ZOOM,
            hflip=0.5,
            rescale=1 / 255,
            layout="HWC",
        ),
        batch_size=job.batch_size,
        shuffle=True,
        last_batch="drop",
        device=job.device,
        framework="numpy" if job.device == "cpu" else gpu_framework(),
    )


def gpuload_native(job: Job) -> Batches:
    """gpuload.Loader; on a GPU it delivers there."""
    loader = gpuload_loader(job)
    while True:
        yield from loader


def gpuload_keras(job: Job) -> Batches:
    """gpuload.keras.ImageDataGenerator, taken with next(); always NumPy arrays."""
    from gpuload.keras import ImageDataGenerator

    return _flow(ImageDataGenerator, job, device=job.device)


def keras(job: Job) -> Batches:
    """Keras' own ImageDataGenerator, taken with next(): one thread, on the CPU."""
    try:
        from keras.src.legacy.preprocessing.image import ImageDataGenerator
    except ImportError:
        from tensorflow.keras.preprocessing.image import ImageDataGenerator

    return _flow(ImageDataGenerator, job)


def _flow(generator: Any, job: Job, **options: Any) -> Batches:
    from keras.config import disable_interactive_logging

    disable_interactive_logging()
    augment = generator(shear_range=SHEAR, zoom_range=ZOOM, horizontal_flip=True, rescale=1 / 255, **options)
    flow = augment.flow_from_directory(job.folder, target_size=(job.size, job.size), batch_size=job.batch_size)
    while True:
        yield next(flow)


def dali(job: Job) -> Batches:
    """A DALI pipeline by hand: its own file reader and random numbers, two batches ahead, arrays without a copy.

    warp_affine gives float32: on the CPU that was faster than its default, uint8.
    """
    from nvidia.dali import fn, pipeline_def, types

    gpu = job.device != "cpu"

    @pipeline_def(batch_size=job.batch_size, num_threads=job.cpus, device_id=0 if gpu else None, prefetch_queue_depth=2)
    def graph() -> Any:
        files, labels = fn.readers.file(file_root=str(job.folder), random_shuffle=True, name="files")
        images = fn.decoders.image(
            files,
            device="mixed" if gpu else "cpu",
            output_type=types.RGB,
            jpeg_fancy_upsampling=True,
            adjust_orientation=False,
        )
        images = fn.resize(images, size=(job.size, job.size), interp_type=types.INTERP_NN)
        center = [job.size / 2, job.size / 2]
        tilt = fn.stack(fn.random.uniform(range=(-SHEAR, SHEAR)), 0.0)
        zoom = fn.random.uniform(range=(1 - ZOOM, 1 + ZOOM), shape=[2])
        matrix = fn.transforms.scale(fn.transforms.shear(angles=tilt, center=center), scale=zoom, center=center)
        images = fn.warp_affine(
            images, matrix=matrix, fill_value=None, interp_type=types.INTERP_LINEAR, dtype=types.FLOAT
        )
        images = fn.crop_mirror_normalize(
            images, mirror=fn.random.coin_flip(), std=[255.0] * 3, dtype=types.FLOAT, output_layout="HWC"
        )
        return images, labels.gpu() if gpu else labels

    pipe = graph()
    pipe.build()
    convert: Any = np.asarray
    stream = None
    if gpu and gpu_framework() == "cupy":
        import cupy

        convert, stream = cupy.from_dlpack, cupy.cuda.get_current_stream().ptr
    elif gpu:
        import torch

        convert, stream = torch.from_dlpack, torch.cuda.current_stream().cuda_stream
    while True:
        images, labels = pipe.run(stream)
        yield convert(images.as_tensor()), convert(labels.as_tensor())


def tf_data(job: Job) -> Batches:
    """tf.data, everything AUTOTUNE and in any order; ImageProjectiveTransformV3 image by image, the flip in its matrix.

    Always NumPy arrays. Decodes with TensorFlow's default, the fast inverse DCT. Warping whole batches, or a flip of
    its own, was no faster.
    """
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    size, middle = job.size, (job.size - 1) / 2

    def load(path: Any, label: Any) -> Any:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        image = tf.cast(tf.image.resize(image, (size, size), method="nearest"), tf.float32) / 255
        tilt = tf.random.uniform([], -SHEAR, SHEAR) * (math.pi / 180)
        zoom = tf.random.uniform([2], 1 - ZOOM, 1 + ZOOM)
        a, b = zoom[0] * tf.sign(tf.random.uniform([], -1, 1)), -tf.sin(tilt) * zoom[1]
        e = tf.cos(tilt) * zoom[1]
        matrix = tf.stack([a, b, middle - (a + b) * middle, 0.0, e, middle - e * middle, 0.0, 0.0])
        warped = tf.raw_ops.ImageProjectiveTransformV3(
            images=image[None],
            transforms=matrix[None],
            output_shape=[size, size],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="NEAREST",
        )
        return warped[0], label

    paths, labels = (list(column) for column in zip(*job.files, strict=True))
    data = tf.data.Dataset.from_tensor_slices((paths, labels)).shuffle(len(paths)).repeat()
    data = data.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    yield from data.batch(job.batch_size).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


class PillowDataset:
    """A map-style data set for PyTorch; Pillow fills with black beyond the border."""

    def __init__(self, files: list[tuple[str, int]], size: int):
        self.files = files
        self.size = (size, size)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        import torch
        from PIL import Image

        path, label = self.files[index]
        with Image.open(path) as file:
            image = file.convert("RGB").resize(self.size, Image.Resampling.NEAREST)
        seed = int(torch.randint(2**62, ()))  # PyTorch seeds its own generator anew in each worker
        (matrix,) = warps(1, np.random.default_rng(seed))
        offset = self.size[0] / 2 * (1 - matrix.sum(axis=1))
        affine = np.column_stack([matrix, offset]).ravel().tolist()
        image = image.transform(self.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels.float().div_(255), label


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


def torchvision(job: Job) -> Batches:
    """torchvision's JPEG decoder on the GPU, then PyTorch's interpolate and grid_sample; files read one batch ahead."""
    if job.device == "cpu":
        raise ImportError("its decoder on the CPU is not compared: this contender is for --device cuda")
    import torch
    import torch.nn.functional as F
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    rng = np.random.default_rng()

    def orders() -> Iterator[np.ndarray]:
        while True:
            order = rng.permutation(len(job.files))
            for first in range(0, len(order) - job.batch_size + 1, job.batch_size):
                yield order[first : first + job.batch_size]

    def sized(image: Any) -> Any:
        return F.interpolate(image[None], (job.size, job.size), mode="nearest-exact")

    with ThreadPoolExecutor(job.cpus) as pool:
        ahead: Any = None
        for order in orders():
            chosen = [job.files[index] for index in order]
            current, ahead = ahead, (pool.map(read_file, [path for path, _ in chosen]), [label for _, label in chosen])
            if current is None:
                continue
            decoded = decode_jpeg(list(current[0]), mode=ImageReadMode.RGB, device="cuda")
            images = torch.cat([sized(image) for image in decoded]).float()
            matrices = np.concatenate([warps(len(images), rng), np.zeros((len(images), 2, 1))], axis=2)
            theta = torch.from_numpy(matrices.astype(np.float32)).to("cuda", non_blocking=True)
            grid = F.affine_grid(theta, list(images.shape), align_corners=False)
            images = F.grid_sample(images, grid, padding_mode="border", align_corners=False) / 255
            yield images, torch.tensor(current[1]).to("cuda", non_blocking=True)


CONTENDERS = {
    "gpuload": gpuload_native,
    "gpuload.keras": gpuload_keras,
    "dali": dali,
    "tf.data": tf_data,
    "torch": torch,
    "torchvision": torchvision,
    "keras": keras,
}
