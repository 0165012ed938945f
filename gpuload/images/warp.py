"""Launches of `kernels/warp.cu`: its parameters, and the share of each block and thread in a batch. NumPy only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.codes import BORDERS, PER_SAMPLE, TYPES, itemsize
from gpuload.gpu.launch import LARGEST, THREADS, Kernel, Launch, ceil_div, fields_of, fill, log2, options
from gpuload.images.augment import Augment

_TILE = 24 * 1024
"""Bytes of a tile in shared memory, at most, so that several blocks fit on a multiprocessor."""
_PIXELS = 8
"""Pixels of a tile for each thread, about, if shared memory sets no other limit."""
_ROW_OF_THREADS = 32
"""Threads along a row whose reads are merged; more only in rows that are as long."""
_UNROLLED = (1, 3)
"""Numbers of channels that are compiled in; all others share one build."""

WARP = np.dtype(
    [
        *fields_of(
            "u8 images placements shifts factors out",
            "i4 batch height width channels order border",
            "f4 fill rescale",
            "i4 per_sample centers scales",
        ),
        ("mean", "f4", (4,)),
        ("std", "f4", (4,)),
        *fields_of("i4 planar staged rows columns across tiles x y"),
    ],
    align=True,
)
"""`struct Warp` of the source."""


def placements(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return matrices [B, 2, 3] for pixel centres at +0.5 as [B, 6] for numbers of pixels, added up in SciPy's order.

    >>> placements(np.array([[[-1.0, 0, 8], [0, 1, 0]]])).tolist()
    [[-1.0, 0.0, 7.0, 0.0, 1.0, 0.0]]
    """
    found = np.array(matrices, np.float64)
    linear, offset = found[:, :, :2], found[:, :, 2]
    found[:, :, 2] = ((linear[:, :, 0] * 0.5 + linear[:, :, 1] * 0.5) + offset) - 0.5
    return found.reshape(-1, 6)


