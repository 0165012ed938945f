"""Runs of a DALI pipeline: encoded JPEGs in, pictures or levels out, on the CPU or a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import io
import math
import os
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gpuload.core.device import CPU, Device
from gpuload.decode.crop import CenterCrop
from gpuload.decode.graph import breaks_ties, decodes_regions, pipeline, ties
from gpuload.decode.levels import ready
from gpuload.decode.spec import Decoding
from gpuload.reading.files import Bytes

_SMALL = 16
"""Side, in pixels, of pictures that are decoded to warm up."""
LONGEST_JPEG = 65_500
"""Greatest height or width that Pillow writes."""

Sizes = NDArray[np.int64]


class DaliRuns:
    """A DALI pipeline. Runs are fed in one thread and taken in another, in the same order.

    Args:
        decoding: The levels wanted.
        device: Where DALI decodes.
        batch_size: Greatest number of pictures in a run.
        threads: Number of DALI's threads on the CPU.
        resizes: Whether runs give levels [B, H, W, C]. False: pictures of any size, RGB.
    """

    def __init__(self, decoding: Decoding, device: Device, *, batch_size: int, threads: int, resizes: bool):
        self._decoding, self._resizes = decoding, resizes
        self._place = "cpu" if device == CPU else "gpu"
        self._pipe: Any = pipeline(
            decoding, self._place, resizes=resizes, batch_size=batch_size, num_threads=threads, device_id=device.index
        )
        self._pipe.build()
        self._fed: deque[tuple[int, Any]] = deque()
        """Number and inputs of the runs that were not taken. DALI reads the inputs where they are."""
        self._number = 0
        self._taking = threading.Lock()
        _running.add(self)
        if self._place == "gpu":
            self._fill_engine(batch_size)

    def _fill_engine(self, count: int) -> None:
        """Decode as many small pictures as a run may have.

        nvImageCodec settles with its first batch how many pictures of each batch the JPEG engine may take
        (`adjustBatchSizes` in its src/image_generic_codec.h, 0.8): after a short one, CUDA would decode the rest of all
        others.
        """
        sizes = np.full((count, 2), _SMALL)
        whole = np.hstack([np.zeros_like(sizes), sizes])
        regions = whole if self._decoding.random or decodes_regions(self._decoding, "gpu", self._resizes) else None
        picture = np.frombuffer(_sound(_SMALL**2), np.uint8)
        with contextlib.suppress(RuntimeError):  # If there is trouble, it comes again with the first run.
            self.take(self.feed([picture] * count, sizes, whole.astype(np.float64), regions))

    def feed(self, files: list[Bytes], sizes: Sizes, boxes: NDArray[np.float64] | None, regions: Sizes | None) -> int:
        """Start a run without waiting for it; return its number.

        Args:
            files: [B] encoded JPEGs.
            sizes: [B, 2] their heights and widths.
            boxes: [B, 4] boxes of the crop: top, left, height, width. None: there is no crop.
            regions: [B, 4] whole pixels that are decoded, or cut out, likewise. None: the whole pictures.
        """
        inputs: dict[str, Any] = {"files": files}
        cut = sizes
        if regions is not None:
            inputs["starts"] = np.ascontiguousarray(regions[:, :2], np.int32)
            inputs["extents"] = np.ascontiguousarray(regions[:, 2:], np.int32)
            cut = regions[:, 2:]
        if self._resizes and isinstance(self._decoding.crop, CenterCrop):
            assert boxes is not None
            inputs["boxes"] = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]).astype(np.float32)
        if self._resizes and breaks_ties(self._decoding):
            inputs |= _fed_ties(cut, self._decoding.size)
        for name, arrays in inputs.items():
            self._pipe.feed_input(name, arrays)
        self._pipe.schedule_run()
        self._number += 1
        self._fed.append((self._number, inputs))
        return self._number

    def take(self, number: int, stream: int | None = None) -> Any:
        """Return the pictures or levels of a run, a DALI TensorList, and drop those of the runs before it.

        Args:
            number: Number that `feed` returned, later than that of the last call.
            stream: CUDA stream that will read them. None: wait until they are there.

        Raises:
            RuntimeError: DALI cannot decode a picture of the run. Later runs are not affected.
        """
        with self._taking:
            while self._fed and self._fed[0][0] < number:
                with contextlib.suppress(RuntimeError):
                    self._next(None)
            if not self._fed or self._fed[0][0] != number:
                raise RuntimeError("an interrupt has lost the pictures of this batch; the next one is whole")
            return self._next(stream)

    def _next(self, stream: int | None) -> Any:
        try:
            # The dynamic executor hands the buffer over: it is ours for as long as the list lives.
            (found,) = self._pipe.share_outputs(cuda_stream=stream)
        finally:
            self._fed.popleft()
        return found

    def close(self) -> None:
        """Free threads and memory. No other thread may be in `feed` or `take`."""
        self._pipe = None
        self._fed.clear()

    def abandon(self) -> None:
        """Leave the pipeline behind, for good: ending it would wait for its threads."""
        # DALI has no public way to give a pipeline's backend up without ending it.
        inside = {} if self._pipe is None else vars(self._pipe)
        if (backend := inside.get("_pipe")) is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(backend))
            inside["_pipe"] = None
        self.close()


_running: weakref.WeakSet[DaliRuns] = weakref.WeakSet()


def _abandon_all() -> None:
    for runs in list(_running):
        runs.abandon()


if hasattr(os, "register_at_fork"):
    # The threads of the parent's pipelines do not exist in a fork: ending a pipeline there would abort the process.
    os.register_at_fork(after_in_child=_abandon_all)


def regions_of(
    decoding: Decoding, device: Device, sizes: Sizes, boxes: NDArray[np.float64] | None, resizes: bool
) -> Sizes | None:
    """Return the regions [B, 4] that a run is fed, in whole pixels: top, left, height, width; or None.

    The box of a `CenterCrop` is widened, since its resize reads pixels around it. Until the resize is compiled, it is
    the whole picture: Pillow's own resize rounds the places of boxes in a region otherwise.
    """
    if boxes is None:
        return None
    if decoding.random:  # The box has whole pixels.
        return boxes.astype(np.int64)
    if not decodes_regions(decoding, "cpu" if device == CPU else "gpu", resizes):
        return None
    if not ready(decoding):
        return np.hstack([np.zeros_like(sizes), sizes])
    reach = _REACH[decoding.interpolation] * np.maximum(boxes[:, 2:] / decoding.size, 1.0) + 2.0
    first = np.maximum(np.floor(boxes[:, :2] - reach), 0).astype(np.int64)
    last = np.minimum(np.ceil(boxes[:, :2] + boxes[:, 2:] + reach), sizes).astype(np.int64)
    return np.hstack([first, last - first])


_REACH = {"nearest": 0.0, "box": 0.5, "bilinear": 1.0, "hamming": 1.0, "bicubic": 2.0, "lanczos": 3.0}
"""Support of Pillow's filters, in pixels of the output."""


