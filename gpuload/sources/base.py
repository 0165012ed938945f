"""The contract of a source of images, and the checks that all sources share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from typing_extensions import Self as Self
else:
    Self = Any

Array = npt.NDArray[Any]


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
class SourceOfFiles(Source, Protocol):
    """Samples that lie in one file each."""

    def path(self, index: int) -> str:
        """Return the full path of one file."""

    def paths(self, indices: npt.ArrayLike | slice) -> list[bytes]:
        """Return the full paths of some files, encoded for the file system. `indices` are those of `take`."""


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


def layout(array: Array | None) -> str:
    """Return the dtype and shape for a message: "uint8 [8, 32, 32, 3]"."""
    return "none" if array is None else f"{array.dtype} {list(array.shape)}"


def few(values: Iterable[Any]) -> str:
    """Return the first ten values and the number of the others for a message."""
    words = [repr(value) for value in values]
    return ", ".join(words[:10]) + (f" and {len(words) - 10} more" if len(words) > 10 else "")
