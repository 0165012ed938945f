"""The fast engine: one NVIDIA DALI graph, in which the device is an argument."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import weakref
from collections import deque
from typing import Any

import numpy as np
from PIL import Image

from gpuload.cuda import CPU, Device
from gpuload.engines.dali_resize import breaks_ties, decode, resize, resize_nearest
from gpuload.engines.dali_warp import augment, tiles
from gpuload.errors import BadSample, SampleError
from gpuload.plan import Augment, Step
from gpuload.sources import ImageArray, ImageSource

MOST_TILES = 2
"""How often `reflect` and `wrap` may repeat the image to either side before the graph would cost too much."""


def unsupported(source: ImageSource, transform: Augment) -> str | None:
    """The first thing that this engine cannot do for this job, in words, or None. Needs no DALI."""
    if transform.color == "rgba":
        return "color='rgba'"
    if transform.interpolation in ("box", "hamming") and not isinstance(source, ImageArray):
        return f"interpolation={transform.interpolation!r}"
    if not isinstance(source, ImageArray) and transform.crop is not None and breaks_ties(transform):
        return "interpolation='nearest' with a crop, but for sizes that are powers of two"
    if transform.warps and transform.warp_order > 1:
        return f"warp_order={transform.warp_order}"
    if transform.warps and transform.fill_mode in ("reflect", "wrap") and max(tiles(transform)) > MOST_TILES:
        return (
            f"fill_mode={transform.fill_mode!r} with a warp that reads more than {MOST_TILES} images beyond the border"
        )
    if transform.function is not None:
        return "function, which runs in Python"
    if transform.zca is not None:
        return "zca"
    if transform.brightness is not None:
        if isinstance(source, ImageArray) and (source.images.dtype != np.uint8 or source.images.shape[3] not in (1, 3)):
            return f"brightness of {source.images.dtype} images of {source.images.shape[3]} channels"
        if transform.warps and transform.fill_mode == "constant" and not 0 <= transform.fill_value <= 255:
            return f"brightness with fill_value={transform.fill_value!r}, which is no level from 0 to 255"
    return None


class DaliEngine:
    """Runs a DALI pipeline whose inputs are the step's file names and drawn numbers."""

    def __init__(self, source: ImageSource, transform: Augment, *, batch_size: int, device: Device, threads: int):
        from nvidia.dali import pipeline_def

        self._source = source
        self._transform = transform
        self._device = device
        # The dynamic executor takes as many runs ahead as are scheduled; at depth 1 each call schedules just one.
        self._pipe: Any = pipeline_def(
            functools.partial(self._graph, "cpu" if device == CPU else "gpu"),
            # Costs a rewriting of the graph's source code, so only where there is a condition on data.
            enable_conditionals=not isinstance(source, ImageArray) and breaks_ties(transform),
            batch_size=batch_size,
            num_threads=threads,
            device_id=device.index,
            prefetch_queue_depth=1,
            exec_dynamic=True,
        )()
        self._pipe.build()
        _running.add(self._pipe)
        self._steps: deque[Step] = deque()
        self._stale = 0

    def _graph(self, device: str) -> Any:
        from nvidia.dali.pipeline import do_not_convert

        # DALI rewrites what this function calls, to find conditions on its data. There is one: in `resize_nearest`.
        transform = self._transform
        images, box = do_not_convert(self._images)(device)
        if box is not None:
            if transform.size is not None and breaks_ties(transform):
                images = resize_nearest(images, transform.size, device)
            else:
                images = do_not_convert(resize)(images, box, transform)
        return do_not_convert(self._augmented)(images, device)

    def _images(self, device: str) -> tuple[Any, dict[str, Any] | None]:
        """Images HWC, and where they are still to be resized, the boxes that are."""
        from nvidia.dali import fn, types

        if isinstance(self._source, ImageArray):
            dtype = types.UINT8 if self._source.images.dtype == np.uint8 else types.FLOAT
            images = fn.external_source(name="images", dtype=dtype, ndim=3, layout="HWC")
            return (images.gpu() if device == "gpu" else images), None
        padded = fn.external_source(name="paths", dtype=types.UINT8, ndim=1)
        paths = fn.slice(padded, start=[0], shape=_drawn("lengths", 1, types.INT32), axes=[0])
        files = fn.io.file.read(paths)
        draws = _drawn("crops", 1, types.FLOAT64) if self._transform.crop is not None else None
        return decode(files, self._transform, draws, device)

    def _augmented(self, images: Any, device: str) -> Any:
        from nvidia.dali import types

        transform = self._transform
        only_flips = transform.flips and not transform.warps
        return augment(
            images,
            transform,
            device,
            matrices=_drawn("matrices", 2) if transform.warps else None,
            hflip=_drawn("hflip", dtype=types.INT32) if only_flips else None,
            vflip=_drawn("vflip", dtype=types.INT32) if only_flips else None,
            channel_shift=_drawn("channel_shift", device=device) if transform.draws_channel_shift else None,
            brightness=_drawn("brightness", device=device) if transform.brightness is not None else None,
        )

    @property
    def pending(self) -> int:
        return len(self._steps)

    def submit(self, step: Step) -> None:
        transform, feed = self._transform, self._pipe.feed_input
        if isinstance(self._source, ImageArray):
            images = self._source.images[step.indices]
            dtype = np.uint8 if images.dtype == np.uint8 else np.float32
            feed("images", np.ascontiguousarray(images, dtype), layout="HWC")
        else:
            # Two arrays cost DALI far less of Python's time than one array for each name.
            paths = self._source.paths(step.indices)
            lengths = np.array([len(path) for path in paths], np.int32)
            longest = int(lengths.max())
            padded = b"".join([path.ljust(longest) for path in paths])
            feed("paths", np.frombuffer(padded, np.uint8).reshape(len(paths), -1))
            feed("lengths", lengths[:, np.newaxis])
            if step.crops is not None:
                feed("crops", step.crops)
        if step.matrices is not None and transform.warps:
            feed("matrices", step.matrices.astype(np.float32))
        elif step.matrices is not None:
            feed("hflip", (step.matrices[:, 0, 0] < 0).astype(np.int32))
            feed("vflip", (step.matrices[:, 1, 1] < 0).astype(np.int32))
        for name in ("channel_shift", "brightness"):
            if (drawn := getattr(step, name)) is not None:
                feed(name, drawn.astype(np.float32))
        self._pipe.schedule_run()
        self._steps.append(step)

    def result(self, stream: int | None = None) -> Any:
        while self._stale:
            self._stale -= 1
            with contextlib.suppress(RuntimeError):  # Nobody waits for this batch any more.
                self._pipe.share_outputs()
        step = self._steps.popleft()
        try:
            (images,) = self._pipe.share_outputs(cuda_stream=stream)
        except RuntimeError as error:
            raise self._explained(error, step) from error
        # The dynamic executor hands the buffer over: it is ours for as long as the tensor lives.
        return images.as_tensor()

    def discard(self) -> None:
        self._stale += len(self._steps)
        self._steps.clear()

    def close(self) -> None:
        self.discard()
        self._stale = 0
        self._pipe = None

    def _explained(self, error: RuntimeError, step: Step) -> Exception:
        """The error with the names of the files, which DALI's has not: each file of the batch is tried on its own."""
        if isinstance(self._source, ImageArray):
            return error
        paths = [self._source.path(int(index)) for index in step.indices]
        reasons = _obstacles(paths, self._device)
        bad = [
            BadSample(int(index), path, reason)
            for index, path, reason in zip(step.indices, paths, reasons, strict=True)
            if reason is not None
        ]
        # Where no file at all can be read, the trouble is more likely with the device, or with memory.
        whole = len(bad) == step.batch_size > 1 and any("DALI" in sample.reason for sample in bad)
        return SampleError(bad, step.batch_size) if bad and not whole else error


