"""Image files named in a list."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy.typing as npt

from gpuload.sources.base import as_labels, shown
from gpuload.sources.encoded import looks_encoded
from gpuload.sources.files import FileSource, Path, as_names


class ImageList(FileSource):
    """Image files by path. A missing file shows when its batch is read, not before.

    Args:
        paths: Paths as str, bytes or os.PathLike, in any sequence: a list, a NumPy array, a pandas Series.
        labels: One entry for each path, along the first axis: anything that `np.asarray` takes, of any shape and
            dtype. None: there are no labels.
        root: Folder that relative paths start from. By default the working directory.

    Raises:
        ValueError: `paths` is one string, is empty, or has an entry that is no path; or `labels` has another length.

    >>> ImageList(["cat/1.jpg", "dog/1.jpg"], labels=[[0.9, 0.1], [0.2, 0.8]], root="/data")
    ImageList(2 files in '/data', labels: float64 [2, 2])
    """

    def __init__(self, paths: Iterable[Path], labels: npt.ArrayLike | None = None, *, root: Path = ""):
        if isinstance(paths, (str, bytes, os.PathLike)):
            if looks_encoded(paths):
                raise ValueError(
                    "paths must be a sequence of paths, not an encoded image: gpuload.ImageBytes takes those"
                )
            advice = f"write [{shown(paths)}], or ImageFolder for a folder"
            raise ValueError(f"paths must be a sequence of paths, not one path: got {shown(paths)}; {advice}")
        names = as_names(paths, "paths")
        super().__init__(names, root, as_labels(labels, len(names), "paths"))
