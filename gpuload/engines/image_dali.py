"""The fast engine: one NVIDIA DALI graph, in which the device is an argument."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
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


Given = Callable[..., Any]
"""Name, DALI dtype and number of axes of an input (and `layout`) -> its node, on the CPU; `feeds` fills it."""


def feeds(source: ImageSource, transform: Augment, step: Step) -> dict[str, NDArray[Any]]:
    """The graph's inputs for a step, by name: [B, ...] each, `paths` uint8 [B, longest], filled up with blanks."""
    fed: dict[str, NDArray[Any]] = {}
    if isinstance(source, ImageArray):
        images = source.images[step.indices]
        fed["images"] = np.ascontiguousarray(images, np.uint8 if images.dtype == np.uint8 else np.float32)
    else:
        # Two arrays cost DALI far less of Python's time than one array for each name.
        paths = source.paths(step.indices)
        lengths = np.array([len(path) for path in paths], np.int32)
        longest = int(lengths.max())
        padded = b"".join([path.ljust(longest) for path in paths])
        fed["paths"] = np.frombuffer(padded, np.uint8).reshape(len(paths), -1)
        fed["lengths"] = lengths[:, np.newaxis]
        if step.crops is not None:
            fed["crops"] = step.crops
    if step.matrices is not None and transform.warps:
        fed["matrices"] = step.matrices.astype(np.float32)
    elif step.matrices is not None:
        fed["hflip"] = (step.matrices[:, 0, 0] < 0).astype(np.int32)
        fed["vflip"] = (step.matrices[:, 1, 1] < 0).astype(np.int32)
    for name in ("channel_shift", "brightness"):
        if (drawn := getattr(step, name)) is not None:
            fed[name] = drawn.astype(np.float32)
    return fed


def pipeline(source: ImageSource, transform: Augment, outputs: Callable[[], Any], **options: Any) -> Any:
    """A DALI pipeline of what a function that calls `graph` returns; `options` are those of `nvidia.dali.Pipeline`."""
    from nvidia.dali import pipeline_def

    return pipeline_def(
        outputs,
        # Costs a rewriting of the graph's source code, so only where there is a condition on data.
        enable_conditionals=not isinstance(source, ImageArray) and breaks_ties(transform),
        # The dynamic executor takes as many runs ahead as are scheduled; at depth 1 each call schedules just one.
        prefetch_queue_depth=1,
        exec_dynamic=True,
        **options,
    )()


def graph(source: ImageSource, transform: Augment, device: str, given: Given) -> Any:
    """What is delivered, on the `device` ("cpu" or "gpu"), from the inputs that are `given`."""
    from nvidia.dali.pipeline import do_not_convert

    # DALI rewrites what this function calls, to find conditions on its data. There is one: in `resize_nearest`.
    images, box = do_not_convert(_images)(source, transform, device, given)
    if box is not None:
        if transform.size is not None and breaks_ties(transform):
            images = resize_nearest(images, transform.size, device)
        else:
            images = do_not_convert(resize)(images, box, transform)
    return do_not_convert(_augmented)(images, transform, device, given)


def _images(source: ImageSource, transform: Augment, device: str, given: Given) -> tuple[Any, dict[str, Any] | None]:
    """Images HWC, and where they are still to be resized, the boxes that are."""
    from nvidia.dali import fn, types

    if isinstance(source, ImageArray):
        dtype = types.UINT8 if source.images.dtype == np.uint8 else types.FLOAT
        images = given("images", dtype, 3, layout="HWC")
        return (images.gpu() if device == "gpu" else images), None
    padded, length = given("paths", types.UINT8, 1), given("lengths", types.INT32, 1)
    files = fn.io.file.read(fn.slice(padded, start=[0], shape=length, axes=[0]))
    crops = given("crops", types.FLOAT64, 1) if transform.crop is not None else None
    return decode(files, transform, crops, device)


def _augmented(images: Any, transform: Augment, device: str, given: Given) -> Any:
    from nvidia.dali import types

    def level(name: str) -> Any:
        node = given(name, types.FLOAT, 0)
        return node.gpu() if device == "gpu" else node

    only_flips = transform.flips and not transform.warps
    return augment(
        images,
        transform,
        device,
        matrices=given("matrices", types.FLOAT, 2) if transform.warps else None,
        hflip=given("hflip", types.INT32, 0) if only_flips else None,
        vflip=given("vflip", types.INT32, 0) if only_flips else None,
        channel_shift=level("channel_shift") if transform.draws_channel_shift else None,
        brightness=level("brightness") if transform.brightness is not None else None,
    )


class DaliEngine:
    """Runs a DALI pipeline whose inputs are the step's file names and drawn numbers."""

    def __init__(self, source: ImageSource, transform: Augment, *, batch_size: int, device: Device, threads: int):
        self._source = source
        self._transform = transform
        self._device = device
        outputs = functools.partial(graph, source, transform, "cpu" if device == CPU else "gpu", _external)
        options = {"batch_size": batch_size, "num_threads": threads, "device_id": device.index}
        self._pipe = pipeline(source, transform, outputs, **options)
        self._pipe.build()
        _running.add(self._pipe)
        self._steps: deque[Step] = deque()
        self._stale = 0

    @property
    def pending(self) -> int:
        return len(self._steps)

    def submit(self, step: Step) -> None:
        for name, array in feeds(self._source, self._transform, step).items():
            self._pipe.feed_input(name, array)
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


def _external(name: str, dtype: Any, ndim: int, layout: str | None = None) -> Any:
    from nvidia.dali import fn

    return fn.external_source(name=name, dtype=dtype, ndim=ndim, layout=layout)


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
