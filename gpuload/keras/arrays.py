"""Keras' iterator over images in memory."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from gpuload.keras.iterator import Iterator, cast, share_of
from gpuload.keras.transforms import ImageTransforms
from gpuload.sources import ImageArray


class NumpyArrayIterator(Iterator):
    """Batches of images in memory.

    Args:
        x, y, shuffle, sample_weight, subset, ignore_class_split: As of `ImageDataGenerator.flow`.
        image_data_generator: The transforms.
        options: Further arguments of `Iterator`.
    """

    source: ImageArray
    _suffix_limit = 10_000

    def __init__(
        self,
        x: Any,
        y: Any,
        image_data_generator: ImageTransforms,
        *,
        shuffle: bool = False,
        sample_weight: Any = None,
        subset: str | None = None,
        ignore_class_split: bool = False,
        **options: Any,
    ):
        further: list[Any] = []
        if isinstance(x, tuple | list):
            x, rest = x[0], x[1]
            further = [np.asarray(r) for r in (rest if isinstance(rest, list) else [rest])]
        x = np.asarray(x)
        more = ((f"x[1][{number}]", column) for number, column in enumerate(further))
        for name, column in (("y", y), ("sample_weight", sample_weight), *more):
            if column is not None and len(column) != len(x):
                raise ValueError(f"{name} must be as long as the images, {len(x)}, not {len(column)}")
        share = share_of(image_data_generator, subset)
        if share is not None:
            cut = int(len(x) * image_data_generator.validation_split)
            if y is not None and not ignore_class_split and set(np.unique(y[:cut])) != set(np.unique(y[cut:])):
                raise ValueError(
                    "training and validation must have the same classes after the split, but have not: shuffle x and "
                    "y, or pass ignore_class_split=True"
                )
            part = slice(None, cut) if subset == "validation" else slice(cut, None)
            x, further = x[part], [r[part] for r in further]
            y, sample_weight = (None if v is None else v[part] for v in (y, sample_weight))
        if x.ndim != 4:
            raise ValueError(f"x must have rank 4, [N, H, W, C] or [N, C, H, W], not shape {x.shape}")
        self.x, self.x_misc = x, further
        self.y = None if y is None else np.asarray(y)
        self.sample_weight = None if sample_weight is None else np.asarray(sample_weight)
        images = x if image_data_generator.data_format == "channels_last" else np.moveaxis(x, 1, 3)
        if images.shape[3] not in (1, 3, 4):
            warnings.warn(f"x has {images.shape[3]} channels (shape {x.shape}); images have 1, 3 or 4", stacklevel=3)
        if images.dtype != np.uint8:
            images = images.astype(np.float32, copy=False)
        self._size = images.shape[1], images.shape[2]
        self._options = {"color": {1: "grayscale", 4: "rgba"}.get(images.shape[3], "rgb")}
        super().__init__(ImageArray(images), image_data_generator, shuffle=shuffle, **options)

    def _cast(self, images: Any) -> Any:
        # Keras' warp keeps integer images as integers, by rounding.
        if np.issubdtype(np.dtype(self.dtype), np.integer):
            images = np.rint(images) if isinstance(images, np.ndarray) else ops.round(images)
        return cast(images, self.dtype)

    def _batch(self, indices: NDArray[np.int64], images: Any) -> Any:
        inputs = [images, *(r[indices] for r in self.x_misc)] if self.x_misc else images
        if self.y is None:
            return inputs
        weights = () if self.sample_weight is None else (self.sample_weight[indices],)
        return inputs, self.y[indices], *weights
