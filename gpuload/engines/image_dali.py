"""The fast engine: one NVIDIA DALI graph, in which the device is an argument."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuload.cuda import CPU, Device
from gpuload.errors import BadSample, SampleError
from gpuload.plan import Augment, Step
from gpuload.plan.augment import EPSILON
from gpuload.sources import ImageArray, ImageSource

MOST_TILES = 2
"""How often `reflect` and `wrap` may repeat the image to either side before the graph would cost too much."""
EDGE = 1e-3
"""Pixels by which a position may miss the border and still be on it: float32 against SciPy's float64."""


def unsupported(source: ImageSource, transform: Augment) -> str | None:
    """The first thing that this engine cannot do for this job, in words, or None. Needs no DALI."""
    if transform.color == "rgba":
        return "color='rgba'"
    if transform.interpolation in ("box", "hamming") and not isinstance(source, ImageArray):
        return f"interpolation={transform.interpolation!r}"
    if transform.warps and transform.warp_order > 1:
        return f"warp_order={transform.warp_order}"
    if transform.warps and transform.fill_mode in ("reflect", "wrap") and max(_tiles(transform)) > MOST_TILES:
        return (
            f"fill_mode={transform.fill_mode!r} with a warp that reads more than {MOST_TILES} images beyond the border"
        )
    if transform.function is not None:
        return "function, which runs in Python"
    if transform.zca is not None:
        return "zca"
    if transform.brightness is not None and isinstance(source, ImageArray) and source.images.dtype != np.uint8:
        return f"brightness of {source.images.dtype} images"
    return None


def _tiles(transform: Augment) -> tuple[int, int]:
    """Copies of the image that a warp can reach beyond it, to either side, in (y, x)."""
    assert transform.size is not None
    # `wrap` repeats after one pixel less than the image has.
    lengths = [max(n - (transform.fill_mode == "wrap"), 1) / n for n in transform.size]
    high, wide = (int(np.ceil(reach / length)) for reach, length in zip(transform.reach(), lengths, strict=True))
    return high, wide


class DaliOps:
    """DALI's words for `Ops`; every quantity is a node of the graph."""

    def __init__(self) -> None:
        from nvidia.dali import fn, math, types

        self.array: Callable[[Any], Any] = types.Constant
        self.floor: Callable[[Any], Any] = math.floor
        self.sqrt: Callable[[Any], Any] = math.sqrt
        self.minimum: Callable[[Any, Any], Any] = math.min
        self.maximum: Callable[[Any, Any], Any] = math.max
        # DALI reduces no doubles; what `box` reduces are whole numbers of pixels, exact in float32.
        self.max: Callable[[Any], Any] = lambda x: fn.reductions.max(fn.cast(x, dtype=types.FLOAT))


def _constant(value: Any, device: str = "cpu", **options: Any) -> Any:
    from nvidia.dali import types

    return types.Constant(np.asarray(value, np.float32) if not options else value, device=device, **options)


def decode(files: Any, transform: Augment, draws: Any, device: str) -> Any:
    """Encoded files to images of the transform's size and colour: uint8 HWC."""
    from nvidia.dali import fn, types

    # As Pillow decodes: chroma smoothed, EXIF orientation left alone.
    images = fn.decoders.image(
        files,
        device="mixed" if device == "gpu" else "cpu",
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
        use_fast_idct=transform.fast_idct,
    )
    if transform.crop is not None:
        assert transform.size is not None
        shape = fn.cast(fn.peek_image_shape(files, adjust_orientation=False), dtype=types.FLOAT64)
        top, left, high, wide = transform.crop.box(shape[0], shape[1], transform.size, draws, DaliOps())
        start, extent = (fn.cast(fn.stack(*pair), dtype=types.INT32) for pair in ((top, left), (high, wide)))
        images = fn.slice(images, start=start, shape=extent, axis_names="HW")
    if transform.color == "grayscale":
        images = fn.color_space_conversion(images, image_type=types.RGB, output_type=types.GRAY)
    filters = {
        "nearest": types.INTERP_NN,
        "bilinear": types.INTERP_LINEAR,
        "bicubic": types.INTERP_CUBIC,
        "lanczos": types.INTERP_LANCZOS3,
    }
    return fn.resize(
        images,
        size=transform.size,
        interp_type=filters[transform.interpolation],
        antialias=transform.antialias,
        dtype=None if transform.antialias else types.FLOAT,
    )


