"""Images kept in a file, for later runs and for all processes of a machine.

The file has a page of header, one record for each slot, and the images, one after another. It is sparse: only its
content takes disk. An image is written before its record, each by one call, so a process killed in between leaves no
wrong record. A slot is written only once while the file is in use, since readers map it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import math
import mmap
import os
import struct
import threading
import time
import zlib
from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuload.cache.host import Indices, held
from gpuload.options import Limit
from gpuload.sources import EncodedSource, FileSource

log = logging.getLogger("gpuload")

MAGIC = b"gpuload pixels 1\n"
PAGE = 4096
RECORD = np.dtype([("state", "<u4"), ("checksum", "<u4"), ("size", "<i8"), ("changed", "<i8"), ("spare", "<i8")])
"""Record of a slot. `checksum`: CRC-32 of the image. `size`, `changed`: bytes and time (ns) of the image's file, or two
other numbers that stand for its stamp."""
EMPTY, VALID, SPOILT = 0, 1, 2
"""States of a slot. SPOILT: the sample has changed, or the checksum is wrong; the next process that has the cache for
itself empties the slot."""
_FRESH = 10**9
"""Nanoseconds for which a changed file is not kept: the clock of some file systems is that coarse."""

Stamp = tuple[int, int]


def in_numbers(stamp: Hashable) -> Stamp:
    """Return two integers of 64 bits that stand for a stamp."""
    first, second = struct.unpack("<qI", hashlib.blake2b(repr(stamp).encode(), digest_size=12).digest())
    return first, second  # The second is so small that, as a time, it is long ago.


class DiskCache:
    """Images of one size in a file, mapped into memory.

    A key describes the content; a file with another key is made anew. Each image is checked when a process first reads
    it: against its checksum, and the sample's stamp. A failure (no space, no permission, damage) is logged once,
    and the image counts as missing.

    Args:
        path: Path of the file.
        key: Everything that determines an image, except the content of its sample.
        source: The samples, of which `stamp` and `name` are used; without a stamp a sample is not kept.
        shape: Shape of an image.
        dtype: Dtype of an image.
        limit: Bytes, or a share of the free disk; None: all that is needed.

    Raises:
        ValueError: something else lies at `path`.
    """

    def __init__(
        self,
        path: str,
        key: dict[str, Any],
        source: EncodedSource,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        limit: Limit = None,
    ):
        self.path, self._source, size = path, source, len(source)
        self._bytes = math.prod(shape) * np.dtype(dtype).itemsize
        capacity = size
        if limit is not None:
            capacity = min(size, max(0, _bytes_allowed(path, limit) - 2 * PAGE) // (self._bytes + RECORD.itemsize))
        self._start = PAGE + -(-capacity * RECORD.itemsize // PAGE) * PAGE
        self._end = self._start + capacity * self._bytes
        header = {**key, "capacity": capacity, "shape": shape, "dtype": np.dtype(dtype).name}
        self._header = json.loads(json.dumps(header))  # As JSON gives it back: lists, no tuples.
        self._told: set[str] = set()
        self._using = threading.RLock()  # The descriptor: after a close its number may belong to another file.
        self._stamps: dict[int, Stamp] = {}  # Of samples that are being decoded; taken before they were read.
        self._file: int | None = None
        self._writes = False
        # The number of images that this process has read from the file or put there; and of those that it can hold.
        self.count = self.capacity = 0
        self.images: NDArray[Any] = np.empty((0, *shape), dtype)
        """[capacity, ...] images, of which those named by `rows` are valid."""
        self._records: NDArray[Any] = np.empty(0, RECORD)
        self._checked = np.zeros(0, bool)
        if os.path.lexists(path) and not os.path.isfile(path):
            raise ValueError(f"cache={path!r} must be the path of a file, or where one can be made: it is none")
        if not os.path.isdir(os.path.dirname(path) or "."):
            raise ValueError(f"cache={path!r} must lie in a folder that is there: make {os.path.dirname(path)!r} first")
        if capacity:
            self._open(shape, dtype, capacity)

    def _open(self, shape: tuple[int, ...], dtype: DTypeLike, capacity: int) -> None:
        try:
            if not self._usable():
                self._make()
            self._file, self._writes = self._opened()
            self._claim()
            mapped = mmap.mmap(self._file, self._end, access=mmap.ACCESS_READ)
        except OSError as error:
            self._tell("open", f"cannot be used ({error}): images are decoded in each epoch")
            return self.close()
        self._records = np.frombuffer(mapped, RECORD, capacity, PAGE)
        count = capacity * math.prod(shape)
        self.images = np.frombuffer(mapped, dtype, count, self._start).reshape(capacity, *shape)
        self._checked = np.zeros(capacity, bool)
        self.capacity = capacity

    def _usable(self) -> bool:
        """Return whether the file exists and has the right content. Raise ValueError if it is no cache at all."""
        try:
            with open(self.path, "rb") as file:
                page, length = file.read(PAGE), os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return False
        if length == 0:  # An empty file, as tempfile makes them.
            return False
        if not page.startswith(MAGIC):
            rule = f"cache={self.path!r} must be a file that gpuload wrote, or none"
            raise ValueError(f"{rule}: what is there is something else, and is left as it is; pass another path")
        try:
            header = json.loads(page[len(MAGIC) :].rstrip(b"\0"))
            different = sorted(name for name in header | self._header if header.get(name) != self._header.get(name))
        except ValueError:
            return self._tell("header", "is damaged: it is made anew")
        if different:
            was, now = header.get(different[0]), self._header.get(different[0])
            other = f"holds other images ({different[0]} was {was!r}, and is {now!r})"
            return self._tell("key", f"{other}: it is made anew; give each loader a path of its own")
        return length == self._end or self._tell("length", "was cut short: it is made anew")

    def _make(self) -> None:
        """Put an empty file there. Processes that have the old file open keep it."""
        page = MAGIC + json.dumps(self._header).encode()
        if len(page) > PAGE:
            raise OSError(errno.E2BIG, "the description of its content is too long")
        new = f"{self.path}.{os.getpid()}-{threading.get_ident()}.new"
        try:
            with open(new, "xb") as file:
                file.write(page.ljust(PAGE, b"\0"))
                file.truncate(self._end)
            os.replace(new, self.path)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(new)

    def _opened(self) -> tuple[int, bool]:
        """Return the file's descriptor, and whether it can be written to."""
        try:
            return os.open(self.path, os.O_RDWR | os.O_CLOEXEC), True
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            self._tell("write", f"cannot be written to ({error}): what is in it is used")
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC), False

    def _claim(self) -> None:
        """Mark the file as in use until it is closed. Empty spoilt slots if no other process uses the file."""
        assert self._file is not None
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                data = os.pread(self._file, self._start - PAGE, PAGE) if self._writes else b""
                states = np.frombuffer(data, RECORD, len(data) // RECORD.itemsize)["state"]
                if (states > SPOILT).any():
                    self._tell("damage", "is damaged: it has records that nobody wrote; they are emptied")
                for index in np.flatnonzero(states > VALID).tolist():
                    self._record(index, EMPTY)
            fcntl.flock(self._file, fcntl.LOCK_SH)
        except OSError as error:  # A file system without locks: spoilt slots stay spoilt.
            log.debug("cache=%r cannot be locked: %s", self.path, error)

    def rows(self, indices: Indices) -> Indices:
        """Return [B], the places of these samples in `images`, or -1."""
        with self._using:
            # Reading a mapping beyond the end of its file would end the process.
            if self._file is not None and os.fstat(self._file).st_size != self._end:
                self._tell("length", "was cut short while it was used: images are decoded in each epoch")
                self.close()
            rows = held(indices, self._checked)
            if len(wanted := indices[(rows < 0) & (indices < self.capacity)]):
                for index in wanted.tolist():
                    self._check(index)
                rows = held(indices, self._checked)
            return rows

    def _check(self, index: int) -> None:
        """Check whether the image is there and right. If not, remember the sample's stamp before it is read."""
        found = self._source.stamp(index)
        if found is None:
            return
        stamp: Any = found if isinstance(self._source, FileSource) else in_numbers(found)
        state, checksum, size, changed, _ = self._records[index].item()
        if state == VALID:
            if (size, changed) != stamp:
                self._tell(
                    "stale", f"has images of samples that have changed since, such as {self._source.name(index)!r}"
                )
            elif zlib.crc32(self.images[index]) != checksum:
                self._tell("damage", f"is damaged: the image of sample {index} is not what was written; it is decoded")
            else:
                self._checked[index] = True
                self.count += 1
                return
            self._record(index, SPOILT)
        elif state not in (EMPTY, SPOILT):
            self._tell("damage", f"is damaged: nobody wrote the record of sample {index}; it is decoded")
        elif state == EMPTY and time.time_ns() - stamp[1] > _FRESH:
            self._stamps[index] = stamp

    def put(self, indices: Indices, images: NDArray[Any]) -> None:
        """Keep the images [B, ...] of these samples. `rows` must have been called before their files were read."""
        with self._using:
            for index, image in zip(indices.tolist(), images, strict=True):
                stamp = self._stamps.pop(index, None)
                if stamp is not None and self._writes and not self._checked[index]:
                    self._write(index, np.ascontiguousarray(image), stamp)

    def _write(self, index: int, image: NDArray[Any], stamp: Stamp) -> None:
        assert self._file is not None
        where = (RECORD.itemsize, PAGE + index * RECORD.itemsize)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, *where)
        except OSError:  # Another process is writing it.
            return
        try:
            if int(self._records["state"][index]) != EMPTY:
                return
            data = image.reshape(-1).view(np.uint8).data
            if os.pwrite(self._file, data, self._start + index * self._bytes) != self._bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._record(index, VALID, zlib.crc32(data), *stamp)
            self._checked[index] = True
            self.count += 1
        except OSError as error:
            self._tell("space", f"cannot take more images ({error}): what is in it is used, the others are decoded")
            self._writes = False
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, *where)

    def _record(self, index: int, state: int, checksum: int = 0, size: int = 0, changed: int = 0) -> None:
        if self._writes and self._file is not None:
            record = np.array((state, checksum, size, changed, 0), RECORD)
            os.pwrite(self._file, record.tobytes(), PAGE + index * RECORD.itemsize)

    def _tell(self, kind: str, words: str) -> bool:
        """Log a message, once of each kind. Return False, as the checks that fail do."""
        if kind not in self._told:
            self._told.add(kind)
            log.warning("cache=%r %s", self.path, words)
        return False

    def close(self) -> None:
        """Close the file."""
        with self._using:
            file, self._file, self._writes, self.capacity = self._file, None, False, 0
            self._records, self.images = self._records[:0].copy(), self.images[:0].copy()
            self._checked = self._checked[:0]
            if file is not None:
                # A reader of an image keeps the mapping, and with it a duplicate of the descriptor.
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_UN)
                os.close(file)

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self.close()


def _bytes_allowed(path: str, limit: int | float) -> int:
    if not isinstance(limit, float):
        return limit
    try:
        found = os.statvfs(os.path.dirname(path) or ".")
        there = os.stat(path).st_blocks * 512 if os.path.isfile(path) else 0
    except OSError:
        return 0
    # Rounded, so that the next run, with slightly different free space, finds its own file.
    share = int(limit * (found.f_bavail * found.f_frsize + there))
    return share >> max(0, share.bit_length() - 4) << max(0, share.bit_length() - 4)
