"""Encoded bytes of samples, read ahead of time by threads. A sample that blocks does not hold up the others."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.errors import TooManyErrors
from gpuload.reading.daemon import Daemons
from gpuload.reading.files import Bytes, prepare, read_files, too_long
from gpuload.sources import EncodedSource, FileSource

READERS = 16
"""Number of threads that read at the same time."""
SAMPLES_AT_ONCE = 8
"""Least number of samples that a thread reads one after another, if there are as many."""
BYTES_AHEAD = 2**28
"""Bytes of encoded samples from which on no further step is begun, unless nothing else is under way."""
MOST_BLOCKED = 1024
"""Number of samples blocked at the same time from which on the file system is to blame, not the files."""

_left_behind: dict[Any, Future[Any]] = {}
"""Reads that block, by sample, until they end: no other thread shall block at the same sample."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_left_behind.clear)  # Their threads do not exist there.

IDLE = -1


class CancelledReading(Exception):
    """Nobody wants the samples any more."""


class _Part:
    """Samples that one thread reads: of its own, and one by one, if `apart`."""

    def __init__(self, numbers: list[int], indices: NDArray[np.int64], apart: bool):
        self.numbers, self.indices, self.apart = numbers, indices, apart
        self.progress = np.array([0, IDLE])
        """[2] see `read_files`."""
        self.seen, self.since = 0, 0.0
        """The progress last seen, and when it was first seen."""
        self.future: Future[list[Bytes | Exception]]

    def blocked_for(self, now: float) -> float:
        """Return for how many seconds one and the same file was waited for."""
        progress, number = self.progress.tolist()
        if number == IDLE or progress != self.seen:
            self.seen, self.since = progress, now
        return now - self.since


