"""Checks that all sources share, and the words of their errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def as_labels(labels: npt.ArrayLike | None, count: int, argument: str) -> Array | None:
    """Return labels as an array with `count` entries, one for each of the argument's."""
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape[:1] != (count,):
        raise ValueError(
            f"labels must have one entry for each of {argument}: labels has shape {list(labels.shape)}, "
            f"{argument} has {count}; give both the same length, or labels=None"
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
    first, more = [repr(value) for value in values][:10], len(list(values)) - 10
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")
