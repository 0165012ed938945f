"""The loaders that `benchmarks.images` compares: each a generator that yields (images, labels) for ever.

All of them do the same work on the same files, in random order and in batches: read, decode, resize to size x size with
the nearest pixel, shear by up to 0.2 degrees, zoom by 0.8 to 1.2 in x and y, bilinear, flip half of them, scale to 0..1
in float32. Each is written as its users write it, with all CPUs where it can use them; its docstring says what differs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.jobs import SHEAR, ZOOM, Batches, Job, gpu_framework, warps
from benchmarks.pillow_contenders import grain, spdl, torch

FIRST_REPEATS = 10
"""Names of each file in the first epoch of `gpuload first`, so that it lasts."""


def gpuload_loader(job: Job, source: Any = None, **options: Any) -> Any:
    """The gpuload.Loader that does the job, of all its files or of another source."""
    import gpuload

    return gpuload.Loader(
        source or gpuload.ImageFolder(job.folder),
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
        **options,
    )


def gpuload_native(job: Job) -> Batches:
    """gpuload.Loader without a cache; on a GPU it delivers there."""
    with gpuload_loader(job, cache=None) as loader:
        while True:
            yield from loader


def gpuload_first(job: Job) -> Batches:
    """The same with cache="auto", in its first epoch, which fills the cache; ten names for each file make it last."""
    import gpuload

    paths, labels = zip(*job.files * FIRST_REPEATS, strict=True)
    source = gpuload.ImageList(paths, labels)
    while True:
        with gpuload_loader(job, source, cache="auto") as loader:
            yield from loader


def gpuload_keras(job: Job) -> Batches:
    """gpuload.keras.ImageDataGenerator without a cache, taken with next(); always NumPy arrays."""
    from gpuload.keras import ImageDataGenerator

    return flow(ImageDataGenerator, job, device=job.device, cache=None)


def keras(job: Job) -> Batches:
    """Keras' own ImageDataGenerator, taken with next(): one thread, on the CPU."""
    try:
        from keras.src.legacy.preprocessing.image import ImageDataGenerator
    except ImportError:
        from tensorflow.keras.preprocessing.image import ImageDataGenerator

    return flow(ImageDataGenerator, job)


def flow(generator: Any, job: Job, **options: Any) -> Batches:
    """Batch after batch of a class with the interface of Keras' generator."""
    from keras.config import disable_interactive_logging

    disable_interactive_logging()
    augment = generator(shear_range=SHEAR, zoom_range=ZOOM, horizontal_flip=True, rescale=1 / 255, **options)
    found = augment.flow_from_directory(job.folder, target_size=(job.size, job.size), batch_size=job.batch_size)
    while True:
        yield next(found)


def dali_augment(images: Any, size: int) -> Any:
    """DALI's operators from levels [H, W, C] to what is delivered."""
    from nvidia.dali import fn, types

    center = [size / 2, size / 2]
    tilt = fn.stack(fn.random.uniform(range=(-SHEAR, SHEAR)), 0.0)
    zoom = fn.random.uniform(range=(1 - ZOOM, 1 + ZOOM), shape=[2])
    matrix = fn.transforms.scale(fn.transforms.shear(angles=tilt, center=center), scale=zoom, center=center)
    images = fn.warp_affine(images, matrix=matrix, fill_value=None, interp_type=types.INTERP_LINEAR, dtype=types.FLOAT)
    return fn.crop_mirror_normalize(
        images, mirror=fn.random.coin_flip(), std=[255.0] * 3, dtype=types.FLOAT, output_layout="HWC"
    )


def dali_batches(pipe: Any, gpu: bool) -> Batches:
    """What a pipeline makes, as arrays without a copy."""
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
        return dali_augment(images, job.size), labels.gpu() if gpu else labels

    yield from dali_batches(graph(), gpu)


def tf_decode(path: Any, size: int) -> Any:
    """TensorFlow's operations from a file's name to levels [size, size, 3]."""
    import tensorflow as tf

    image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
    return tf.image.resize(image, (size, size), method="nearest")


def tf_warp(levels: Any) -> Any:
    """TensorFlow's operations from levels [size, size, 3] to an image to deliver."""
    import tensorflow as tf

    size = levels.shape[0]
    middle = (size - 1) / 2
    image = tf.cast(levels, tf.float32) / 255
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
    return warped[0]


def tf_data(job: Job) -> Batches:
    """tf.data, everything AUTOTUNE and in any order; ImageProjectiveTransformV3 image by image, the flip in its matrix.

    Always NumPy arrays. Decodes with TensorFlow's default, the fast inverse DCT. Warping whole batches, or a flip of
    its own, was no faster.
    """
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")

    def load(path: Any, label: Any) -> Any:
        return tf_warp(tf_decode(path, job.size)), label

    paths, labels = (list(column) for column in zip(*job.files, strict=True))
    data = tf.data.Dataset.from_tensor_slices((paths, labels)).shuffle(len(paths)).repeat()
    data = data.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    yield from data.batch(job.batch_size).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


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


def ffcv(job: Job) -> Batches:
    """FFCV."""
    raise ImportError(
        "FFCV has no wheels, and building it needs the headers of OpenCV and of libjpeg-turbo; it reads a file of its "
        "own format, and has neither shear nor zoom"
    )


def decoder(job: Job) -> Batches:
    """The limit: DALI reads and decodes the files, and nothing else."""
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
        return images, labels

    pipe = graph()
    pipe.build()
    while True:
        yield pipe.run()


CONTENDERS = {
    "gpuload": gpuload_native,
    "gpuload first": gpuload_first,
    "gpuload.keras": gpuload_keras,
    "dali": dali,
    "tf.data": tf_data,
    "torch": torch,
    "torchvision": torchvision,
    "spdl": spdl,
    "grain": grain,
    "ffcv": ffcv,
    "keras": keras,
    "decoder": decoder,
}
