"""Image files: named in a list, or in the columns of a DataFrame."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gpuload.sources.checks import Array, as_indices, as_labels, few, layout
from gpuload.sources.names import Names

if TYPE_CHECKING:
    from typing_extensions import Self

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


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

    def __init__(self, names: Names, root: Path, labels: Array | None):
        self._names = names
        self.root = os.fsdecode(root)
        self.labels = labels

    def __len__(self) -> int:
        return len(self._names)

    def path(self, index: int) -> str:
        """Full path of one file."""
        return os.fsdecode(self.paths([index])[0])

    def paths(self, indices: npt.ArrayLike | slice) -> list[bytes]:
        """Full paths of a batch, encoded for the file system.

        >>> ImageList(["a.jpg", "/b.jpg"], root="data").paths([1, 0])
        [b'/b.jpg', b'data/a.jpg']
        """
        root = os.fsencode(self.root)
        names = self._names.pick(as_indices(indices))
        return [os.path.join(root, name) for name in names]

    @cached_property
    def filenames(self) -> list[str]:
        """Names of all files, relative to `root`; made when first asked for."""
        return [os.fsdecode(name) for name in self._names.pick(slice(None))]

    def take(self, indices: npt.ArrayLike | slice) -> Self:
        """A new source with these files and their labels, in this order.

        `indices` are int [K] (negative ones count from the end), bool [N], or a slice; IndexError for others.
        """
        indices = as_indices(indices)
        taken = copy.copy(self)
        taken._names = self._names.take(indices)
        taken.labels = None if self.labels is None else self.labels[indices]
        return taken

    def __getstate__(self) -> dict[str, Any]:
        # `filenames` can be made again, and is another list after take(): it goes into no copy and no pickle.
        return {key: value for key, value in self.__dict__.items() if key != "filenames"}

    def __repr__(self) -> str:
        labels = layout(self.labels) if self.classes is None else f"{len(self.classes)} classes"
        return f"{type(self).__name__}({len(self)} files in {self.root!r}, labels: {labels})"


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
        super().__init__(names, root, as_labels(labels, len(names), "paths"))


class ImageFrame(FileSource):
    """Image files and labels from the columns of a pandas DataFrame.

    Args:
        dataframe: the DataFrame, one row per image.
        directory: folder that relative file names start from.
        x_col: the column of file names.
        y_col: a column of strings: sorted, its values are the classes, and labels are indices, int32 [N];
            or a column of numbers, kept as labels [N]; or a list of K such, for labels [N, K]; or None.

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


def _encode(paths: Iterable[Any], argument: str) -> Names:
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
    return Names(np.frombuffer(blob, np.uint8))


def _column(dataframe: Any, name: str, argument: str) -> Array:
    """The values of one column, none of them missing."""
    if name not in dataframe.columns:
        raise ValueError(
            f"{argument} must be a column of dataframe: {name!r} is not; take one of {few(dataframe.columns)}"
        )
    missing = np.flatnonzero(dataframe[name].isna())
    if len(missing):
        raise ValueError(
            f"{argument}={name!r} must have no missing values: {len(missing)} of {len(dataframe)} are, the "
            f"first in row {missing[0]} (counted from 0); drop them with dataframe.dropna(subset=[{name!r}])"
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
