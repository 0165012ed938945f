"""Changes to images, and the random numbers that they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuload.core.checks import (
    Range,
    answers_unknown,
    checked_int,
    checked_size,
    choice,
    interval,
    number,
    numbers,
    probability,
)
from gpuload.core.codes import PerSample
from gpuload.decode.crop import DRAWS, CenterCrop, RandomResizedCrop
from gpuload.decode.spec import CHANNELS, Color, Decode, Decoding, Interpolation
from gpuload.images.affine import affine, flipped
from gpuload.images.step import Doubles, Step
from gpuload.plan.streams import uniforms

FillMode = Literal["nearest", "constant", "reflect", "wrap"]
Dtype = Literal["float32", "float16", "bfloat16", "uint8"]
Layout = Literal["HWC", "CHW"]
_CHOICES = {
    "interpolation": Interpolation,
    "decode": Decode,
    "color": Color,
    "fill_mode": FillMode,
    "dtype": Dtype,
    "per_sample": PerSample,
    "layout": Layout,
}

# Each sample has this many uniform numbers, used or not, so that no option moves the draws of another.
_GEOMETRY = ("rotation", "width_shift", "height_shift", "shear")
_SLOTS = (*_GEOMETRY, "zoom_x", "zoom_y", "hflip", "vflip", "channel_shift", "brightness")
_UNIFORMS = len(_SLOTS) + DRAWS  # 32: a whole number of Philox blocks of four


@answers_unknown(
    horizontal_flip="pass hflip=0.5",
    vertical_flip="pass vflip=0.5",
    rotation_range="pass rotation=DEGREES",
    width_shift_range="pass width_shift=SHARE",
    height_shift_range="pass height_shift=SHARE",
    shear_range="pass shear=DEGREES",
    zoom_range="pass zoom=RANGE",
    channel_shift_range="pass channel_shift=LEVELS",
    brightness_range="pass brightness=(low, high)",
    cval="pass fill_value=LEVEL",
    interpolation_order="pass warp_order=ORDER",
    preprocessing_function="pass function=FUNCTION",
    target_size="pass size=(height, width)",
    image_size="pass size=(height, width)",
    color_mode="pass color='rgb', 'grayscale' or 'rgba'",
    data_format="pass layout='HWC' or 'CHW'",
    scale="pass rescale=FACTOR",
    normalize="pass mean= and std=",
)
@dataclass(frozen=True, kw_only=True, eq=False)
class Augment:
    """Changes to each image: read, crop, resize, warp, recolour, scale, in this order.

    A range is a pair (low, high), or one number for that distance to either side of "no change". The default changes
    only the size; pixels are float32 from 0 to 255.

    Args:
        size: (height, width) of the output in pixels. None: the size of images that are in memory.
        crop: Part of the image that is resized to `size`: a `CenterCrop` or a `RandomResizedCrop`. None: the whole
            image, whatever its aspect ratio.
        interpolation: Filter of the resize, as in Pillow: "nearest", "bilinear", "bicubic", "lanczos", "box" or
            "hamming". All but "nearest" widen with the reduction, so that nothing aliases.
        antialias: False, for "nearest" and "bilinear" only: "bilinear" reads the four nearest pixels at any reduction
            and does not round to whole levels, like `tf.image.resize` by default.
        fast_idct: Decode JPEGs with libjpeg's fast integer transform, a few levels less exact: TensorFlow's default.
        decode: "exact", or "scaled": JPEGs that are at least twice as large as `size` asks for are decoded at 1/2, 1/4
            or 1/8 of their sides, several times as fast. The inverse DCT then averages pixels in place of the filter's
            first reduction, so levels differ: by about 2 on average, by 30 and more at some sharp edges.
        color: "rgb", "grayscale" or "rgba": images are converted to 3, 1 or 4 channels.
        rotation: Range in degrees; positive turns the content counter-clockwise.
        width_shift: Range as a share of the width; positive moves the content to the left.
        height_shift: Range as a share of the height; positive moves the content up.
        shear: Range in degrees, as in Keras.
        zoom: Range of factors above 0, drawn for x and y independently; above 1 shows more of the image, smaller. One
            number z means (1 - z, 1 + z).
        center: (x, y) in pixels of the point that rotation, shear and zoom leave in place. None: the image's middle.
        hflip: Probability of a flip from left to right, 0 to 1.
        vflip: Probability of a flip upside down, 0 to 1.
        fill_mode: Pixels outside the image for the warp, as in SciPy: "nearest" repeats the border; "constant" is
            `fill_value` as soon as a position leaves the centres of the outermost pixels; "reflect" mirrors at the
            border; "wrap" starts over, with a period of one pixel less than the image has.
        fill_value: Level outside the image for fill_mode="constant", before `rescale`.
        warp_order: Order of the spline that the warp interpolates with: 0 nearest pixel, 1 linear, up to 5. Above 1
            only engine="numpy" can do it.
        channel_shift: Range in levels, added to all channels and clipped to the image's least and greatest level.
        brightness: (low, high) of a factor of at least 0, as in Pillow's `ImageEnhance.Brightness`: on whole levels
            from 0 to 255. None: no change.
        function: Called with each image, float32 in `layout`, before it is scaled; returns an image of the same shape.
            It runs in Python on the CPU, in one thread, in the order of the batch.
        rescale: Factor for every level, such as 1 / 255. None or 0: no change.
        per_sample: "center" subtracts each image's own mean; "standardize" also divides by its standard deviation
            + 1e-6. None: neither.
        mean: Subtracted after `rescale`: one number, or one for each channel. `gpuload.fit` computes it.
        std: Divisor after `mean`, above 0: one number, or one for each channel.
        zca: ZCA whitening, last: a matrix [D, D] that multiplies each image as a row of D = height · width · channels
            numbers in `layout`.
        dtype: Dtype of the output: "float32", "float16", "bfloat16", or "uint8", which is rounded and clipped to
            0..255.
        layout: Axes of an image, "HWC" or "CHW". None: "CHW" for PyTorch, "HWC" for all others.

    Raises:
        ValueError: a value that is not allowed.

    >>> augment = Augment(size=(64, 64), shear=10, zoom=(0.8, 1.2), hflip=0.5, rescale=1 / 255)
    >>> step = augment.step(np.arange(3), seed=7, epoch=0, first=0)
    >>> step.matrices.shape
    (3, 2, 3)
    >>> Augment(size=(64, 64), fill_mode="mirror")
    Traceback (most recent call last):
        ...
    ValueError: fill_mode must be one of nearest, constant, reflect, wrap, not 'mirror'
    """

    size: tuple[int, int] | None = None
    crop: CenterCrop | RandomResizedCrop | None = None
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    fast_idct: bool = False
    decode: Decode = "exact"
    color: Color = "rgb"
    rotation: Range = 0.0
    width_shift: Range = 0.0
    height_shift: Range = 0.0
    shear: Range = 0.0
    zoom: Range = 0.0
    center: tuple[float, float] | None = None
    hflip: float = 0.0
    vflip: float = 0.0
    fill_mode: FillMode = "nearest"
    fill_value: float = 0.0
    warp_order: int = 1
    channel_shift: Range = 0.0
    brightness: tuple[float, float] | None = None
    function: Callable[[NDArray[np.float32]], ArrayLike] | None = None
    rescale: float | None = None
    per_sample: PerSample | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    zca: NDArray[np.floating[Any]] | None = None
    dtype: Dtype = "float32"
    layout: Layout | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", checked_size("size", self.size))
        if not isinstance(self.crop, CenterCrop | RandomResizedCrop | None):
            raise ValueError(f"crop must be a CenterCrop, a RandomResizedCrop or None, not {self.crop!r}")
        resize = getattr(self.crop, "resize", None)
        if resize is not None and self.size is not None and resize < max(self.size):
            raise ValueError(f"resize={resize} of the CenterCrop must be at least as long as both sides of {self.size}")
        for name, options in _CHOICES.items():
            value = getattr(self, name)
            if value is not None or name not in ("per_sample", "layout"):
                choice(name, value, options)
        if not self.antialias and self.interpolation not in ("nearest", "bilinear"):
            raise ValueError(f"antialias=False is for nearest and bilinear, not interpolation={self.interpolation!r}")
        if self._ranges["zoom_x"][0] <= 0:
            raise ValueError(f"zoom must stay above 0, not {self.zoom!r}")
        probability("hflip", self.hflip)
        probability("vflip", self.vflip)
        pair = self.brightness
        if pair is not None and (np.ndim(pair) == 0 or interval("brightness", pair)[0] < 0):
            raise ValueError(f"brightness must be a pair of factors (low, high) of at least 0, not {pair!r}")
        if checked_int("warp_order", self.warp_order, 0) > 5:
            raise ValueError(f"warp_order must be an integer from 0 to 5, not {self.warp_order!r}")
        if self.function is not None and not callable(self.function):
            raise ValueError(f"function must be callable, not {self.function!r}")
        for name in ("fill_value", "rescale"):
            value = getattr(self, name)
            if not (math.isfinite(number(value)) or (name == "rescale" and value is None)):
                raise ValueError(f"{name} must be a finite number, not {value!r}")
        if self.center is not None and not (np.shape(self.center) == (2,) and np.isfinite(numbers(self.center)).all()):
            raise ValueError(f"center must be (x, y) in pixels, not {self.center!r}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is None:
                continue
            given = numbers(value)
            if given.shape not in ((), (1,), (self.channels,)) or not np.isfinite(given).all():
                raise ValueError(f"{name} must be one finite number or {self.channels}, one a channel, not {value!r}")
            if name == "std" and not (given > 0).all():
                raise ValueError(f"std must be above 0, not {value!r}")
        if self.zca is not None:
            if self.size is None:
                raise ValueError("zca needs size: its matrix belongs to images of one size")
            shape = (math.prod(self.size) * self.channels,) * 2
            if np.shape(self.zca) != shape:
                images = f"size={self.size} and {self.channels} channels"
                raise ValueError(f"zca must have shape {shape} for {images}, not {np.shape(self.zca)}")

    def __repr__(self) -> str:
        changed = (f.name for f in fields(self) if getattr(self, f.name) is not f.default)
        return f"Augment({', '.join(f'{name}={getattr(self, name)!r}' for name in changed)})"

    @property
    def channels(self) -> int:
        """Number of channels of the output."""
        return CHANNELS[self.color]

    @property
    def decoding(self) -> Decoding:
        """Levels that are decoded of a file, before the warp."""
        assert self.size is not None
        return Decoding(**{field.name: getattr(self, field.name) for field in fields(Decoding)})

    @cached_property
    def _ranges(self) -> dict[str, tuple[float, float]]:
        """(low, high) of each slot."""
        ranges = {name: interval(name, getattr(self, name)) for name in (*_GEOMETRY, "channel_shift")}
        if self.brightness is not None:
            ranges["brightness"] = interval("brightness", self.brightness)
        return ranges | dict.fromkeys(("zoom_x", "zoom_y"), interval("zoom", self.zoom, 1.0))

    @cached_property
    def warps(self) -> bool:
        """Whether images are warped, not only flipped."""
        return any(self._ranges[name] != (0.0, 0.0) for name in _GEOMETRY) or self._ranges["zoom_x"] != (1.0, 1.0)

    @property
    def flips(self) -> bool:
        """Whether images may be flipped."""
        return bool(self.hflip or self.vflip)

    @property
    def draws_crop(self) -> bool:
        """Whether the crop is a random one."""
        return isinstance(self.crop, RandomResizedCrop)

    @property
    def draws_channel_shift(self) -> bool:
        """Whether channels are shifted."""
        return self._ranges["channel_shift"] != (0.0, 0.0)

    def replace(self, **changes: Any) -> Augment:
        """Return a copy with some fields changed and all fields checked."""
        return replace(self, **changes)

    @property
    def pivot(self) -> tuple[float, float]:
        """`center` in pixels, (x, y)."""
        assert self.size is not None
        return (self.size[1] / 2, self.size[0] / 2) if self.center is None else self.center

    def step(self, indices: NDArray[np.int64], *, seed: int, epoch: int, first: int) -> Step:
        """Return the step for samples `indices` [B], which stand at positions `first`, `first` + 1, ... of the epoch.

        The numbers that a sample draws depend only on (seed, epoch, its position).
        """
        assert self.size is not None
        random = self.warps or self.flips or self.draws_channel_shift or self.brightness is not None
        count = len(indices)
        place: dict[str, Any] = {"seed": seed, "epoch": epoch, "positions": np.arange(first, first + count)}
        crop = self.crop
        if not random and not self.draws_crop:
            return Step(indices=indices, **place)
        uniform = uniforms(seed, epoch, first, count, _UNIFORMS)
        u = dict(zip(_SLOTS, uniform.T, strict=False))

        def drawn(slot: str) -> Doubles:
            low, high = self._ranges[slot]
            return cast(Doubles, low + (high - low) * u[slot])

        matrices = None
        if self.warps or self.flips:
            height, width = self.size
            matrices = affine(
                rotation=drawn("rotation"),
                shift=(drawn("width_shift") * width, drawn("height_shift") * height),
                shear=drawn("shear"),
                zoom=(drawn("zoom_x"), drawn("zoom_y")),
                center=self.pivot,
            )
            matrices = flipped(matrices, u["hflip"] < self.hflip, u["vflip"] < self.vflip, self.size)
        return Step(
            indices=indices,
            matrices=matrices,
            crops=crop.draw(uniform[:, len(_SLOTS) :]) if isinstance(crop, RandomResizedCrop) else None,
            channel_shift=drawn("channel_shift") if self.draws_channel_shift else None,
            brightness=drawn("brightness") if self.brightness is not None else None,
            **place,
        )
