"""Sources: what exists. They name and label images, and never open or decode one."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FileSource", "ImageArray", "ImageFolder", "ImageFrame", "ImageList", "ImageSource"]

Array = npt.NDArray[Any]
Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_SEP = os.fsencode(os.sep)
# As in Keras, without the dot: a file called `photojpg` is an image as well.
_SUFFIXES = (b"jpg", b"jpeg", b"png", b"bmp", b"ppm", b"tif", b"tiff")


class _Names:
    """File names as the file system spells them, in two arrays: a million names are not a million objects.

    Name `i`, with the NUL that ends it, is `blob[offsets[i]:offsets[i + 1]]`: uint8, and int64 [N + 1].
    """

    def __init__(self, blob: npt.NDArray[np.uint8]):
        self.blob = blob
        self.offsets = np.concatenate((np.zeros(1, np.int64), np.flatnonzero(blob == 0) + 1))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def pick(self, indices: Array | slice) -> list[bytes]:
        starts, stops = self.offsets[:-1][indices], self.offsets[1:][indices] - 1
        view = self.blob.data
        return [bytes(view[a:b]) for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]

    def take(self, indices: Array | slice) -> _Names:
        starts, lengths = self.offsets[:-1][indices], np.diff(self.offsets)[indices]
        ends = np.cumsum(lengths)
        blob = np.empty(lengths.sum(), np.uint8)
        # The gather needs 16 bytes for each byte of a name; in chunks, that stays small.
        for first in range(0, len(starts), 65536):
            chunk = slice(first, first + 65536)
            here = np.repeat(starts[chunk] + lengths[chunk] - ends[chunk], lengths[chunk])
            to = slice(ends[first] - lengths[first], ends[first] - lengths[first] + len(here))
            blob[to] = self.blob[here + np.arange(to.start, to.stop)]
        return _Names(blob)


class FileSource:
    """Image files under a root, with or without labels: the base of the sources that read files.

    >>> source = ImageList(["a.jpg", "b.jpg", "c.jpg"], labels=[0, 1, 2], root="/data")
    >>> source.path(1)
    '/data/b.jpg'
    >>> source.take([2, 0]).filenames
    ['c.jpg', 'a.jpg']
    """

    root: str
    """Folder that file names are relative to; "" is the working directory."""
    labels: Array | None
    """One entry per file along the first axis, or None."""
    classes: list[str] | None = None
    """Names of the classes by index, where labels are classes."""
    class_indices: dict[str, int] | None = None
    """Index of each class by name, where labels are classes."""

    def __init__(self, names: _Names, root: Path, labels: Array | None):
        self._names = names
        self.root = os.fsdecode(root)
        self.labels = labels

    def __len__(self) -> int:
        return len(self._names)

    def path(self, index: int) -> str:
        """Full path of one file."""
        return os.fsdecode(self.paths([index])[0].tobytes())

    def paths(self, indices: npt.ArrayLike | slice) -> list[npt.NDArray[np.uint8]]:
        """Full paths of a batch, encoded for the file system: for each a read-only uint8 array [its length].

        >>> [path.tobytes() for path in ImageList(["a.jpg", "/b.jpg"], root="data").paths([1, 0])]
        [b'/b.jpg', b'data/a.jpg']
        """
        root = os.fsencode(self.root)
        names = self._names.pick(_as_indices(indices))
        return [np.frombuffer(os.path.join(root, name), np.uint8) for name in names]

    @cached_property
    def filenames(self) -> list[str]:
        """Names of all files, relative to `root`; made when first asked for."""
        return [os.fsdecode(name) for name in self._names.pick(slice(None))]

    def take(self, indices: npt.ArrayLike | slice) -> Self:
        """A new source with these files and their labels, in this order.

        `indices` are int [K] (negative ones count from the end), bool [N], or a slice; IndexError for others.
        """
        indices = _as_indices(indices)
        taken = copy.copy(self)
        taken._names = self._names.take(indices)
        taken.labels = None if self.labels is None else self.labels[indices]
        return taken

    def __getstate__(self) -> dict[str, Any]:
        # `filenames` can be made again, and is another list after take(): it goes into no copy and no pickle.
        return {key: value for key, value in self.__dict__.items() if key != "filenames"}

    def __repr__(self) -> str:
        labels = _layout(self.labels) if self.classes is None else f"{len(self.classes)} classes"
        return f"{type(self).__name__}({len(self)} files in {self.root!r}, labels: {labels})"


class ImageFolder(FileSource):
    """A folder of images with one sub-folder per class, listed as Keras' `flow_from_directory` lists it.

    Within a class, folders are sorted by whole path and files by name. Images are the files, or links to
    files, whose names end in png, jpg, jpeg, bmp, ppm, tif or tiff, in any case.

    Args:
        root: the folder that holds the class folders.
        classes: the class folders to use, in the order of their indices; by default all of them, sorted.
        follow_links: also list links to folders inside a class. (A class folder itself may be a link anyway.)
        allow_empty: accept class folders that hold no image.

    Raises:
        FileNotFoundError: `root`, or the folder of a class, does not exist.
        NotADirectoryError: `root` is not a folder.
        ValueError: `classes` is one string or repeats a name; there are no class folders; one of them, or all
            of them with `allow_empty`, has no images; a link that is followed leads to a folder it lies in.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in "cat/1.jpg", "cat/old/0.PNG", "dog/1.jpg", "dog/notes.txt":
    ...         pathlib.Path(root, name).parent.mkdir(parents=True, exist_ok=True)
    ...         pathlib.Path(root, name).touch()
    ...     source = ImageFolder(root)
    >>> source.filenames
    ['cat/1.jpg', 'cat/old/0.PNG', 'dog/1.jpg']
    >>> source.labels, source.class_indices
    (array([0, 0, 1], dtype=int32), {'cat': 0, 'dog': 1})
    """

    labels: npt.NDArray[np.int32]
    classes: list[str]
    class_indices: dict[str, int]

    def __init__(
        self,
        root: Path,
        classes: Sequence[str] | None = None,
        follow_links: bool = False,
        *,
        allow_empty: bool = False,
    ):
        root = os.fsdecode(root)
        self.classes = _class_folders(root, classes)
        self.class_indices = {name: index for index, name in enumerate(self.classes)}
        prefix = os.path.join(os.fsencode(root), b"")

        def listing(name: str) -> bytes:
            folders = _walk(prefix + os.fsencode(name), follow_links)
            return b"".join(_images(folder[len(prefix) :] + _SEP, files) for folder, files in folders)

        # One thread sorts while the other waits for the file system; more would only wait for each other.
        with ThreadPool(2) as pool:
            listings = list(pool.imap(listing, self.classes, chunksize=16))
        empty = [name for name, text in zip(self.classes, listings, strict=True) if not text]
        if empty and not (allow_empty and any(listings)):
            hint = (
                "allow_empty=True" if any(listings) else "follow_links=True to enter folders that are links"
            )
            raise ValueError(
                f"every class folder in root must hold images: {root!r} has none in {_few(empty)}; add files "
                f"that end in jpg, png, bmp, ppm or tif, or pass the folders to use in classes, or {hint}"
            )
        names = _Names(np.frombuffer(b"".join(listings), np.uint8))
        ends = np.cumsum([len(text) for text in listings])
        counts = np.diff(np.searchsorted(names.offsets, ends), prepend=0)
        super().__init__(names, root, np.repeat(np.arange(len(counts), dtype=np.int32), counts))


class ImageList(FileSource):
    """Image files by path. They are not looked at: one that does not exist shows when its batch is read.

    Args:
        paths: str, bytes or os.PathLike, in any sequence (list, NumPy array, pandas Series).
        labels: anything `np.asarray` takes, of any shape and dtype, one entry per path along the first axis.
        root: folder that relative paths start from; the working directory by default.

    Raises:
        ValueError: `paths` is one string, or empty, or has an entry that is no path; `labels` does not fit.

    >>> ImageList(["cat/1.jpg", "dog/1.jpg"], labels=[[0.9, 0.1], [0.2, 0.8]], root="/data")
    ImageList(2 files in '/data', labels: float64 [2, 2])
    """

    def __init__(self, paths: Iterable[Path], labels: npt.ArrayLike | None = None, *, root: Path = ""):
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise ValueError(
                f"paths must be a sequence of paths, not one path: got {paths!r}; write [{paths!r}], "
                "or ImageFolder for a folder"
            )
        names = _encode(paths, "paths")
        super().__init__(names, root, _as_labels(labels, len(names), "paths"))


class ImageFrame(FileSource):
    """Image files and labels from the columns of a pandas DataFrame.

    Args:
        dataframe: the DataFrame, one row per image.
        directory: folder that relative file names start from.
        x_col: the column of file names.
        y_col: a column of strings: sorted, its values are the classes, and the labels are their indices, int32
            [N]; or a column of numbers, kept as labels [N]; or a list of K such, for labels [N, K]; or None.

    Raises:
        ValueError: a column is not there, has missing values or values of another kind; there are no rows.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"filename": ["1.jpg", "2.jpg", "3.jpg"], "class": ["dog", "cat", "dog"]})
    >>> source = ImageFrame(frame, "/data")
    >>> source.classes, source.labels
    (['cat', 'dog'], array([1, 0, 1], dtype=int32))
    """

    def __init__(
        self,
        dataframe: Any,
        directory: Path = "",
        x_col: str = "filename",
        y_col: str | list[str] | tuple[str, ...] | None = "class",
    ):
        names = _encode(_column(dataframe, x_col, "x_col"), f"dataframe[{x_col!r}]")
        labels = None
        if isinstance(y_col, (list, tuple)):
            if not y_col:
                raise ValueError(f"y_col must name a column: got {y_col!r}; pass y_col=None for no labels")
            labels = np.stack([_numbers(_column(dataframe, name, "y_col"), name) for name in y_col], axis=1)
        elif y_col is not None:
            labels = _column(dataframe, y_col, "y_col")
            if all(isinstance(value, str) for value in labels):
                self.classes = sorted(set(labels))
                self.class_indices = {name: index for index, name in enumerate(self.classes)}
                labels = np.array([self.class_indices[name] for name in labels], np.int32)
            else:
                labels = _numbers(labels, y_col)
        super().__init__(names, directory, labels)


class ImageArray:
    """Images that are already in memory, or in a memory-mapped file.

    Args:
        images: uint8 or floating [N, H, W, C]; not copied, and an `np.memmap` stays one.
        labels: anything `np.asarray` takes, of any shape and dtype, one entry per image along the first axis.

    Raises:
        ValueError: `images` has another rank or dtype, or holds no image; `labels` has another length.

    >>> ImageArray(np.zeros((8, 32, 32, 3), np.uint8), labels=np.arange(8, dtype=np.int32))
    ImageArray(images: uint8 [8, 32, 32, 3], labels: int32 [8])
    """

    images: Array
    """The images: uint8 or floating [N, H, W, C]."""
    labels: Array | None
    """One entry per image along the first axis, or None."""

    def __init__(self, images: npt.ArrayLike, labels: npt.ArrayLike | None = None):
        self.images = images if isinstance(images, np.memmap) else np.asarray(images)
        if self.images.ndim != 4 or not len(self.images):
            raise ValueError(
                f"images must be [N, H, W, C] with N at least 1: got {_layout(self.images)}; "
                "images[..., np.newaxis] adds the channels, images[np.newaxis] makes a batch of one image"
            )
        if self.images.dtype != np.uint8 and self.images.dtype.kind != "f":
            raise ValueError(
                f"images must be uint8 or floating: got {self.images.dtype}; convert whole numbers from 0 to "
                "255 with images.astype('uint8'), others with images.astype('float32')"
            )
        self.labels = _as_labels(labels, len(self.images), "images")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: npt.ArrayLike | slice) -> Self:
        """A new source with these images and their labels, in this order.

        `indices` are int [K] or bool [N], which copy the images, or a slice, which shares them.
        """
        indices = _as_indices(indices)
        taken = copy.copy(self)
        taken.images = self.images[indices]
        taken.labels = None if self.labels is None else self.labels[indices]
        return taken

    def __repr__(self) -> str:
        return f"{type(self).__name__}(images: {_layout(self.images)}, labels: {_layout(self.labels)})"


ImageSource = FileSource | ImageArray
"""Any source of images."""


def _scan(folder: bytes) -> tuple[list[os.DirEntry[bytes]], list[bytes]]:
    """The folders in a folder, and the names of everything else in it."""
    folders, names = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself: os.walk, and so Keras, takes it for a file
                is_folder = False
            if is_folder:
                folders.append(entry)
            else:
                names.append(entry.name)
    return folders, names


def _walk(top: bytes, follow_links: bool) -> Iterator[tuple[bytes, list[bytes]]]:
    """The folders at and under `top`, sorted by whole path as text, each with its other entries' names."""
    found = []
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        folders, names = _scan(folder)
        found.append((folder, names))
        for entry in folders:
            if not entry.is_symlink():
                waiting.append(entry.path)
            elif follow_links:
                _refuse_loop(entry.path, top)
                waiting.append(entry.path)
    return iter(sorted(found, key=lambda item: os.fsdecode(item[0])))


