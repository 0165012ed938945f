"""The fast decoder: NVIDIA DALI reads, decodes and resizes, on the CPU or a GPU."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import io
import math
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from typing import Any

import numpy as np
from PIL import Image

from gpuload.core.device import CPU, Device
from gpuload.core.errors import BadSample, SampleError
from gpuload.decode.graph import feeds, pipeline, pixels
from gpuload.decode.spec import Decoding
from gpuload.options import Errors
from gpuload.reading.files import Daemon, NotAFileError, in_words, read_all
from gpuload.reading.header import opened
from gpuload.sources import FileSource

STREAM_PER_THREAD = 2
"""The handle `cudaStreamPerThread`: the stream of the thread that uses it."""

LONGEST_JPEG = 65_500
"""Greatest height or width that Pillow writes."""

MOST_HUNG = 16
"""Number of pipelines that may hang at blocked files. After that gpuload reads all files itself."""

_avoided: set[str] = set()
"""Files at which DALI hung. DALI's threads do not try them again until gpuload has read them."""


class _Hangs(Exception):
    """DALI's threads hang at a blocked file, and the pipeline was abandoned."""


class DaliDecoder:
    """Runs a DALI pipeline that reads, decodes and resizes the files of a step.

    DALI reads in threads of its own. They hang if a file blocks, and ending the pipeline would hang too. With a
    timeout, a pipeline that hangs is told from a slow one and is abandoned. Steps with files that are known to block,
    or at which DALI failed, are made separately from bytes that gpuload's own threads read.
    """

    hung = 0
    """Number of abandoned pipelines, of all decoders."""
    samples = 0
    seconds: Mapping[str, float] = {}
    """Empty: DALI does not tell how long its threads read and decode."""
    _daemon: Daemon | None = None
    """Thread that waits for DALI, if there is a timeout."""

    def __init__(
        self, source: FileSource, decoding: Decoding, *, batch_size: int, device: Device, threads: int, errors: Errors
    ):
        self._source = source
        self._decoding = decoding
        self._device = device
        self._errors = errors
        place = "cpu" if device == CPU else "gpu"
        options: dict[str, Any] = {"batch_size": batch_size, "num_threads": threads, "device_id": device.index}
        self._build = functools.partial(pipeline, decoding, place, errors.max_pixels, **options)
        self._pipe = self._build(reads=True)
        self._pipe.build()
        self._steps: deque[tuple[Any, bool]] = deque()
        """The submitted steps, and whether DALI has them."""
        self._stale = 0
        """Number of steps, from the oldest on, that were discarded."""
        self._awaited: Future[Any] | None = None
        """The outputs of the oldest step, while the daemon waits for them."""
        self.bytes_read = 0
        if errors.timeout is not None:
            self._daemon = Daemon()
        _close_at_exit()
        _running.add(self)

    @property
    def alive(self) -> bool:
        return self._pipe is not None

    def submit(self, step: Any) -> None:
        apart = DaliDecoder.hung >= MOST_HUNG or bool(_avoided and not _avoided.isdisjoint(self._paths(step)))
        if not apart:
            for name, array in feeds(self._source, step).items():
                self._pipe.feed_input(name, array)
            self._pipe.schedule_run()
        self._steps.append((step, not apart))

    def ready(self) -> bool:
        return False  # DALI does not tell.

    def result(self, stream: int | None = None) -> Any:
        """Return the oldest step's levels, a DALI tensor."""
        step, fed = self._steps[self._stale]
        try:
            self._catch_up()
            if fed:
                # The dynamic executor hands the buffer over: it is ours for as long as the tensor lives.
                return self._next(stream).as_tensor()
            self._steps.popleft()
        except _Hangs:
            pass
        except RuntimeError as error:
            return self._apart(step, stream, error)
        return self._apart(step, stream)

    def discard(self) -> None:
        self._stale = len(self._steps)

    def close(self) -> None:
        self.discard()
        if self._daemon is not None:
            with contextlib.suppress(_Hangs):
                self._catch_up()
            self._daemon.close()
        self._forget()

    def __del__(self) -> None:
        if self._daemon is not None:
            self.close()

    def abandon(self) -> None:
        """Leave the pipeline behind, for good: ending it would wait for its threads."""
        # DALI has no public way to give a pipeline's backend up without ending it.
        inside = {} if self._pipe is None else vars(self._pipe)
        if (backend := inside.get("_pipe")) is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(backend))
            inside["_pipe"] = None
        self._forget()

    def _forget(self) -> None:
        self._pipe = self._awaited = None
        self._steps.clear()
        self._stale = 0

    def _catch_up(self) -> None:
        """Take the outputs of the discarded steps."""
        while self._stale:
            if self._steps[0][1]:
                with contextlib.suppress(RuntimeError):
                    self._next(None)
            else:
                self._steps.popleft()
                self._stale -= 1

    def _next(self, stream: int | None) -> Any:
        """Return the levels of the oldest step. Raise RuntimeError if DALI fails, _Hangs if it never returns."""
        made = None if self._daemon is None else self._waited(self._daemon, stream)
        self._steps.popleft()
        self._stale = max(0, self._stale - 1)
        return self._counted(self._pipe.share_outputs(cuda_stream=stream) if made is None else made.result())

    def _counted(self, outputs: Any) -> Any:
        """Return the levels, and count the bytes of the files."""
        images, sizes = outputs
        self.bytes_read += int(sizes.as_array().sum())
        return images

    def _waited(self, daemon: Daemon, stream: int | None) -> Future[Any]:
        """Wait for the oldest step. After an interrupt (Ctrl-C) it can be called again."""
        if self._awaited is None:
            # The daemon is another thread. Without a stream, DALI waits until the GPU is done.
            stream = None if stream == STREAM_PER_THREAD else stream
            self._awaited = daemon.submit(self._pipe.share_outputs, cuda_stream=stream)
        while wait([self._awaited], self._errors.timeout).not_done:
            if self._blocked():
                DaliDecoder.hung += 1
                self.abandon()
                raise _Hangs
        made, self._awaited = self._awaited, None
        return made

    def _blocked(self) -> bool:
        """Whether some files block; they are avoided from now on."""
        # Steps share DALI's threads: the blocked files may belong to any of them.
        paths = [path for step, fed in self._steps if fed for path in self._paths(step)]
        try:
            found = list(read_all(paths, self._errors.timeout))
        except RuntimeError:  # An interpreter that ends starts no threads to find out: assume the worst.
            return True
        refused = TimeoutError, NotAFileError
        blocked = {path for path, each in zip(paths, found, strict=True) if isinstance(each, refused)}
        _avoided.update(blocked)
        return bool(blocked)

    def _apart(self, step: Any, stream: int | None, error: RuntimeError | None = None) -> Any:
        """Make a step from bytes that gpuload reads, in a pipeline of its own.

        DALI's `error` names no file, so each file is tried alone; if none is bad, the trouble has passed. Raise
        SampleError if some files are bad, RuntimeError if DALI fails although none is.
        """
        paths = self._paths(step)
        found = list(read_all(paths, self._errors.timeout))
        files = [each for each in found if isinstance(each, bytes)]
        _avoided.difference_update(path for path, each in zip(paths, found, strict=True) if isinstance(each, bytes))
        if error is None and len(files) == len(found):
            try:
                return self._decoded(step, files, stream)
            except RuntimeError as another:
                error = another
        try:
            reasons = _obstacles(found, self._decoding, self._device, self._errors.max_pixels)
        except RuntimeError as another:
            raise error or another from None
        samples = zip(step.indices.tolist(), paths, reasons, strict=True)
        if bad := [BadSample(index, path, reason) for index, path, reason in samples if reason is not None]:
            raise SampleError(bad, step.batch_size) from error
        return self._decoded(step, files, stream)

    def _decoded(self, step: Any, files: list[bytes], stream: int | None) -> Any:
        pipe = self._build(reads=False)
        pipe.build()
        pipe.feed_input("files", [np.frombuffer(data, np.uint8) for data in files])
        if step.crops is not None:
            pipe.feed_input("crops", step.crops)
        pipe.schedule_run()
        return self._counted(pipe.share_outputs(cuda_stream=stream)).as_tensor()

    def _paths(self, step: Any) -> list[str]:
        return list(map(self._source.path, step.indices.tolist()))


