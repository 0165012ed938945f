"""Sources of image files: their names under a root, and their labels."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuload.sources.base import Array, Self, as_indices, layout, shown
from gpuload.sources.encoded import looks_encoded

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

LONGEST = 4096
"""Bytes that Linux takes for a path. Longer text is something else, such as an image in base64."""


class Names:
    """File names as the file system spells them, in two arrays, since a million objects would cost memory and time.

    `blob` has the names one after another, each ended by a NUL. If `count` is given, `offsets` is made when needed.
    """

    def __init__(self, blob: npt.NDArray[np.uint8], count: int | None = None):
        self.blob = blob
        self._count = len(self.offsets) - 1 if count is None else count

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """[N + 1] Name `i`, with its NUL, is `blob[offsets[i]:offsets[i + 1]]`."""
        return np.concatenate((np.zeros(1, np.int64), np.flatnonzero(self.blob == 0) + 1))

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, object]:  # A copy makes its own `offsets`.
        return {"blob": self.blob, "_count": len(self)}

    def pick(self, indices: Array | slice) -> list[bytes]:
        starts, stops = self.offsets[:-1][indices].tolist(), self.offsets[1:][indices].tolist()
        return [bytes(self.blob.data[start : stop - 1]) for start, stop in zip(starts, stops, strict=True)]

    def take(self, indices: Array | slice) -> Names:
        names = self.pick(indices)
        return Names(np.frombuffer(b"\0".join([*names, b""]), np.uint8), len(names))


class FileSource:
    """Image files under a root, with or without labels: the base class of ImageFolder, ImageList and ImageFrame.

    Attributes:
        names: The file names relative to `root`, as the file system spells them.
        root: Folder that relative file names start from; "" is the working directory.
        labels: One entry for each file, along the first axis; or None.
        classes: Names of the classes by index; None if labels are no classes.
        class_indices: Index of each class by name; None if labels are no classes.
    """

    names: Names
    root: str
    labels: Array | None
    classes: list[str] | None = None
    class_indices: dict[str, int] | None = None

    def __init__(self, names: Names, root: Path, labels: Array | None):
        self.names, self.root, self.labels = names, os.fsdecode(root), labels

    def __len__(self) -> int:
        """Number of files."""
        return len(self.names)

    def path(self, index: int) -> str:
        """Return the full path of the file of sample `index`."""
        return os.fsdecode(self.paths([index])[0])

    def paths(self, indices: npt.ArrayLike | slice) -> list[bytes]:
        """Return the full paths of some files, encoded for the file system. `indices` are those of `take`."""
        root = os.fsencode(self.root)
        return [os.path.join(root, name) for name in self.names.pick(as_indices(indices))]

    def name(self, index: int) -> str:
        """Return the full path of the file of sample `index`."""
        return self.path(index)

    def read(self, indices: npt.ArrayLike | slice) -> list[bytes | Exception]:
        """Return the content of some files; an OSError for one that cannot be read, or is empty.

        `indices` are those of `take`. A file that blocks is waited for: engines read through `gpuload.reading`.
        """
        return [_content(path) for path in self.paths(indices)]

    def stamp(self, index: int) -> tuple[int, int] | None:
        """Return (size, time of the last change in nanoseconds) of the file of sample `index`; None: it is gone."""
        path = self.path(index)
        try:
            found = os.stat(path)
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns

    @cached_property
    def filenames(self) -> list[str]:
        """Names of all files, relative to `root`, as text; made at the first access."""
        return [os.fsdecode(name) for name in self.names.pick(slice(None))]

    def take(self, indices: npt.ArrayLike | slice) -> Self:
        """Return a source with these files and their labels, in this order.

        Args:
            indices: Integers [K], of which negative ones count from the end; booleans [N]; or a slice. IndexError is
                raised for others, and out of bounds.
        """
        indices = as_indices(indices)
        taken = copy.copy(self)
        taken.names = self.names.take(indices)
        taken.labels = None if self.labels is None else self.labels[indices]
        return taken

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes its own `filenames`: the list is long to pickle, and another one after take().
        return {key: value for key, value in vars(self).items() if key != "filenames"}

    def __repr__(self) -> str:
        labels = layout(self.labels) if self.classes is None else f"{len(self.classes)} classes"
        return f"{type(self).__name__}({len(self)} files in {self.root!r}, labels: {labels})"


def _content(path: bytes) -> bytes | Exception:
    try:
        with open(path, "rb") as file:
            return file.read() or OSError("the file is empty")
    except OSError as error:
        return error


def as_names(paths: Iterable[Any], argument: str) -> Names:
    """Return the paths as names. Raise ValueError if there is none, or one of them is no path."""
    blob = bytearray()
    for position, path in enumerate(paths):
        try:
            name = os.fsencode(path)
        except TypeError:
            name = b"\0"
        if type(path) is not str and looks_encoded(path):
            raise ValueError(
                f"{argument} must hold paths, but entry {position} is an encoded image: gpuload.ImageBytes takes those"
            )
        if b"\0" in name or len(name) >= LONGEST:
            raise ValueError(
                f"{argument} must hold paths (str, bytes or os.PathLike, without NUL): entry {position} is "
                f"{shown(path)}; convert it or leave it out"
            )
        blob += name + b"\0"
    if not blob:
        raise ValueError(f"{argument} must hold at least one path: it is empty; check what it was made from")
    return Names(np.frombuffer(blob, np.uint8))
