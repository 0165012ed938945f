"""The DALI graph: encoded JPEGs to pictures, or to regions of them; on a GPU, to levels of one size.

On the CPU gpuload's own code resizes, several times as fast as DALI's and with Pillow's very pixels. On a GPU DALI
does, within a level or two of Pillow.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.decode.crop import CenterCrop
from gpuload.decode.spec import Decoding

REGIONS_VARIABLE = "GPULOAD_GPU_REGIONS"
"""Environment variable: "1" has DALI decode only the region of a random crop on a GPU too.

nvImageCodec 0.9.0 was reported to crash there (NVIDIA/nvImageCodec#55), and the GPU's JPEG engine knows no regions. So
whole pictures are decoded on a GPU, and cut there, unless this asks for more.
"""


def unsupported(decoding: Decoding, place: str) -> str | None:
    """Return the first option that a job with DALI cannot do on "cpu" or "gpu", in words, or None. Needs no DALI."""
    if place == "cpu":
        return None
    if decoding.color == "rgba":
        return "color='rgba'"
    if decoding.interpolation in ("box", "hamming"):
        return f"interpolation={decoding.interpolation!r}"
    if decoding.interpolation == "nearest" and isinstance(decoding.crop, CenterCrop) and _has_ties(decoding.size):
        return "interpolation='nearest' with a CenterCrop, except for sizes that are powers of two"
    return None


def _has_ties(size: tuple[int, int]) -> bool:
    """Whether a resize to the nearest pixel may have to choose between two that are equally near, by rounding errors.

    For sizes that are powers of two, positions are exact in any arithmetic, and every resize makes the same choice.
    """
    return any(side & (side - 1) for side in size)


def breaks_ties(decoding: Decoding) -> bool:
    """Whether the graph is fed the choices of `ties`."""
    return decoding.interpolation == "nearest" and _has_ties(decoding.size)


def decodes_regions(decoding: Decoding, place: str, resizes: bool) -> bool:
    """Whether DALI decodes only the region that a picture's levels come from; see `pipeline` for the arguments.

    DALI's own resize takes the box of a `CenterCrop` out of the whole picture.
    """
    if place == "gpu" and os.environ.get(REGIONS_VARIABLE) != "1":
        return False
    return decoding.random if resizes else decoding.crop is not None


@functools.lru_cache(maxsize=4096)
def ties(length: int, size: int) -> tuple[NDArray[np.uint8], float, bool]:
    """Return Pillow's choices between two equally near pixels, for a side of `length` pixels resized to `size`.

    Pillow adds up the step from pixel to pixel in doubles, so rounding decides. [size] is 0 where Pillow takes the
    pixel before, 255 where it takes the next, or has no choice. Then the distance that a position may move without
    passing an edge of a pixel that it does not lie on; and whether a resize in float32 may take another pixel anywhere.
    """
    step = length / size
    position = np.cumsum(np.concatenate(([step * 0.5], np.full(size - 1, step))))
    nearest, rest = np.divmod((2 * np.arange(size) + 1) * length, 2 * size)
    tied = rest == 0
    parts = size // np.gcd(length, size)
    # If the step is a whole number of halves, quarters, ..., float32 is exact.
    differs = bool(tied.any()) and parts & (parts - 1) != 0
    choices = np.where(tied & (position < nearest), 0, 255).astype(np.uint8)
    return choices, float(np.gcd(length, 2 * size) / (4.0 * size)), differs


def pipeline(decoding: Decoding, place: str, *, resizes: bool, **options: Any) -> Any:
    """Return a pipeline whose output is pictures, RGB uint8 HWC, or levels.

    It is fed "files"; "starts" and "extents" [2] of regions in whole pixels if `decoding.random` or `decodes_regions`;
    and if it resizes, "boxes" [4] (start and end of a `CenterCrop`'s box), or for `breaks_ties` "tied" [1], "rows" [H],
    "columns" [W] and "slack" [2].

    Args:
        decoding: The levels wanted.
        place: "cpu" or "gpu".
        resizes: Whether the output is levels.
        options: Further arguments of `nvidia.dali.Pipeline`.
    """
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.pipeline import do_not_convert

    def fed(name: str, dtype: Any, ndim: int = 1) -> Any:
        return fn.external_source(name=name, dtype=dtype, ndim=ndim, no_copy=True)

    def pictures() -> Any:
        # Pillow smooths chroma and ignores the EXIF orientation.
        exact: dict[str, Any] = {
            "device": "mixed" if place == "gpu" else "cpu",
            "output_type": types.RGB,
            "adjust_orientation": False,
            "jpeg_fancy_upsampling": True,
            "use_fast_idct": decoding.fast_idct,
        }
        if place == "gpu":
            # The JPEG engine and CUDA round differently, by up to 3 levels. A share of each batch for CUDA would make
            # the pixels of a picture depend on the others in its batch.
            exact["hw_decoder_load"] = 1.0
        files = fed("files", types.UINT8)
        region: dict[str, Any] = {}
        in_decoder = decodes_regions(decoding, place, resizes)
        if in_decoder or decoding.random:
            region = {"start": fed("starts", types.INT32), "shape": fed("extents", types.INT32), "axes": [0, 1]}
        if in_decoder:
            return fn.decoders.image_slice(files, **region, **exact)
        images = fn.decoders.image(files, **exact)
        return fn.slice(images, **region) if region else images

    def levels() -> Any:
        images = pictures()
        if decoding.color == "grayscale":
            images = fn.color_space_conversion(images, image_type=types.RGB, output_type=types.GRAY)
        filters = {"nearest": "NN", "bilinear": "LINEAR", "bicubic": "CUBIC", "lanczos": "LANCZOS3"}
        box: dict[str, Any] = {}
        if isinstance(decoding.crop, CenterCrop):
            boxes = fed("boxes", types.FLOAT)
            box = {"roi_start": boxes[:2], "roi_end": boxes[2:]}
        return fn.resize(
            images,
            size=decoding.size,
            interp_type=getattr(types, f"INTERP_{filters[decoding.interpolation]}"),
            antialias=decoding.antialias,
            dtype=types.FLOAT if decoding.dtype == "float32" else None,
            **box,
        )

    def outputs() -> Any:
        # DALI rewrites the functions that are called here, to find conditions on data. Only one of them has one.
        if not resizes:
            return do_not_convert(pictures)()
        if not breaks_ties(decoding):
            return do_not_convert(levels)()
        images = do_not_convert(pictures)()
        if decoding.color == "grayscale":
            images = fn.color_space_conversion(images, image_type=types.RGB, output_type=types.GRAY)
        choices = [fed("rows", types.UINT8), fed("columns", types.UINT8)]
        return _resize_nearest(images, fed("tied", types.INT32, 0), choices, fed("slack", types.FLOAT), decoding, place)

    return pipeline_def(
        outputs,
        # Costs a rewriting of the graph's source code, so only if there is a condition on data.
        enable_conditionals=resizes and breaks_ties(decoding),
        # The dynamic executor takes as many runs ahead as are scheduled; at depth 1 each call schedules just one.
        prefetch_queue_depth=1,
        exec_dynamic=True,
        **options,
    )()


def _resize_nearest(images: Any, tied: Any, choices: Any, slack: Any, decoding: Decoding, place: str) -> Any:
    """Return the nearest pixels; of two that are equally near, the one that Pillow takes.

    DALI rewrites this function, so that the `if` decides for each image.
    """
    from nvidia.dali import fn, types

    if tied > 0:
        return _resize_tied(images, choices, slack, decoding, place)
    else:
        return fn.resize(images, size=decoding.size, interp_type=types.INTERP_NN)


def _resize_tied(images: Any, choices: Any, slack: Any, decoding: Decoding, place: str) -> Any:
    from nvidia.dali import fn, types

    extent = fn.cast(images.shape()[:2], dtype=types.FLOAT)
    masks = []
    for axis, choice in enumerate(choices):
        mask = fn.reshape(choice, shape=[-1, 1, 1] if axis == 0 else [1, -1, 1])
        masks.append(mask.gpu() if place == "gpu" else mask)

    def resized(sign_y: float, sign_x: float) -> Any:
        moved = fn.stack(slack[0] * sign_y, slack[1] * sign_x)
        return fn.resize(
            images, size=decoding.size, interp_type=types.INTERP_NN, roi_start=moved, roi_end=moved + extent
        )

    lower, upper = (_chosen(masks[1], resized(sign, 1.0), resized(sign, -1.0)) for sign in (1.0, -1.0))
    return fn.reshape(_chosen(masks[0], lower, upper), layout="HWC")


def _chosen(mask: Any, where: Any, elsewhere: Any) -> Any:
    """Return `where` if the mask is 255, `elsewhere` if it is 0."""
    return elsewhere ^ ((where ^ elsewhere) & mask)
