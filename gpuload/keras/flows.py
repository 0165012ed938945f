"""Keras' iterators: endless under `next`, a data set of numbered batches under `fit`, exact with the same seed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from collections.abc import Iterator as Iterable_
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from gpuload.keras.draws import colors, matrices
from gpuload.keras.prefetch import PrefetchedDataset, Visit
from gpuload.loader import Workshop
from gpuload.plan import CenterCrop
from gpuload.plan.augment import CHANNELS
from gpuload.plan.order import checked_int
from gpuload.sources import ImageArray, ImageFolder, ImageList, ImageSource

if TYPE_CHECKING:
    from gpuload.keras.generator import ImageDataGenerator

SUFFIXES = ("png", "jpg", "jpeg", "bmp", "ppm", "tif", "tiff")


@dataclass(frozen=True)
class Position:
    """Where an iterator stands."""

    total_batches_seen: int
    batch_index: int
    index_array: NDArray[np.int64] | None


@dataclass(frozen=True, kw_only=True)
class FlowVisit(Visit):
    """A visit, and where the iterator stands after it."""

    after: Position
    rng: Any
    """The generator that drew it; at the end of an epoch Keras draws the next order from where it was left."""
    suffixes: list[int] | None
    """Of the names under which the images are saved."""


class Iterator(PrefetchedDataset):
    """What the iterators have in common: order, random draws and state, all as in Keras.

    Each batch is drawn from a generator seeded with `seed` + the number of batches seen before it. Without a seed
    NumPy's global generator draws, so that `numpy.random.seed` has its effect; the draws then run ahead of the batches.
    """

    white_list_formats = SUFFIXES

    def __init__(
        self,
        source: ImageSource,
        generator: ImageDataGenerator | None,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int | None,
        data_format: str | None,
        dtype: str | None,
        save_to_dir: str | None,
        save_prefix: str,
        save_format: str,
    ):
        super().__init__()
        if generator is None:
            from gpuload.keras.generator import ImageDataGenerator

            generator = ImageDataGenerator(data_format=data_format, dtype=dtype)
        self.source = source
        self.n = self.samples = len(source)
        self.batch_size = checked_int("batch_size", batch_size, 1)
        self.shuffle = shuffle
        self.seed = seed if seed is None else checked_int("seed", seed, 0)
        self.image_data_generator = generator
        self.data_format = data_format or generator.data_format
        if self.data_format != generator.data_format:
            raise ValueError(f"data_format must be the generator's, {generator.data_format!r}, not {data_format!r}")
        self.dtype = dtype or generator.dtype
        self.save_to_dir = save_to_dir
        self.save_prefix = save_prefix
        self.save_format = save_format
        if save_to_dir is not None and not os.path.isdir(save_to_dir):
            raise ValueError(f"save_to_dir must be a folder that exists, not {save_to_dir!r}: create it first")
        self.total_batches_seen = 0
        self.batch_index = 0
        self.index_array: NDArray[np.int64] | None = None
        self._rng: Any = np.random

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        with self.lock:
            upcoming = self._stream.upcoming if self._stream else None
            if upcoming is None or upcoming.number is not None:
                self._restart(self._walk())
            return self._take()

    def next(self) -> Any:
        """The next batch; there is always one."""
        return next(self)

    def on_epoch_end(self) -> None:
        """Draw the order of the next epoch."""
        with self.lock:
            self._drop()
            self.index_array = self._permutation(self._rng)

    def reset(self) -> None:
        """Make the next batch the first of an epoch."""
        with self.lock:
            self._drop()
            self.batch_index = 0

    def _permutation(self, rng: Any) -> NDArray[np.int64]:
        return rng.permutation(self.n) if self.shuffle else np.arange(self.n)

    def _generator(self, seen: int) -> Any:
        return np.random if self.seed is None else np.random.RandomState((self.seed + seen) % 2**32)

    def _position(self) -> Position:
        return Position(self.total_batches_seen, self.batch_index, self.index_array)

    def _walk(self) -> Iterable_[FlowVisit]:
        """The batches that `next` yields from here on."""
        here = self._position()
        while True:
            rng = self._generator(here.total_batches_seen)
            order = here.index_array
            if here.batch_index == 0 or order is None:
                order = self._permutation(rng)
            first = here.batch_index * self.batch_size % self.n
            following = here.batch_index + 1 if self.n > first + self.batch_size else 0
            here = Position(here.total_batches_seen + 1, following, order)
            yield self._visit(rng, order[first : first + self.batch_size], None, here)

    def _visits(self, numbers: Sequence[int]) -> Iterable_[FlowVisit]:
        here = self._position()
        for number in numbers:
            rng = self._generator(here.total_batches_seen)
            order = self._permutation(rng) if here.index_array is None else here.index_array
            here = Position(here.total_batches_seen + 1, here.batch_index, order)
            first = number * self.batch_size
            yield self._visit(rng, order[first : first + self.batch_size], number, here)

    def _visit(self, rng: Any, indices: NDArray[np.int64], number: int | None, after: Position) -> FlowVisit:
        height, width = self._size
        ranges = self.image_data_generator.ranges
        drawn = [ranges.draw(rng, height, width) for _ in indices]
        moved = self._transform.warps or self._transform.flips
        return FlowVisit(
            indices=indices,
            number=number,
            matrices=matrices(drawn, height, width) if moved else None,
            channel_shift=colors(drawn, "channel_shift_intensity"),
            brightness=colors(drawn, "brightness"),
            after=after,
            rng=rng,
            suffixes=[rng.randint(self._suffix_limit) for _ in indices] if self.save_to_dir else None,
        )

    _suffix_limit = 10_000_000
    _options: dict[str, Any]

    @property
    def _size(self) -> tuple[int, int]:
        raise NotImplementedError

    def _open(self) -> Workshop:
        generator = self.image_data_generator
        self._transform = generator.augment(self._size, **self._options)
        return Workshop(
            self.source,
            self._transform,
            batch_size=min(self.batch_size, self.n),
            framework="numpy",
            device=generator.device,
            engine=generator.engine,
            threads=generator.threads,
        )

    def _restart(self, visits: Any) -> None:
        # Drawing needs the transform, which `_open` makes.
        if self._workshop is None:
            self._workshop = self._open()
        super()._restart(visits)

    def _deliver(self, visit: FlowVisit, images: Any) -> Any:
        self.total_batches_seen = visit.after.total_batches_seen
        self.batch_index = visit.after.batch_index
        self.index_array = visit.after.index_array
        self._rng = visit.rng
        images = self._cast(images)
        if visit.suffixes is not None:
            for image, index, suffix in zip(images, visit.indices, visit.suffixes, strict=True):
                name = f"{self.save_prefix}_{index}_{suffix}.{self.save_format}"
                picture = keras.utils.array_to_img(image, self.data_format, scale=True)
                picture.save(os.path.join(str(self.save_to_dir), name))
        return self._batch(visit.indices, images)

    def _cast(self, images: Any) -> Any:
        return images.astype(self.dtype, copy=False)

    def _batch(self, indices: NDArray[np.int64], images: Any) -> Any:
        raise NotImplementedError


class FileIterator(Iterator):
    """Batches of image files with targets of the kind that `class_mode` names."""

    allowed_class_modes: frozenset[str | None]
    classes: Any
    class_indices: dict[str, int]

    def __init__(
        self,
        source: ImageList | ImageFolder,
        generator: ImageDataGenerator | None,
        *,
        target_size: tuple[int, int],
        color_mode: str,
        class_mode: str | None,
        subset: str | None,
        interpolation: str,
        keep_aspect_ratio: bool,
        sample_weight: Any = None,
        **options: Any,
    ):
        super().__init__(source, generator, **options)
        if color_mode not in CHANNELS:
            raise ValueError(f"color_mode must be one of {', '.join(CHANNELS)}, not {color_mode!r}")
        self.target_size = tuple(target_size)
        self.color_mode = color_mode
        self.class_mode = class_mode
        self.subset = subset
        self.interpolation = interpolation
        self.keep_aspect_ratio = keep_aspect_ratio
        self.sample_weight = sample_weight
        channels = (CHANNELS[color_mode],)
        last = self.data_format == "channels_last"
        self.image_shape = self.target_size + channels if last else channels + self.target_size
        self._options = {
            "color": color_mode,
            "interpolation": interpolation,
            "crop": CenterCrop() if keep_aspect_ratio else None,
        }
        self._transform = self.image_data_generator._augment(size=self.target_size, **self._options)

    @property
    def _size(self) -> tuple[int, int]:
        return self.target_size[0], self.target_size[1]

    @property
    def filenames(self) -> list[str]:
        """File names, relative to the folder."""
        return self.source.filenames  # type: ignore[union-attr]

    @property
    def filepaths(self) -> list[str]:
        """Full names of the files."""
        return [self.source.path(index) for index in range(self.n)]  # type: ignore[union-attr]

    @property
    def labels(self) -> Any:
        """The classes, or the targets of class_mode "raw" and "multi_output"."""
        return self.classes

    def _batch(self, indices: NDArray[np.int64], images: Any) -> Any:
        if self.class_mode is None:
            return images
        if self.class_mode == "input":
            targets = images.copy()
        elif self.class_mode == "multi_output":
            targets = [output[indices] for output in self.labels]
        elif self.class_mode == "raw":
            targets = self.labels[indices]
        elif self.class_mode == "categorical":
            targets = np.zeros((len(indices), len(self.class_indices)), self.dtype)
            for row, index in enumerate(indices):
                targets[row, self.classes[index]] = 1  # One class, or a list of several.
        else:
            targets = np.array([self.classes[index] for index in indices], self.dtype)
        return (images, targets) if self.sample_weight is None else (images, targets, self.sample_weight[indices])


def _share(generator: ImageDataGenerator | None, subset: str | None) -> tuple[float, float] | None:
    """The part of the samples that `subset` names."""
    if subset is None:
        return None
    split = generator._validation_split if generator else 0.0
    if subset not in ("training", "validation"):
        raise ValueError(f"subset must be 'training', 'validation' or None, not {subset!r}")
    return (0.0, split) if subset == "validation" else (split, 1.0)


def _checked_mode(class_mode: str | None, allowed: frozenset[str | None]) -> str | None:
    if class_mode not in allowed:
        raise ValueError(f"class_mode must be one of {', '.join(sorted(map(repr, allowed)))}, not {class_mode!r}")
    return class_mode


def _say(message: str) -> None:
    if keras.config.is_interactive_logging_enabled():
        print(message)


class DirectoryIterator(FileIterator):
    """Batches of the images in a folder that has one sub-folder for each class.

    Images [batch, height, width, channels], or with the channels first, as the generator has it. Targets by
    `class_mode`: "categorical" one-hot, "binary" and "sparse" numbers, "input" the images, None no targets.
    """

    allowed_class_modes = frozenset({"categorical", "binary", "sparse", "input", None})

    def __init__(
        self,
        directory: str | os.PathLike[str],
        image_data_generator: ImageDataGenerator | None,
        target_size: tuple[int, int] = (256, 256),
        color_mode: str = "rgb",
        classes: Sequence[str] | None = None,
        class_mode: str | None = "categorical",
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int | None = None,
        data_format: str | None = None,
        save_to_dir: str | None = None,
        save_prefix: str = "",
        save_format: str = "png",
        follow_links: bool = False,
        subset: str | None = None,
        interpolation: str = "nearest",
        keep_aspect_ratio: bool = False,
        dtype: str | None = None,
    ):
        _checked_mode(class_mode, self.allowed_class_modes)
        source = ImageFolder(directory, classes or None, follow_links, allow_empty=True)
        counts = np.bincount(source.labels, minlength=len(source.classes))
        empty = [name for name, count in zip(source.classes, counts, strict=True) if not count]
        if empty:
            warnings.warn(
                f"no images in {len(empty)} of {len(counts)} class folders: {', '.join(empty[:5])}",
                stacklevel=3,
            )
        share = _share(image_data_generator, subset)
        if share is not None:
            # Of each class its own share, cut as Keras cuts it.
            ends = np.cumsum(counts)
            spans = zip(ends - counts, (share[0] * counts).astype(int), (share[1] * counts).astype(int), strict=True)
            kept = np.concatenate([np.arange(start + low, start + high) for start, low, high in spans])
            if not len(kept):
                raise ValueError(
                    f"subset={subset!r} has no image: validation_split leaves none of the {len(source)}; change it"
                )
            class_indices, source_classes = source.class_indices, source.classes
            source = source.take(kept)
            source.class_indices, source.classes = class_indices, source_classes
        self.directory = directory
        self.split = share
        self.num_classes = len(source.classes)
        self.class_indices = source.class_indices
        self.classes = source.labels
        super().__init__(
            source,
            image_data_generator,
            target_size=target_size,
            color_mode=color_mode,
            class_mode=class_mode,
            subset=subset,
            interpolation=interpolation,
            keep_aspect_ratio=keep_aspect_ratio,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            data_format=data_format,
            dtype=dtype,
            save_to_dir=save_to_dir,
            save_prefix=save_prefix,
            save_format=save_format,
        )
        _say(f"Found {self.samples} images belonging to {self.num_classes} classes.")


class DataFrameIterator(FileIterator):
    """Batches of the images that a pandas DataFrame names, with targets from its columns.

    `class_mode`: "categorical" one-hot, of strings or lists of strings; "binary" and "sparse" numbers, of strings;
    "raw" the column's values (or several columns'); "multi_output" a list with an array for each column; "input" the
    images; None no targets. `weight_col` adds sample weights.
    """

    allowed_class_modes = frozenset({"binary", "categorical", "input", "multi_output", "raw", "sparse", None})

    def __init__(
        self,
        dataframe: Any,
        directory: str | os.PathLike[str] | None = None,
        image_data_generator: ImageDataGenerator | None = None,
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
        data_format: str | None = None,
        save_to_dir: str | None = None,
        save_prefix: str = "",
        save_format: str = "png",
        subset: str | None = None,
        interpolation: str = "nearest",
        keep_aspect_ratio: bool = False,
        dtype: str | None = None,
        validate_filenames: bool = True,
    ):
        _checked_mode(class_mode, self.allowed_class_modes)
        self.directory = directory or ""
        frame = dataframe.copy()
        by_class = class_mode in ("binary", "categorical", "sparse")
        _check_columns(frame, x_col, y_col, weight_col, class_mode)
        if classes and not by_class:
            warnings.warn(f"classes has no effect with class_mode={class_mode!r}", stacklevel=3)
        if validate_filenames:
            valid = [_is_image(os.path.join(self.directory, name)) for name in frame[x_col]]
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
        share = _share(image_data_generator, subset)
        if share is not None:
            frame = frame.iloc[int(share[0] * len(frame)) : int(share[1] * len(frame))]
        self.split = share
        self._targets: Any = None
        if by_class:
            number = self.class_indices.__getitem__
            self.classes = [
                [number(name) for name in label] if isinstance(label, list | tuple) else number(label)
                for label in frame[y_col]
            ]
        elif class_mode == "multi_output":
            self._targets = [np.array(frame[column].tolist()) for column in y_col]
        elif class_mode == "raw":
            self._targets = frame[y_col].to_numpy()
        super().__init__(
            ImageList(frame[x_col].tolist(), root=self.directory),
            image_data_generator,
            target_size=target_size,
            color_mode=color_mode,
            class_mode=class_mode,
            subset=subset,
            interpolation=interpolation,
            keep_aspect_ratio=keep_aspect_ratio,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            data_format=data_format,
            dtype=dtype,
            save_to_dir=save_to_dir,
            save_prefix=save_prefix,
            save_format=save_format,
            sample_weight=frame[weight_col].to_numpy() if weight_col else None,
        )
        kind = "validated" if validate_filenames else "non-validated"
        suffix = f" belonging to {len(self.class_indices)} classes" if by_class else ""
        _say(f"Found {self.samples} {kind} image filenames{suffix}.")

    @property
    def labels(self) -> Any:
        return self.classes if self._targets is None else self._targets


def _is_image(path: str) -> bool:
    return path.lower().endswith(SUFFIXES) and os.path.isfile(path)


def _check_columns(frame: Any, x_col: str, y_col: Any, weight_col: str | None, class_mode: str | None) -> None:
    """Raises where a column is missing or holds what `class_mode` cannot use."""
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
    if weight_col and not np.issubdtype(frame[weight_col].dtype, np.number):
        raise TypeError(f"weight_col={weight_col!r} must be numeric, not {frame[weight_col].dtype}")


def _with_classes(frame: Any, y_col: str, classes: Sequence[str] | None) -> tuple[Any, list[str]]:
    """The rows that have a class among `classes`, and the classes; all of them, sorted, where none are named."""
    if not classes:
        return frame, sorted(
            {name for label in frame[y_col] for name in ([label] if isinstance(label, str) else label)}
        )
    names = list(dict.fromkeys(classes))

    def kept(label: Any) -> Any:
        if isinstance(label, str):
            return label if label in names else None
        return [name for name in label if name in names] or None

    frame = frame.assign(**{y_col: [kept(label) for label in frame[y_col]]})
    return frame.dropna(subset=[y_col]), names


class NumpyArrayIterator(Iterator):
    """Batches of images in memory: `x` [N, H, W, C] (or [N, C, H, W]), or (x, further inputs)."""

    _suffix_limit = 10_000

    def __init__(
        self,
        x: Any,
        y: Any,
        image_data_generator: ImageDataGenerator,
        batch_size: int = 32,
        shuffle: bool = False,
        sample_weight: Any = None,
        seed: int | None = None,
        data_format: str | None = None,
        save_to_dir: str | None = None,
        save_prefix: str = "",
        save_format: str = "png",
        subset: str | None = None,
        ignore_class_split: bool = False,
        dtype: str | None = None,
    ):
        further: list[Any] = []
        if isinstance(x, tuple | list):
            x, rest = x[0], x[1]
            further = [np.asarray(r) for r in (rest if isinstance(rest, list) else [rest])]
        x = np.asarray(x)
        columns = {"y": y, "sample_weight": sample_weight, **{f"x[1][{i}]": r for i, r in enumerate(further)}}
        for name, column in columns.items():
            if column is not None and len(column) != len(x):
                raise ValueError(f"{name} must be as long as the images, {len(x)}, not {len(column)}")
        share = _share(image_data_generator, subset)
        if share is not None:
            cut = int(len(x) * image_data_generator._validation_split)
            if y is not None and not ignore_class_split and set(np.unique(y[:cut])) != set(np.unique(y[cut:])):
                raise ValueError(
                    "training and validation must have the same classes after the split, but have not: shuffle x and "
                    "y, or pass ignore_class_split=True"
                )
            part: Callable[[Any], Any] = lambda v: v[:cut] if subset == "validation" else v[cut:]  # noqa: E731
            x, further = part(x), [part(r) for r in further]
            y, sample_weight = (None if v is None else part(v) for v in (y, sample_weight))
        if x.ndim != 4:
            raise ValueError(f"x must have rank 4, [N, H, W, C] or [N, C, H, W], not shape {x.shape}")
        self.x = x
        self.x_misc = further
        self.y = None if y is None else np.asarray(y)
        self.sample_weight = None if sample_weight is None else np.asarray(sample_weight)
        images = x if (data_format or image_data_generator.data_format) == "channels_last" else np.moveaxis(x, 1, 3)
        if images.shape[3] not in (1, 3, 4):
            warnings.warn(f"x has {images.shape[3]} channels (shape {x.shape}); images have 1, 3 or 4", stacklevel=3)
        if images.dtype != np.uint8:
            images = images.astype(np.float32, copy=False)
        self._options = {"color": {1: "grayscale", 4: "rgba"}.get(images.shape[3], "rgb")}
        super().__init__(
            ImageArray(images),
            image_data_generator,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            data_format=data_format,
            dtype=dtype,
            save_to_dir=save_to_dir,
            save_prefix=save_prefix,
            save_format=save_format,
        )

    @property
    def _size(self) -> tuple[int, int]:
        height, width = self.source.images.shape[1:3]  # type: ignore[union-attr]
        return height, width

    def _cast(self, images: Any) -> Any:
        # Integer images stay integers through Keras' warp, which rounds.
        return super()._cast(np.rint(images) if np.issubdtype(np.dtype(self.dtype), np.integer) else images)

    def _batch(self, indices: NDArray[np.int64], images: Any) -> Any:
        inputs = [images, *(r[indices] for r in self.x_misc)] if self.x_misc else images
        if self.y is None:
            return inputs
        if self.sample_weight is None:
            return inputs, self.y[indices]
        return inputs, self.y[indices], self.sample_weight[indices]
