"""The contract of a source of images, and the checks that all sources share."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from typing_extensions import Self as Self
else:
    Self = Any

Array = npt.NDArray[Any]
Encoded = bytes | bytearray | memoryview
"""The content of an image file: bytes one after another. Its `len` is their number."""


@runtime_checkable
class Source(Protocol):
    """Samples by number, with or without labels."""

    @property
    def labels(self) -> Array | None:
        """One entry for each sample, along the first axis; or None."""

    def __len__(self) -> int: ...

    def take(self, indices: npt.ArrayLike | slice) -> Self:
        """Return a source with these samples and their labels, in this order.

        `indices`: integers [K], of which negative ones count from the end; booleans [N]; or a slice. Raise IndexError
        for others, and out of bounds.
        """


@runtime_checkable
class EncodedSource(Source, Protocol):
    """Samples that are encoded images, which a decoder reads.

    Its methods may be called by several threads at the same time. An object of a user's own needs less: see
    `CustomSource`.
    """

    def read(self, indices: npt.ArrayLike | slice) -> Sequence[Encoded | Exception]:
        """Return the encoded bytes of these samples, in this order; an Exception for one that cannot be read.

        `indices` are those of `take`. No entry is empty: an image without bytes is an Exception too.
        """

    def name(self, index: int) -> str:
        """Return the name of one sample for messages; of a file its full path."""

    def stamp(self, index: int) -> Hashable:
        """Return something that changes when the content of the sample does; None if nothing is known.

        Of a file it is (size, time of the last change in nanoseconds). Caches on disk keep its `repr`, or its numbers,
        so it must be the same in every process.
        """


def as_labels(labels: npt.ArrayLike | None, count: int, argument: str) -> Array | None:
    """Return labels as an array with `count` entries, one for each of the argument's."""
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape[:1] != (count,):
        has = f"labels has shape {list(labels.shape)}, {argument} has {count}"
        raise ValueError(
            f"labels must have one entry for each of {argument}: {has}; give both the same length, or labels=None"
        )
    return labels


def as_indices(indices: npt.ArrayLike | slice) -> Array | slice:
    """Return indices that NumPy understands: integers [K], booleans [N], or a slice. Raise IndexError for others."""
    if isinstance(indices, slice):
        return indices
    indices = np.asarray(indices)
    if not indices.size:
        return np.zeros(0, np.intp)  # NumPy makes floats of an empty list.
    if indices.ndim != 1 or indices.dtype.kind not in "biu":
        raise IndexError(
            f"indices must be one row of integers or booleans, or a slice: got {layout(indices)}; "
            "convert them with np.asarray(indices, dtype=np.int64).ravel()"
        )
    return indices


def positions(indices: npt.ArrayLike | slice, count: int) -> list[int]:
    """Return indices, as `take` has them, as numbers from 0 to `count - 1`. Raise IndexError for others."""
    found = as_indices(indices)
    if isinstance(found, slice):
        return list(range(count)[found])
    if found.dtype.kind == "b":
        if len(found) != count:
            raise IndexError(f"indices must have one boolean for each of {count} samples: got {len(found)}")
        return [int(number) for number in np.flatnonzero(found)]
    numbers: list[int] = found.tolist()
    for number in numbers:
        if not -count <= number < count:
            raise IndexError(f"index {number} is out of bounds for {count} samples")
    return [number + count if number < 0 else number for number in numbers]


def layout(array: Array | None) -> str:
    """Return the dtype and shape for a message: "uint8 [8, 32, 32, 3]"."""
    return "none" if array is None else f"{array.dtype} {list(array.shape)}"


def few(values: Iterable[Any]) -> str:
    """Return the first ten values and the number of the others for a message."""
    words = [shown(value) for value in values]
    return ", ".join(words[:10]) + (f" and {len(words) - 10} more" if len(words) > 10 else "")


def shown(value: Any, most: int = 60) -> str:
    """Return the `repr` for a message, cut off after `most` characters: the value may be a whole image."""
    words = repr(value[:most] if isinstance(value, str | bytes | bytearray) else value)
    return words if len(words) <= most else f"{words[: most - 3]}..."
