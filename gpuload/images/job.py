"""An image job: which images, what is done to them, where, and by what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.device import Device
from gpuload.decode.spec import Decoding
from gpuload.images.augment import Augment
from gpuload.sources import EncodedImages, ImageArray, ImageSource


@dataclass(frozen=True, kw_only=True)
class ImageJob:
    """Images of a source, and what is made of them. `gpuload.images.choose.settle` makes one and checks it."""

    source: ImageSource
    transform: Augment
    """Its size is known; its layout too, once a pool has the job."""
    device: Device
    engine: str
    decoder: str | None
    """None: images are in memory."""
    cache_size: tuple[int, int] | None = None
    """(height, width) at which a cache keeps images, if crops are cut out of kept images."""

    @cached_property
    def images(self) -> NDArray[Any] | None:
        """[N, H, W, C] the images, if they are in memory."""
        return self.source.images if isinstance(self.source, ImageArray) else None

    @property
    def encoded(self) -> EncodedImages:
        assert not isinstance(self.source, ImageArray)
        return self.source

    @cached_property
    def decoding(self) -> Decoding:
        """Levels that decoders make of files and caches keep."""
        return kept(self.transform, self.cache_size)

    @property
    def recuts(self) -> bool:
        """Whether the transform's crop is cut out of levels that were resized before."""
        return self.cache_size is not None

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """[H, W, C] of an image that is delivered."""
        channels = self.transform.channels if self.images is None else self.images.shape[3]
        height, width = self.transform.decoding.size
        return height, width, channels

    @property
    def level_dtype(self) -> str:
        """Dtype of levels in a cache or on a GPU: "uint8" or "float32"."""
        if self.images is None:
            return self.decoding.dtype
        return "uint8" if self.images.dtype == np.uint8 else "float32"

    @property
    def planar(self) -> bool:
        """Whether channels come first."""
        return self.transform.layout == "CHW"

    def output_shape(self, batch: Any) -> tuple[Any, int, int, int]:
        height, width, channels = self.shape
        return (batch, channels, height, width) if self.planar else (batch, height, width, channels)

    @property
    def host_dtype(self) -> str:
        """Dtype of a batch in the host's memory. NumPy has no bfloat16: delivery casts it."""
        return "float32" if self.transform.dtype == "bfloat16" else self.transform.dtype

    def in_layout(self, layout: str) -> ImageJob:
        same = self.transform.layout == layout
        return self if same else replace(self, transform=self.transform.replace(layout=layout))


def kept(transform: Augment, cache_size: tuple[int, int] | None) -> Decoding:
    """Return the levels that a cache keeps: at the transform's size, or whole images at `cache_size`."""
    decoding = transform.decoding
    return decoding if cache_size is None else replace(decoding, size=cache_size, crop=None)