_running: weakref.WeakSet[DaliDecoder] = weakref.WeakSet()


def _each(end: Callable[[DaliDecoder], None]) -> None:
    for decoder in list(_running):
        end(decoder)


if hasattr(os, "register_at_fork"):
    # The threads of the parent's pipelines do not exist in a fork: ending a pipeline there would abort the process.
    os.register_at_fork(after_in_child=functools.partial(_each, DaliDecoder.abandon))


@functools.cache
def _close_at_exit() -> None:
    """Close decoders before DALI, once it is imported, ends their pipelines: some may hang."""
    atexit.register(_each, DaliDecoder.close)


def _obstacles(
    files: Iterable[bytes | Exception], decoding: Decoding, device: Device, max_pixels: int | None
) -> list[str | None]:
    """Return for each file, given as its bytes or the exception that reading it raised, why it cannot be decoded.

    None: it can. Raise RuntimeError if DALI on `device` refuses even a sound picture as large as those that it alone
    refuses: then the device or its memory is in trouble, not the files.
    """
    from nvidia.dali import Pipeline, fn, types

    pipe = Pipeline(batch_size=1, num_threads=1, device_id=device.index, prefetch_queue_depth=1)
    with pipe:
        file = fn.external_source(name="file", dtype=types.UINT8, ndim=1)
        pipe.set_outputs(pixels(file, decoding, "cpu" if device == CPU else "gpu", max_pixels))
    reasons: list[str | None] = []
    largest = 0  # Pixels of the largest image that only DALI refuses.
    for found in files:
        if isinstance(found, Exception):
            reasons.append(in_words(found))
            continue
        try:
            _decode(pipe, found)
        except RuntimeError as error:
            try:  # If Pillow refuses the file too, its message says more than DALI's.
                with opened(found, max_pixels) as image:
                    image.load()
                    largest = max(largest, image.width * image.height)
                reasons.append(_in_words(error))
            except Exception as reason:  # Pillow's plugins raise far more than OSError for a broken file.
                reasons.append(in_words(reason))
        else:
            reasons.append(None)
    if largest:
        _decode(pipe, _sound(largest))
    return reasons


def _decode(pipe: Any, data: bytes) -> None:
    pipe.feed_input("file", [np.frombuffer(data, np.uint8)])
    pipe.schedule_run()
    pipe.share_outputs()


def _sound(count: int) -> bytes:
    """Return a JPEG of about `count` pixels, not more."""
    side = min(math.isqrt(count), LONGEST_JPEG)
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "JPEG")
    return file.getvalue()


def _in_words(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "DALI: " + next((line for line in lines if "fail" in line.lower()), lines[0])
