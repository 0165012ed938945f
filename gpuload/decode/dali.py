"""The fast decoder: one NVIDIA DALI graph, in which the device is an argument."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.device import CPU, Device
from gpuload.core.errors import BadSample, ErrorPolicy, SampleError
from gpuload.decode.dali_examine import obstacles
from gpuload.decode.dali_graph import breaks_ties, decode, resize, resize_nearest
from gpuload.images.augment import Augment
from gpuload.images.step import Step
from gpuload.reading.files import Daemon, NotAFileError, read_all
from gpuload.sources import FileSource


def feeds(source: FileSource, step: Step) -> dict[str, NDArray[Any]]:
    """The graph's inputs for a step, by name: [B, ...] each, `paths` uint8 [B, longest], filled up with blanks."""
    # Two arrays cost DALI far less of Python's time than one array for each name.
    paths = source.paths(step.indices)
    lengths = np.array([len(path) for path in paths], np.int32)
    longest = int(lengths.max())
    padded = b"".join([path.ljust(longest) for path in paths])
    fed: dict[str, NDArray[Any]] = {"paths": np.frombuffer(padded, np.uint8).reshape(len(paths), -1)}
    fed["lengths"] = lengths[:, np.newaxis]
    if step.crops is not None:
        fed["crops"] = step.crops
    return fed


def pipeline(transform: Augment, outputs: Callable[[], Any], **options: Any) -> Any:
    """A DALI pipeline of what a function returns that calls `resized`. `options`: of `nvidia.dali.Pipeline`."""
    from nvidia.dali import pipeline_def

    return pipeline_def(
        outputs,
        # Costs a rewriting of the graph's source code, so only where there is a condition on data.
        enable_conditionals=breaks_ties(transform),
        # The dynamic executor takes as many runs ahead as are scheduled; at depth 1 each call schedules just one.
        prefetch_queue_depth=1,
        exec_dynamic=True,
        **options,
    )()


def encoded() -> Any:
    """The files whose paths are fed: uint8 [bytes] each."""
    from nvidia.dali import fn, types

    padded, length = external("paths", types.UINT8, 1), external("lengths", types.INT32, 1)
    paths = fn.slice(padded, start=[0], shape=length, axes=[0])
    # A file that is mapped into memory and then cannot be read, since it became shorter or its disk fails, ends the
    # process. To read the files takes less time, too.
    return fn.io.file.read(paths, dont_use_mmap=True)


def external(name: str, dtype: Any, ndim: int) -> Any:
    """An input that a pipeline is fed under its name."""
    from nvidia.dali import fn

    return fn.external_source(name=name, dtype=dtype, ndim=ndim)


def resized(files: Any, transform: Augment, device: str, max_pixels: int | None) -> Any:
    """Encoded files to images of the transform's size and colour, HWC, on the `device` ("cpu" or "gpu"): uint8, or
    float32 where they are not to be antialiased."""
    from nvidia.dali import types
    from nvidia.dali.pipeline import do_not_convert

    # DALI rewrites what this function calls, to find conditions on its data. There is one: in `resize_nearest`.
    crops = external("crops", types.FLOAT64, 1) if transform.crop is not None else None
    images, box = do_not_convert(decode)(files, transform, crops, device, max_pixels)
    if breaks_ties(transform):
        assert transform.size is not None
        return resize_nearest(images, transform.size, device)
    return do_not_convert(resize)(images, box, transform)


def _outputs(transform: Augment, device: str, max_pixels: int | None) -> Any:
    """What the decoder's pipeline makes: images, and the sizes of their files."""
    files = encoded()
    return resized(files, transform, device, max_pixels), files.shape()


def pipeline_of_bytes(transform: Augment, device: str, max_pixels: int | None, **options: Any) -> Any:
    """A pipeline that resizes encoded files which are fed themselves, as "files"."""
    from nvidia.dali import types

    def images() -> Any:
        return resized(external("files", types.UINT8, 1), transform, device, max_pixels)

    return pipeline(transform, images, **options)


STREAM_PER_THREAD = 2
"""The handle that stands for a stream of whichever thread names it (`cudaStreamPerThread`)."""


MOST_HUNG = 16
"""So many pipelines may hang at files that block. From then on DALI reads none itself."""

_avoided: set[str] = set()
"""Files at which DALI hung: none of its threads is to try them again, unless they have been read since."""


class _Hangs(Exception):
    """DALI's threads hang at a file that blocks; the pipeline was left behind."""


