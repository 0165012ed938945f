"""What tells one source from another, in a few letters."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from gpuload.sources.array import ImageArray
from gpuload.sources.files import FileSource
from gpuload.sources.series import Series

ENTRIES = 64
"""Of an array too large to be read whole, so many are looked at, evenly spaced."""


def fingerprint(source: FileSource | ImageArray | Series) -> str:
    """16 hexadecimal digits, the same in every process: of the file names under the root, of labels, stretches, and of
    some of the values in memory. The root is left out, so that a data set may move; files are not opened.

    >>> from gpuload import ImageList
    >>> first, second = ImageList(["a.jpg", "b.jpg"]), ImageList(["a.jpg", "c.jpg"])
    >>> fingerprint(first) == fingerprint(second), len(fingerprint(first))
    (False, 16)
    """
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(source, FileSource):
        _add_names(digest, source)
        _add(digest, source.labels)
    elif isinstance(source, ImageArray):
        _add(digest, source.images)
        _add(digest, source.labels)
    else:
        source.check_files()
        for array in (source.values, source.targets, source.segments, source.bounds):
            _add(digest, array)
    return digest.hexdigest()


def fingerprint_of_names(source: FileSource) -> str:
    """The same of the file names alone."""
    digest = hashlib.blake2b(digest_size=8)
    _add_names(digest, source)
    return digest.hexdigest()


def _add_names(digest: Any, source: FileSource) -> None:
    digest.update(source._names.blob.data)


def _add(digest: Any, array: Any) -> None:
    if array is None:
        digest.update(b"none")
        return
    digest.update(f"{array.dtype} {list(array.shape)}".encode())
    if (array.nbytes > 2**20 and array.ndim > 1) or array.nbytes > 2**24:
        array = array[np.linspace(0, len(array) - 1, ENTRIES).astype(np.int64)]
    array = array.get() if hasattr(array, "get") else np.asarray(array)
    digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes())
