"""The levels wanted of an image file, and the protocol of the decoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuload.decode.crop import CenterCrop, RandomResizedCrop

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Color = Literal["rgb", "grayscale", "rgba"]
Indices = NDArray[np.int64]

CHANNELS = {"rgb": 3, "grayscale": 1, "rgba": 4}


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Levels wanted of each image file. A cache that was filled for one `Decoding` serves no other.

    The fields are those of `gpuload.Augment`.
    """

    size: tuple[int, int]
    crop: CenterCrop | RandomResizedCrop | None = None
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    fast_idct: bool = False
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


class Decoder(Protocol):
    """Reads, decodes and resizes files in threads of its own, in the order in which steps are submitted.

    It looks at three attributes of a step: `indices` [B], the numbers of the samples in the source; `crops` [B, ...],
    the numbers that the crop drew, or None; and `batch_size`.
    """

    bytes_read: int
    """Bytes read from files so far."""
    samples: int
    """Images that `seconds` counts."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds that threads have spent, by stage ("read", "decode"); empty for a decoder that cannot tell."""

    @property
    def alive(self) -> bool:
        """Whether the decoder can go on. It cannot if its threads hang at a file that blocks."""

    def submit(self, step: Any) -> None:
        """Start a step without waiting for it."""

    def ready(self) -> bool:
        """Whether `result` is known to return at once."""

    def result(self, stream: int | None = None) -> Any:
        """Return the levels [B, H, W, C] of the oldest step.

        Args:
            stream: CUDA stream that will read the levels, as a number. None: wait until they are there.

        Raises:
            SampleError: some files of the step cannot be read. Later steps are not affected.
        """

    def discard(self) -> None:
        """Forget all steps."""

    def close(self) -> None:
        """Free threads and memory."""
