"""The first half of the DALI graph: encoded files to images of one size and colour."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuload.images.augment import Augment


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


def pixels(files: Any, transform: Augment, device: str, max_pixels: int | None) -> Any:
    """Encoded files to images RGB, uint8 HWC. DALI fails where one is none, or claims more than `max_pixels`."""
    from nvidia.dali import fn, types

    # As Pillow decodes: chroma smoothed, EXIF orientation left alone.
    return fn.decoders.image(
        _within(files, np.iinfo(np.int64).max if max_pixels is None else max_pixels),
        device="mixed" if device == "gpu" else "cpu",
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
        use_fast_idct=transform.fast_idct,
    )


def _within(files: Any, max_pixels: int) -> Any:
    """The files as they are. DALI fails where one is no image, or claims more pixels, before memory is taken for it.

    No such file may reach the decoder, whatever the limit: of a large batch it reads some headers in the thread that
    calls it, and where one of those is bad it ends without waiting for its other threads, which then crash the process.
    """
    from nvidia.dali import fn, types

    # Each of these operators costs the batch a round through all threads. A length of a TIFF that has 32 bits comes as
    # negative; as an unsigned one it is very large.
    shape = fn.peek_image_shape(files, adjust_orientation=False, dtype=types.UINT64)
    exceeds = shape[0] * shape[1] > types.Constant(max_pixels, dtype=types.UINT64)
    # The first byte, or one that no file has.
    start = exceeds * np.iinfo(np.int32).max
    return fn.slice(files, start=start, axes=[0], out_of_bounds_policy="error")


def decode(
    files: Any, transform: Augment, drawn: Any, device: str, max_pixels: int | None
) -> tuple[Any, dict[str, Any]]:
    """Encoded files to images of the transform's colour, uint8 HWC, and the box of each that is to be resized, in the
    words of `fn.resize`; none stands for the whole image."""
    from nvidia.dali import fn, types

    images = pixels(files, transform, device, max_pixels)
    box = {}
    if transform.crop is not None:
        assert transform.size is not None
        shape = fn.cast(images.shape(), dtype=types.FLOAT64)
        top, left, high, wide = transform.crop.box(shape[0], shape[1], transform.size, drawn, DaliOps())
        start, extent = (fn.cast(fn.stack(*pair), dtype=types.FLOAT) for pair in ((top, left), (high, wide)))
        box = {"roi_start": start, "roi_end": start + extent}
    if transform.color == "grayscale":
        images = fn.color_space_conversion(images, image_type=types.RGB, output_type=types.GRAY)
    return images, box


def resize(images: Any, box: dict[str, Any], transform: Augment) -> Any:
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
        antialias=transform.antialias,
        dtype=None if transform.antialias or transform.interpolation == "nearest" else types.FLOAT,
        **box,
    )


def breaks_ties(transform: Augment) -> bool:
    """Whether the resize may have to choose between two pixels that are as near: `resize_nearest` is for that.

    Resized to powers of two, positions are exact in any arithmetic, and every resize chooses alike.
    """
    assert transform.size is not None
    return transform.interpolation == "nearest" and any(side & (side - 1) for side in transform.size)


LONGEST_SIDE = 8192
"""Of the images for which `resize_nearest` breaks ties as Pillow does."""


class _Ties(NamedTuple):
    """How Pillow resizes a side to one length, where two pixels are as near. It adds up the step from one pixel to the
    next in doubles, so that rounding decides."""

    rows: NDArray[np.uint8]
    """[K, size] all different: 255 where Pillow takes the next pixel, or where there is no choice; 0 where it takes the
    one before."""
    which: NDArray[np.int64]
    """[LONGEST_SIDE] which of the rows belongs to a side of that length."""
    differs: NDArray[np.bool_]
    """[LONGEST_SIDE] whether a resize that counts in float32 may take another pixel anywhere."""


@functools.cache
def _ties(size: int) -> _Ties:
    lengths = np.arange(LONGEST_SIDE)
    step = lengths / size
    position = step * 0.5
    table = np.full((LONGEST_SIDE, size), 255, np.uint8)
    differs = np.zeros(LONGEST_SIDE, bool)
    for x in range(size):
        nearest, rest = np.divmod((2 * x + 1) * lengths, 2 * size)
        before = (rest == 0) & (position < nearest)
        table[before, x] = 0
        differs |= rest == 0
        position = position + step
    # Where the step is a whole number of halves, quarters, ..., float32 is exact.
    parts = size // np.gcd(lengths, size)
    differs &= parts & (parts - 1) != 0
    whole_rows = table.view(f"V{size}").ravel()
    _, first, which = np.unique(whole_rows, return_index=True, return_inverse=True)
    return _Ties(table[first], which, differs)


def resize_nearest(images: Any, size: tuple[int, int], device: str) -> Any:
    """The nearest pixels, and of two that are as near the one that Pillow takes.

    DALI rewrites this function, so that the `if` decides for each image on its own. What stands before it is done for
    every image, and each operator, however small, costs the batch a round through all threads.
    """
    from nvidia.dali import fn, types

    shape = images.shape(dtype=types.INT32)
    if _is_tied(shape, size):
        return _resize_tied(images, shape, size, device)
    else:
        return fn.resize(images, size=size, interp_type=types.INTERP_NN)


def _looked_up(length: Any, values: NDArray[Any], dtype: Any) -> Any:
    """`values` [LONGEST_SIDE] at `length`; the first, which has no ties, for longer sides."""
    from nvidia.dali import fn

    return fn.lookup_table(
        length,
        keys=list(range(LONGEST_SIDE)),
        values=values.astype(float).tolist(),
        default_value=float(values[0]),
        dtype=dtype,
    )


def _is_tied(shape: Any, size: tuple[int, int]) -> Any:
    """Whether Pillow takes other pixels than DALI's resize in any row or column."""
    from nvidia.dali import types

    high, wide = (_looked_up(shape[axis], _ties(length).differs, types.INT32) for axis, length in enumerate(size))
    return high + wide > 0


def _resize_tied(images: Any, shape: Any, size: tuple[int, int], device: str) -> Any:
    from nvidia.dali import fn, types

    extent = fn.cast(shape[:2], dtype=types.FLOAT)
    masks, slacks = [], []
    for axis, length in enumerate(size):
        rows, which, _ = _ties(length)
        number = fn.reshape(_looked_up(shape[axis], which, types.INT32), shape=[1])
        mask = fn.slice(types.Constant(rows), start=number, shape=[1], axes=[0])
        mask = fn.reshape(mask, shape=[-1, 1, 1] if axis == 0 else [1, -1, 1])
        masks.append(mask.gpu() if device == "gpu" else mask)
        # How far a position may move without passing an edge of a pixel that it does not lie on.
        slack = np.gcd(np.arange(LONGEST_SIDE), 2 * length) / (4.0 * length)
        slacks.append(_looked_up(shape[axis], slack, types.FLOAT))

    def resized(sign_y: float, sign_x: float) -> Any:
        moved = fn.stack(slacks[0] * sign_y, slacks[1] * sign_x)
        return fn.resize(images, size=size, interp_type=types.INTERP_NN, roi_start=moved, roi_end=moved + extent)

    lower, upper = (_chosen(masks[1], resized(sign, 1.0), resized(sign, -1.0)) for sign in (1.0, -1.0))
    return fn.reshape(_chosen(masks[0], lower, upper), layout="HWC")


def _chosen(mask: Any, where: Any, elsewhere: Any) -> Any:
    """`where` the mask is 255, `elsewhere` where it is 0."""
    return elsewhere ^ ((where ^ elsewhere) & mask)
