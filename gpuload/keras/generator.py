"""Keras' ImageDataGenerator: the flows of its batches."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

from gpuload.keras.arrays import NumpyArrayIterator
from gpuload.keras.files import DataFrameIterator, DirectoryIterator
from gpuload.keras.transforms import ImageTransforms


class ImageDataGenerator(ImageTransforms):
    """Random transforms of images: Keras 3.15's class of this name, with all of its arguments and methods.

    With the same seed, the flows give the same batches as Keras'.

    Args:
        featurewise_center: Subtract the mean of the data set, which `fit` computes.
        samplewise_center: Subtract each image's own mean.
        featurewise_std_normalization: Divide by the standard deviation of the data set, which `fit` computes.
        samplewise_std_normalization: Divide each image by its own standard deviation.
        zca_whitening: Apply ZCA whitening, with the matrix that `fit` computes.
        zca_epsilon: Added to the singular values for the whitening.
        rotation_range: Greatest angle in degrees.
        width_shift_range: Greatest shift: a share of the width if below 1, else pixels; or a list of pixels.
        height_shift_range: The same for the height.
        brightness_range: (low, high) of a factor. None: no change.
        shear_range: Greatest angle in degrees.
        zoom_range: (low, high) of a factor, or one number z for (1 - z, 1 + z).
        channel_shift_range: Greatest shift of all channels, in levels.
        fill_mode: Pixels outside the image: "nearest", "constant", "reflect" or "wrap".
        cval: Level outside the image for fill_mode="constant".
        horizontal_flip: Flip half of the images from left to right.
        vertical_flip: Flip half of the images upside down.
        rescale: Factor for every level. None or 0: no change.
        preprocessing_function: Called with each image before it is scaled. It runs in Python on the CPU, in one thread,
            in the order of the batch.
        data_format: "channels_last" or "channels_first". None: Keras' own setting.
        validation_split: Share of the samples for `subset="validation"`, above 0 and below 1. 0: no split.
        interpolation_order: Order of the spline of the warp, 0 to 5.
        dtype: Dtype of the batches. None: Keras' `floatx`.
        device, engine, decoder, threads, cache: As of `gpuload.Loader`.
        errors, on_error: As of `gpuload.Loader`; the attribute `errors` of a flow lists its bad samples. `fit` asks for
            batches by number, so if "skip" leaves nothing of a batch, RuntimeError is raised.

    Raises:
        ValueError: arguments that make no sense.

    >>> generator = ImageDataGenerator(rescale=1 / 255, shear_range=0.2, zoom_range=0.2, horizontal_flip=True)
    >>> sorted(generator.get_random_transform((64, 64, 3), seed=1))[:3]
    ['brightness', 'channel_shift_intensity', 'flip_horizontal']
    """

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
        """Return batches of images in memory.

        Args:
            x: Images [N, H, W, C], or [N, C, H, W], as the data format says; or (x, further inputs).
            y: One target for each image, along the first axis. None: no targets.
            batch_size: Images in a batch; the last batch of an epoch may be shorter.
            shuffle: Whether each epoch has a random order.
            sample_weight: One weight for each image. None: no weights.
            seed: Seed of order and transforms. None: NumPy's global generator draws them.
            save_to_dir: Existing folder for the images of all batches. None: they are not saved.
            save_prefix: Begins the names of saved images.
            save_format: Suffix of saved images, such as "png".
            ignore_class_split: Whether training and validation may have different classes.
            subset: "training" or "validation", with `validation_split`. None: all images.
        """
        return NumpyArrayIterator(
            x,
            y,
            self,
            batch_size=batch_size,
            shuffle=shuffle,
            sample_weight=sample_weight,
            seed=seed,
            save_to_dir=save_to_dir,
            save_prefix=save_prefix,
            save_format=save_format,
            ignore_class_split=ignore_class_split,
            subset=subset,
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
        """Return batches of the images in a folder with one sub-folder for each class.

        Args:
            directory: The folder.
            target_size: (height, width) in pixels that images are resized to.
            color_mode: "rgb", "grayscale" or "rgba".
            classes: Names of the sub-folders to use, in the order of their numbers. None: all, sorted.
            class_mode: Targets: "categorical" one-hot, "binary" or "sparse" numbers, "input" the images. None: none.
            batch_size, shuffle, seed, save_to_dir, save_prefix, save_format, subset: As of `flow`.
            follow_links: Whether to follow links to folders inside a class.
            interpolation: Filter of the resize, as of `gpuload.Augment`.
            keep_aspect_ratio: Whether to crop the middle in the aspect ratio of `target_size` first.
        """
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
            save_to_dir=save_to_dir,
            save_prefix=save_prefix,
            save_format=save_format,
            follow_links=follow_links,
            subset=subset,
            interpolation=interpolation,
            keep_aspect_ratio=keep_aspect_ratio,
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
        """Return batches of the images that a pandas DataFrame names, one in each row.

        Args:
            dataframe: The DataFrame.
            directory: Folder of relative file names. None: the working directory.
            x_col: Column of file names.
            y_col: Column, or list of columns, of targets.
            weight_col: Column of sample weights. None: no weights.
            class_mode: Targets: "categorical" one-hot, "binary" or "sparse" numbers, of strings (or, for "categorical",
                lists of strings); "raw" the column's values; "multi_output" a list with an array for each column;
                "input" the images. None: none.
            classes: Names of the classes to use, in the order of their numbers. None: all, sorted.
            target_size, color_mode, batch_size, shuffle, seed, save_to_dir, save_prefix, save_format, subset,
                interpolation: As of `flow_from_directory`.
            validate_filenames: Whether to leave out rows whose file does not exist or has no suffix of an image.
            kwargs: Keras' old arguments "has_ext", "sort" and "drop_duplicates", without effect.
        """
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
            save_to_dir=save_to_dir,
            save_prefix=save_prefix,
            save_format=save_format,
            subset=subset,
            interpolation=interpolation,
            validate_filenames=validate_filenames,
        )