def _refuse_loop(link: bytes, top: bytes) -> None:
    """Raise where a walk from `top` that follows `link` would come to `link` again."""
    target = os.path.realpath(link)
    folder = link
    while folder != top:
        folder = os.path.dirname(folder)
        if os.path.join(os.path.realpath(folder), b"").startswith(os.path.join(target, b"")):
            raise ValueError(
                f"follow_links=True needs links without loops: {os.fsdecode(link)!r} leads back to "
                f"{os.fsdecode(target)!r}; remove the link or pass follow_links=False"
            )


def _images(prefix: bytes, names: list[bytes]) -> bytes:
    """Those of `names` that end as images do, sorted as text, each with `prefix` before and NUL after it."""

    def join() -> bytes:
        return prefix + (b"\0" + prefix).join(names) + b"\0" if names else b""

    names.sort()
    text = join()
    # Listing must keep up with the file system. Most folders hold one kind of file, under names whose bytes
    # sort as their text does: two looks at the whole text then stand for a test of each name.
    suffix = names[0].rpartition(b".")[2] if names else b""
    if suffix.lower() in _SUFFIXES and text.count(suffix + b"\0") == len(names) and text.isascii():
        return text
    names = sorted((name for name in names if name.lower().endswith(_SUFFIXES)), key=os.fsdecode)
    return join()