def _drawn(name: str, ndim: int = 0, dtype: Any = None, device: str = "cpu") -> Any:
    """The input of that name; float32 unless said otherwise."""
    from nvidia.dali import fn, types

    node = fn.external_source(name=name, dtype=types.FLOAT if dtype is None else dtype, ndim=ndim)
    return node.gpu() if device == "gpu" else node


_running: weakref.WeakSet[Any] = weakref.WeakSet()


def _abandon_in_child() -> None:
    """Leave the parent's pipelines alone in a forked process, for good.

    Their threads do not exist there, so that shutting a pipeline down, as its end would, aborts the process.
    """
    for pipe in list(_running):
        if (backend := getattr(pipe, "_pipe", None)) is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(backend))
            pipe._pipe = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_in_child)


def _obstacles(paths: list[str], device: Device) -> list[str | None]:
    """For each file why it cannot be decoded, or None."""
    from nvidia.dali import Pipeline, fn, types

    pipe = Pipeline(batch_size=1, num_threads=1, device_id=device.index, prefetch_queue_depth=1)
    with pipe:
        encoded = fn.external_source(name="file", dtype=types.UINT8, ndim=1)
        pipe.set_outputs(fn.decoders.image(encoded, device="cpu" if device == CPU else "mixed", output_type=types.RGB))
    reasons: list[str | None] = []
    for path in paths:
        try:
            data = np.fromfile(path, np.uint8)
            if not data.size:
                reasons.append("the file is empty")
                continue
            pipe.feed_input("file", [data])
            pipe.schedule_run()
            pipe.share_outputs()
            reasons.append(None)
        except OSError as error:
            reasons.append(f"{type(error).__name__}: {error}")
        except RuntimeError as error:
            reasons.append(_in_words(path, error))
    return reasons


def _in_words(path: str, error: RuntimeError) -> str:
    """Why DALI refuses the file: in Pillow's words, if Pillow refuses it too, since DALI's are few."""
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as reason:  # Pillow's plugins raise far more than OSError for a broken file.
        return f"{type(reason).__name__}: {reason}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "DALI: " + next((line for line in lines if "fail" in line.lower()), lines[0])
