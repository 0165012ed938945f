"""The first half of the DALI graph: encoded files to images of one size and colour."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.plan import Augment


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


def decode(files: Any, transform: Augment, draws: Any, device: str) -> tuple[Any, tuple[Any, Any]]:
    """Encoded files to images of the transform's colour, uint8 HWC, and the box of each that is to be resized.

    A box is two nodes, each (y, x) in pixels: where it begins, and its extent.
    """
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
    shape = fn.peek_image_shape(files, adjust_orientation=False)
    start, extent = fn.cast(shape[:2] * 0, dtype=types.FLOAT), fn.cast(shape[:2], dtype=types.FLOAT)
    if transform.crop is not None:
        assert transform.size is not None
        high, wide = (fn.cast(shape[axis], dtype=types.FLOAT64) for axis in (0, 1))
        top, left, high, wide = transform.crop.box(high, wide, transform.size, draws, DaliOps())
        start, extent = (fn.cast(fn.stack(*pair), dtype=types.FLOAT) for pair in ((top, left), (high, wide)))
    if transform.color == "grayscale":
        images = fn.color_space_conversion(images, image_type=types.RGB, output_type=types.GRAY)
    return images, (start, extent)


def resize(images: Any, box: tuple[Any, Any], transform: Augment) -> Any:
    """Images of the transform's size, with Pillow's filters; float32 where they are not to be antialiased."""
    from nvidia.dali import fn, types

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
        roi_start=box[0],
        roi_end=box[0] + box[1],
        antialias=transform.antialias,
        dtype=None if transform.antialias or transform.interpolation == "nearest" else types.FLOAT,
    )


def breaks_ties(transform: Augment) -> bool:
    """Whether the resize may have to choose between two pixels that are as near: `resize_nearest` is for that.

    Resized to powers of two, positions are exact in any arithmetic, and every resize chooses alike.
    """
    assert transform.size is not None
    return transform.interpolation == "nearest" and any(side & (side - 1) for side in transform.size)


LONGEST_SIDE = 8192
"""Of the images for which `resize_nearest` breaks ties as Pillow does."""


@functools.cache
def _takes_next(size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Where Pillow, resizing a side to `size`, takes the next of two pixels that are as near.

    Returns rows [K, size], all different: 255 where it takes the next one, or where there is no such choice, 0 where it
    takes the one before; and [LONGEST_SIDE] which of the rows belongs to a side of that length. Pillow adds up the step
    from one pixel to the next in doubles, so that rounding decides.
    """
    lengths = np.arange(LONGEST_SIDE)
    step = lengths / size
    position = step * 0.5
    table = np.full((LONGEST_SIDE, size), 255, np.uint8)
    for x in range(size):
        twice = (2 * x + 1) * lengths
        table[(twice % (2 * size) == 0) & (position < twice // (2 * size)), x] = 0
        position = position + step
    whole_rows = table.view(f"V{size}").ravel()
    _, first, which = np.unique(whole_rows, return_index=True, return_inverse=True)
    return table[first], which


def _ties(length: Any, size: int) -> tuple[Any, Any]:
    """[1, size] the row of `_takes_next` for that length, and how far a position may move without passing a pixel's
    edge that it does not lie on."""
    from nvidia.dali import fn, types

    # Longer sides count as without ties, as a side of length 0 does.
    rows, which = _takes_next(size)
    lengths = np.arange(LONGEST_SIDE)
    length = fn.cast(length, dtype=types.INT32)
    length = length * (length < LONGEST_SIDE)

    def looked_up(values: NDArray[Any], dtype: Any) -> Any:
        return fn.lookup_table(length, keys=lengths.tolist(), values=values.tolist(), dtype=dtype)

    row = fn.reshape(looked_up(which.astype(float), types.INT32), shape=[1])
    slack = looked_up(np.gcd(lengths, 2 * size) / (4.0 * size), types.FLOAT)
    return fn.slice(types.Constant(rows), start=row, shape=[1], axes=[0]), slack


def resize_nearest(images: Any, extent: Any, size: tuple[int, int], device: str) -> Any:
    """The nearest pixels, and of two that are as near the one that Pillow takes.

    DALI rewrites this function, so that the `if` decides for each image on its own.
    """
    from nvidia.dali import fn, types

    rows, down = _ties(extent[0], size[0])
    columns, right = _ties(extent[1], size[1])

    def resized(sign_y: float, sign_x: float) -> Any:
        moved = fn.stack(down * sign_y, right * sign_x)
        return fn.resize(images, size=size, interp_type=types.INTERP_NN, roi_start=moved, roi_end=moved + extent)

    result = resized(1.0, 1.0)
    if fn.reductions.min(rows) * fn.reductions.min(columns) == 0:
        rows, columns = fn.reshape(rows, shape=[-1, 1, 1]), fn.reshape(columns, shape=[1, -1, 1])
        if device == "gpu":
            rows, columns = rows.gpu(), columns.gpu()
        upper = _chosen(columns, resized(-1.0, 1.0), resized(-1.0, -1.0))
        lower = _chosen(columns, result, resized(1.0, -1.0))
        result = fn.reshape(_chosen(rows, lower, upper), layout="HWC")
    return result


def _chosen(mask: Any, where: Any, elsewhere: Any) -> Any:
    """`where` the mask is 255, `elsewhere` where it is 0."""
    return elsewhere ^ ((where ^ elsewhere) & mask)
