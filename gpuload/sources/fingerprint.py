"""Fingerprints of sources, which tell whether a checkpoint belongs to a source."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from gpuload.sources.array import ImageArray
from gpuload.sources.base import layout
from gpuload.sources.files import FileSource
from gpuload.sources.series import Series

ENTRIES = 64
"""Number of entries, evenly spaced, that stand for an array which is too large to be read whole."""


def fingerprint(source: FileSource | ImageArray | Series) -> str:
    """Return 16 hexadecimal digits, the same in every process, that tell one source from another.

    They depend on file names, labels, stretches, and some of the values in memory. They do not depend on the root, so
    that a data set may move, and no image file is opened.
    """
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(source, FileSource):
        digest.update(source.names.blob.data)
        arrays = [source.labels]
    elif isinstance(source, ImageArray):
        arrays = [source.images, source.labels]
    else:
        source.check_files()
        arrays = [source.values, source.targets, source.segments, source.bounds]
    for array in arrays:
        digest.update(_content(array))
    return digest.hexdigest()


def fingerprint_of_names(source: FileSource) -> str:
    """Return the fingerprint of the file names alone."""
    return hashlib.blake2b(source.names.blob.data, digest_size=8).hexdigest()


def _content(array: Any) -> bytes:
    form = layout(array).encode()
    if array is None:
        return form
    if (array.nbytes > 2**20 and array.ndim > 1) or array.nbytes > 2**24:
        array = array[np.linspace(0, len(array) - 1, ENTRIES).astype(np.int64)]
    array = array.get() if hasattr(array, "get") else np.asarray(array)
    return form + (repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
