"""The levels wanted of an encoded image."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuload.decode.crop import Crop, RandomResizedCrop

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Color = Literal["rgb", "grayscale", "rgba"]
Decode = Literal["exact", "scaled"]
Indices = NDArray[np.int64]

CHANNELS = {"rgb": 3, "grayscale": 1, "rgba": 4}


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Levels wanted of each image. A cache that was filled for one `Decoding` serves no other.

    The fields are those of `gpuload.Augment`.
    """

    size: tuple[int, int]
    crop: Crop | None = None
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    fast_idct: bool = False
    decode: Decode = "exact"
    color: Color = "rgb"

    @property
    def shape(self) -> tuple[int, int, int]:
        """[H, W, C] of the levels of an image."""
        return (*self.size, CHANNELS[self.color])

    @property
    def dtype(self) -> str:
        """Dtype of the levels. A bilinear resize without antialiasing does not round to whole levels."""
        return "float32" if not self.antialias and self.interpolation == "bilinear" else "uint8"

    @property
    def random(self) -> bool:
        """Whether the levels of an image differ from epoch to epoch."""
        return isinstance(self.crop, RandomResizedCrop)

    def key(self) -> dict[str, Any]:
        """Return the fields that tell two caches of images of the same shape apart, for JSON."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("size", "crop")}
        return {**named, "crop": repr(self.crop)}