class Reading:
    """The samples of one step, on their way. `Reader.submit` makes it."""

    def __init__(self, reader: Reader, indices: NDArray[np.int64], number: int):
        self._reader, self._indices, self.number = reader, indices, number
        self._cancelled: Future[None] = Future()
        self.held = 0
        """Bytes that count as read ahead."""
        self._found: list[Bytes | Exception | None] = [None] * len(indices)
        self._pending: list[_Part] = []
        left = self._left_behind() if _left_behind and reader.timeout is not None else {}
        for number_, error in left.items():
            self._found[number_] = error
        wanted = [each for each in range(len(indices)) if each not in left]
        parts = max(1, min(READERS, len(wanted) // SAMPLES_AT_ONCE))
        for bounds in np.array_split(wanted, parts):
            if len(bounds):
                self._start(bounds.tolist())

    @property
    def cancelled(self) -> bool:
        return self._cancelled.done()

    def cancel(self) -> None:
        """Give the samples up. `result` raises CancelledReading, if another thread waits in it."""
        if not self._cancelled.done():
            self._cancelled.set_result(None)
        for part in self._pending:
            part.future.cancel()
        self.release()

    def release(self) -> None:
        """Count the bytes no longer as read ahead."""
        self._reader.released(self)

    def result(self) -> list[Bytes | Exception]:
        """Return the bytes of each sample, or the exception that tells why there are none.

        With a timeout, a sample that makes no progress for so long is given up: its thread is left behind, and other
        threads read the samples that it had not read yet.

        Raises:
            TooManyErrors: as many as MOST_BLOCKED samples block.
            Exception: the source raised it, and it is no OSError.
            CancelledReading: another thread has cancelled the step.
        """
        timeout = self._reader.timeout
        if timeout is not None and len(_left_behind) >= MOST_BLOCKED:
            blocked = f"{len(_left_behind)} samples block"
            raise TooManyErrors(f"{blocked}: the file system hangs, or timeout={timeout:g} is too short for it")
        while self._pending:
            now = time.monotonic()
            left = None
            if timeout is not None:
                self._give_up([part for part in self._pending if part.blocked_for(now) >= timeout], timeout)
                left = timeout - max((part.blocked_for(now) for part in self._pending), default=0.0)
            futures: list[Future[Any]] = [self._cancelled, *(part.future for part in self._pending)]
            wait(futures, left, FIRST_COMPLETED)
            if self.cancelled:
                raise CancelledReading
            self._collect()
        assert all(each is not None for each in self._found)
        return self._found  # type: ignore[return-value]

    def _start(self, numbers: list[int], *, apart: bool = False) -> None:
        part = _Part(numbers, self._indices[numbers], apart)
        part.future = self._reader.started(self, part)
        self._pending.append(part)

    def _start_apart(self, numbers: list[int]) -> None:
        """Read samples one by one, in threads of their own: which of them is to blame shows then."""
        for some in np.array_split(numbers, min(SAMPLES_AT_ONCE, len(numbers))):
            self._start(some.tolist(), apart=True)

    def _collect(self) -> None:
        """Take what the finished parts have read."""
        finished = [part for part in self._pending if part.future.done()]
        self._pending = [part for part in self._pending if part not in finished]
        for part in finished:
            error = part.future.exception()
            if error is not None and not isinstance(error, OSError):
                raise error  # A mistake in a source of the user's, not a sample that cannot be read.
            if error is not None:
                self._start_apart(part.numbers)
                continue
            for number, each in zip(part.numbers, part.future.result(), strict=True):
                self._found[number] = each

    def _give_up(self, parts: list[_Part], timeout: float) -> None:
        """Leave the threads of these parts behind. The samples at which they do not block are read again."""
        for part in parts:
            if part.future.done():
                continue
            self._pending.remove(part)
            if not part.apart:
                self._reader.left_behind()
            # Which one blocks is known of files, and of samples that are read one by one.
            known = self._reader.reads_files or part.apart or len(part.numbers) == 1
            at = int(part.progress[1]) if known else None
            if others := [number for place, number in enumerate(part.numbers) if place != at]:
                self._start_apart(others)
            if at is not None:
                number = part.numbers[at]
                key = self._reader.key(int(self._indices[number]))
                _left_behind[key] = part.future
                part.future.add_done_callback(lambda _, key=key: _left_behind.pop(key, None))  # type: ignore[misc]
                self._found[number] = TimeoutError(f"blocked for {timeout:g} s")

    def _left_behind(self) -> dict[int, Exception]:
        """Return the samples at which an earlier read still blocks."""
        reader = self._reader
        keys = enumerate(map(reader.key, self._indices.tolist()))
        return {
            number: TimeoutError(f"blocked for {reader.timeout or 0:g} s")
            for number, key in keys
            if key in _left_behind
        }


class Reader:
    """Reads the samples of a source in the order of the steps, in daemon threads.

    Local files are read by compiled code that does not hold the interpreter's lock.
    """

    def __init__(self, source: EncodedSource, *, timeout: float | None = None, max_bytes: int | None = None):
        """Take a source and two options of `Errors`. A sample that blocks or is longer is bad."""
        self._source, self.timeout, self._max_bytes = source, timeout, max_bytes
        self._threads = Daemons(READERS, "gpuload-read")
        self._numbers, self._under_way = 0, set[int]()
        self._held, self._changed = 0, threading.Condition()
        self.reads_files = isinstance(source, FileSource)
        self.bytes_read, self.samples, self.seconds = 0, 0, 0.0
        """Bytes and samples that were read, and the seconds that threads have spent on it."""

    def submit(self, indices: NDArray[np.int64]) -> Reading:
        """Begin to read the samples of a step."""
        with self._changed:
            self._numbers += 1
            self._under_way.add(self._numbers)
        return Reading(self, indices, self._numbers)

    def key(self, index: int) -> Any:
        """Return a key for a sample: two files of one path are the same."""
        source = self._source
        return source.paths([index])[0] if isinstance(source, FileSource) else (id(source), index)

    def started(self, reading: Reading, part: _Part) -> Future[list[Bytes | Exception]]:
        """Have a thread read a part."""
        return (self._threads.submit_apart if part.apart else self._threads.submit)(self._read, reading, part)

    def left_behind(self) -> None:
        """Count a thread less: it blocks."""
        self._threads.give_up()

    def released(self, reading: Reading) -> None:
        """Count the bytes of a step no longer as read ahead."""
        with self._changed:
            self._held -= reading.held
            reading.held = 0
            self._under_way.discard(reading.number)
            self._changed.notify_all()

    def close(self) -> None:
        """End the threads, once they have read what they are at."""
        with self._changed:
            self._under_way.clear()
            self._changed.notify_all()
        self._threads.close()

    def _read(self, reading: Reading, part: _Part) -> list[Bytes | Exception]:
        with self._changed:  # Room is made by older steps, which never wait for younger ones.
            self._changed.wait_for(
                lambda: self._held < BYTES_AHEAD or reading.number <= min(self._under_way, default=reading.number)
            )
        if reading.cancelled:
            return []
        source = self._source
        if isinstance(source, FileSource):
            prepare()  # Compiling takes time, and is not a file's fault.
        start = time.perf_counter()
        if isinstance(source, FileSource):
            found = read_files(source.paths(part.indices), self._max_bytes, part.progress)
        else:
            found = [self._checked(each) for each in self._given(source, part)]
        size = sum(len(each) for each in found if not isinstance(each, Exception))
        with self._changed:
            self.bytes_read += size
            self.samples += len(found)
            self.seconds += time.perf_counter() - start
            if reading.number in self._under_way:
                self._held += size
                reading.held += size
        return found

    def _given(self, source: EncodedSource, part: _Part) -> Iterable[Any]:
        """Return what the source has for the samples of a part."""
        part.progress[:] = 1, 0
        if not part.apart:
            return source.read(part.indices)
        found: list[Any] = []
        for number, index in enumerate(part.indices):
            part.progress[:] = number + 1, number
            try:
                found += source.read([index])
            except OSError as error:
                found.append(error)
        return found

    def _checked(self, data: Any) -> Bytes | Exception:
        """Return what a source gave as an array."""
        if isinstance(data, Exception):
            return data
        found = np.frombuffer(data, np.uint8)
        if self._max_bytes is not None and len(found) > self._max_bytes:
            return too_long(len(found), self._max_bytes)
        return found if len(found) else OSError("the sample is empty")