def augment(
    images: Any,
    transform: Augment,
    device: str,
    *,
    matrices: Any,
    hflip: Any,
    vflip: Any,
    channel_shift: Any,
    brightness: Any,
) -> Any:
    """Images of the transform's size, HWC, to the batch that is delivered."""
    from nvidia.dali import fn, math, types

    if matrices is not None:
        images = _warp(images, matrices, transform, device)
    if hflip is not None:
        images = fn.flip(images, horizontal=hflip, vertical=vflip)
    if channel_shift is not None:
        low, high = fn.reductions.min(images), fn.reductions.max(images)
        images = math.clamp(fn.cast(images, dtype=types.FLOAT) + channel_shift, low, high)
    if brightness is not None:
        # Pillow works on whole levels, and cuts off fractions.
        images = math.floor(math.clamp(math.floor(fn.cast(images, dtype=types.FLOAT)) * brightness, 0.0, 255.0))
    rescale = transform.rescale or 1.0
    if transform.per_sample is not None:
        images = images * np.float32(rescale)
        rescale = 1.0
        mean = fn.reductions.mean(images)
        if transform.per_sample == "standardize":
            images = (images - mean) / (fn.reductions.std_dev(images, mean) + np.float32(EPSILON))
        else:
            images = images - mean
    mean, std = (np.atleast_1d(np.asarray(v, float)) / rescale for v in (transform.mean or 0.0, transform.std or 1.0))
    dtypes = {"float32": types.FLOAT, "float16": types.FLOAT16, "uint8": types.UINT8, "bfloat16": types.FLOAT}
    return fn.crop_mirror_normalize(
        fn.reshape(images, layout="HWC"),
        mean=mean.tolist(),
        std=std.tolist(),
        dtype=dtypes[transform.dtype],
        output_layout=transform.layout or "HWC",
    )


def _warp(images: Any, matrices: Any, transform: Augment, device: str) -> Any:
    """Images read through `matrices`, float32, with SciPy's borders. DALI itself has one of the four, `nearest`."""
    from nvidia.dali import fn, types

    assert transform.size is not None
    height, width = transform.size
    interpolation = types.INTERP_LINEAR if transform.warp_order == 1 else types.INTERP_NN

    def read(x: Any, move_x: float = 0.0, move_y: float = 0.0) -> Any:
        moved = matrices + _constant([[0, 0, move_x], [0, 0, move_y]])
        return fn.warp_affine(
            x,
            matrix=moved,
            size=transform.size,
            inverse_map=True,
            fill_value=None,
            interp_type=interpolation,
            dtype=types.FLOAT,
        )

    def inside(x0: float, x1: float, y0: float, y1: float) -> Any:
        """[H, W, 1] one where the position that is read, counted from pixel centres, is in that rectangle."""
        scaled = (matrices - _constant([[0, 0, x0 + 0.5], [0, 0, y0 + 0.5]])) * _constant(
            [[1 / (x1 - x0)] * 3, [1 / (y1 - y0)] * 3]
        )
        white = _constant(np.ones((1, 1, 1), np.uint8), device, layout="HWC")
        return fn.warp_affine(
            white,
            matrix=scaled,
            size=transform.size,
            inverse_map=True,
            fill_value=0.0,
            interp_type=types.INTERP_NN,
            dtype=types.FLOAT,
        )

    if transform.fill_mode == "nearest":
        return read(images)
    if transform.fill_mode == "constant":
        mask = inside(-EDGE, width - 1 + EDGE, -EDGE, height - 1 + EDGE)
        return read(images) * mask + (1.0 - mask) * np.float32(transform.fill_value)
    high, wide = _tiles(transform)
    if transform.fill_mode == "reflect":
        for axis, count, mirror in (
            (1, wide, {"horizontal": 1}),
            (0, high, {"horizontal": 0, "vertical": 1}),
        ):
            if count:
                other = fn.flip(images, **mirror)
                images = fn.cat(*(other if n % 2 else images for n in range(-count, count + 1)), axis=axis)
        return read(images, wide * width, high * height)
    # The last pixel and the first share a place in `wrap`, and the step between them is sharp: each copy of the image
    # is read on its own and kept where it belongs.
    result = None
    for row in range(-high, high + 1):
        for column in range(-wide, wide + 1):
            spans = [_span(column, width - 1), _span(row, height - 1)]
            part = read(images, -column * (width - 1), -row * (height - 1)) * inside(*spans[0], *spans[1])
            result = part if result is None else result + part
    return result


