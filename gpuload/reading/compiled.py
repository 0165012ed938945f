"""Compiled reading of local files: open, stat, read, close through the C library, without the interpreter's lock.

It reads plain files alone. Whatever else it finds, it leaves to `files.read_file`, which has the words for it.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numba import types

from gpuload.core.compiling import cached

O_RDONLY_CLOEXEC = 0o2000000
"""`O_RDONLY | O_CLOEXEC`, the same on all architectures of Linux that numba knows."""
AT_FDCWD = -100
STATX_TYPE_SIZE = 0x1 | 0x200
S_IFMT, S_IFREG = 0o170000, 0o100000
STATX_BYTES, MODE_AT, SIZE_AT = 256, 28, 40
"""`struct statx` is laid out alike everywhere, unlike `struct stat`."""

available = hasattr(ctypes.CDLL(None), "statx")
"""Whether this system has `statx`: Linux has, since 2017."""

# Functions by name, not by address, so that the compiled code can be kept on disk.
_statx = types.ExternalFunction(
    "statx", types.int32(types.int32, types.voidptr, types.int32, types.uint32, types.voidptr)
)
_open = types.ExternalFunction("open", types.int32(types.voidptr, types.int32))
_read = types.ExternalFunction("read", types.intp(types.int32, types.voidptr, types.uintp))
_close = types.ExternalFunction("close", types.int32(types.int32))


def _sized(paths: Any, starts: Any, sizes: Any, progress: Any) -> None:
    """Find the sizes of the regular files among `paths`; -1 for whatever else.

    `paths` has the names, each ended by a NUL, from `starts` on. `progress` is that of `files.read_files`.
    """
    found = np.zeros(STATX_BYTES, np.uint8)
    for number in range(len(starts)):
        progress[0] += 1
        progress[1] = number
        sizes[number] = -1
        # The kind is looked at before a file is opened: to open a device may block, or have effects.
        if _statx(AT_FDCWD, paths[starts[number] :].ctypes, 0, STATX_TYPE_SIZE, found.ctypes) != 0:
            continue
        mode = np.int64(found[MODE_AT]) | np.int64(found[MODE_AT + 1]) << 8
        if mode & S_IFMT == S_IFREG:
            size = np.int64(0)
            for byte in range(8):
                size |= np.int64(found[SIZE_AT + byte]) << (8 * byte)
            sizes[number] = size
    progress[1] = -1


def _filled(paths: Any, starts: Any, places: Any, sizes: Any, buffer: Any, progress: Any) -> None:
    """Read files, one after another, into `buffer` from `places` on. -1 in `sizes`: not all bytes could be read.

    Files whose size is not above 0 are left out. `paths`, `starts` and `progress` are those of `_sized`.
    """
    for number in range(len(starts)):
        if sizes[number] <= 0:
            continue
        progress[0] += 1
        progress[1] = number
        descriptor = _open(paths[starts[number] :].ctypes, O_RDONLY_CLOEXEC)
        done = np.int64(0)
        while descriptor >= 0 and done < sizes[number]:
            part = buffer[places[number] + done : places[number] + sizes[number]]
            got = _read(descriptor, part.ctypes, np.uintp(len(part)))
            if got <= 0:  # It failed, was interrupted, or became shorter.
                break
            done += got
        if descriptor >= 0:
            _close(descriptor)
        if done < sizes[number]:
            sizes[number] = -1
    progress[1] = -1


sized, filled = cached(_sized), cached(_filled)
