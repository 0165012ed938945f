"""The DALI graph: encoded files to levels of one size and colour, with the device as an argument."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.decode.spec import Decoding
from gpuload.sources import FileSource


def _ops() -> Any:
    """Return the functions of NumPy that crops use, for DALI; every quantity is a node of the graph."""
    from nvidia.dali import fn, math, types

    return SimpleNamespace(
        array=types.Constant,
        floor=math.floor,
        sqrt=math.sqrt,
        minimum=math.min,
        maximum=math.max,
        # DALI does not reduce doubles. `box` reduces whole numbers of pixels, which float32 holds exactly.
        max=lambda x: fn.reductions.max(fn.cast(x, dtype=types.FLOAT)),
    )


def pixels(files: Any, decoding: Decoding, device: str, max_pixels: int | None) -> Any:
    """Return RGB images, uint8 HWC. DALI fails, before it takes memory, if one is no image or claims too many pixels.

    No such file may reach the decoder. Of a large batch, the decoder reads some headers in the thread that calls it. If
    one of them is bad, it ends without waiting for its other threads, which then crash the process.
    """
    from nvidia.dali import fn, types

    # Each operator costs the batch a round through all threads. A TIFF's length of 32 bits is read as negative; as an
    # unsigned number it is very large.
    shape = fn.peek_image_shape(files, adjust_orientation=False, dtype=types.UINT64)
    most = np.iinfo(np.int64).max if max_pixels is None else max_pixels
    exceeds = shape[0] * shape[1] > types.Constant(most, dtype=types.UINT64)
    # The first byte, or one that no file has.
    start = exceeds * np.iinfo(np.int32).max
    # Pillow smooths chroma and ignores the EXIF orientation.
    return fn.decoders.image(
        fn.slice(files, start=start, axes=[0], out_of_bounds_policy="error"),
        device="mixed" if device == "gpu" else "cpu",
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
        use_fast_idct=decoding.fast_idct,
    )


def _decoded(
    files: Any, decoding: Decoding, drawn: Any, device: str, max_pixels: int | None
) -> tuple[Any, dict[str, Any]]:
    """Return images of the colour wanted, uint8 HWC, and the box to be resized, as arguments of `fn.resize`."""
    from nvidia.dali import fn, types

    images, box = pixels(files, decoding, device, max_pixels), {}
    if decoding.crop is not None:
        shape = fn.cast(images.shape(), dtype=types.FLOAT64)
        top, left, high, wide = decoding.crop.box(shape[0], shape[1], decoding.size, drawn, _ops())
        start, extent = (fn.cast(fn.stack(*pair), dtype=types.FLOAT) for pair in ((top, left), (high, wide)))
        box = {"roi_start": start, "roi_end": start + extent}
    if decoding.color == "grayscale":
        images = fn.color_space_conversion(images, image_type=types.RGB, output_type=types.GRAY)
    return images, box


def _resized(images: Any, box: dict[str, Any], decoding: Decoding) -> Any:
    """Return images of the size wanted, resized with Pillow's filters."""
    from nvidia.dali import fn, types

    filters = {"nearest": "NN", "bilinear": "LINEAR", "bicubic": "CUBIC", "lanczos": "LANCZOS3"}
    return fn.resize(
        images,
        size=decoding.size,
        interp_type=getattr(types, f"INTERP_{filters[decoding.interpolation]}"),
        antialias=decoding.antialias,
        dtype=types.FLOAT if decoding.dtype == "float32" else None,
        **box,
    )


def _breaks_ties(decoding: Decoding) -> bool:
    """Whether the resize may have to choose between two pixels that are equally near, as `_resize_nearest` does.

    For sizes that are powers of two, positions are exact in any arithmetic, and every resize makes the same choice.
    """
    return decoding.interpolation == "nearest" and any(side & (side - 1) for side in decoding.size)


def unsupported(decoding: Decoding) -> str | None:
    """Return the first option that DALI cannot do as Pillow does, in words, or None. Needs no DALI."""
    if decoding.color == "rgba":
        return "color='rgba'"
    if decoding.interpolation in ("box", "hamming"):
        return f"interpolation={decoding.interpolation!r}"
    if decoding.crop is not None and _breaks_ties(decoding):
        return "interpolation='nearest' with a crop, except for sizes that are powers of two"
    return None


LONGEST_SIDE = 8192
"""Longest side of an image for which `_resize_nearest` breaks ties as Pillow does."""