def _fed_ties(sizes: Sizes, size: tuple[int, int]) -> dict[str, NDArray[Any]]:
    rows, columns = ([ties(length, side) for length in sizes[:, axis].tolist()] for axis, side in enumerate(size))
    return {
        "rows": np.stack([choices for choices, _, _ in rows]),
        "columns": np.stack([choices for choices, _, _ in columns]),
        "slack": np.array([[y[1], x[1]] for y, x in zip(rows, columns, strict=True)], np.float32),
        "tied": np.array([y[2] or x[2] for y, x in zip(rows, columns, strict=True)], np.int32),
    }


def decodes_a_sound_picture(device: Device, pixels: int) -> bool:
    """Whether DALI decodes a picture of about so many pixels, not more, that is certainly fine.

    If it does not, the device or its memory is in trouble, not a file.
    """
    from nvidia.dali import Pipeline, fn, types

    pipe = Pipeline(batch_size=1, num_threads=1, device_id=device.index, prefetch_queue_depth=1)
    with pipe:
        file = fn.external_source(name="file", dtype=types.UINT8, ndim=1)
        pipe.set_outputs(fn.decoders.image(file, device="cpu" if device == CPU else "mixed"))
    try:
        pipe.feed_input("file", [np.frombuffer(_sound(pixels), np.uint8)])
        pipe.schedule_run()
        pipe.share_outputs()
    except RuntimeError:
        return False
    return True


def _sound(count: int) -> bytes:
    """Return a JPEG of about `count` pixels, not more."""
    side = max(1, min(math.isqrt(count), LONGEST_JPEG))
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "JPEG")
    return file.getvalue()