def _class_folders(root: str, classes: Sequence[str] | None) -> list[str]:
    """Names of the class folders to list, after checking `root` and `classes`."""
    if isinstance(classes, (str, bytes)):
        raise ValueError(
            f"classes must be a sequence of names, not one: got {classes!r}; write [{classes!r}]"
        )
    if not os.path.exists(root):
        raise FileNotFoundError(
            f"root must be a folder: {root!r} does not exist; check the path, seen from {os.getcwd()!r}"
        )
    if not os.path.isdir(root):
        raise NotADirectoryError(
            f"root must be a folder: {root!r} is a file; pass its folder, or use ImageList"
        )
    entries, files = _scan(os.fsencode(root))
    folders = sorted(os.fsdecode(entry.name) for entry in entries)
    if not folders:
        images = _images(b"", files).count(b"\0")
        raise ValueError(
            f"root must hold one folder per class: {root!r} has no folders, but {images} images directly "
            "in it; move those of each class into a folder, or pass their paths to ImageList"
        )
    # An empty list means all folders, as in Keras.
    wanted = folders if classes is None else [str(name) for name in classes] or folders
    if missing := sorted(set(wanted) - set(folders)):
        raise FileNotFoundError(
            f"classes must name folders in root: {root!r} has no {_few(missing)}; it has {_few(folders)}"
        )
    if repeated := [name for name, count in Counter(wanted).items() if count > 1]:
        raise ValueError(f"classes must not repeat a name: {_few(repeated)} comes twice; name each once")
    return wanted


