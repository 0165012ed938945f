"""The loaders that `benchmarks.images` compares: each a generator that yields (images, labels) for ever.

All of them do the same work on the same files, in random order and in batches: read, decode, resize to size x size with
the nearest pixel, shear by up to 0.2 degrees, zoom by 0.8 to 1.2 in x and y, bilinear, flip half of them, scale to 0..1
in float32. Each is written as its users write it, with all CPUs where it can use them; its docstring says what differs.
"""

import importlib
import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import gpuload
from benchmarks.jobs import SHEAR, ZOOM, Batches, Job, endless, gpu_framework, warps
from benchmarks.pillow_contenders import grain, spdl, torch

FIRST_REPEATS = 10  # Names of each file in the first epoch of `gpuload first`, so that it lasts.
KERAS = "keras.src.legacy.preprocessing.image"  # Module of Keras' own ImageDataGenerator.


def gpuload_loader(job: Job, source: Any = None, **options: Any) -> Any:
    """Return the gpuload.Loader that does the job, of all its files or of another source."""
    warp = {"interpolation": "nearest", "shear": SHEAR, "zoom": ZOOM, "hflip": 0.5}
    transform = gpuload.Augment(size=(job.size, job.size), **warp, rescale=1 / 255, layout="HWC")
    framework = gpu_framework() if job.gpu else "numpy"
    options = {"shuffle": True, "last_batch": "drop", "device": job.device, "framework": framework, **options}
    return gpuload.Loader(source or gpuload.ImageFolder(job.folder), transform, batch_size=job.batch_size, **options)


def gpuload_native(job: Job) -> Batches:
    """gpuload.Loader without a cache; on a GPU it delivers there."""
    with gpuload_loader(job, cache=None) as loader:
        yield from endless(loader)


def gpuload_first(job: Job) -> Batches:
    """The same with cache="auto", in its first epoch, which fills the cache; ten names for each file make it last."""
    source = gpuload.ImageList(*zip(*job.files * FIRST_REPEATS, strict=True))
    while True:
        with gpuload_loader(job, source, cache="auto") as loader:
            yield from loader


def gpuload_keras(job: Job) -> Batches:
    """gpuload.keras.ImageDataGenerator without a cache, taken with next(); always NumPy arrays."""
    yield from flow("gpuload.keras", job, device=job.device, cache=None)


def keras(job: Job) -> Batches:
    """Keras' own ImageDataGenerator, which keeps nothing, taken with next(): one thread, on the CPU."""
    yield from flow(KERAS, job)


def flow(module: str, job: Job, **options: Any) -> Any:
    """Return the endless iterator of a module's ImageDataGenerator."""
    generator = importlib.import_module(module).ImageDataGenerator
    importlib.import_module("keras.config").disable_interactive_logging()
    augment = generator(shear_range=SHEAR, zoom_range=ZOOM, horizontal_flip=True, rescale=1 / 255, **options)
    return augment.flow_from_directory(job.folder, target_size=(job.size, job.size), batch_size=job.batch_size)


def dali_pipeline(job: Job, graph: Callable[[], Any], ahead: int = 2) -> Any:
    """Build a DALI pipeline by hand: all CPUs, two batches ahead or more."""
    from nvidia.dali import pipeline_def

    options = {"num_threads": job.cpus, "device_id": 0 if job.gpu else None, "prefetch_queue_depth": ahead}
    pipe = pipeline_def(graph, batch_size=job.batch_size, **options)()
    pipe.build()
    return pipe


def dali_decoded(job: Job, read_ahead: int = 1, **options: Any) -> tuple[Any, Any]:
    """DALI's operators from files to images and labels, with further options of the decoder."""
    from nvidia.dali import fn, types

    files, labels = fn.readers.file(
        file_root=str(job.folder), random_shuffle=True, name="files", prefetch_queue_depth=read_ahead
    )
    device = "mixed" if job.gpu else "cpu"
    exact = {"jpeg_fancy_upsampling": True, "adjust_orientation": False}
    return fn.decoders.image(files, device=device, output_type=types.RGB, **exact, **options), labels


def dali_augmented(images: Any, size: int) -> Any:
    """DALI's operators from levels [H, W, C] to the images that are delivered."""
    from nvidia.dali import fn, types

    center = [size / 2, size / 2]
    tilt = fn.stack(fn.random.uniform(range=(-SHEAR, SHEAR)), 0.0)
    zoom = fn.random.uniform(range=(1 - ZOOM, 1 + ZOOM), shape=[2])
    matrix = fn.transforms.scale(fn.transforms.shear(angles=tilt, center=center), scale=zoom, center=center)
    # float32 from the warp on was faster on the CPU than its default, uint8.
    images = fn.warp_affine(images, matrix=matrix, fill_value=None, interp_type=types.INTERP_LINEAR, dtype=types.FLOAT)
    mirror, std = fn.random.coin_flip(), [255.0] * 3
    return fn.crop_mirror_normalize(images, mirror=mirror, std=std, dtype=types.FLOAT, output_layout="HWC")


