"""What is done to each image, and the random numbers it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuload.core.checks import Range, checked_int, checked_size, choice, interval, number, numbers, probability
from gpuload.core.codes import EPSILON as EPSILON
from gpuload.core.codes import PerSample
from gpuload.decode.crop import DRAWS, CenterCrop, RandomResizedCrop
from gpuload.images.affine import affine, flipped
from gpuload.images.step import Doubles, Step
from gpuload.plan.streams import philox

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Color = Literal["rgb", "grayscale", "rgba"]
FillMode = Literal["nearest", "constant", "reflect", "wrap"]
Dtype = Literal["float32", "float16", "bfloat16", "uint8"]
Layout = Literal["HWC", "CHW"]

CHANNELS = {"rgb": 3, "grayscale": 1, "rgba": 4}

# Each sample owns as many uniform numbers, used or not, so that one option never moves the draws of another.
_GEOMETRY = ("rotation", "width_shift", "height_shift", "shear")
_SLOTS = (
    "rotation",
    "width_shift",
    "height_shift",
    "shear",
    "zoom_x",
    "zoom_y",
    "hflip",
    "vflip",
    "channel_shift",
    "brightness",
)
_UNIFORMS = len(_SLOTS) + DRAWS  # 32: a whole number of Philox blocks of four


@dataclass(frozen=True, kw_only=True, eq=False)
class Augment:
    """What is done to each image: read, cropped, resized, warped, recoloured, scaled, in this order.

    A range is a pair (low, high), or one number for that far to either side of "no change". The default changes
    nothing but the size; pixels come as float32 from 0 to 255.

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
    """(height, width) of the output, in pixels. None: that of images which are in memory already."""
    crop: CenterCrop | RandomResizedCrop | None = None
    """The part of the image that is resized to `size`. None: all of it, in whatever aspect ratio."""
    interpolation: Interpolation = "bilinear"
    """Of the resize. Pillow's filters: all but `nearest` widen with the reduction, so that nothing aliases."""
    antialias: bool = True
    """False: `bilinear` reads the four nearest pixels however strong the reduction, and does not round to whole levels,
    as `tf.image.resize` does by default."""
    fast_idct: bool = False
    """Decode JPEGs with libjpeg's fast integer transform, a few levels less exact: TensorFlow's default."""
    color: Color = "rgb"
    """What images are converted to: 3, 1 or 4 channels."""
    rotation: Range = 0.0
    """Degrees; positive turns the content counter-clockwise."""
    width_shift: Range = 0.0
    """Share of the width; positive moves the content to the left."""
    height_shift: Range = 0.0
    """Share of the height; positive moves the content up."""
    shear: Range = 0.0
    """Degrees, as in Keras."""
    zoom: Range = 0.0
    """Factors, for x and y independently; above 1 shows more of the image, smaller. One number z: (1 - z, 1 + z)."""
    center: tuple[float, float] | None = None
    """(x, y) of the point that rotation, shear and zoom leave in place, in pixels. None: the middle of the image."""
    hflip: float = 0.0
    """Probability of a flip from left to right."""
    vflip: float = 0.0
    """Probability of a flip upside down."""
    fill_mode: FillMode = "nearest"
    """What lies outside the image for the warp, in SciPy's sense: `nearest` repeats the border, `constant` is
    `fill_value` as soon as a position leaves the centres of the outermost pixels, `reflect` mirrors at the border,
    `wrap` starts over with a period of one pixel less than the image has."""
    fill_value: float = 0.0
    """For fill_mode="constant": the level outside, before `rescale`."""
    warp_order: int = 1
    """Order of the spline that the warp interpolates with: 0 nearest pixel, 1 linear, up to 5."""
    channel_shift: Range = 0.0
    """Levels added to all channels, clipped to the least and greatest level of the image."""
    brightness: tuple[float, float] | None = None
    """Factors, as in Pillow's `ImageEnhance.Brightness`: on whole levels from 0 to 255."""
    function: Callable[[NDArray[np.float32]], ArrayLike] | None = None
    """Called with each image, float32 in `layout`, before it is scaled; in Python, on the CPU, in the batch's order."""
    rescale: float | None = None
    """Factor for every level, such as 1 / 255. None or 0: none."""
    per_sample: PerSample | None = None
    """`center` subtracts each image's own mean, `standardize` also divides by its standard deviation + 1e-6."""
    mean: float | Sequence[float] | None = None
    """Subtracted after `rescale`; one number, or one a channel."""
    std: float | Sequence[float] | None = None
    """Divided by after `mean`; one number, or one a channel."""
    zca: NDArray[np.floating[Any]] | None = None
    """ZCA whitening, last: [D, D] that multiplies each image as a row of D = height · width · channels numbers, in
    `layout`."""
    dtype: Dtype = "float32"
    """Of the output; uint8 is rounded and clipped to 0..255."""
    layout: Layout | None = None
    """Axes of an image. None: CHW for PyTorch, HWC for all others."""

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", checked_size("size", self.size))
        if not isinstance(self.crop, CenterCrop | RandomResizedCrop | None):
            raise ValueError(f"crop must be a CenterCrop, a RandomResizedCrop or None, not {self.crop!r}")
        choice("interpolation", self.interpolation, Interpolation)
        if not self.antialias and self.interpolation not in ("nearest", "bilinear"):
            raise ValueError(f"antialias=False is for nearest and bilinear, not interpolation={self.interpolation!r}")
        choice("color", self.color, Color)
        choice("fill_mode", self.fill_mode, FillMode)
        choice("dtype", self.dtype, Dtype)
        if self.per_sample is not None:
            choice("per_sample", self.per_sample, PerSample)
        if self.layout is not None:
            choice("layout", self.layout, Layout)
        if self._ranges["zoom_x"][0] <= 0:
            raise ValueError(f"zoom must stay above 0, not {self.zoom!r}")
        for name in ("hflip", "vflip"):
            probability(name, getattr(self, name))
        if self.brightness is not None and (
            np.ndim(self.brightness) == 0 or interval("brightness", self.brightness)[0] < 0
        ):
            raise ValueError(f"brightness must be a pair of factors (low, high) of at least 0, not {self.brightness!r}")
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
            count = math.prod(self.size) * self.channels
            if np.shape(self.zca) != (count, count):
                raise ValueError(
                    f"zca must have shape {(count, count)} for size={self.size} and {self.channels} channels, "
                    f"not {np.shape(self.zca)}"
                )

    def __repr__(self) -> str:
        changed = ((f.name, getattr(self, f.name)) for f in fields(self))
        return (
            "Augment("
            + ", ".join(f"{n}={v!r}" for n, v in changed if v is not Augment.__dataclass_fields__[n].default)
            + ")"
        )

    @property
    def channels(self) -> int:
        """Channels of the output."""
        return CHANNELS[self.color]

    @property
    def stored(self) -> tuple[tuple[int, int, int], str]:
        """Shape [H, W, C] and dtype of an image file's levels, once it is decoded and resized."""
        assert self.size is not None
        floating = not self.antialias and self.interpolation == "bilinear"
        return (*self.size, self.channels), "float32" if floating else "uint8"

    @cached_property
    def _ranges(self) -> dict[str, tuple[float, float]]:
        """(low, high) by slot."""
        ranges = {name: interval(name, getattr(self, name)) for name in (*_GEOMETRY, "channel_shift")}
        if self.brightness is not None:
            ranges["brightness"] = interval("brightness", self.brightness)
        return ranges | dict.fromkeys(("zoom_x", "zoom_y"), interval("zoom", self.zoom, 1.0))

    @cached_property
    def warps(self) -> bool:
        """Whether images are moved by more than flips."""
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
        """The same with some fields changed; checked again."""
        return replace(self, **changes)

    @property
    def pivot(self) -> tuple[float, float]:
        """`center` in pixels, (x, y)."""
        assert self.size is not None
        return (self.size[1] / 2, self.size[0] / 2) if self.center is None else self.center

    def step(self, indices: NDArray[np.int64], *, seed: int, epoch: int, first: int) -> Step:
        """The step for samples `indices` [B], which stand at positions `first`, `first` + 1, ... of that epoch.

        What a sample draws depends on (seed, epoch, its position) alone.
        """
        assert self.size is not None
        random = self.warps or self.flips or self.draws_channel_shift or self.brightness is not None
        count = len(indices)
        place: dict[str, Any] = {"seed": seed, "epoch": epoch, "positions": np.arange(first, first + count)}
        if not random and self.crop is None:
            return Step(indices=indices, **place)
        raw = philox(seed, epoch, stream=1, block=first * _UNIFORMS // 4).random_raw(count * _UNIFORMS)
        uniforms = (raw >> np.uint64(11)).astype(np.float64).reshape(count, _UNIFORMS) * 2.0**-53
        u = dict(zip(_SLOTS, uniforms.T, strict=False))

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
            crops=None if self.crop is None else self.crop.draw(uniforms[:, len(_SLOTS) :]),
            channel_shift=drawn("channel_shift") if self.draws_channel_shift else None,
            brightness=drawn("brightness") if self.brightness is not None else None,
            **place,
        )