class DaliDecoder:
    """Runs a DALI pipeline that reads, decodes and resizes the files of a step.

    DALI reads in threads of its own. They hang where a file blocks, and so does whoever ends the pipeline. With a
    `timeout` in the policy, a pipeline that hangs is told from a slow one, and is left behind. Steps with files that
    are known to block, or at which DALI failed, are made apart, of what threads of our own read.
    """

    hung = 0
    """Pipelines that were left behind, of all decoders."""
    _daemon: Daemon | None = None
    """Waits for DALI, where there is a timeout."""

    def __init__(
        self,
        source: FileSource,
        transform: Augment,
        *,
        batch_size: int,
        device: Device,
        threads: int,
        policy: ErrorPolicy,
    ):
        self._source = source
        self._transform = transform
        self._device = device
        self._policy = policy
        self._place = "cpu" if device == CPU else "gpu"
        self._options = {"batch_size": batch_size, "num_threads": threads, "device_id": device.index}
        outputs = functools.partial(_outputs, transform, self._place, policy.max_pixels)
        self._pipe = pipeline(transform, outputs, **self._options)
        self._pipe.build()
        self._steps: deque[tuple[Step, bool]] = deque()
        """Those that were submitted, and whether DALI has them."""
        self._stale = 0
        """So many of the steps, the first, were discarded."""
        self._awaited: Future[Any] | None = None
        """The outputs of the first step, where the daemon waits for them."""
        self.bytes_read = 0
        """Of the files of all batches that DALI has made, used or not; one that fails counts for nothing."""
        if policy.timeout is not None:
            self._daemon = Daemon()
        _close_at_exit()
        _running.add(self)

    @property
    def pending(self) -> int:
        return len(self._steps) - self._stale

    @property
    def alive(self) -> bool:
        return self._pipe is not None

    def submit(self, step: Step) -> None:
        apart = DaliDecoder.hung >= MOST_HUNG or bool(_avoided and not _avoided.isdisjoint(self._paths(step)))
        if not apart:
            for name, array in feeds(self._source, step).items():
                self._pipe.feed_input(name, array)
            self._pipe.schedule_run()
        self._steps.append((step, not apart))

    def result(self, stream: int | None = None) -> Any:
        """The oldest step's images [B, H, W, C], a DALI tensor."""
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
        """Leave the pipeline behind without an end to it, which would wait for its threads: it is kept, for good."""
        if (backend := getattr(self._pipe, "_pipe", None)) is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(backend))
            self._pipe._pipe = None
        self._forget()

    def _forget(self) -> None:
        self._pipe = self._awaited = None
        self._steps.clear()
        self._stale = 0

    def _catch_up(self) -> None:
        """Take the batches that nobody waits for any more."""
        while self._stale:
            if self._steps[0][1]:
                with contextlib.suppress(RuntimeError):
                    self._next(None)
            else:
                self._steps.popleft()
                self._stale -= 1

    def _next(self, stream: int | None) -> Any:
        """The images of the first step. Raises RuntimeError where DALI fails, _Hangs where it never ends."""
        made = None if self._daemon is None else self._waited(self._daemon, stream)
        self._steps.popleft()
        self._stale = max(0, self._stale - 1)
        images, *sizes = self._pipe.share_outputs(cuda_stream=stream) if made is None else made.result()
        self.bytes_read += sum(int(each.as_array().sum()) for each in sizes)
        return images

    def _waited(self, daemon: Daemon, stream: int | None) -> Future[Any]:
        """The outputs of the first step, or DALI's error. Interrupted, by Ctrl-C, it can be called again."""
        if self._awaited is None:
            # The daemon is another thread. Where no stream is named, DALI waits until the GPU is done.
            stream = None if stream == STREAM_PER_THREAD else stream
            self._awaited = daemon.submit(self._pipe.share_outputs, cuda_stream=stream)
        while wait([self._awaited], self._policy.timeout).not_done:
            if self._blocked():
                DaliDecoder.hung += 1
                self.abandon()
                raise _Hangs
        made, self._awaited = self._awaited, None
        return made

    def _blocked(self) -> bool:
        """Whether there are files that block, which are avoided from now on. An interpreter that ends starts no more
        threads to find out: then there are."""
        # Steps share DALI's threads: the files that block may be those of any of them.
        paths = [path for step, fed in self._steps if fed for path in self._paths(step)]
        try:
            found = list(read_all(paths, self._policy.timeout))
        except RuntimeError:
            return True
        blocked = {
            path for path, each in zip(paths, found, strict=True) if isinstance(each, TimeoutError | NotAFileError)
        }
        _avoided.update(blocked)
        return bool(blocked)

    def _apart(self, step: Step, stream: int | None, error: RuntimeError | None = None) -> Any:
        """A step's images, of files that threads of our own read, by a pipeline for them alone.

        `error`: what DALI said when it could not make them. It names no file, so each is tried on its own; where none
        is bad, the trouble has passed. Raises SampleError; or DALI's error, where the files are not to blame.
        """
        paths = self._paths(step)
        found = list(read_all(paths, self._policy.timeout))
        files = [each for each in found if isinstance(each, bytes)]
        _avoided.difference_update(path for path, each in zip(paths, found, strict=True) if isinstance(each, bytes))
        if error is None and len(files) == len(found):
            try:
                return self._decoded(step, files, stream)
            except RuntimeError as another:
                error = another
        try:
            reasons = obstacles(found, self._transform, self._device, self._policy.max_pixels)
        except RuntimeError as another:
            raise error or another from None
        bad = [
            BadSample(int(index), path, reason)
            for index, path, reason in zip(step.indices, paths, reasons, strict=True)
            if reason is not None
        ]
        if bad:
            raise SampleError(bad, step.batch_size) from error
        return self._decoded(step, files, stream)

    def _decoded(self, step: Step, files: list[bytes], stream: int | None) -> Any:
        pipe = pipeline_of_bytes(self._transform, self._place, self._policy.max_pixels, **self._options)
        pipe.build()
        pipe.feed_input("files", [np.frombuffer(data, np.uint8) for data in files])
        if step.crops is not None:
            pipe.feed_input("crops", step.crops)
        pipe.schedule_run()
        (images,) = pipe.share_outputs(cuda_stream=stream)
        self.bytes_read += sum(map(len, files))
        return images.as_tensor()

    def _paths(self, step: Step) -> list[str]:
        return [self._source.path(int(index)) for index in step.indices]


_running: weakref.WeakSet[DaliDecoder] = weakref.WeakSet()


def _abandon_in_child() -> None:
    """Leave the parent's pipelines alone in a forked process, for good.

    Their threads do not exist there, so that shutting a pipeline down, as its end would, aborts the process.
    """
    for engine in list(_running):
        engine.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_in_child)


@functools.cache
def _close_at_exit() -> None:
    """Have engines closed before DALI, once it is imported, ends their pipelines: some may hang."""
    atexit.register(_close_all)


def _close_all() -> None:
    for engine in list(_running):
        engine.close()
