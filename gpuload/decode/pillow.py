"""The reference decoder: Pillow reads and resizes on the CPU, image by image, in threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gpuload.core.errors import BadSample, SampleError, TooManyErrors
from gpuload.decode.spec import Decoding, Interpolation
from gpuload.options import Errors
from gpuload.reading.files import in_words, read
from gpuload.reading.header import opened
from gpuload.sources import FileSource

FILTERS = {name: Image.Resampling[name.upper()] for name in get_args(Interpolation)}
MODES = {"rgb": "RGB", "grayscale": "L", "rgba": "RGBA"}


class PillowDecoder:
    """Decodes each image in one of several threads; Pillow releases the interpreter's lock."""

    def __init__(self, source: FileSource, decoding: Decoding, *, threads: int, errors: Errors):
        self._source = source
        self._decoding = decoding
        self._errors = errors
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gpuload")
        self._steps: deque[tuple[int, list[Future[NDArray[Any]]]]] = deque()
        self._counting = threading.Lock()
        self.alive = True
        self.bytes_read = 0
        self.seconds = {"read": 0.0, "decode": 0.0}
        self.samples = 0

    def submit(self, step: Any) -> None:
        draws = [None] * step.batch_size if step.crops is None else step.crops
        images = [self._pool.submit(self._image, *each) for each in zip(step.indices.tolist(), draws, strict=True)]
        self._steps.append((step.batch_size, images))

    def ready(self) -> bool:
        return all(image.done() for image in self._steps[0][1])

    def result(self, stream: int | None = None) -> NDArray[Any]:
        """Return levels [B, H, W, C]; float32 if the batch has greys of more than 8 bits, which uint8 cannot hold."""
        batch_size, images = self._steps.popleft()
        errors = [error for image in images if (error := image.exception()) is not None]
        bad = [sample for error in errors if isinstance(error, SampleError) for sample in error.samples]
        if bad:
            raise SampleError(bad, batch_size)
        for error in errors:
            raise error
        levels = [image.result() for image in images]
        same = all(level.dtype == self._decoding.dtype for level in levels)
        return np.stack(levels, dtype=self._decoding.dtype if same else np.float32, casting="unsafe")

    def discard(self) -> None:
        while self._steps:
            for image in self._steps.popleft()[1]:
                image.cancel()

    def close(self) -> None:
        self.discard()
        self.alive = False
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _image(self, index: int, drawn: NDArray[np.float64] | None) -> NDArray[Any]:
        path = self._source.path(index)
        start = middle = time.perf_counter()
        size = 0
        try:
            data = read(path, self._errors.timeout)
            middle, size = time.perf_counter(), len(data)
            return decode(data, self._decoding, drawn, self._errors.max_pixels)
        except TooManyErrors:
            raise
        except Exception as error:  # Pillow's plugins raise far more than OSError for a broken file.
            raise SampleError([BadSample(index, path, in_words(error))], 1) from error
        finally:
            with self._counting:
                self.bytes_read += size
                self.samples += 1
                self.seconds["read"] += middle - start
                self.seconds["decode"] += time.perf_counter() - middle


def decode(
    data: bytes, decoding: Decoding, drawn: NDArray[np.float64] | None = None, max_pixels: int | None = None
) -> NDArray[Any]:
    """Return the levels [H, W, C] of an encoded file, with the crop that was `drawn`.

    Greys of more than 8 bits keep the file's integers. Raise what `opened` raises, and anything that Pillow raises for
    a broken file.
    """
    with opened(data, max_pixels) as encoded:
        mode = MODES[decoding.color]
        image: Image.Image = _fast_jpeg(encoded, data) if decoding.fast_idct and encoded.format == "JPEG" else encoded
        # Greys of more than 8 bits stay as they are if grey is wanted, as in Keras.
        if image.mode != mode and not (mode == "L" and image.mode in ("I", "I;16")):
            image = image.convert(mode)
        box = (0.0, 0.0, float(image.width), float(image.height))
        if decoding.crop is not None:
            box = _box(decoding, drawn, image.height, image.width)
        if not decoding.antialias and decoding.interpolation == "bilinear":
            return _bilinear(np.asarray(image).reshape(image.height, image.width, -1), decoding.size, box)
        size = decoding.size[::-1]
        if image.size != size or decoding.crop is not None:
            image = image.resize(size, FILTERS[decoding.interpolation], box=box)
        return np.asarray(image).reshape(image.height, image.width, -1)


def recut(pixels: NDArray[np.uint8], decoding: Decoding, drawn: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the crop [H, W, C] of an image [h, w, C] that was resized before."""
    height, width, channels = pixels.shape
    picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    box = _box(decoding, drawn, height, width)
    cut = picture.resize(decoding.size[::-1], FILTERS[decoding.interpolation], box=box)
    return np.asarray(cut).reshape(*decoding.size, channels)


def _box(decoding: Decoding, drawn: Any, height: int, width: int) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of the crop in an image of that size."""
    assert decoding.crop is not None
    box = decoding.crop.box(float(height), float(width), decoding.size, drawn, np)
    top, left, high, wide = map(float, box)
    return left, top, left + wide, top + high


def _fast_jpeg(image: Image.Image, data: bytes) -> Image.Image:
    """Decode as libjpeg's fast transform does, as nearly as Pillow can.

    Pillow takes the fast transform only together with blocky colours. So the brightness comes from a decode with it,
    and the smooth colours from one without.
    """
    if image.mode != "RGB":
        return image
    planes = []
    for draft in (1, 0):
        with opened(data, None) as encoded:
            encoded.draft("YCbCr", None)
            encoded.decoderconfig = (1, draft)
            encoded.load()
            planes.append(encoded.split())
    return Image.merge("YCbCr", (planes[0][0], *planes[1][1:])).convert("RGB")


def _bilinear(
    pixels: NDArray[Any], size: tuple[int, int], box: tuple[float, float, float, float]
) -> NDArray[np.float32]:
    """Return the box (left, top, right, bottom) at `size` (height, width), each pixel from its four neighbours."""
    result = pixels.astype(np.float32)
    for axis, start, stop in ((0, box[1], box[3]), (1, box[0], box[2])):
        length, count = result.shape[axis], size[axis]
        position = np.clip(start + (np.arange(count) + 0.5) * ((stop - start) / count) - 0.5, 0, length - 1)
        first = np.floor(position).astype(int)
        share = (position - first).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        below, above = (result.take(np.minimum(first + step, length - 1), axis) for step in (0, 1))
        result = below + (above - below) * share
    return result
