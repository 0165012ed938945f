"""Encoded files: their bytes, read so that one that blocks, or is no file at all, holds up nothing else, and what their
headers claim."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any

from PIL import Image, ImageFile, UnidentifiedImageError

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


def read(path: str, timeout: float | None = None) -> bytes:
    """The bytes of a file. With a `timeout`, in seconds, they are read in a thread that is left behind if it blocks.

    Raises OSError: what the system says of a file that it cannot open; NotAFileError, without opening it, for a FIFO, a
    socket or a device; TimeoutError; and where there is nothing in the file.
    """
    (found,) = read_all([path], timeout)
    if isinstance(found, Exception):
        raise found
    return found


def read_all(paths: list[str], timeout: float | None = None) -> Iterator[bytes | Exception]:
    """Of each file its bytes, or what `read` raises. With a `timeout`, several at once."""
    remaining = iter(paths)
    while some := list(itertools.islice(remaining, 1 if timeout is None else READERS)):
        if timeout is None:
            yield _read(some[0])
            continue
        daemons = [Daemon() for _ in some]
        found = [daemon.submit(_read, path) for daemon, path in zip(daemons, some, strict=True)]
        for daemon in daemons:
            daemon.close()
        wait(found, timeout)
        for future in found:
            yield future.result() if future.done() else TimeoutError(f"blocked for {timeout:g} s")


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


def opened(data: bytes, max_pixels: int | None) -> ImageFile.ImageFile:
    """The image in an encoded file, of which Pillow has read the header alone.

    Raises DecompressionBombError where that claims more than `max_pixels`, or than twice Pillow's own
    `Image.MAX_IMAGE_PIXELS`; UnidentifiedImageError, and what else Pillow raises for a broken file.

    >>> opened(b"no image", max_pixels=None)
    Traceback (most recent call last):
    PIL.UnidentifiedImageError: cannot identify image file
    """
    image = _recognized(data)
    pixels, most = image.width * image.height, Image.MAX_IMAGE_PIXELS
    for name, limit in (("max_pixels", max_pixels), ("2 * Image.MAX_IMAGE_PIXELS", None if most is None else 2 * most)):
        if limit is not None and pixels > limit:
            raise Image.DecompressionBombError(
                f"its header claims {image.height} x {image.width} pixels, more than {name}={limit}"
            )
    return image


def _recognized(data: bytes) -> ImageFile.ImageFile:
    # `Image.open` warns of each image of more than `Image.MAX_IMAGE_PIXELS`, and warnings can be silenced for a whole
    # process only, not for a thread.
    for register in (Image.preinit, Image.init):
        register()
        for name in list(Image.ID):
            factory, accepts = Image.OPEN[name]
            accepted = accepts is None or accepts(data[:16])
            if not accepted or isinstance(accepted, str):  # A string says why this Pillow cannot decode it.
                continue
            with contextlib.suppress(SyntaxError):  # Another format, for all that its first bytes promised.
                return factory(io.BytesIO(data), "")
    raise UnidentifiedImageError("cannot identify image file")
