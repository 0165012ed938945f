"""Keras' ImageDataGenerator: its arguments and methods."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from gpuload.cache import CachePolicy
from gpuload.cache.policy import Cache, Limit
from gpuload.core.errors import MAX_PIXELS, ErrorPolicy, OnError
from gpuload.images.augment import EPSILON, Augment
from gpuload.images.reference import brighten, shift_channels, warp
from gpuload.keras.arrays import NumpyArrayIterator
from gpuload.keras.draws import NEUTRAL, Parameters, Ranges, is_range, matrices
from gpuload.keras.files import DataFrameIterator, DirectoryIterator


class ImageDataGenerator:
    """Random transforms of images, as Keras 3.15's class of this name, with every argument of it.

    The arguments from `device` on are gpuload's own, see `gpuload.Loader`; the flows' `errors` list the bad samples. A
    batch of a flow asked for by number, as `fit` does, cannot be left out: where `on_error="skip"` leaves nothing of
    it, RuntimeError is raised. `preprocessing_function` runs in Python on the CPU, in one thread, in the batch's order.

    Raises ValueError for arguments that make no sense.

    >>> generator = ImageDataGenerator(rescale=1 / 255, shear_range=0.2, zoom_range=0.2, horizontal_flip=True)
    >>> sorted(generator.get_random_transform((64, 64, 3), seed=1))[:3]
    ['brightness', 'channel_shift_intensity', 'flip_horizontal']
    """

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
        device: str = "auto",
        engine: str = "auto",
        threads: int | None = None,
        on_error: OnError = "raise",
        max_errors: int | float | None = None,
        errors_log: str | os.PathLike[str] | None = None,
        max_pixels: int | None = MAX_PIXELS,
        timeout: float | None = None,
        cache: Cache = "auto",
        cache_limit: Limit = None,
    ):
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(f"data_format must be 'channels_last' or 'channels_first', not {data_format!r}")
        self.channel_axis, self.row_axis, self.col_axis = (
            (3, 1, 2) if self.data_format == "channels_last" else (1, 2, 3)
        )
        if validation_split and not 0 < validation_split < 1:
            raise ValueError(f"validation_split must be between 0 and 1, both excluded, not {validation_split!r}")
        if isinstance(zoom_range, float | int):
            zoom_range = (1 - zoom_range, 1 + zoom_range)
        elif not is_range(zoom_range):
            raise ValueError(f"zoom_range must be a number or a pair of numbers, not {zoom_range!r}")
        if brightness_range is not None and not is_range(brightness_range):
            raise ValueError(f"brightness_range must be a pair of numbers, not {brightness_range!r}")
        self._validation_split = validation_split
        self.dtype = keras.config.floatx() if dtype is None else dtype
        self.featurewise_center = featurewise_center or featurewise_std_normalization or zca_whitening
        self.samplewise_center = samplewise_center or samplewise_std_normalization
        self.featurewise_std_normalization = featurewise_std_normalization and not zca_whitening
        self.samplewise_std_normalization = samplewise_std_normalization
        self.zca_whitening = zca_whitening
        self.zca_epsilon = zca_epsilon
        self.rotation_range = rotation_range
        self.width_shift_range = width_shift_range
        self.height_shift_range = height_shift_range
        self.brightness_range = brightness_range
        self.shear_range = shear_range
        self.zoom_range = list(zoom_range)
        self.channel_shift_range = channel_shift_range
        self.fill_mode = fill_mode
        self.cval = cval
        self.horizontal_flip = horizontal_flip
        self.vertical_flip = vertical_flip
        self.rescale = rescale
        self.preprocessing_function = preprocessing_function
        self.interpolation_order = interpolation_order
        self.device, self.engine, self.threads = device, engine, threads
        self.policy = ErrorPolicy(
            on_error=on_error,
            max_errors=max_errors,
            errors_log=errors_log,
            max_pixels=max_pixels,
            timeout=timeout,
        )
        self.caching = CachePolicy(cache=cache, cache_limit=cache_limit)
        self.mean: Any = None
        self.std: Any = None
        self.zca_whitening_matrix: Any = None
        for name, given, taken in (
            ("featurewise_center", featurewise_center, self.featurewise_center),
            ("samplewise_center", samplewise_center, self.samplewise_center),
            (
                "featurewise_std_normalization",
                featurewise_std_normalization,
                self.featurewise_std_normalization,
            ),
        ):
            if given != taken:
                warnings.warn(f"{name} is set to {taken}: another of the normalizations asks for it", stacklevel=2)
        self._augment()  # Checks the arguments before any file is listed.

    @property
    def ranges(self) -> Ranges:
        """What is drawn."""
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

    def flow(
        self,
        x: Any,
        y: Any = None,
        batch_size: int = 32,
        shuffle: bool = True,
        sample_weight: Any = None,
        seed: int | None = None,
        save_to_dir: str | None = None,
        save_prefix: str = "",
        save_format: str = "png",
        ignore_class_split: bool = False,
        subset: str | None = None,
    ) -> NumpyArrayIterator:
        """Batches of images in memory; see `NumpyArrayIterator`."""
        return NumpyArrayIterator(
            x,
            y,
            self,
            batch_size=batch_size,
            shuffle=shuffle,
            sample_weight=sample_weight,
            seed=seed,
            data_format=self.data_format,
            save_to_dir=save_to_dir,
            save_prefix=save_prefix,
            save_format=save_format,
            ignore_class_split=ignore_class_split,
            subset=subset,
            dtype=self.dtype,
        )

    def flow_from_directory(
        self,
        directory: str | os.PathLike[str],
        target_size: tuple[int, int] = (256, 256),
        color_mode: str = "rgb",
        classes: Sequence[str] | None = None,
        class_mode: str | None = "categorical",
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int | None = None,
        save_to_dir: str | None = None,
        save_prefix: str = "",
        save_format: str = "png",
        follow_links: bool = False,
        subset: str | None = None,
        interpolation: str = "nearest",
        keep_aspect_ratio: bool = False,
    ) -> DirectoryIterator:
        """Batches of the images in a folder with one sub-folder a class; see `DirectoryIterator`."""
        return DirectoryIterator(
            directory,
            self,
            target_size=target_size,
            color_mode=color_mode,
            classes=classes,
            class_mode=class_mode,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            data_format=self.data_format,
            save_to_dir=save_to_dir,
            save_prefix=save_prefix,
            save_format=save_format,
            follow_links=follow_links,
            subset=subset,
            interpolation=interpolation,
            keep_aspect_ratio=keep_aspect_ratio,
            dtype=self.dtype,
        )

    def flow_from_dataframe(
        self,
        dataframe: Any,
        directory: str | os.PathLike[str] | None = None,
        x_col: str = "filename",
        y_col: Any = "class",
        weight_col: str | None = None,
        target_size: tuple[int, int] = (256, 256),
        color_mode: str = "rgb",
        classes: Sequence[str] | None = None,
        class_mode: str | None = "categorical",
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int | None = None,
        save_to_dir: str | None = None,
        save_prefix: str = "",
        save_format: str = "png",
        subset: str | None = None,
        interpolation: str = "nearest",
        validate_filenames: bool = True,
        **kwargs: Any,
    ) -> DataFrameIterator:
        """Batches of the images that a dataframe names; see `DataFrameIterator`."""
        for name in kwargs:
            if name not in ("has_ext", "sort", "drop_duplicates"):
                raise TypeError(f"flow_from_dataframe() has no argument {name!r}")
            warnings.warn(f"{name} has no effect any more, in Keras either", DeprecationWarning, stacklevel=2)
        if class_mode == "other":
            warnings.warn("class_mode='other' is called 'raw' now", DeprecationWarning, stacklevel=2)
            class_mode = "raw"
        return DataFrameIterator(
            dataframe,
            directory,
            self,
            x_col=x_col,
            y_col=y_col,
            weight_col=weight_col,
            target_size=target_size,
            color_mode=color_mode,
            classes=classes,
            class_mode=class_mode,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            data_format=self.data_format,
            save_to_dir=save_to_dir,
            save_prefix=save_prefix,
            save_format=save_format,
            subset=subset,
            interpolation=interpolation,
            validate_filenames=validate_filenames,
            dtype=self.dtype,
        )

    def get_random_transform(self, img_shape: Sequence[int], seed: int | None = None) -> Parameters:
        """Draws the parameters of one transform, from NumPy's global generator, which `seed` seeds first."""
        if seed is not None:
            np.random.seed(seed)  # noqa: NPY002 - Keras' own contract
        height, width = img_shape[self.row_axis - 1], img_shape[self.col_axis - 1]
        drawn = self.ranges.draw(np.random, 1, height, width)
        return NEUTRAL | {name: column[0] for name, column in drawn.items()}

    def apply_transform(self, x: Any, transform_parameters: Parameters) -> Any:
        """The image [H, W, C] (or [C, H, W]) moved and recoloured; parameters that are not named change nothing."""
        image = np.moveaxis(np.asarray(x), self.channel_axis - 1, 2)
        parameters = NEUTRAL | transform_parameters
        columns = {name: np.array([value], float) for name, value in parameters.items() if value is not None}
        image = warp(image, matrices(columns, 1, *image.shape[:2])[0], self._augment())
        if parameters["channel_shift_intensity"] is not None:
            image = shift_channels(image, parameters["channel_shift_intensity"])
        if parameters["brightness"] is not None:
            image = brighten(image, parameters["brightness"])
        return np.moveaxis(image, 2, self.channel_axis - 1)

    def random_transform(self, x: Any, seed: int | None = None) -> Any:
        """The image under a random transform."""
        return self.apply_transform(x, self.get_random_transform(x.shape, seed))

    def standardize(self, x: Any) -> Any:
        """The image, or batch, scaled and normalized; changed in place where that is possible."""
        if self.preprocessing_function:
            x = self.preprocessing_function(x)
        if self.rescale:
            x *= self.rescale
        if self.samplewise_center:
            x -= np.mean(x, keepdims=True)
        if self.samplewise_std_normalization:
            x /= np.std(x, keepdims=True) + EPSILON
        self._warn_unfitted()
        if self.featurewise_center and self.mean is not None:
            x -= self.mean
        if self.featurewise_std_normalization and self.std is not None:
            x /= self.std + EPSILON
        if self.zca_whitening and self.zca_whitening_matrix is not None:
            x = np.reshape(x.reshape(-1, math.prod(x.shape[-3:])) @ self.zca_whitening_matrix, x.shape)
        return x

    def fit(self, x: Any, augment: bool = False, rounds: int = 1, seed: int | None = None) -> None:
        """Computes mean, standard deviation and whitening matrix, as far as they are asked for, from images [N, ...].

        `augment`: from `rounds` random transforms of each. `seed` seeds NumPy's global generator first.
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
        """The transform for images of that size: all that this generator does. Warns of statistics not fitted yet."""
        self._warn_unfitted()
        height, width = size
        fields = {**self.ranges.fields(height, width), **fields, "size": size}
        if type(self).standardize is not ImageDataGenerator.standardize or not self._plain_statistics():
            return self._augment(**fields, function=self.standardize)
        return self._augment(
            **fields,
            function=self.preprocessing_function,
            rescale=self.rescale,
            per_sample="standardize"
            if self.samplewise_std_normalization
            else "center"
            if self.samplewise_center
            else None,
            mean=np.ravel(self.mean) if self.featurewise_center and self.mean is not None else None,
            std=np.ravel(self.std) + EPSILON if self.featurewise_std_normalization and self.std is not None else None,
            zca=self.zca_whitening_matrix if self.zca_whitening else None,
        )

    def _augment(self, **fields: Any) -> Augment:
        return Augment(
            **{
                "fill_mode": self.fill_mode,
                "fill_value": self.cval,
                "warp_order": self.interpolation_order,
                "layout": "HWC" if self.data_format == "channels_last" else "CHW",
                **fields,
            }
        )

    def _plain_statistics(self) -> bool:
        """Whether mean and std are one number, or one a channel; a mean image, say, goes through `standardize`."""
        shapes = [np.shape(v) for v in (self.mean, self.std) if v is not None]
        return all(math.prod(s) == 1 or (len(s) == 3 and math.prod(s) == s[self.channel_axis - 1]) for s in shapes)

    def _warn_unfitted(self) -> None:
        for option, value in (
            ("featurewise_center", self.mean),
            ("featurewise_std_normalization", self.std),
            ("zca_whitening", self.zca_whitening_matrix),
        ):
            if getattr(self, option) and value is None:
                warnings.warn(
                    f"{option} is set but nothing was fitted, so it is left out: call fit(images) first",
                    stacklevel=3,
                )