class Warper:
    """Makes launches for one transform.

    Args:
        transform: A transform that `unsupported` of the fast engine lets pass. Decoding, size and crop are ignored.
        shape: (H, W, C) of an image.
        source_dtype: Dtype of the images: "uint8" or "float32".
        threads: Threads of a block, at most; a power of two up to 256.

    Raises:
        ValueError: If images are of another dtype or too large, or if `mean` or `std` has a wrong number of channels.
    """

    def __init__(self, transform: Augment, shape: tuple[int, int, int], source_dtype: str, *, threads: int = THREADS):
        if source_dtype not in ("uint8", "float32"):
            raise ValueError(f"images on a GPU must be uint8 or float32, not {source_dtype}")
        if int(np.prod(shape, dtype=np.int64)) > LARGEST:
            raise ValueError(
                f"images must have at most {LARGEST} numbers each on a GPU, not {shape}: pass engine='numpy'"
            )
        self._transform, self._shape, self._threads = transform, shape, threads
        self._planar = transform.layout == "CHW"
        channels = shape[2] if shape[2] in _UNROLLED else 0
        self.options = options(IN=TYPES[source_dtype], OUT=TYPES[transform.dtype], CHANNELS=channels)
        self._templates = {name: self._template(name) for name in ("warp_pixels", "warp_images")}

    def kernel(self, shifts: bool) -> Kernel:
        """Return the kernel for steps that shift channels, or do not."""
        whole = shifts or self._transform.per_sample is not None
        return self._templates["warp_images" if whole else "warp_pixels"].kernel

    def output_shape(self, batch: int) -> tuple[int, int, int, int]:
        """Return the shape of a batch: (B, H, W, C) or (B, C, H, W)."""
        height, width, channels = self._shape
        return (batch, channels, height, width) if self._planar else (batch, height, width, channels)

    def launch(self, batch: int, drawn: dict[str, int], out: int) -> Launch:
        """Return the launch that fills an array of shape `output_shape(batch)`.

        Args:
            batch: Number of images.
            drawn: Addresses on the device, [batch] each: u64 "images", the addresses of their levels; where the step
                has them, f64 "placements" [batch, 6], f32 "shifts" added to all channels, f32 "factors" of brightness.
            out: Address of the array.
        """
        template = self._templates[self.kernel("shifts" in drawn).name]
        parameters = template.parameters.copy()
        fill(parameters, batch=batch, out=out, **drawn)
        return replace(template, parameters=parameters, grid=batch * template.grid)

    def _template(self, name: str) -> Launch:
        """Return a launch for one image, with the parameters that no step changes."""
        transform = self._transform
        height, width, channels = self._shape
        parameters: NDArray[np.void] = np.zeros((), WARP)
        p: Any = parameters
        p["height"], p["width"], p["channels"] = self._shape
        p["order"] = transform.warp_order if transform.warps else min(transform.warp_order, 1)
        p["border"], p["fill"] = BORDERS[transform.fill_mode], transform.fill_value
        p["rescale"], p["per_sample"] = transform.rescale or 0, PER_SAMPLE[transform.per_sample]
        for flag, field in (("centers", "mean"), ("scales", "std")):
            value = getattr(transform, field)
            p[flag] = value is not None
            p[field] = 1 if value is None else _of_channels(field, value, channels)
        p["planar"] = self._planar
        # Neighbouring threads write single channels and planes side by side anyway.
        p["staged"] = staged = not self._planar and channels > 1
        whole = name == "warp_images"
        most = log2(2 * self._threads if whole else self._threads)
        size = channels * itemsize(transform.dtype)
        largest = max(1, _TILE // size) if staged else _PIXELS << most
        p["x"], p["y"], p["rows"], p["columns"] = x, y, rows, columns = _tiled(height, width, most, largest)
        p["across"] = across = ceil_div(width, columns)
        p["tiles"] = tiles = across * ceil_div(height, rows)
        # The tile begins up to 15 bytes into its memory, as far from a multiple of 16 as in the output.
        shared = max((rows * columns * size + 16) * staged, (16 << (x + y)) * whole)
        return Launch(
            kernel=Kernel("warp.cu", name, self.options),
            parameters=parameters,
            grid=1 if whole else tiles,
            block=1 << (x + y),
            shared=ceil_div(shared, 16) * 16,
        )


def _of_channels(name: str, value: Any, channels: int) -> NDArray[np.float32]:
    """Return [4] numbers for one number, or for one a channel."""
    given = np.asarray(value, np.float32).ravel()
    if len(given) not in (1, channels):
        raise ValueError(f"{name} must be one number or {channels}, one a channel of the images, not {value!r}")
    return np.resize(given[:4], 4) if len(given) > 1 else np.repeat(given, 4)


def _tiled(height: int, width: int, most: int, largest: int) -> tuple[int, int, int, int]:
    """Return the shape of blocks and tiles that leaves the fewest threads without a pixel.

    A block has at most 2**`most` threads, and a tile at most `largest` pixels. Returns the logarithms of a block's
    threads along a row and over rows, and the rows and columns of a tile.
    """
    if width > largest:
        columns = min(width, max(1 << most, largest >> most << most) if largest >> most else largest)
        return min(most, log2(columns)), 0, 1, columns
    limit = min(height, largest // width)
    shapes = []
    for x in range(min(most, log2(width)) + 1):
        y = min(most - x, log2(limit))
        rows = min(limit, max(1, limit >> y) << y, max(1 << y, ceil_div(_PIXELS << (x + y), width) >> y << y))
        passes = ceil_div(rows, 1 << y) * ceil_div(width, 1 << x)
        # Among equally good shapes, the one nearest to rows of 32 threads. Blocks of few threads count as bad.
        good = (rows * width / (passes << most), -abs(x - log2(_ROW_OF_THREADS)))
        shapes.append((good, (x, y, rows, width)))
    return max(shapes, key=lambda shape: shape[0])[1]
