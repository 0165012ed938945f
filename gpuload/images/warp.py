"""What `kernels/warp.cu` is told: its parameters, and how a batch is shared out among blocks and threads.

NumPy only. Addresses are plain numbers here, so that the same launch runs on a GPU and, in the tests, on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.codes import EPSILON
from gpuload.gpu.launch import Launch
from gpuload.images.augment import Augment

SOURCE = "warp.cu"
OPTIONS = ("-std=c++17", "--fmad=false")

THREADS = 256
"""Of a block, at most; of one that makes a whole image, twice as many: what `__launch_bounds__` in the source says."""
_LARGEST = 2**31 - 2**16
"""Numbers of an image, at most: inside an image the kernel counts in 32 bits."""
_TILE = 24 * 1024
"""Bytes of a tile in shared memory, at most: several blocks share a multiprocessor."""
_PIXELS = 8
"""Pixels of a tile for each thread, about, where shared memory does not limit them."""
_ROW_OF_THREADS = 32
"""Threads along a row that read neighbours together; more only where rows are as long."""

_TYPES = {"uint8": "u8", "float16": "f16", "bfloat16": "bf16", "float32": "f32"}
_BORDERS = {"nearest": 0, "constant": 1, "reflect": 2, "wrap": 3}
_PER_SAMPLE = {None: 0, "center": 1, "standardize": 2}
_UNROLLED = (1, 3)
"""Counts of channels that are compiled for; all others share one build."""


def fields_of(*lines: str) -> list[Any]:
    return [(name, kind) for line in lines for kind, *names in [line.split()] for name in names]


WARP = np.dtype(
    [
        *fields_of(
            "u8 images placements shifts factors out",
            "i4 batch height width channels order border",
            "f4 fill rescale",
            "i4 per_sample",
            "f4 epsilon",
            "i4 centers scales",
        ),
        ("mean", "f4", (4,)),
        ("std", "f4", (4,)),
        *fields_of("i4 planar staged rows columns across tiles x y"),
    ],
    align=True,
)
"""`struct Warp` of the source."""


def itemsize(dtype: str) -> int:
    """Bytes of a number, by NumPy's name or "bfloat16".

    >>> itemsize("bfloat16"), itemsize("uint8")
    (2, 1)
    """
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def placements(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """[B, 6]: of matrices [B, 2, 3] that map pixel centres at +0.5, what maps numbers of pixels, in SciPy's sums.

    >>> placements(np.array([[[-1.0, 0, 8], [0, 1, 0]]])).tolist()
    [[-1.0, 0.0, 7.0, 0.0, 1.0, 0.0]]
    """
    found = np.array(matrices, np.float64)
    linear, offset = found[:, :, :2], found[:, :, 2]
    found[:, :, 2] = ((linear[:, :, 0] * 0.5 + linear[:, :, 1] * 0.5) + offset) - 0.5
    return found.reshape(-1, 6)


def log2(number: int) -> int:
    """Of the least power of two that is at least `number`."""
    return max(0, int(number) - 1).bit_length()


def ceil_div(number: int, divisor: int) -> int:
    return -(-number // divisor)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The addresses of a step's numbers on the device, [batch] each; 0: it has none."""

    images: int
    """u64: where the levels of each image begin."""
    placements: int = 0
    """f64 [batch, 6]."""
    shifts: int = 0
    """f32: levels that channels are shifted by."""
    factors: int = 0
    """f32: of brightness."""


