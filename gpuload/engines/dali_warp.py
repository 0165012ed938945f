"""The second half of the DALI graph: images of one size to the batch that is delivered."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuload.plan import Augment
from gpuload.plan.augment import EPSILON

EDGE = 1e-3
"""Pixels by which a position may miss the border and still be on it: float32 against SciPy's float64."""


def tiles(transform: Augment) -> tuple[int, int]:
    """Copies of the image that a warp can reach beyond it, to either side, in (y, x)."""
    assert transform.size is not None
    counts = []
    for length, reach in zip(transform.size, transform.reach(), strict=True):
        # `wrap` repeats after one pixel less than the image has; of one pixel there is nothing to repeat.
        period = length - (transform.fill_mode == "wrap")
        counts.append(math.ceil(reach * length / period) if period else 0)
    return counts[0], counts[1]


def _constant(value: Any, device: str = "cpu", **options: Any) -> Any:
    from nvidia.dali import types

    return types.Constant(np.asarray(value, np.float32) if not options else value, device=device, **options)


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
    from nvidia.dali import fn, types
    from nvidia.dali import math as dali_math

    if matrices is not None:
        images = _warp(images, matrices, transform, device)
    if hflip is not None:
        images = fn.flip(images, horizontal=hflip, vertical=vflip)
    if channel_shift is not None:
        low, high = fn.reductions.min(images), fn.reductions.max(images)
        images = dali_math.clamp(fn.cast(images, dtype=types.FLOAT) + channel_shift, low, high)
    if brightness is not None:
        # Pillow works on whole levels, and cuts off fractions.
        levels = dali_math.floor(fn.cast(images, dtype=types.FLOAT))
        images = dali_math.floor(dali_math.clamp(levels * brightness, 0.0, 255.0))
    rescale = transform.rescale or 1.0
    if transform.per_sample is not None:
        images = images * np.float32(rescale)
        rescale = 1.0
        mean = fn.reductions.mean(images)
        if transform.per_sample == "standardize":
            images = (images - mean) / (fn.reductions.std_dev(images, mean) + np.float32(EPSILON))
        else:
            images = images - mean
    mean = np.atleast_1d(0.0 if transform.mean is None else transform.mean) / rescale
    std = np.atleast_1d(1.0 if transform.std is None else transform.std) / rescale
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
    high, wide = tiles(transform)
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