def _encode(paths: Iterable[Any], argument: str) -> _Names:
    blob = bytearray()
    for position, path in enumerate(paths):
        try:
            name = os.fsencode(path)
        except TypeError:
            name = b"\0"
        if b"\0" in name:
            raise ValueError(
                f"{argument} must hold paths (str, bytes or os.PathLike, without NUL): entry {position} is "
                f"{path!r}; convert it or leave it out"
            )
        blob += name + b"\0"
    if not blob:
        raise ValueError(f"{argument} must hold at least one path: it is empty; check what it was made from")
    return _Names(np.frombuffer(blob, np.uint8))


def _column(dataframe: Any, name: str, argument: str) -> Array:
    """The values of one column, none of them missing."""
    if name not in dataframe.columns:
        raise ValueError(
            f"{argument} must name a column of dataframe: there is no {name!r}; there is {_few(dataframe.columns)}"
        )
    missing = np.flatnonzero(dataframe[name].isna())
    if len(missing):
        raise ValueError(
            f"{argument}={name!r} must have no missing values: {len(missing)} of {len(dataframe)} are, the first "
            f"in row {missing[0]} (counted from 0); drop them with dataframe.dropna(subset=[{name!r}])"
        )
    values: Array = dataframe[name].to_numpy()
    return values


def _numbers(values: Array, name: str) -> Array:
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f"y_col must name columns of numbers, or one column of strings: {name!r} is {values.dtype} and "
            f"begins with {values[0]!r}; convert it with dataframe[{name!r}].astype(...), or pass it alone"
        )
    return values


def _as_labels(labels: npt.ArrayLike | None, count: int, argument: str) -> Array | None:
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape[:1] != (count,):
        raise ValueError(
            f"labels must have one entry for each of {argument}: labels has shape {list(labels.shape)}, "
            f"{argument} has {count}; give both the same length, or labels=None"
        )
    return labels


def _as_indices(indices: npt.ArrayLike | slice) -> Array | slice:
    if isinstance(indices, slice):
        return indices
    indices = np.asarray(indices)
    if not indices.size:
        return np.zeros(0, np.intp)  # NumPy takes an empty list for floats
    if indices.ndim != 1 or indices.dtype.kind not in "biu":
        raise IndexError(
            f"indices must be one row of integers or booleans, or a slice: got {_layout(indices)}; "
            "convert them with np.asarray(indices, dtype=np.int64).ravel()"
        )
    return indices


def _layout(array: Array | None) -> str:
    return "none" if array is None else f"{array.dtype} {list(array.shape)}"


def _few(values: Iterable[Any]) -> str:
    first, more = [repr(value) for value in values][:10], len(list(values)) - 10
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")