@functools.cache
def _ties(size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Return Pillow's choices between two equally near pixels, for sides resized to `size`.

    Pillow adds up the step from pixel to pixel in doubles, so rounding decides. The choices are [K, size] distinct
    rows: 0 where Pillow takes the pixel before, 255 where it takes the next, or has no choice; [LONGEST_SIDE] the
    number of the row for a side of that length; and whether a resize in float32 may take another pixel anywhere.
    """
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
    # If the step is a whole number of halves, quarters, ..., float32 is exact.
    parts = size // np.gcd(lengths, size)
    differs &= parts & (parts - 1) != 0
    whole_rows = table.view(f"V{size}").ravel()
    _, first, which = np.unique(whole_rows, return_index=True, return_inverse=True)
    return table[first], which, differs


def _resize_nearest(images: Any, size: tuple[int, int], device: str) -> Any:
    """Return the nearest pixels; of two that are equally near, the one that Pillow takes.

    DALI rewrites this function, so that the `if` decides for each image. The lines before it run for every image, and
    each operator costs the batch a round through all threads.
    """
    from nvidia.dali import fn, types

    shape = images.shape(dtype=types.INT32)
    if _is_tied(shape, size):
        return _resize_tied(images, shape, size, device)
    else:
        return fn.resize(images, size=size, interp_type=types.INTERP_NN)


def _looked_up(length: Any, values: NDArray[Any], dtype: Any) -> Any:
    """Return `values` [LONGEST_SIDE] at `length`; for longer sides the first, which has no ties."""
    from nvidia.dali import fn

    return fn.lookup_table(
        length,
        keys=list(range(LONGEST_SIDE)),
        values=values.astype(float).tolist(),
        default_value=float(values[0]),
        dtype=dtype,
    )


def _is_tied(shape: Any, size: tuple[int, int]) -> Any:
    """Return whether Pillow takes other pixels than DALI's resize in any row or column."""
    from nvidia.dali import types

    high, wide = (_looked_up(shape[axis], _ties(length)[2], types.INT32) for axis, length in enumerate(size))
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
        # Distance that a position may move without passing an edge of a pixel that it does not lie on.
        slack = np.gcd(np.arange(LONGEST_SIDE), 2 * length) / (4.0 * length)
        slacks.append(_looked_up(shape[axis], slack, types.FLOAT))

    def resized(sign_y: float, sign_x: float) -> Any:
        moved = fn.stack(slacks[0] * sign_y, slacks[1] * sign_x)
        return fn.resize(images, size=size, interp_type=types.INTERP_NN, roi_start=moved, roi_end=moved + extent)

    lower, upper = (_chosen(masks[1], resized(sign, 1.0), resized(sign, -1.0)) for sign in (1.0, -1.0))
    return fn.reshape(_chosen(masks[0], lower, upper), layout="HWC")


def _chosen(mask: Any, where: Any, elsewhere: Any) -> Any:
    """Return `where` if the mask is 255, `elsewhere` if it is 0."""
    return elsewhere ^ ((where ^ elsewhere) & mask)


def feeds(source: FileSource, step: Any) -> dict[str, NDArray[Any]]:
    """Return what a `pipeline` that reads is fed for a step, by name: [B, ...] each."""
    # Two padded arrays cost DALI far less of Python's time than one array for each path.
    paths = source.paths(step.indices)
    lengths = np.array([len(path) for path in paths], np.int32)
    longest = int(lengths.max())
    padded = b"".join([path.ljust(longest) for path in paths])
    fed: dict[str, NDArray[Any]] = {"paths": np.frombuffer(padded, np.uint8).reshape(len(paths), -1)}
    fed["lengths"] = lengths[:, np.newaxis]
    return fed if step.crops is None else {**fed, "crops": step.crops}


def pipeline(decoding: Decoding, place: str, max_pixels: int | None, *, reads: bool, **options: Any) -> Any:
    """Return a pipeline whose outputs are the levels, and the sizes of the files.

    Args:
        decoding: The levels wanted.
        place: "cpu" or "gpu".
        max_pixels: Limit for a header's claim; None: no limit.
        reads: Whether it is fed paths, by `feeds`, or encoded "files". "crops" are fed in both cases.
        options: Further arguments of `nvidia.dali.Pipeline`.
    """
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.pipeline import do_not_convert

    def encoded() -> Any:
        if not reads:
            return fn.external_source(name="files", dtype=types.UINT8, ndim=1)
        padded = fn.external_source(name="paths", dtype=types.UINT8, ndim=1)
        length = fn.external_source(name="lengths", dtype=types.INT32, ndim=1)
        # A mapped file that becomes shorter, or whose disk fails, would end the process. Reading is faster, too.
        return fn.io.file.read(fn.slice(padded, start=[0], shape=length, axes=[0]), dont_use_mmap=True)

    def outputs() -> Any:
        # DALI rewrites the functions that are called here, to find conditions on data. Only one of them has one.
        files = do_not_convert(encoded)()
        crops = fn.external_source(name="crops", dtype=types.FLOAT64, ndim=1) if decoding.crop is not None else None
        images, box = do_not_convert(_decoded)(files, decoding, crops, place, max_pixels)
        if _breaks_ties(decoding):
            return _resize_nearest(images, decoding.size, place), files.shape()
        return do_not_convert(_resized)(images, box, decoding), files.shape()

    return pipeline_def(
        outputs,
        # Costs a rewriting of the graph's source code, so only if there is a condition on data.
        enable_conditionals=_breaks_ties(decoding),
        # The dynamic executor takes as many runs ahead as are scheduled; at depth 1 each call schedules just one.
        prefetch_queue_depth=1,
        exec_dynamic=True,
        **options,
    )()
