"""Sources of image files: their names under a root, and their labels."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gpuload.sources.checks import Array, as_indices, layout
from gpuload.sources.names import Names

if TYPE_CHECKING:
    from typing_extensions import Self

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class FileSource:
    """Image files under a root, with or without labels: the base class of ImageFolder, ImageList and ImageFrame.

    Attributes:
        names: The file names relative to `root`, as the file system spells them.
        root: Folder that relative file names start from; "" is the working directory.
        labels: One entry for each file, along the first axis; or None.
        classes: Names of the classes by index; None if labels are no classes.
        class_indices: Index of each class by name; None if labels are no classes.

    >>> from gpuload import ImageList
    >>> source = ImageList(["a.jpg", "b.jpg", "c.jpg"], labels=[0, 1, 2], root="/data")
    >>> source.path(1)
    '/data/b.jpg'
    >>> source.take([2, 0]).filenames
    ['c.jpg', 'a.jpg']
    """

    names: Names
    root: str
    labels: Array | None
    classes: list[str] | None = None
    class_indices: dict[str, int] | None = None

    def __init__(self, names: Names, root: Path, labels: Array | None):
        self.names = names
        self.root = os.fsdecode(root)
        self.labels = labels

    def __len__(self) -> int:
        """Number of files."""
        return len(self.names)

    def path(self, index: int) -> str:
        """Return the full path of the file of sample `index`."""
        return os.fsdecode(self.paths([index])[0])

    def paths(self, indices: npt.ArrayLike | slice) -> list[bytes]:
        """Return the full paths of some files, encoded for the file system. `indices` are those of `take`.

        >>> from gpuload import ImageList
        >>> ImageList(["a.jpg", "/b.jpg"], root="data").paths([1, 0])
        [b'/b.jpg', b'data/a.jpg']
        """
        root = os.fsencode(self.root)
        names = self.names.pick(as_indices(indices))
        return [os.path.join(root, name) for name in names]

    @cached_property
    def filenames(self) -> list[str]:
        """Names of all files, relative to `root`, as text; made at the first access."""
        return [os.fsdecode(name) for name in self.names.pick(slice(None))]

    def take(self, indices: npt.ArrayLike | slice) -> Self:
        """Return a source with these files and their labels, in this order.

        Args:
            indices: Integers [K], of which negative ones count from the end; booleans [N]; or a slice.

        Raises:
            IndexError: The indices are of another kind, or out of bounds.
        """
        indices = as_indices(indices)
        taken = copy.copy(self)
        taken.names = self.names.take(indices)
        taken.labels = None if self.labels is None else self.labels[indices]
        return taken

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes its own `filenames`: the list is long to pickle, and another one after take().
        return {key: value for key, value in self.__dict__.items() if key != "filenames"}

    def __repr__(self) -> str:
        labels = layout(self.labels) if self.classes is None else f"{len(self.classes)} classes"
        return f"{type(self).__name__}({len(self)} files in {self.root!r}, labels: {labels})"


def encoded(paths: Iterable[Any], argument: str) -> Names:
    """Return the paths as names. Raise ValueError if there is none, or one of them is no path."""
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
