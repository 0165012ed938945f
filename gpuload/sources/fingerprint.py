"""Fingerprints of sources, which tell whether a checkpoint belongs to a source."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from gpuload.sources.array import ImageArray
from gpuload.sources.base import layout
from gpuload.sources.custom import CustomSource
from gpuload.sources.encoded import ImageBytes
from gpuload.sources.files import FileSource
from gpuload.sources.series import Series

ENTRIES = 64
"""Number of entries, evenly spaced, that stand for an array or a source which is too large to be read whole."""


def fingerprint(source: FileSource | ImageArray | ImageBytes | CustomSource | Series) -> str:
    """Return 16 hexadecimal digits, the same in every process, that tell one source from another.

    They depend on file names, labels, stretches, some of the values in memory, and names and stamps of some samples of
    a user's own source. They do not depend on the root, so that a data set may move, and no image file is opened.
    """
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(source, FileSource | ImageBytes | CustomSource):
        digest.update(_names(source))
        arrays = [source.labels]
    elif isinstance(source, ImageArray):
        arrays = [source.images, source.labels]
    else:
        source.check_files()
        arrays = [source.values, source.targets, source.segments, source.bounds]
    for array in arrays:
        digest.update(_content(array))
    return digest.hexdigest()


def fingerprint_of_names(source: FileSource | ImageBytes | CustomSource) -> str:
    """Return the fingerprint of the samples without their labels: of files, of their names alone."""
    return hashlib.blake2b(_names(source), digest_size=8).hexdigest()


def _names(source: FileSource | ImageBytes | CustomSource) -> Any:
    """Return bytes that tell the samples of one source from those of another."""
    if isinstance(source, FileSource):
        return source.names.blob.data
    some = sorted(set(_spaced(len(source))))
    if isinstance(source, ImageBytes):
        lengths = np.array([len(image) for image in source.data], np.int64)
        return _content(lengths) + repr([source.stamp(index) for index in some]).encode()
    return repr((len(source), [(source.name(index), source.stamp(index)) for index in some])).encode()


def _spaced(count: int) -> list[int]:
    numbers: list[int] = np.linspace(0, count - 1, ENTRIES).astype(np.int64).tolist()
    return numbers


def _content(array: Any) -> bytes:
    form = layout(array).encode()
    if array is None:
        return form
    if (array.nbytes > 2**20 and array.ndim > 1) or array.nbytes > 2**24:
        array = array[_spaced(len(array))]
    array = array.get() if hasattr(array, "get") else np.asarray(array)
    return form + (repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
