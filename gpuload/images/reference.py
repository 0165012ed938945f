"""The reference engine: Pillow reads and resizes, SciPy warps, NumPy does the rest; on the CPU, in threads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scipy import ndimage

from gpuload.core.errors import BadSample, ErrorPolicy, SampleError, TooManyErrors
from gpuload.core.memory import empty
from gpuload.decode.pillow import decode, recut
from gpuload.images.augment import EPSILON, Augment
from gpuload.images.step import Step
from gpuload.reading.files import in_words, read
from gpuload.sources import ImageArray, ImageSource

Floats = NDArray[np.float32]

OUTPUT_DTYPES = {"float32": "float32", "float16": "float16", "uint8": "uint8", "bfloat16": "float32"}
"""NumPy and DALI have no bfloat16: delivery casts it."""


def warp(image: Floats, matrix: NDArray[np.float64], transform: Augment) -> Floats:
    """[H, W, C] read through `matrix` (output to input in (x, y), pixel centres at +0.5)."""
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
    """All channels moved by `levels`, within the image's least and greatest level."""
    return cast(Floats, np.clip(image + np.float32(levels), image.min(), image.max()))


def brighten(image: Floats, factor: float) -> Floats:
    """Pillow's brightness, on whole levels. An image that leaves 0..255 is stretched to it first and back afterwards,
    as in Keras' `apply_brightness_shift`."""
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
    """Everything that follows the colours: function, rescale, statistics, whitening. In `layout`, float32."""
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


@dataclass
class _Batch:
    step: Step
    images: list[Future[Any]]
    scaled: Future[Any] | None
    """The user's function at work on the images, if there is one."""
    out: NDArray[Any]


STAGES = ("read", "decode", "augment")
"""What an image goes through: resizing is part of `decode`, all that follows of `augment`."""


class NumpyEngine:
    """Decodes and augments image by image in a pool of threads; Pillow and SciPy release the interpreter's lock."""

    def __init__(
        self,
        source: ImageSource,
        transform: Augment,
        *,
        threads: int,
        policy: ErrorPolicy,
        cache: Any = None,
        kept: Augment | None = None,
    ):
        """`kept`: the transform whose first half makes what the cache keeps, where its size is another."""
        self._source = source
        self._transform = transform
        self._policy = policy
        self._cache = cache
        self._kept = kept
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gpuload")
        # A user's function is called in one thread and in the batch's order: it need not be safe for threads.
        self._caller = ThreadPoolExecutor(1, thread_name_prefix="gpuload-function") if transform.function else None
        self._batches: deque[_Batch] = deque()
        self._counting = threading.Lock()
        self.alive = True
        self.bytes_read = 0
        """Of all files that were read so far, used or not."""
        self.seconds = dict.fromkeys(STAGES, 0.0)
        """That threads have spent so far in each of the stages."""
        self.samples = 0
        """Images that came through."""

    @property
    def pending(self) -> int:
        return len(self._batches)

    def submit(self, step: Step) -> None:
        out = empty((step.batch_size, *self._shape), OUTPUT_DTYPES[self._transform.dtype])
        kept: list[Any] = [None] * step.batch_size
        if self._cache is not None and not isinstance(self._source, ImageArray):
            found = self._cache.rows(step.indices)
            images_there = self._cache.images
            # Copied at once: threads may run on after the loader is closed, and a file's mapping may end meanwhile.
            kept = [images_there[row].copy() if row >= 0 else None for row in found.tolist()]
        if self._caller is None:
            images: list[Future[Any]] = [
                self._pool.submit(self._sample, step, row, kept[row], out[row]) for row in range(step.batch_size)
            ]
            scaled = None
        else:
            images = [self._pool.submit(self._moved, step, row, kept[row]) for row in range(step.batch_size)]
            scaled = self._caller.submit(self._in_order, images, out)
        self._batches.append(_Batch(step, images, scaled, out))

    def result(self, stream: int | None = None) -> NDArray[Any]:
        batch = self._batches.popleft()
        if batch.scaled is not None:
            batch.scaled.result()
        errors = [error for error in (image.exception() for image in batch.images) if error is not None]
        bad = [sample for error in errors if isinstance(error, SampleError) for sample in error.samples]
        if bad:
            raise SampleError(bad, batch.step.batch_size)
        for error in errors:
            raise error
        return batch.out

    def discard(self) -> None:
        for batch in self._batches:
            for future in filter(None, (batch.scaled, *batch.images)):
                future.cancel()
        self._batches.clear()

    def close(self) -> None:
        self.discard()
        self.alive = False
        for pool in filter(None, (self._pool, self._caller)):
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def _shape(self) -> tuple[int, ...]:
        source, transform = self._source, self._transform
        assert transform.size is not None
        channels = source.images.shape[3] if isinstance(source, ImageArray) else transform.channels
        return (channels, *transform.size) if transform.layout == "CHW" else (*transform.size, channels)

    @contextlib.contextmanager
    def _spent(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._counting:
                self.seconds[stage] += time.perf_counter() - start

    def _sample(self, step: Step, row: int, kept: Any, out: NDArray[Any]) -> None:
        self._finished(self._moved(step, row, kept), out)

    def _in_order(self, images: list[Future[Floats]], out: NDArray[Any]) -> None:
        for row, image in enumerate(images):
            if image.exception() is None:
                self._finished(image.result(), out[row])

    def _moved(self, step: Step, row: int, kept: Any) -> Floats:
        """One image of the step, read, warped and recoloured: [H, W, C], levels from 0 to 255. `kept`: as it was
        decoded before."""
        image = self._decoded(step, row) if kept is None else kept
        with self._spent("augment"):
            if self._kept is not None and step.crops is not None:
                image = recut(image, self._transform, step.crops[row])
            image = np.asarray(image, np.float32)
            if step.matrices is not None:
                image = warp(image, step.matrices[row], self._transform)
            if step.channel_shift is not None:
                image = shift_channels(image, float(step.channel_shift[row]))
            if step.brightness is not None:
                image = brighten(image, float(step.brightness[row]))
        return image

    def _decoded(self, step: Step, row: int) -> NDArray[Any]:
        index = int(step.indices[row])
        if isinstance(self._source, ImageArray):
            image: NDArray[Any] = self._source.images[index]
            return image
        path, draws = self._source.path(index), None if step.crops is None else step.crops[row]
        try:
            with self._spent("read"):
                data = read(path, self._policy.timeout)
            with self._counting:
                self.bytes_read += len(data)
            with self._spent("decode"):
                image = decode(data, self._kept or self._transform, draws, self._policy.max_pixels)
        except TooManyErrors:
            raise
        except Exception as error:  # Pillow's plugins raise far more than OSError for a broken file.
            raise SampleError([BadSample(index, path, in_words(error))], 1) from error
        # Greys of more than 8 bits fit into no cache of bytes.
        if self._cache is not None and image.dtype == self._cache.images.dtype:
            self._cache.put(step.indices[row : row + 1], image[np.newaxis])
        return image

    def _finished(self, image: Floats, out: NDArray[Any]) -> None:
        transform = self._transform
        self.samples += 1
        with self._spent("augment"):
            image = scale(image.transpose(2, 0, 1) if transform.layout == "CHW" else image, transform)
            if out.dtype.kind == "u":
                image = np.clip(np.rint(image), 0, np.iinfo(out.dtype).max)
            out[...] = image
