"""Bytes of files: of one file in plain Python, and of many without the interpreter's lock."""

from __future__ import annotations

import errno
import functools
import os
import stat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.available import numba_installed

Bytes = NDArray[np.uint8]

_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class NotAFileError(OSError):
    """The path is neither a file nor a folder. Opening it may block for good, or have effects."""


def read_file(path: str | bytes, max_bytes: int | None = None) -> Bytes | Exception:
    """Return the bytes of a file, or the exception that tells why there are none.

    Args:
        path: Path of the file.
        max_bytes: A larger file is not opened. None: no limit.
    """
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
        if not stat.S_ISREG(found.st_mode):
            return NotAFileError(f"{_KINDS.get(stat.S_IFMT(found.st_mode), 'something else')}, not a file")
        if max_bytes is not None and found.st_size > max_bytes:
            return too_long(found.st_size, max_bytes)
        with open(path, "rb") as file:
            data = file.read() if max_bytes is None else file.read(max_bytes + 1)
        if max_bytes is not None and len(data) > max_bytes:
            return too_long(len(data), max_bytes)
        return np.frombuffer(data, np.uint8) if data else OSError("the file is empty")
    except Exception as error:  # OSError; MemoryError.
        return error


def too_long(size: int, max_bytes: int) -> OSError:
    """Return the error for a sample of more bytes than are allowed."""
    return OSError(f"it has {size:,} bytes, more than max_bytes={max_bytes:,}")


def read_files(paths: list[bytes], max_bytes: int | None, progress: NDArray[np.int64]) -> list[Bytes | Exception]:
    """Return for each file what `read_file` returns.

    Args:
        paths: Paths as the file system spells them.
        max_bytes: A larger file is not opened. None: no limit.
        progress: [2] a count that grows with each file that is opened or read; and the number of the file that has its
            turn, -1 between them.
    """
    found: list[Any] = [None] * len(paths)
    if prepare():
        found = _read_compiled(paths, max_bytes, progress)
    for number, path in enumerate(paths):
        if found[number] is None:
            progress += 1, number - progress[1]
            found[number] = read_file(path, max_bytes)
            progress[1] = -1
    return found


@functools.cache
def prepare() -> bool:
    """Have the code compiled that reads files. Return whether there is some: numba, and a system with `statx`."""
    if not numba_installed():
        return False
    try:
        from gpuload.reading import compiled
    except ImportError:  # It is there, and broken.
        return False
    if compiled.available:
        _read_compiled([os.fsencode(__file__)], None, np.zeros(2, np.int64))
    return compiled.available


def _read_compiled(paths: list[bytes], max_bytes: int | None, progress: NDArray[np.int64]) -> list[Bytes | None]:
    """Return the bytes of the plain files, and None for what `read_file` has to look at."""
    from gpuload.reading import compiled

    lengths = np.array([len(path) + 1 for path in paths])
    names, starts = np.frombuffer(b"\0".join([*paths, b""]), np.uint8), np.cumsum(lengths) - lengths
    sizes = np.empty(len(paths), np.int64)
    compiled.sized(names, starts, sizes, progress)
    if max_bytes is not None:
        sizes[sizes > max_bytes] = -1
    room = np.maximum(sizes, 0)
    places = np.cumsum(room) - room
    try:
        buffer = np.empty(int(room.sum()), np.uint8)
    except MemoryError:
        return [None] * len(paths)
    compiled.filled(names, starts, places, sizes, buffer, progress)
    pairs = zip(places.tolist(), sizes.tolist(), strict=True)
    return [buffer[place : place + size] if size > 0 else None for place, size in pairs]


def in_words(error: BaseException) -> str:
    """Return the reason why a sample is bad, such as "OSError: the file is empty"."""
    return f"{type(error).__name__}: {error}"
