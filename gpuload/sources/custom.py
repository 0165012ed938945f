"""Sources of a user's own, and the answer to values that are no source."""

from __future__ import annotations

import copy
import mmap
import os
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpuload.sources.array import ImageArray
from gpuload.sources.base import Array, Encoded, Self, as_indices, as_labels, layout, positions, shown
from gpuload.sources.encoded import ImageBytes, as_encoded, entries, kind, looks_encoded, or_error
from gpuload.sources.files import FileSource
from gpuload.sources.series import Series


class Readable(Protocol):
    """An object of a user's own that `CustomSource` takes."""

    def __len__(self) -> int: ...

    def read(self, indices: list[int], /) -> Sequence[Any]: ...


class CustomSource:
    """Encoded images of a user's own class, such as the records of a database or an archive.

    `Loader(source, ...)` makes one of an object that has:

    - `len(source)`: the number of samples, at least 1.
    - `read(indices)`: takes a list of integers from 0 to `len(source) - 1`. Returns one entry for each, in that order:
      the encoded image as bytes, a bytearray, a memoryview of bytes or a uint8 array [n]; or an Exception, not raised,
      for a sample that cannot be read, with which the loader deals as `Errors` says. After an OSError that `read`
      raises, the samples are asked for one by one; anything else that it raises ends the iteration. Several threads
      may call it at the same time.

    It may also have:

    - `labels`: an array with one entry for each sample, along the first axis, read once; or None.
    - `name(index)`: the text that messages have for a sample. Without it: "sample 0", "sample 1", and so on.
    - `stamp(index)`: something hashable that changes when the content of the sample does, such as its size and time, or
      None. Its `repr` should be the same in every process: caches on disk and states of loaders depend on it.

    Args:
        source: The object.

    Attributes:
        source: The object.
        labels: Its labels as an array; or None.
        rows: int64 [N] Numbers of the samples in `source`; None: all of them.

    Raises:
        ValueError: it has no sample, or labels that do not fit.
        TypeError, ValueError: while reading: `read`, `name` or `stamp` returns something else.

    >>> class Records:
    ...     def __init__(self, records):
    ...         self.records, self.keys = records, sorted(records)
    ...
    ...     def __len__(self):
    ...         return len(self.keys)
    ...
    ...     def read(self, indices):
    ...         return [self.records.get(self.keys[index]) or KeyError("it was deleted") for index in indices]
    ...
    ...     def name(self, index):
    ...         return self.keys[index]
    >>> source = CustomSource(Records({"cat": b"encoded 1", "dog": b"encoded 2", "elk": None}))
    >>> source, source.name(1)
    (CustomSource(Records, 3 samples, labels: none), 'dog')
    >>> source.read([1, 2])
    [b'encoded 2', KeyError('it was deleted')]
    """

    source: Readable
    labels: Array | None
    rows: npt.NDArray[np.int64] | None

    def __init__(self, source: Readable):
        self.source, self.rows = source, None
        self._count = len(source)
        if not self._count:
            raise ValueError("source must hold at least one sample: len(source) is 0; check what it was made from")
        labels = getattr(source, "labels", None)
        if callable(labels):
            raise ValueError(
                "source.labels must be an array with one entry for each sample, not a method: add @property"
            )
        self.labels = as_labels(labels, self._count, "source")

    def __len__(self) -> int:
        """Number of samples."""
        return self._count if self.rows is None else len(self.rows)

    def read(self, indices: npt.ArrayLike | slice) -> list[Encoded | Exception]:
        """Return the encoded bytes of some samples; an Exception for one that cannot be read.

        `indices` are those of `take`. Raise ValueError or TypeError if the user's `read` returns something else.
        """
        numbers = self._numbers(indices)
        returned = self.source.read(list(numbers))
        method = f"{type(self.source).__name__[:40]}.read"
        if (several := entries(returned)) is None:
            rule = "must return a list with one entry for each index"
            raise TypeError(f"{method} {rule}: it returned {kind(returned)}")
        found = list(several)
        if len(found) != len(numbers):
            rule = "must return one entry for each index"
            raise ValueError(f"{method} {rule}: it returned {len(found)} for {len(numbers)}")
        return [self._checked(method, *each) for each in zip(numbers, found, strict=True)]

    def _checked(self, method: str, number: int, entry: Any) -> Encoded | Exception:
        if isinstance(entry, Exception):
            return entry
        if (image := as_encoded(entry)) is None:
            rule = "must return encoded images (bytes, bytearray, memoryview of bytes, or a uint8 array [n])"
            raise TypeError(
                f"{method} {rule}, or an Exception for a sample that cannot be read: that of sample {number} is "
                f"{kind(entry)}"
            )
        return or_error(image)

    def name(self, index: int) -> str:
        """Return the name of sample `index` for messages."""
        (number,) = self._numbers([index])
        method = getattr(self.source, "name", None)  # May be a text: the name of the whole data set.
        return str(method(number)) if callable(method) else f"sample {number}"

    def stamp(self, index: int) -> Hashable:
        """Return what changes when the content of sample `index` does; None if nothing is known."""
        (number,) = self._numbers([index])
        method = getattr(self.source, "stamp", None)
        found = method(number) if callable(method) else None
        try:
            hash(found)
        except TypeError:
            what = f"{type(self.source).__name__[:40]}.stamp"
            rule = "must return something hashable, or None"
            raise TypeError(f"{what} {rule}: for sample {number} it is {kind(found)}") from None
        return found

    def take(self, indices: npt.ArrayLike | slice) -> Self:
        """Return a source with these samples and their labels, in this order.

        Args:
            indices: Integers [K], of which negative ones count from the end; booleans [N]; or a slice. IndexError is
                raised for others, and out of bounds.
        """
        places = positions(indices, len(self))
        taken = copy.copy(self)
        taken.rows = np.array(self._numbers(places), np.int64)
        taken.labels = None if self.labels is None else self.labels[as_indices(places)]
        return taken

    def _numbers(self, indices: npt.ArrayLike | slice) -> list[int]:
        """Return numbers of samples in the user's source."""
        found = positions(indices, len(self))
        return found if self.rows is None else [int(number) for number in self.rows[as_indices(found)]]

    def __repr__(self) -> str:
        own = type(self.source).__name__
        return f"{type(self).__name__}({own}, {len(self)} samples, labels: {layout(self.labels)})"


