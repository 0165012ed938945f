"""The reference augmenter: SciPy warps, Pillow brightens, NumPy does the rest; image by image, in threads."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scipy import ndimage

from gpuload.core.codes import EPSILON
from gpuload.decode.pillow import recut
from gpuload.decode.spec import Indices
from gpuload.images.augment import Augment
from gpuload.images.engine import Augmenter, Augmenting
from gpuload.images.job import ImageJob
from gpuload.images.step import Step

Floats = NDArray[np.float32]


class NumpyAugmenter(Augmenter):
    """Augments each image in one of several threads; SciPy releases the interpreter's lock.

    A function of the user's is called in one thread and in the order of the batch: it need not be safe for threads.
    """

    def __init__(self, job: ImageJob, threads: int):
        super().__init__(job, threads)
        function = job.transform.function
        self._caller = None if function is None else ThreadPoolExecutor(1, thread_name_prefix="gpuload-function")

    def start(self, store: Any, fresh: Any, rows: Indices, step: Step) -> Augmenting:
        out = self._empty(len(rows))
        levels = [store[row] if row >= 0 else fresh[~row] for row in rows.tolist()]
        if self._caller is None:
            images = [self._pool.submit(self._whole, level, step, n, out[n]) for n, level in enumerate(levels)]
            return Augmenting(images, out)
        moved = [self._pool.submit(self._moved, level, step, n) for n, level in enumerate(levels)]
        return Augmenting(moved, out, self._caller.submit(self._in_order, moved, out))

    def close(self) -> None:
        super().close()
        if self._caller is not None:
            self._caller.shutdown(wait=False, cancel_futures=True)

    def _whole(self, levels: NDArray[Any], step: Step, n: int, out: NDArray[Any]) -> None:
        self._finish(self._moved(levels, step, n), out)

    def _in_order(self, images: list[Future[Floats]], out: NDArray[Any]) -> None:
        for image, each in zip(images, out, strict=True):
            self._finish(image.result(), each)

    def _moved(self, levels: NDArray[Any], step: Step, n: int) -> Floats:
        """Return image `n` of the step, warped and recoloured: [H, W, C], levels from 0 to 255."""
        start, transform = time.perf_counter(), self._job.transform
        if self._job.recuts and step.crops is not None:
            levels = recut(levels, transform.decoding, step.crops[n])
        image = np.asarray(levels, np.float32)
        if step.matrices is not None:
            image = warp(image, step.matrices[n], transform)
        if step.channel_shift is not None:
            image = shift_channels(image, float(step.channel_shift[n]))
        if step.brightness is not None:
            image = brighten(image, float(step.brightness[n]))
        self._count(start, 0)
        return image

    def _finish(self, image: Floats, out: NDArray[Any]) -> None:
        start = time.perf_counter()
        image = scale(image.transpose(2, 0, 1) if self._job.planar else image, self._job.transform)
        if out.dtype.kind == "u":
            image = np.clip(np.rint(image), 0, np.iinfo(out.dtype).max)
        out[...] = image
        self._count(start, 1)


def warp(image: Floats, matrix: NDArray[np.float64], transform: Augment) -> Floats:
    """Return [H, W, C] read through `matrix` (output to input in (x, y), pixel centres at +0.5)."""
    linear, shift = matrix[:, :2], matrix[:, 2]
    if not shift.any() and (linear == np.eye(2)).all():
        return image
    # SciPy counts (row, column), with pixel centres at whole numbers.
    offset = (linear @ (0.5, 0.5) + shift - 0.5)[::-1]
    planes = [
        ndimage.affine_transform(
            image[:, :, channel],
            linear[::-1, ::-1],
            offset,
            order=transform.warp_order,
            mode=transform.fill_mode,
            cval=transform.fill_value,
        )
        for channel in range(image.shape[2])
    ]
    return np.stack(planes, axis=2)


def shift_channels(image: Floats, levels: float) -> Floats:
    """Return the image with all channels shifted, clipped to the image's least and greatest level."""
    return cast(Floats, np.clip(image + np.float32(levels), image.min(), image.max()))


def brighten(image: Floats, factor: float) -> Floats:
    """Return the image with Pillow's brightness, on whole levels.

    An image that leaves 0..255 is stretched to that range first and back afterwards, as in Keras'
    `apply_brightness_shift`.
    """
    low, high = image.min(), image.max()
    stretched = low < 0 or high > 255
    levels = image
    if stretched:
        levels = image - low
        levels = levels / (levels.max() or 1.0) * 255
    whole = levels.astype(np.uint8)
    picture = Image.fromarray(whole[:, :, 0] if whole.shape[2] == 1 else whole)
    result = np.asarray(ImageEnhance.Brightness(picture).enhance(factor), np.float32).reshape(image.shape)
    return cast(Floats, result / 255 * (high - low) + low) if stretched else result


def scale(image: Floats, transform: Augment) -> Floats:
    """Apply all that follows the colours: function, rescale, statistics, whitening. The image is in `layout`."""
    if transform.function is not None:
        shape = image.shape
        image = np.asarray(transform.function(np.ascontiguousarray(image)), np.float32)
        if image.shape != shape:
            raise ValueError(f"function must return an image of the shape it was given, {shape}, not {image.shape}")
    if transform.rescale:
        image = image * np.float32(transform.rescale)
    if transform.per_sample is not None:
        image = image - image.mean()
        if transform.per_sample == "standardize":
            image = image / (image.std() + np.float32(EPSILON))
    axes = (-1, 1, 1) if transform.layout == "CHW" else (-1,)
    if transform.mean is not None:
        image = image - np.asarray(transform.mean, np.float32).reshape(axes)
    if transform.std is not None:
        image = image / np.asarray(transform.std, np.float32).reshape(axes)
    if transform.zca is not None:
        image = (image.reshape(1, -1) @ transform.zca).reshape(image.shape)
    return image
