"""What Keras' ImageDataGenerator draws for an image, in the order in which it draws it.

The order was read off Keras 3.15: rotation, height shift, width shift, shear, zoom (x and y in one call), each only
where its range is set; then one number for each flip, always; then channel shift and brightness where they are set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.plan.affine import affine, flipped

Parameters = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """The ranges of an ImageDataGenerator, under Keras' names."""

    rotation: float
    height_shift: Any
    width_shift: Any
    shear: float
    zoom: tuple[float, float]
    horizontal_flip: bool
    vertical_flip: bool
    channel_shift: float
    brightness: tuple[float, float] | None

    def draw(self, rng: Any, height: int, width: int) -> Parameters:
        """Keras' dictionary for one image of that size. `rng` is a `RandomState`, or `numpy.random` itself."""
        theta = rng.uniform(-self.rotation, self.rotation) if self.rotation else 0
        tx = _shift(rng, self.height_shift, height)
        ty = _shift(rng, self.width_shift, width)
        shear = rng.uniform(-self.shear, self.shear) if self.shear else 0
        zx, zy = (1, 1) if self.zoom == (1, 1) else rng.uniform(*self.zoom, 2)
        return {
            "theta": theta,
            "tx": tx,
            "ty": ty,
            "shear": shear,
            "zx": zx,
            "zy": zy,
            "flip_horizontal": (rng.random_sample() < 0.5) * self.horizontal_flip,
            "flip_vertical": (rng.random_sample() < 0.5) * self.vertical_flip,
            "channel_shift_intensity": rng.uniform(-self.channel_shift, self.channel_shift)
            if self.channel_shift != 0
            else None,
            "brightness": rng.uniform(*self.brightness) if self.brightness is not None else None,
        }

    def fields(self, height: int, width: int) -> dict[str, Any]:
        """The same ranges as fields of an `Augment` for images of that size: bounds of what can be drawn."""
        low, high = sorted(self.zoom)
        # Keras calls the height's shift tx and moves x by it, and turns about (height / 2, width / 2) in (x, y).
        return {
            "rotation": abs(self.rotation),
            "width_shift": _bound(self.height_shift, height) / width,
            "height_shift": _bound(self.width_shift, width) / height,
            "shear": abs(self.shear),
            "zoom": (max(low, 1e-6), max(high, 1e-6)),
            "center": (height / 2, width / 2),
            "hflip": 0.5 * bool(self.horizontal_flip),
            "vflip": 0.5 * bool(self.vertical_flip),
            "channel_shift": abs(self.channel_shift),
            "brightness": None if self.brightness is None else (0.0, max(0.0, *self.brightness)),
        }


def _shift(rng: Any, extent: Any, length: int) -> Any:
    """Keras takes whole numbers and lists for pixels to choose from, floats below 1 for shares, others for pixels."""
    if not np.any(extent):
        return 0
    try:
        shift = rng.choice(extent) * rng.choice([-1, 1])
    except ValueError:
        shift = rng.uniform(-extent, extent)
    return shift * length if np.max(extent) < 1 else shift


def _bound(extent: Any, length: int) -> float:
    if not np.any(extent):
        return 0.0
    return float(np.max(np.abs(extent))) * (length if np.max(extent) < 1 else 1)


def matrices(drawn: Sequence[Parameters], height: int, width: int) -> NDArray[np.float64]:
    """[B, 2, 3] what each dictionary does to an image of that size; what it does not name is left alone."""

    def column(name: str, neutral: float = 0.0) -> NDArray[np.float64]:
        return np.array([parameters.get(name, neutral) for parameters in drawn], float)

    moved = affine(
        rotation=column("theta"),
        shift=(column("tx"), column("ty")),
        shear=column("shear"),
        zoom=(column("zx", 1.0), column("zy", 1.0)),
        center=(height / 2, width / 2),
    )
    return flipped(moved, column("flip_horizontal"), column("flip_vertical"), (height, width))


def colors(drawn: Sequence[Parameters], name: str) -> NDArray[np.float64] | None:
    """[B] the drawn values of `channel_shift_intensity` or `brightness`; None where they are not drawn."""
    values = [parameters[name] for parameters in drawn]
    return None if not values or values[0] is None else np.array(values, float)


def is_range(value: Any) -> bool:
    """Whether `value` is two finite numbers."""
    return (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(isinstance(v, float | int) and math.isfinite(v) for v in value)
    )