AnySource = FileSource | ImageArray | ImageBytes | CustomSource | Series


def as_source(value: Any) -> AnySource:
    """Return gpuload's own kinds as they are, and objects with `len` and `read` as a `CustomSource`.

    Raise ValueError for others, with the source that takes them; never with their content.
    """
    if isinstance(value, AnySource):
        return value
    readable = callable(getattr(value, "read", None)) and hasattr(type(value), "__len__")
    if readable and not isinstance(value, type | mmap.mmap):  # A map of a file is one image.
        return CustomSource(value)
    what, advice = _answer(value)
    raise ValueError(f"source must be a source of images or a Series, not {what}: {advice}")


KINDS = "ImageFolder, ImageList, ImageFrame, ImageArray, ImageBytes or Series of gpuload"
OWN = "an object with len(source) and read(indices), which returns the encoded images of several samples"


def _answer(value: Any) -> tuple[str, str]:
    """Return in words what the value is, and which source takes it."""
    what, package = kind(value), type(value).__module__.partition(".")[0]
    if isinstance(value, type):
        return f"the class {value.__name__[:40]}", "make an object of it first"
    if looks_encoded(value) or isinstance(value, mmap.mmap):
        return f"{what} with one encoded image", "pass gpuload.ImageBytes([source])"
    if isinstance(value, str | bytes | os.PathLike):
        path = shown(os.fspath(value))
        return (
            f"the path {path}",
            "pass gpuload.ImageFolder(source) for a folder, gpuload.ImageList([source]) for a file",
        )
    if hasattr(value, "columns") and hasattr(value, "iloc"):
        return what, "pass gpuload.ImageFrame(source), or gpuload.Series(source) for windows of its rows"
    numeric = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    if numeric or (package in ("torch", "cupy", "jax", "jaxlib") and hasattr(value, "shape")):
        return what, "pass gpuload.ImageArray(source) for images [N, H, W, C], gpuload.Series(source) for windows"
    if isinstance(value, list | tuple | np.ndarray) or (
        package in ("pandas", "pyarrow") and hasattr(value, "__iter__")
    ):
        return _answer_of_list(value, what)
    if hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return f"{what} without read(indices)", f"pass {OWN}; see help(gpuload.sources.CustomSource)"
    return what, f"pass {KINDS}, or {OWN}"


def _answer_of_list(value: Any, what: str) -> tuple[str, str]:
    first = next(iter(value), None)
    if first is None:
        return f"{what} without a first entry", f"pass {KINDS}"
    what = f"{what} of {type(first).__name__[:40]}"
    if looks_encoded(first):
        return what, "pass gpuload.ImageBytes(source)"
    if isinstance(first, bytes):
        return what, "pass gpuload.ImageBytes(source) for encoded images, gpuload.ImageList(source) for paths"
    if isinstance(first, str | os.PathLike) or "string" in str(getattr(first, "type", "")):
        return what, "pass gpuload.ImageList(source)"
    if isinstance(first, tuple) and first and isinstance(first[0], str | os.PathLike):
        return f"{what} with a path", "pass gpuload.ImageList(paths, labels), with paths, labels = zip(*source)"
    if getattr(first, "ndim", 0) == 3:
        return what, "pass gpuload.ImageArray(np.stack(source))"
    if getattr(first, "ndim", 0):
        return what, "pass gpuload.Series(source) for windows"
    return what, f"pass {KINDS}"
