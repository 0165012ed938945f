"""Crops: a box in the source image, which is then resized to the size of the transform.

A box depends on the size of the image, which only its header tells. So a crop draws its numbers first, and `boxes`
turns them into pixels when the headers have been read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuload.core.checks import checked_int

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


def _columns(*values: ArrayLike) -> list[Doubles]:
    return [np.asarray(value, np.float64) for value in values]


@dataclass(frozen=True, kw_only=True)
class CenterCrop:
    """The middle of the image.

    The resize also reads pixels around the box, as far as its filter reaches: Keras' `keep_aspect_ratio=True` and
    torchvision's `Resize`, then `CenterCrop`, do so too.

    Args:
        fraction: Sides of the box as a share, in (0, 1], of those of the largest box that has the aspect ratio of the
            output and fits. Keras' `keep_aspect_ratio=True` is `CenterCrop()`.
        resize: Length in pixels to which the shorter side of the image is resized before the middle is cut out, at
            least both sides of the output. `Augment(size=(224, 224), crop=CenterCrop(resize=256))` equals torchvision's
            `Resize(256)`, then `CenterCrop(224)`. None: `fraction` decides.

    Raises:
        ValueError: `fraction` is not in (0, 1], `resize` is no length, or both are given.

    >>> crop = CenterCrop(resize=256)
    >>> crop.boxes([512], [1024], (224, 224)).tolist()  # top, left, height, width
    [[32.0, 288.0, 448.0, 448.0]]
    """

    fraction: float = 1.0
    resize: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.fraction, float | int) or not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], not {self.fraction!r}")
        if self.resize is not None:
            object.__setattr__(self, "resize", checked_int("resize", self.resize, 1))
            if self.fraction != 1:
                raise ValueError(f"fraction={self.fraction!r} and resize={self.resize} exclude each other: pass one")

    def boxes(self, heights: ArrayLike, widths: ArrayLike, size: tuple[int, int], drawn: Any = None) -> Doubles:
        """Return the boxes [B, 4] in images of these heights and widths [B], in pixels: top, left, height, width.

        Args:
            heights: [B] heights of the images.
            widths: [B] widths of the images.
            size: (height, width) of the output.
            drawn: Not looked at: this crop draws no numbers.
        """
        height, width = _columns(heights, widths)
        if self.resize is not None:
            shorter = np.minimum(height, width)
            # The longer side is cut to whole pixels, so that both axes have scales of their own.
            high = np.where(height <= width, self.resize, np.trunc(self.resize * height / shorter))
            wide = np.where(width <= height, self.resize, np.trunc(self.resize * width / shorter))
            top, left = np.rint((high - size[0]) / 2), np.rint((wide - size[1]) / 2)
            y, x = height / high, width / wide
            return np.stack([top * y, left * x, size[0] * y, size[1] * x], axis=-1)
        high = np.minimum(height, np.floor(width * size[0] / size[1]))
        wide = np.minimum(width, np.floor(height * size[1] / size[0]))
        high = np.maximum(np.floor(high * self.fraction + 0.5), 1.0)
        wide = np.maximum(np.floor(wide * self.fraction + 0.5), 1.0)
        return np.stack([np.floor((height - high) * 0.5), np.floor((width - wide) * 0.5), high, wide], axis=-1)


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """A box of random area, aspect ratio and place, which is cut out and then resized.

    The crop of Szegedy et al., "Going deeper with convolutions" (2014), by torchvision's rules: ten tries, then the
    middle of the image. The same box gives the pixels of torchvision's `resized_crop` on Pillow's images.

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
        """Return [B, DRAWS]: areas as shares, aspect ratios, and the place in y and x, of `uniforms` [B, DRAWS]."""
        areas, ratios, places = np.split(uniforms, [TRIES, 2 * TRIES], axis=1)
        low, high = np.log(self.ratio)
        areas = self.scale[0] + (self.scale[1] - self.scale[0]) * areas
        return np.hstack([areas, np.exp(low + (high - low) * ratios), places])

    def boxes(self, heights: ArrayLike, widths: ArrayLike, size: tuple[int, int], drawn: Any = None) -> Doubles:
        """Return the boxes [B, 4] in images of these heights and widths [B], whole pixels: top, left, height, width.

        Args:
            heights: [B] heights of the images.
            widths: [B] widths of the images.
            size: (height, width) of the output. Not looked at: the box need not have its aspect ratio.
            drawn: [B, DRAWS] numbers that `draw` returned.
        """
        height, width = _columns(heights, widths)
        areas, ratios = drawn[:, :TRIES] * (height * width)[:, None], drawn[:, TRIES : 2 * TRIES]
        highs = np.maximum(np.floor(np.sqrt(areas / ratios) + 0.5), 1.0)
        wides = np.maximum(np.floor(np.sqrt(areas * ratios) + 0.5), 1.0)
        fits = (highs <= height[:, None]) & (wides <= width[:, None])
        found, first, rows = fits.any(axis=1), fits.argmax(axis=1), np.arange(len(fits))
        # If no try fits, the middle is taken, with the allowed ratio nearest to that of the image.
        aspect = np.clip(width / height, *self.ratio)
        middle_high = np.minimum(height, np.maximum(np.floor(width / aspect + 0.5), 1.0))
        middle_wide = np.minimum(width, np.maximum(np.floor(height * aspect + 0.5), 1.0))
        high = np.where(found, highs[rows, first], middle_high)
        wide = np.where(found, wides[rows, first], middle_wide)
        free_y, free_x = height - high, width - wide
        top = np.floor(np.where(found, drawn[:, 2 * TRIES] * (free_y + 1.0), free_y * 0.5))
        left = np.floor(np.where(found, drawn[:, 2 * TRIES + 1] * (free_x + 1.0), free_x * 0.5))
        return np.stack([top, left, high, wide], axis=-1)


Crop = CenterCrop | RandomResizedCrop
