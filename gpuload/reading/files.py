"""Bytes of files. A file that blocks, or is no regular file, does not hold up the others."""

from __future__ import annotations

import errno
import functools
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any

from gpuload.core.errors import TooManyErrors

READERS = 64
"""Number of files read at once, so that several blocked files take no longer than one."""
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class NotAFileError(OSError):
    """The path is neither a file nor a folder. Opening it may block for good, or have effects."""


class Daemon:
    """A thread that makes one call after another. The interpreter's end does not wait for it.

    It would wait for the threads of a ThreadPoolExecutor, even if their calls never return.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(self._calls,), name="gpuload-daemon", daemon=True).start()

    def submit(self, call: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        """Make the call after the ones before it."""
        future: Future[Any] = Future()
        self._calls.put((future, functools.partial(call, *args, **options)))
        return future

    def close(self) -> None:
        """End the thread after its calls."""
        self._calls.put(None)


def _serve(calls: queue.SimpleQueue[Any]) -> None:
    while (item := calls.get()) is not None:
        future, call = item
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        # Keep no object alive until the next call comes.
        del item, future, call


MOST_BLOCKED = 1024
"""Number of files blocked at the same time from which on the file system is to blame, not the files."""

_left_behind: dict[str, Future[Any]] = {}
"""Reads that block, by path, until they end: no other thread shall block at the same file."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_left_behind.clear)  # Their threads do not exist there.


def read(path: str, timeout: float | None = None) -> bytes:
    """Return the bytes of a file. After `timeout` seconds, the thread that reads it is left behind.

    Raise OSError if the system does; for an empty file; TimeoutError; or NotAFileError for a FIFO, a socket or a
    device, which is not opened. Raise TooManyErrors as `read_all` does.
    """
    (found,) = read_all([path], timeout)
    if isinstance(found, Exception):
        raise found
    return found


def read_all(paths: list[str], timeout: float | None = None) -> Iterator[bytes | Exception]:
    """Yield the bytes of each file, or the exception that `read` raises.

    With a timeout, several files are read at once, and a file that blocks since an earlier call is not waited for
    again. Raise TooManyErrors if as many as MOST_BLOCKED files block.
    """
    if timeout is None:
        yield from map(_read, paths)
        return
    for start in range(0, len(paths), READERS):
        some = paths[start : start + READERS]
        if len(_left_behind) >= MOST_BLOCKED:
            raise TooManyErrors(
                f"{len(_left_behind)} files block, among them {next(iter(_left_behind))!r}: the file system hangs, or "
                f"timeout={timeout:g} is too short for it"
            )
        left = [_left_behind.get(path) for path in some]
        found = [future or _started(path) for future, path in zip(left, some, strict=True)]
        wait([future for future, before in zip(found, left, strict=True) if before is None], timeout)
        for path, future in zip(some, found, strict=True):
            if not future.done() and _left_behind.setdefault(path, future) is future:
                future.add_done_callback(lambda _, path=path: _left_behind.pop(path, None))  # type: ignore[misc]
            yield future.result() if future.done() else TimeoutError(f"blocked for {timeout:g} s")


def _started(path: str) -> Future[Any]:
    daemon = Daemon()
    future = daemon.submit(_read, path)
    daemon.close()
    return future


def _read(path: str) -> bytes | Exception:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            return NotAFileError(f"{_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file")
        with open(path, "rb") as file:
            return file.read() or OSError("the file is empty")
    except Exception as error:  # OSError; MemoryError.
        return error


def in_words(error: BaseException) -> str:
    """Return the reason why a sample is bad, such as "OSError: the file is empty"."""
    return f"{type(error).__name__}: {error}"
