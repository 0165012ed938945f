"""Images in memory."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt

from gpuload.sources.base import Array, Self, as_indices, as_labels, layout


class ImageArray:
    """Images in memory, or in a memory-mapped file.

    Args:
        images: uint8 or floating [N, H, W, C]. They are not copied, and an `np.memmap` stays one.
        labels: One entry for each image, along the first axis: anything that `np.asarray` takes, of any shape and
            dtype. None: there are no labels.

    Raises:
        ValueError: `images` has another rank or dtype, or holds no image; or `labels` has another length.

    >>> ImageArray(np.zeros((8, 32, 32, 3), np.uint8), labels=np.arange(8, dtype=np.int32))
    ImageArray(images: uint8 [8, 32, 32, 3], labels: int32 [8])
    """

    images: Array
    labels: Array | None

    def __init__(self, images: npt.ArrayLike, labels: npt.ArrayLike | None = None):
        self.images = images if isinstance(images, np.memmap) else np.asarray(images)
        if self.images.ndim == 1 and self.images.dtype.kind in "SO":
            raise ValueError(
                f"images must be [N, H, W, C]: got {layout(self.images)}; gpuload.ImageBytes takes encoded images"
            )
        if self.images.ndim != 4 or not len(self.images):
            raise ValueError(
                f"images must be [N, H, W, C] with N at least 1: got {layout(self.images)}; "
                "images[..., np.newaxis] adds the channels, images[np.newaxis] makes a batch of one image"
            )
        if self.images.dtype != np.uint8 and self.images.dtype.kind != "f":
            raise ValueError(
                f"images must be uint8 or floating: got {self.images.dtype}; convert whole numbers from 0 to "
                "255 with images.astype('uint8'), others with images.astype('float32')"
            )
        self.labels = as_labels(labels, len(self.images), "images")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def take(self, indices: npt.ArrayLike | slice) -> Self:
        """Return a source with these images and their labels, in this order.

        Args:
            indices: Integers [K] or booleans [N], which copy the images; or a slice, which shares them. IndexError is
                raised for others, and out of bounds.
        """
        indices = as_indices(indices)
        taken = copy.copy(self)
        taken.images = self.images[indices]
        taken.labels = None if self.labels is None else self.labels[indices]
        return taken

    def __repr__(self) -> str:
        return f"{type(self).__name__}(images: {layout(self.images)}, labels: {layout(self.labels)})"