def dali_batches(pipe: Any, job: Job) -> Batches:
    """Batches of a pipeline, as arrays without a copy."""
    convert, stream = np.asarray, None
    if job.gpu:
        name = gpu_framework()
        arrays = importlib.import_module(name)
        convert, cuda = arrays.from_dlpack, arrays.cuda
        stream = cuda.get_current_stream().ptr if name == "cupy" else cuda.current_stream().cuda_stream
    while True:
        images, labels = pipe.run(stream)
        yield convert(images.as_tensor()), convert(labels.as_tensor())


def dali(job: Job) -> Batches:
    """A DALI pipeline by hand: its own file reader and random numbers, two batches ahead, arrays without a copy."""
    yield from dali_by_hand(job)


def dali_by_hand(job: Job, ahead: int = 2, **options: Any) -> Batches:
    """Batches of that pipeline, so many ahead, with further options of `dali_decoded`."""
    from nvidia.dali import fn, types

    def graph() -> Any:
        images, labels = dali_decoded(job, **options)
        images = fn.resize(images, size=(job.size, job.size), interp_type=types.INTERP_NN)
        return dali_augmented(images, job.size), labels.gpu() if job.gpu else labels

    yield from dali_batches(dali_pipeline(job, graph, ahead), job)


def decoder(job: Job, **options: Any) -> Batches:
    """The limit: DALI reads and decodes the files, and nothing else."""
    pipe = dali_pipeline(job, lambda: dali_decoded(job, **options))
    while True:
        yield pipe.run()


def tf_files(job: Job) -> Any:
    """Return a tf.data.Dataset of paths and labels; TensorFlow never takes the GPU."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    paths, labels = (list(column) for column in zip(*job.files, strict=True))
    return tf.data.Dataset.from_tensor_slices((paths, labels))


def tf_decoded(path: Any, size: int) -> Any:
    """TensorFlow's operations from a file's name to levels [size, size, 3]."""
    import tensorflow as tf

    image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
    return tf.image.resize(image, (size, size), method="nearest")


def tf_warped(levels: Any) -> Any:
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
    options = {"interpolation": "BILINEAR", "fill_mode": "NEAREST", "fill_value": 0.0}
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None], transforms=matrix[None], output_shape=[size, size], **options
    )[0]


def tf_data(job: Job) -> Batches:
    """tf.data, everything AUTOTUNE and in any order; ImageProjectiveTransformV3 image by image, the flip in its matrix.

    Always NumPy arrays. Decodes with TensorFlow's default, the fast inverse DCT. Warping whole batches, or a flip of
    its own, was no faster.
    """
    import tensorflow as tf

    def load(path: Any, label: Any) -> Any:
        return tf_warped(tf_decoded(path, job.size)), label

    data = tf_files(job).shuffle(len(job.files)).repeat()
    data = data.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    yield from data.batch(job.batch_size).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def torch_warped(levels: Any, rng: np.random.Generator) -> Any:
    """Images by PyTorch's affine_grid and grid_sample from levels [B, C, H, W], where the levels are."""
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    matrices = np.pad(warps(len(levels), rng).astype(np.float32), ((0, 0), (0, 0), (0, 1)))
    theta = torch.from_numpy(matrices).to(levels.device, non_blocking=True)
    grid = affine_grid(theta, list(levels.shape), align_corners=False)
    return grid_sample(levels.float().div_(255), grid, padding_mode="border", align_corners=False)


def torchvision(job: Job) -> Batches:
    """torchvision's JPEG decoder on the GPU, then PyTorch's interpolate and grid_sample; files read one batch ahead."""
    if not job.gpu:
        raise ImportError("its decoder on the CPU is not compared: this contender is for --device cuda")
    import torch
    import torch.nn.functional as F
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    rng = np.random.default_rng()
    with ThreadPoolExecutor(job.cpus) as pool:
        batches = (zip(*(job.files[index] for index in order), strict=True) for order in job.orders())
        reads = ((pool.map(read_file, paths), labels) for paths, labels in batches)
        for (files, labels), _ in itertools.pairwise(reads):  # The second of a pair is the batch ahead.
            decoded = decode_jpeg(list(files), mode=ImageReadMode.RGB, device="cuda")
            levels = [F.interpolate(image[None], (job.size, job.size), mode="nearest-exact") for image in decoded]
            yield torch_warped(torch.cat(levels), rng), torch.tensor(labels).to("cuda", non_blocking=True)


def ffcv(job: Job) -> Batches:
    raise ImportError("it has no wheels, builds only with headers of OpenCV, and has neither shear nor zoom")


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
