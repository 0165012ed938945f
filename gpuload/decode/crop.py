"""Crops: a box of whole pixels in the source image, which is then resized to the size of the transform.

The resize also reads pixels around the box, as far as its filter reaches.

A box depends on the size of the image, which only the decoder knows. So a crop draws its numbers first, and `box` turns
them into pixels when the size is known. `box` is written once for NumPy and for DALI's graph: its `ops` are the module
`numpy`, or an object with the same functions for DALI, and every quantity belongs to one image. Numbers that float32
cannot hold exactly are part of the drawn doubles, since DALI has no constants in doubles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

TRIES = 10
"""Number of boxes that `RandomResizedCrop` draws before it takes the middle of the image."""
DRAWS = 2 * TRIES + 2
"""Number of uniform numbers that a crop may draw for an image."""


def _checked_pair(name: str, value: Any, most: float) -> None:
    try:
        low, high = value
        fine = 0 < low <= high <= most and math.isfinite(high)
    except (TypeError, ValueError):
        fine = False
    if not fine:
        limit = "0 < low <= high" + (" <= 1" if most == 1 else "")
        raise ValueError(f"{name} must be (low, high) with {limit}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class CenterCrop:
    """The middle of the image, in the aspect ratio of the output.

    `CenterCrop(fraction=224 / 256)` with size=(224, 224) takes about the same part of the image as resizing its shorter
    side to 256 and cutting out the middle 224 x 224.

    Args:
        fraction: Sides of the box as a share of those of the largest box that fits, in (0, 1].

    Raises:
        ValueError: `fraction` is not in (0, 1].
    """

    fraction: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.fraction, float | int) or not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], not {self.fraction!r}")

    def draw(self, uniforms: Doubles) -> Doubles:
        """Return [B, 1]: the fraction, for `uniforms` [B, DRAWS]."""
        return np.full((len(uniforms), 1), self.fraction)

    def box(self, height: Any, width: Any, size: tuple[int, int], drawn: Any, ops: Any) -> tuple[Any, Any, Any, Any]:
        """Return (top, left, height, width) in pixels of the box that was `drawn` for an image of `height` x `width`.

        `size` is (height, width) of the output; `ops` are NumPy, or its functions in DALI.
        """
        high = ops.minimum(height, ops.floor(width * float(size[0]) / float(size[1])))
        wide = ops.minimum(width, ops.floor(height * float(size[1]) / float(size[0])))
        high = ops.maximum(ops.floor(high * drawn[0] + 0.5), 1.0)
        wide = ops.maximum(ops.floor(wide * drawn[0] + 0.5), 1.0)
        return ops.floor((height - high) * 0.5), ops.floor((width - wide) * 0.5), high, wide


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """A box of random area, aspect ratio and place in the image.

    The crop of Szegedy et al., "Going deeper with convolutions" (2014), by torchvision's rules: ten tries, then the
    middle of the image.

    Args:
        scale: (low, high) of the area, as a share of the image's; 0 < low <= high <= 1.
        ratio: (low, high) of the aspect ratio, width / height; its logarithm is drawn uniformly.

    Raises:
        ValueError: a pair that is out of order or out of range.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        _checked_pair("scale", self.scale, 1.0)
        _checked_pair("ratio", self.ratio, math.inf)

    def draw(self, uniforms: Doubles) -> Doubles:
        """Return [B, DRAWS + 2]: areas, aspect ratios, and the place in y and x, of `uniforms` [B, DRAWS]; `ratio`."""
        areas, ratios, places = np.split(uniforms, [TRIES, 2 * TRIES], axis=1)
        low, high = np.log(self.ratio)
        areas = self.scale[0] + (self.scale[1] - self.scale[0]) * areas
        limits = np.broadcast_to(self.ratio, (len(uniforms), 2))
        return np.hstack([areas, np.exp(low + (high - low) * ratios), places, limits])

    def box(self, height: Any, width: Any, size: tuple[int, int], drawn: Any, ops: Any) -> tuple[Any, Any, Any, Any]:
        """Return (top, left, height, width) in pixels of the box that was `drawn` for an image of `height` x `width`.

        `size` is (height, width) of the output; `ops` are NumPy, or its functions in DALI.
        """
        areas, ratios = drawn[:TRIES] * (height * width), drawn[TRIES : 2 * TRIES]
        place_y, place_x, least, greatest = (drawn[2 * TRIES + number] for number in range(4))
        highs = ops.maximum(ops.floor(ops.sqrt(areas / ratios) + 0.5), 1.0)
        wides = ops.maximum(ops.floor(ops.sqrt(areas * ratios) + 0.5), 1.0)
        # The first try that fits has the greatest rank; none fits where the greatest rank is 0.
        ranks = ops.array(np.arange(TRIES, 0, -1.0)) * ((highs <= height) & (wides <= width))
        best = ops.max(ranks)
        found = ops.minimum(best, 1.0)
        chosen = (ranks == best) * found
        # The fallback takes the allowed ratio nearest to that of the image.
        aspect = ops.minimum(ops.maximum(width / height, least), greatest)
        middle_high = ops.minimum(height, ops.maximum(ops.floor(width / aspect + 0.5), 1.0))
        middle_wide = ops.minimum(width, ops.maximum(ops.floor(height * aspect + 0.5), 1.0))
        high = ops.max(highs * chosen) + middle_high * (1.0 - found)
        wide = ops.max(wides * chosen) + middle_wide * (1.0 - found)
        free_y, free_x = height - high, width - wide
        top = found * ops.floor(place_y * (free_y + 1.0)) + (1.0 - found) * ops.floor(free_y * 0.5)
        left = found * ops.floor(place_x * (free_x + 1.0)) + (1.0 - found) * ops.floor(free_x * 0.5)
        return top, left, high, wide