class Warper:
    """Makes launches of one transform.

    Args:
        transform: What is done; `size`, `crop` and what else belongs to decoding is not looked at.
        shape: [H, W, C] of an image.
        source_dtype: Of the images, "uint8" or "float32".
        threads: Of a block, at most; a power of two, 256 at most.

    Raises ValueError for a transform that is not for a GPU, and images too large.
    """

    def __init__(self, transform: Augment, shape: tuple[int, int, int], source_dtype: str, *, threads: int = THREADS):
        _check(transform, shape, source_dtype)
        self.transform = transform
        self.shape = shape
        channels = shape[2]
        self.planar = transform.layout == "CHW"
        self.options = (
            *OPTIONS,
            f"-DIN={_TYPES[source_dtype]}",
            f"-DOUT={_TYPES[transform.dtype]}",
            f"-DCHANNELS={channels if channels in _UNROLLED else 0}",
        )
        """What the source is compiled with."""
        self.kernel = self.entry(transform.draws_channel_shift)
        """The entry point that steps of this transform need."""
        self._threads = threads
        self._templates = {kernel: self._template(kernel) for kernel in ("warp_pixels", "warp_images")}

    def entry(self, shifts: bool) -> str:
        """The entry point for a step. `shifts`: whether it shifts channels."""
        return "warp_images" if shifts or self.transform.per_sample is not None else "warp_pixels"

    def output_shape(self, batch: int) -> tuple[int, int, int, int]:
        """Of what a launch writes."""
        height, width, channels = self.shape
        return (batch, channels, height, width) if self.planar else (batch, height, width, channels)

    def launch(self, batch: int, drawn: Drawn, out: int) -> Launch:
        """The launch that fills `output_shape(batch)` at address `out`."""
        kernel = self.entry(bool(drawn.shifts))
        template, grid, block, shared = self._templates[kernel]
        parameters = template.copy()
        p: Any = parameters
        p["batch"], p["out"] = batch, out
        p["images"], p["placements"], p["shifts"], p["factors"] = (
            drawn.images,
            drawn.placements,
            drawn.shifts,
            drawn.factors,
        )
        return Launch(kernel=kernel, parameters=parameters, grid=batch * grid, block=block, shared=shared)

    def _template(self, kernel: str) -> tuple[NDArray[np.void], int, int, int]:
        """The parameters that no step changes, blocks of an image, threads of a block, and its shared memory."""
        transform = self.transform
        height, width, channels = self.shape
        parameters: NDArray[np.void] = np.zeros((), WARP)
        p: Any = parameters
        p["height"], p["width"], p["channels"] = self.shape
        p["order"] = transform.warp_order if transform.warps else min(transform.warp_order, 1)
        p["border"], p["fill"] = _BORDERS[transform.fill_mode], transform.fill_value
        p["rescale"] = transform.rescale or 0
        p["per_sample"], p["epsilon"] = _PER_SAMPLE[transform.per_sample], EPSILON
        for flag, name in (("centers", "mean"), ("scales", "std")):
            value = getattr(transform, name)
            p[flag] = value is not None
            p[name] = 1 if value is None else _of_channels(name, value, channels)
        p["planar"] = self.planar
        # Numbers of one channel alone, or of planes, are written side by side by neighbouring threads as it is.
        p["staged"] = staged = not self.planar and channels > 1
        whole = kernel == "warp_images"
        most = log2(2 * self._threads if whole else self._threads)
        size = channels * itemsize(transform.dtype)
        largest = max(1, _TILE // size) if staged else _PIXELS << most
        p["x"], p["y"], p["rows"], p["columns"] = x, y, rows, columns = _tiled(height, width, most, largest)
        p["across"] = across = ceil_div(width, columns)
        p["tiles"] = tiles = across * ceil_div(height, rows)
        # 15 bytes before the tile, up to a multiple of 16 of the output's addresses.
        shared = max((rows * columns * size + 16) * staged, (16 << (x + y)) * whole)
        return parameters, 1 if whole else tiles, 1 << (x + y), ceil_div(shared, 16) * 16


def _of_channels(name: str, value: Any, channels: int) -> NDArray[np.float32]:
    """[4] for one number, or one a channel."""
    given = np.asarray(value, np.float32).ravel()
    if len(given) not in (1, channels):
        raise ValueError(f"{name} must be one number or {channels}, one a channel of the images, not {value!r}")
    return np.resize(given[:4], 4) if len(given) > 1 else np.repeat(given, 4)


def _tiled(height: int, width: int, most: int, largest: int) -> tuple[int, int, int, int]:
    """Logarithms of a block's threads along a row and over rows, 2 ** most together at most, and rows and columns of a
    tile of at most `largest` pixels: those that leave the fewest threads without a pixel."""
    if width > largest:
        columns = min(width, max(1 << most, largest >> most << most) if largest >> most else largest)
        return min(most, log2(columns)), 0, 1, columns
    limit = min(height, largest // width)
    best = None
    for x in range(min(most, log2(width)) + 1):
        y = min(most - x, log2(limit))
        rows = min(limit, max(1, limit >> y) << y, max(1 << y, ceil_div(_PIXELS << (x + y), width) >> y << y))
        passes = ceil_div(rows, 1 << y) * ceil_div(width, 1 << x)
        # Of shapes that are as good, the one nearest to a row of 32 threads; a block of few threads is no good shape.
        good = (rows * width / (passes << most), -abs(x - log2(_ROW_OF_THREADS)))
        if best is None or good > best[0]:
            best = good, (x, y, rows, width)
    assert best is not None
    return best[1]


def _check(transform: Augment, shape: tuple[int, int, int], source_dtype: str) -> None:
    if source_dtype not in ("uint8", "float32"):
        raise ValueError(f"images on a GPU must be uint8 or float32, not {source_dtype}")
    if transform.warps and transform.warp_order > 1:
        raise ValueError(
            f"warp_order must be 0 or 1 on a GPU, not {transform.warp_order}: pass warp_order=1 or engine='numpy'"
        )
    for name in ("function", "zca"):
        if getattr(transform, name) is not None:
            raise ValueError(f"{name} must be None on a GPU: leave it out or pass engine='numpy'")
    if int(np.prod(shape, dtype=np.int64)) > _LARGEST:
        raise ValueError(f"images must have at most {_LARGEST} numbers each on a GPU, not {shape}: pass engine='numpy'")
