"""Encoded files: their bytes, read so that one that blocks, or is no file at all, holds up nothing else, and what their
headers claim."""

from __future__ import annotations

import errno
import itertools
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any

from gpuload.core.errors import TooManyErrors

READERS = 64
"""Files that are read at once, so that several of them that block take no longer than one."""

_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class NotAFileError(OSError):
    """What lies there is neither a file nor a folder: to open it may block for good, or have effects."""


class Daemon:
    """A thread that makes one call after another, and that nobody waits for where a call never returns.

    The interpreter's end waits for the threads of a ThreadPoolExecutor.

    >>> daemon = Daemon()
    >>> daemon.submit(max, 3, 5).result()
    5
    >>> daemon.close()
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(self._calls,), name="gpuload-daemon", daemon=True).start()

    def submit(self, call: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        """Have the call made after those before it."""
        future: Future[Any] = Future()
        self._calls.put((future, lambda: call(*args, **options)))
        return future

    def close(self) -> None:
        """End the thread after its calls."""
        self._calls.put(None)


def _serve(calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    while (item := calls.get()) is not None:
        future, call = item
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        # Until the next call comes, none of its objects is kept alive here.
        del item, future, call


MOST_BLOCKED = 1024
"""Of the files that block at once; above, it is not the files that are bad."""

_left_behind: dict[str, Future[Any]] = {}
"""Reads that block, by the path of their file, until they end: no other thread is to block there too."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_left_behind.clear)  # Their threads do not exist there.


def read(path: str, timeout: float | None = None) -> bytes:
    """The bytes of a file. With a `timeout`, in seconds, they are read in a thread that is left behind if it blocks.

    Raises OSError: what the system says of a file that it cannot open; NotAFileError, without opening it, for a FIFO, a
    socket or a device; TimeoutError; and where there is nothing in the file. TooManyErrors, as `read_all` does.
    """
    (found,) = read_all([path], timeout)
    if isinstance(found, Exception):
        raise found
    return found


def read_all(paths: list[str], timeout: float | None = None) -> Iterator[bytes | Exception]:
    """Of each file its bytes, or what `read` raises. With a `timeout`, several at once; one that blocks since an
    earlier call is not waited for again. Raises TooManyErrors where as many as MOST_BLOCKED do."""
    remaining = iter(paths)
    while some := list(itertools.islice(remaining, 1 if timeout is None else READERS)):
        if timeout is None:
            yield _read(some[0])
            continue
        if len(_left_behind) >= MOST_BLOCKED:
            raise TooManyErrors(
                f"{len(_left_behind)} files block, among them {next(iter(_left_behind))!r}: the file system hangs, or "
                f"timeout={timeout:g} is too short for it"
            )
        left = [_left_behind.get(path) for path in some]
        found = [future or _started(path) for future, path in zip(left, some, strict=True)]
        wait([future for future, before in zip(found, left, strict=True) if before is None], timeout)
        for path, future in zip(some, found, strict=True):
            if future.done():
                yield future.result()
            else:
                _leave_behind(path, future)
                yield TimeoutError(f"blocked for {timeout:g} s")


def _started(path: str) -> Future[Any]:
    daemon = Daemon()
    future = daemon.submit(_read, path)
    daemon.close()
    return future


def _leave_behind(path: str, future: Future[Any]) -> None:
    if _left_behind.setdefault(path, future) is future:
        future.add_done_callback(lambda _: _left_behind.pop(path, None))


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
    """Why a sample is bad.

    >>> in_words(OSError("the file is empty"))
    'OSError: the file is empty'
    """
    return f"{type(error).__name__}: {error}"
