"""Keras' iterators over image files: of a folder, of a dataframe."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from gpuload.decode.crop import CenterCrop
from gpuload.decode.spec import CHANNELS
from gpuload.keras.iterator import Iterator, share_of
from gpuload.keras.transforms import ImageTransforms
from gpuload.sources import FileSource, ImageFolder, ImageList
from gpuload.sources.folder import SUFFIXES


class FileIterator(Iterator):
    """Batches of image files, with targets of the kind that `class_mode` names."""

    source: FileSource
    allowed_class_modes: frozenset[str | None]
    classes: Any
    class_indices: dict[str, int]
    labels: Any
    """Numbers of the classes, or the targets of class_mode "raw" and "multi_output"."""

    def __init__(
        self,
        source: FileSource,
        generator: ImageTransforms | None,
        target_size: tuple[int, int],
        color_mode: str,
        class_mode: str | None,
        *,
        subset: str | None = None,
        interpolation: str = "nearest",
        keep_aspect_ratio: bool = False,
        sample_weight: Any = None,
        **options: Any,
    ):
        super().__init__(source, generator, **options)
        if color_mode not in CHANNELS:
            raise ValueError(f"color_mode must be one of {', '.join(CHANNELS)}, not {color_mode!r}")
        self.target_size = tuple(target_size)
        self.color_mode, self.class_mode, self.subset = color_mode, class_mode, subset
        self.interpolation, self.keep_aspect_ratio = interpolation, keep_aspect_ratio
        self.sample_weight = sample_weight
        self._size = self.target_size[0], self.target_size[1]
        channels = (CHANNELS[color_mode],)
        last = self.data_format == "channels_last"
        self.image_shape = self.target_size + channels if last else channels + self.target_size
        crop = CenterCrop() if keep_aspect_ratio else None
        self._options = {"color": color_mode, "interpolation": interpolation, "crop": crop}
        self._transform = self.image_data_generator.plain(size=self.target_size, **self._options)

    @property
    def filenames(self) -> list[str]:
        """File names, relative to the folder."""
        return self.source.filenames

    @property
    def filepaths(self) -> list[str]:
        """Full paths of the files."""
        return [os.fsdecode(path) for path in self.source.paths(slice(None))]

    def _batch(self, indices: NDArray[np.int64], images: Any) -> Any:
        if self.class_mode is None:
            return images
        if self.class_mode == "input":
            targets = images.copy() if isinstance(images, np.ndarray) else images
        elif self.class_mode == "multi_output":
            targets = [output[indices] for output in self.labels]
        elif self.class_mode == "raw":
            targets = self.labels[indices]
        elif self.class_mode == "categorical":
            targets = np.zeros((len(indices), len(self.class_indices)), self.dtype)
            for row, index in enumerate(indices):
                targets[row, self.classes[index]] = 1  # One class, or a list of classes.
        else:
            targets = np.array([self.classes[index] for index in indices], self.dtype)
        return (images, targets) if self.sample_weight is None else (images, targets, self.sample_weight[indices])


def check_mode(class_mode: str | None, allowed: frozenset[str | None]) -> None:
    if class_mode not in allowed:
        raise ValueError(f"class_mode must be one of {', '.join(sorted(map(repr, allowed)))}, not {class_mode!r}")


def say(message: str) -> None:
    if keras.config.is_interactive_logging_enabled():
        print(message)


class DirectoryIterator(FileIterator):
    """Batches of the images in a folder with one sub-folder for each class: (images, targets), or images alone.

    Args:
        directory, target_size, color_mode, classes, class_mode, follow_links, subset: As of
            `ImageDataGenerator.flow_from_directory`.
        image_data_generator: The transforms. None: no transform.
        options: Its further arguments, and those of `Iterator`.
    """

    allowed_class_modes = frozenset({"categorical", "binary", "sparse", "input", None})

    def __init__(
        self,
        directory: str | os.PathLike[str],
        image_data_generator: ImageTransforms | None,
        target_size: tuple[int, int] = (256, 256),
        color_mode: str = "rgb",
        classes: Sequence[str] | None = None,
        class_mode: str | None = "categorical",
        *,
        follow_links: bool = False,
        subset: str | None = None,
        **options: Any,
    ):
        check_mode(class_mode, self.allowed_class_modes)
        source = ImageFolder(directory, classes or None, follow_links, allow_empty=True)
        counts = np.bincount(source.labels, minlength=len(source.classes))
        empty = [name for name, count in zip(source.classes, counts, strict=True) if not count]
        if empty:
            named = ", ".join(empty[:5])
            warnings.warn(f"no images in {len(empty)} of {len(counts)} class folders: {named}", stacklevel=3)
        share = share_of(image_data_generator, subset)
        if share is not None:
            # Each class is split on its own, as in Keras.
            ends = np.cumsum(counts)
            spans = zip(ends - counts, (share[0] * counts).astype(int), (share[1] * counts).astype(int), strict=True)
            kept = np.concatenate([np.arange(start + low, start + high) for start, low, high in spans])
            if not len(kept):
                raise ValueError(
                    f"subset={subset!r} has no image: validation_split leaves none of the {len(source)}; change it"
                )
            source = source.take(kept)
        self.directory = directory
        self.split = share
        self.num_classes = len(source.classes)
        self.class_indices = source.class_indices
        self.classes = self.labels = source.labels
        super().__init__(source, image_data_generator, target_size, color_mode, class_mode, subset=subset, **options)
        say(f"Found {self.samples} images belonging to {self.num_classes} classes.")


class DataFrameIterator(FileIterator):
    """Batches of the images that a pandas DataFrame names: (images, targets, weights) as far as they exist.

    Args:
        dataframe, directory, x_col, y_col, weight_col, target_size, color_mode, classes, class_mode, subset,
            validate_filenames: As of `ImageDataGenerator.flow_from_dataframe`.
        image_data_generator: The transforms. None: no transform.
        options: Further arguments of `ImageDataGenerator.flow_from_directory`, and those of `Iterator`.
    """

    allowed_class_modes = frozenset({"binary", "categorical", "input", "multi_output", "raw", "sparse", None})

    def __init__(
        self,
        dataframe: Any,
        directory: str | os.PathLike[str] | None = None,
        image_data_generator: ImageTransforms | None = None,
        x_col: str = "filename",
        y_col: Any = "class",
        weight_col: str | None = None,
        target_size: tuple[int, int] = (256, 256),
        color_mode: str = "rgb",
        classes: Sequence[str] | None = None,
        class_mode: str | None = "categorical",
        *,
        subset: str | None = None,
        validate_filenames: bool = True,
        **options: Any,
    ):
        check_mode(class_mode, self.allowed_class_modes)
        self.directory = directory or ""
        frame = dataframe.copy()
        by_class = class_mode in ("binary", "categorical", "sparse")
        _check_columns(frame, x_col, y_col, weight_col, class_mode)
        if classes and not by_class:
            warnings.warn(f"classes has no effect with class_mode={class_mode!r}", stacklevel=3)
        if validate_filenames:
            paths = [os.path.join(self.directory, name) for name in frame[x_col]]
            valid = [path.lower().endswith(SUFFIXES) and os.path.isfile(path) for path in paths]
            if not all(valid):
                warnings.warn(
                    f"{valid.count(False)} of {len(valid)} file names in x_col={x_col!r} are left out: no such file, "
                    f"or none of {', '.join(SUFFIXES)}",
                    stacklevel=3,
                )
            frame = frame[valid]
        if by_class:
            frame, names = _with_classes(frame, y_col, classes)
            if class_mode == "binary" and len(names) != 2:
                raise ValueError(
                    f"class_mode='binary' needs 2 classes, but {len(names)} are in y_col={y_col!r}: {names[:5]}"
                )
            self.class_indices = {name: number for number, name in enumerate(names)}
        share = share_of(image_data_generator, subset)
        if share is not None:
            frame = frame.iloc[int(share[0] * len(frame)) : int(share[1] * len(frame))]
        self.split = share
        if by_class:
            number = self.class_indices.__getitem__
            self.classes = self.labels = [
                [number(name) for name in label] if isinstance(label, list | tuple) else number(label)
                for label in frame[y_col]
            ]
        elif class_mode == "multi_output":
            self.labels = [np.array(frame[column].tolist()) for column in y_col]
        elif class_mode == "raw":
            self.labels = frame[y_col].to_numpy()
        super().__init__(
            ImageList(frame[x_col].tolist(), root=self.directory),
            image_data_generator,
            target_size,
            color_mode,
            class_mode,
            subset=subset,
            sample_weight=frame[weight_col].to_numpy() if weight_col else None,
            **options,
        )
        kind = "validated" if validate_filenames else "non-validated"
        suffix = f" belonging to {len(self.class_indices)} classes" if by_class else ""
        say(f"Found {self.samples} {kind} image filenames{suffix}.")


def _check_columns(frame: Any, x_col: str, y_col: Any, weight_col: str | None, class_mode: str | None) -> None:
    """Raise ValueError or TypeError if a column is missing, or has values that `class_mode` cannot use."""
    several = isinstance(y_col, list | tuple)
    targets = [] if class_mode in ("input", None) else list(y_col) if several else [y_col]
    for name, column in (("x_col", x_col), *(("y_col", c) for c in targets), ("weight_col", weight_col)):
        if column is not None and column not in frame.columns:
            raise ValueError(
                f"{name} must be a column of the dataframe, not {column!r}: it has {', '.join(map(str, frame.columns))}"
            )

    def demand(column: str, types: Any, words: str) -> None:
        for row, value in enumerate(frame[column]):
            if not isinstance(value, types):
                raise TypeError(
                    f"column {column!r} must hold {words}, but row {row} is {value!r} (class_mode={class_mode!r})"
                )

    demand(x_col, str, "file names as strings")
    if class_mode == "multi_output" and not isinstance(y_col, list):
        raise TypeError(f"y_col must be a list of columns with class_mode='multi_output', not {y_col!r}")
    if class_mode in ("binary", "sparse"):
        demand(y_col, str, "strings")
    if class_mode == "categorical":
        demand(y_col, (str, list, tuple), "strings, or lists of them")
    if weight_col and frame[weight_col].to_numpy().dtype.kind not in "biuf":
        raise TypeError(f"weight_col={weight_col!r} must hold numbers, not {frame[weight_col].dtype}")


def _with_classes(frame: Any, y_col: str, classes: Sequence[str] | None) -> tuple[Any, list[str]]:
    """Return the rows with a class among `classes`, and the classes; without `classes`, all rows and sorted classes."""
    if not classes:
        labels = ([label] if isinstance(label, str) else label for label in frame[y_col])
        return frame, sorted({name for label in labels for name in label})
    names = list(dict.fromkeys(classes))

    def kept(label: Any) -> Any:
        if isinstance(label, str):
            return label if label in names else None
        return [name for name in label if name in names] or None

    frame = frame.assign(**{y_col: [kept(label) for label in frame[y_col]]})
    return frame.dropna(subset=[y_col]), names