def _span(tile: int, period: int) -> tuple[float, float]:
    """Where a copy of the image begins and ends; the original owns both of its edges."""
    if period == 0:
        return -1e6, 1e6
    start, stop = tile * period, (tile + 1) * period
    return start + (EDGE if tile > 0 else -EDGE), stop + (EDGE if tile >= 0 else -EDGE)


class DaliEngine:
    """Runs a DALI pipeline whose inputs are the step's file names and drawn numbers."""

    def __init__(self, source: ImageSource, transform: Augment, *, batch_size: int, device: Device, threads: int):
        from nvidia.dali import Pipeline

        self._source = source
        self._transform = transform
        self._device = device
        # The dynamic executor takes as many runs ahead as are scheduled; at depth 1 each call schedules just one.
        self._pipe = Pipeline(
            batch_size=batch_size,
            num_threads=threads,
            device_id=device.index,
            prefetch_queue_depth=1,
            exec_dynamic=True,
        )
        with self._pipe:
            self._pipe.set_outputs(self._graph("cpu" if device == CPU else "gpu"))
        self._pipe.build()
        self._steps: deque[Step] = deque()
        self._stale = 0

    def _graph(self, device: str) -> Any:
        from nvidia.dali import fn, types

        def drawn(name: str, wanted: bool, ndim: int = 0, dtype: Any = types.FLOAT, place: str = "cpu") -> Any:
            if not wanted:
                return None
            node = fn.external_source(name=name, dtype=dtype, ndim=ndim)
            return node.gpu() if place == "gpu" else node

        transform = self._transform
        if isinstance(self._source, ImageArray):
            dtype = types.UINT8 if self._source.images.dtype == np.uint8 else types.FLOAT
            images = fn.external_source(name="images", dtype=dtype, ndim=3, layout="HWC")
            images = images.gpu() if device == "gpu" else images
        else:
            draws = drawn("crops", transform.draws_crop, 1, types.FLOAT64)
            files = fn.io.file.read(fn.external_source(name="paths", dtype=types.UINT8, ndim=1))
            images = decode(files, transform, draws, device)
        only_flips = transform.flips and not transform.warps
        return augment(
            images,
            transform,
            device,
            matrices=drawn("matrices", transform.warps, 2),
            hflip=drawn("hflip", only_flips, dtype=types.INT32),
            vflip=drawn("vflip", only_flips, dtype=types.INT32),
            channel_shift=drawn("channel_shift", transform.draws_channel_shift, place=device),
            brightness=drawn("brightness", transform.brightness is not None, place=device),
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
            feed("paths", self._source.paths(step.indices))
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
        del self._pipe

    def _explained(self, error: RuntimeError, step: Step) -> Exception:
        """The error with the names of the files, which DALI's has not: each file of the batch is tried on its own."""
        if isinstance(self._source, ImageArray):
            return error
        bad = []
        for index in step.indices:
            reason = _obstacle(self._source.path(int(index)), self._device)
            if reason:
                bad.append(BadSample(int(index), self._source.path(int(index)), reason))
        return SampleError(bad, step.batch_size) if bad else error


def _obstacle(path: str, device: Device) -> str | None:
    """Why this file cannot be decoded, or None."""
    from nvidia.dali import Pipeline, fn, types
    from PIL import Image

    try:
        data = np.fromfile(path, np.uint8)
        if not data.size:
            return "the file is empty"
        with Image.open(path) as image:
            image.load()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    pipe = Pipeline(batch_size=1, num_threads=1, device_id=device.index, prefetch_queue_depth=1)
    with pipe:
        encoded = fn.external_source(name="file", dtype=types.UINT8, ndim=1)
        pipe.set_outputs(fn.decoders.image(encoded, device="cpu" if device == CPU else "mixed", output_type=types.RGB))
    try:
        pipe.feed_input("file", [data])
        pipe.schedule_run()
        pipe.share_outputs()
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return "DALI: " + next((line for line in lines if "fail" in line.lower()), lines[0])
    return None
