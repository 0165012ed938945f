"""Image files and labels in the columns of a DataFrame."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuload.sources.base import Array, few, shown
from gpuload.sources.files import FileSource, Path, as_names


class ImageFrame(FileSource):
    """Image files and labels from the columns of a pandas DataFrame.

    Args:
        dataframe: The DataFrame, with one row for each image.
        directory: Folder that relative file names start from. By default the working directory.
        x_col: Name of the column of file names.
        y_col: Name of the column of labels. Strings are classes: `classes` lists them sorted, and labels are their
            indices, int32 [N]. Numbers are labels [N] as they are. A list of K columns of numbers gives labels [N, K].
            None: there are no labels.

    Raises:
        ValueError: The DataFrame has no rows, or a column is not there, has missing values or values of another kind.

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
        names = as_names(_column(dataframe, x_col, "x_col"), f"dataframe[{x_col!r}]")
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


def _column(dataframe: Any, name: str, argument: str) -> Any:
    """Return the values of one column. Raise ValueError if it is not there, or has missing values."""
    columns = dataframe.columns
    if name not in columns:
        raise ValueError(f"{argument} must be a column of dataframe: {name!r} is not; take one of {few(columns)}")
    if len(missing := np.flatnonzero(dataframe[name].isna())):
        raise ValueError(
            f"{argument}={name!r} must have no missing values: {len(missing)} of {len(dataframe)} are, the "
            f"first in row {missing[0]} (counted from 0); drop them with dataframe.dropna(subset=[{name!r}])"
        )
    return dataframe[name].to_numpy()


def _numbers(values: Array, name: str) -> Array:
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f"y_col must name columns of numbers, or one column of strings: {name!r} is {values.dtype} and "
            f"begins with {shown(values[0])}; convert it with dataframe[{name!r}].astype(...), or pass it alone"
        )
    return values
