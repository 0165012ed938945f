"""Keras' ImageDataGenerator: random transforms of single images, and the options of its flows."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from gpuload.core.codes import EPSILON
from gpuload.images.augment import Augment
from gpuload.images.reference import brighten, shift_channels, warp
from gpuload.keras.draws import NEUTRAL, Parameters, Ranges, is_range, matrices
from gpuload.options import Cache, Errors, OnError


class ImageTransforms:
    """The arguments and the methods of Keras' ImageDataGenerator, without its flows."""

    def __init__(
        self,
        featurewise_center: bool = False,
        samplewise_center: bool = False,
        featurewise_std_normalization: bool = False,
        samplewise_std_normalization: bool = False,
        zca_whitening: bool = False,
        zca_epsilon: float = 1e-6,
        rotation_range: float = 0,
        width_shift_range: Any = 0.0,
        height_shift_range: Any = 0.0,
        brightness_range: tuple[float, float] | None = None,
        shear_range: float = 0.0,
        zoom_range: float | tuple[float, float] = 0.0,
        channel_shift_range: float = 0.0,
        fill_mode: str = "nearest",
        cval: float = 0.0,
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        rescale: float | None = None,
        preprocessing_function: Callable[[Any], Any] | None = None,
        data_format: str | None = None,
        validation_split: float = 0.0,
        interpolation_order: int = 1,
        dtype: str | None = None,
        *,
        device: Any = "auto",
        engine: str = "auto",
        decoder: str = "auto",
        threads: int | None = None,
        cache: Cache | str | os.PathLike[str] | None = "auto",
        errors: Errors | None = None,
        on_error: OnError | None = None,
    ):
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(f"data_format must be 'channels_last' or 'channels_first', not {data_format!r}")
        last = self.data_format == "channels_last"
        self.channel_axis, self.row_axis, self.col_axis = (3, 1, 2) if last else (1, 2, 3)
        if validation_split and not 0 < validation_split < 1:
            raise ValueError(f"validation_split must be between 0 and 1, both excluded, not {validation_split!r}")
        if isinstance(zoom_range, float | int):
            zoom_range = (1 - zoom_range, 1 + zoom_range)
        elif not is_range(zoom_range):
            raise ValueError(f"zoom_range must be a number or a pair of numbers, not {zoom_range!r}")
        if brightness_range is not None and not is_range(brightness_range):
            raise ValueError(f"brightness_range must be a pair of numbers, not {brightness_range!r}")
        self.validation_split = validation_split
        self.dtype = keras.config.floatx() if dtype is None else dtype
        self.featurewise_center = featurewise_center or featurewise_std_normalization or zca_whitening
        self.samplewise_center = samplewise_center or samplewise_std_normalization
        self.featurewise_std_normalization = featurewise_std_normalization and not zca_whitening
        self.samplewise_std_normalization = samplewise_std_normalization
        self.zca_whitening, self.zca_epsilon = zca_whitening, zca_epsilon
        self.rotation_range, self.shear_range, self.zoom_range = rotation_range, shear_range, list(zoom_range)
        self.width_shift_range, self.height_shift_range = width_shift_range, height_shift_range
        self.brightness_range, self.channel_shift_range = brightness_range, channel_shift_range
        self.fill_mode, self.cval, self.interpolation_order = fill_mode, cval, interpolation_order
        self.horizontal_flip, self.vertical_flip = horizontal_flip, vertical_flip
        self.rescale, self.preprocessing_function = rescale, preprocessing_function
        self.choice: dict[str, Any] = {"device": device, "engine": engine, "decoder": decoder}
        self.threads, self.cache, self.errors = threads, Cache.of(cache), Errors.of(errors, on_error)
        self.mean: Any = None
        self.std: Any = None
        self.zca_whitening_matrix: Any = None
        for name, given in {
            "featurewise_center": featurewise_center,
            "samplewise_center": samplewise_center,
            "featurewise_std_normalization": featurewise_std_normalization,
        }.items():
            if given != (taken := getattr(self, name)):
                warnings.warn(f"{name} is set to {taken}: another of the normalizations asks for it", stacklevel=2)
        self.plain()  # Checks the arguments before any file is listed.

    @property
    def statistics(self) -> tuple[Any, Any, Any]:
        """Mean, standard deviation and whitening matrix, as far as they are fitted."""
        return self.mean, self.std, self.zca_whitening_matrix

    @property
    def ranges(self) -> Ranges:
        """The ranges that parameters are drawn from."""
        return Ranges(
            rotation=self.rotation_range,
            height_shift=self.height_shift_range,
            width_shift=self.width_shift_range,
            shear=self.shear_range,
            zoom=(self.zoom_range[0], self.zoom_range[1]),
            horizontal_flip=self.horizontal_flip,
            vertical_flip=self.vertical_flip,
            channel_shift=self.channel_shift_range,
            brightness=self.brightness_range,
        )

    def get_random_transform(self, img_shape: Sequence[int], seed: int | None = None) -> Parameters:
        """Return the parameters of one random transform of an image of shape `img_shape`.

        NumPy's global generator draws them. `seed` seeds it first.
        """
        if seed is not None:
            np.random.seed(seed)  # noqa: NPY002 - Keras' own contract
        height, width = img_shape[self.row_axis - 1], img_shape[self.col_axis - 1]
        drawn = self.ranges.draw(np.random, 1, height, width)
        return NEUTRAL | {name: column[0] for name, column in drawn.items()}

    def apply_transform(self, x: Any, transform_parameters: Parameters) -> Any:
        """Return the image `x`, [H, W, C] or [C, H, W], under `transform_parameters`; missing ones change nothing."""
        image = np.moveaxis(np.asarray(x), self.channel_axis - 1, 2)
        parameters = NEUTRAL | transform_parameters
        columns = {name: np.array([value], float) for name, value in parameters.items() if value is not None}
        image = warp(image, matrices(columns, 1, *image.shape[:2])[0], self.plain())
        for name, function in (("channel_shift_intensity", shift_channels), ("brightness", brighten)):
            if parameters[name] is not None:
                image = function(image, parameters[name])
        return np.moveaxis(image, 2, self.channel_axis - 1)

    def random_transform(self, x: Any, seed: int | None = None) -> Any:
        """Return the image `x` under a random transform. `seed` seeds NumPy's global generator first."""
        return self.apply_transform(x, self.get_random_transform(x.shape, seed))

    def standardize(self, x: Any) -> Any:
        """Return the image or batch `x` scaled and normalized, in place if possible."""
        if self.preprocessing_function:
            x = self.preprocessing_function(x)
        if self.rescale:
            x *= self.rescale
        if self.samplewise_center:
            x -= np.mean(x, keepdims=True)
        if self.samplewise_std_normalization:
            x /= np.std(x, keepdims=True) + EPSILON
        mean, std, matrix = self._fitted()
        if mean is not None:
            x -= mean
        if std is not None:
            x /= std + EPSILON
        if matrix is not None:
            x = np.reshape(x.reshape(-1, math.prod(x.shape[-3:])) @ matrix, x.shape)
        return x

    def fit(self, x: Any, augment: bool = False, rounds: int = 1, seed: int | None = None) -> None:
        """Compute mean, standard deviation and whitening matrix, as far as the arguments ask for them.

        Args:
            x: Images [N, H, W, C] or [N, C, H, W], as the data format says.
            augment: Whether to use `rounds` random transforms of each image in place of the images.
            rounds: Number of transforms of each image.
            seed: Seeds NumPy's global generator first. None: it is not seeded.
        """
        x = np.array(x, dtype=self.dtype)
        if x.ndim != 4:
            raise ValueError(f"x must have rank 4, [N, H, W, C] or [N, C, H, W], not shape {x.shape}")
        if x.shape[self.channel_axis] not in (1, 3, 4):
            warnings.warn(
                f"x has {x.shape[self.channel_axis]} channels on axis {self.channel_axis} "
                f"(data_format={self.data_format!r}); images have 1, 3 or 4",
                stacklevel=2,
            )
        if seed is not None:
            np.random.seed(seed)  # noqa: NPY002 - Keras' own contract
        if self.rescale:
            x *= self.rescale
        if augment:
            augmented = [self.random_transform(image) for _ in range(rounds) for image in x]
            x = np.ascontiguousarray(augmented, self.dtype)
        axes, shape = (0, self.row_axis, self.col_axis), [1, 1, 1]
        shape[self.channel_axis - 1] = x.shape[self.channel_axis]
        if self.featurewise_center:
            self.mean = np.mean(x, axis=axes).reshape(shape)
            x -= self.mean
        if self.featurewise_std_normalization:
            self.std = np.std(x, axis=axes).reshape(shape)
            x /= self.std + EPSILON
        if self.zca_whitening:
            u, s, _ = np.linalg.svd(x.reshape(len(x), -1).T, full_matrices=False)
            self.zca_whitening_matrix = (u * (np.sqrt(len(x)) / (s + self.zca_epsilon))) @ u.T

    def augment(self, size: tuple[int, int], **fields: Any) -> Augment:
        """Return all that this generator does to images of that size. Warn if statistics are not fitted yet."""
        mean, std, matrix = self._fitted()
        fields = {**self.ranges.fields(*size), **fields, "size": size}
        if type(self).standardize is not ImageTransforms.standardize or not self._plain_statistics():
            return self.plain(**fields, function=self.standardize)
        center = "center" if self.samplewise_center else None
        return self.plain(
            **fields,
            function=self.preprocessing_function,
            rescale=self.rescale,
            per_sample="standardize" if self.samplewise_std_normalization else center,
            mean=None if mean is None else np.ravel(mean),
            std=None if std is None else np.ravel(std) + EPSILON,
            zca=matrix,
        )

    def plain(self, **fields: Any) -> Augment:
        """Return an `Augment` with these fields, and with the borders, order and layout of this generator."""
        return Augment(
            fill_mode=self.fill_mode,  # type: ignore[arg-type]
            fill_value=self.cval,
            warp_order=self.interpolation_order,
            layout="HWC" if self.data_format == "channels_last" else "CHW",
            **fields,
        )

    def _plain_statistics(self) -> bool:
        """Whether mean and std are one number, or one for each channel. A mean image, say, needs `standardize`."""
        shapes = [np.shape(v) for v in (self.mean, self.std) if v is not None]
        return all(math.prod(s) == 1 or (len(s) == 3 and math.prod(s) == s[self.channel_axis - 1]) for s in shapes)

    def _fitted(self) -> list[Any]:
        """Return mean, standard deviation and matrix as far as they are asked for. Warn of those that are missing."""
        names = "featurewise_center", "featurewise_std_normalization", "zca_whitening"
        for option, value in zip(names, self.statistics, strict=True):
            if getattr(self, option) and value is None:
                warnings.warn(
                    f"{option} is set but nothing was fitted, so it is left out: call fit(images) first",
                    stacklevel=3,
                )
        return [value if getattr(self, option) else None for option, value in zip(names, self.statistics, strict=True)]
