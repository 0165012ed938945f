"""Engines for images: a decoder and an augmenter, with a cache between them. The base, and the engine on the CPU."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuload.cache import HostImages
from gpuload.core.errors import SampleError
from gpuload.core.memory import empty
from gpuload.decode.spec import Indices
from gpuload.images.job import ImageJob
from gpuload.images.step import Step
from gpuload.run.engine import Engine
from gpuload.run.meter import Counted

if TYPE_CHECKING:
    from gpuload.decode.decoder import Decoder
    from gpuload.decode.work import Part


@dataclass
class Augmenting:
    """A batch that an augmenter is making."""

    parts: list[Future[Any]]
    """Work that reads the levels."""
    out: NDArray[Any]
    """[B, H, W, C] or [B, C, H, W] the batch."""
    called: Future[None] | None = None
    """Work that goes on without the levels, if there is some."""

    def result(self) -> NDArray[Any]:
        """Wait for the batch and return it."""
        for part in self.parts:
            part.result()
        if self.called is not None:
            self.called.result()
        return self.out

    def stop(self) -> None:
        """Give the batch up. On return nothing reads the levels any more."""
        # A function of the user's is not waited for: it does not read levels, and may never return.
        for future in filter(None, (self.called, *self.parts)):
            future.cancel()
        wait(self.parts)


class Augmenter(ABC):
    """Makes batches of levels, in threads of its own."""

    def __init__(self, job: ImageJob, threads: int):
        self._job = job
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gpuload-augment")
        self._counting = threading.Lock()
        self.seconds = 0.0
        """Seconds that threads have spent so far."""
        self.samples = 0
        """Number of images made so far."""

    @abstractmethod
    def start(self, store: Any, fresh: Any, rows: Indices, step: Step) -> Augmenting:
        """Begin a batch.

        Args:
            store: [K, H, W, C] levels. None: all images are fresh.
            fresh: [M, H, W, C] levels. None: all images are in the store. Both must not change until the batch is done.
            rows: [B] for each image its number in `store`, or ~ its number in `fresh`.
            step: The numbers drawn, [B] each.
        """

    def _empty(self, batch: int) -> NDArray[Any]:
        """Return memory for that many images."""
        return empty(self._job.output_shape(batch), self._job.host_dtype)

    def _count(self, start: float, samples: int) -> None:
        """Count the seconds since `start`, by `time.perf_counter`, and the images that are done."""
        with self._counting:
            self.seconds += time.perf_counter() - start
            self.samples += samples

    def close(self) -> None:
        """Free the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class ImageEngine(Engine):
    """Steps under way, and a decoder for the images that no cache has."""

    def __init__(self, decoder: Callable[[], Decoder]):
        """Take a function that opens the decoder for the first image that needs one."""
        self._open_decoder = decoder
        self._decoder: Decoder | None = None
        self._steps: deque[Any] = deque()

    @property
    def pending(self) -> int:
        return len(self._steps)

    @property
    def alive(self) -> bool:
        return self._decoder is None or self._decoder.alive

    @property
    def bytes_read(self) -> int:
        return 0 if self._decoder is None else self._decoder.bytes_read

    @property
    def stages(self) -> Counted:
        """Seconds and samples by stage."""
        decoder = self._decoder
        return {} if decoder is None else {stage: (spent, decoder.samples) for stage, spent in decoder.seconds.items()}

    def _decode(self, step: Step, rows: Indices) -> None:
        """Have the images in these rows [M] of the batch decoded."""
        if self._decoder is None:
            self._decoder = self._open_decoder()
        self._decoder.submit(step if len(rows) == step.batch_size else step.take(rows))

    def _decoded(self, step: Step, stream: int | None = None) -> list[Part]:
        """Return the levels of `step`, the oldest step that needs some, in parts."""
        assert self._decoder is not None
        try:
            return self._decoder.result(stream)
        except SampleError as error:
            raise SampleError(error.samples, step.batch_size) from error

    def discard(self) -> None:
        self._steps.clear()
        if self._decoder is not None:
            self._decoder.discard()

    def close(self) -> None:
        self.discard()
        if self._decoder is not None:
            self._decoder.close()


@dataclass
class _Pending:
    step: Step
    rows: Indices
    """[B] for each image its number in `store`, or ~ its number among the images that are decoded."""
    store: Any
    work: Augmenting | None
    """None: the decoder still has images of the step."""
    error: Exception | None = None
    """The decoder's error, if it came before the step's turn."""


class HostImageEngine(ImageEngine):
    """Makes batches in the host's memory.

    A step whose images are all in memory or in the cache is augmented as soon as it is submitted. For other steps the
    decoder makes the missing levels, which then go into the cache.
    """

    def __init__(
        self, job: ImageJob, *, decoder: Callable[[], Decoder], augmenter: Augmenter, cache: HostImages | None = None
    ):
        super().__init__(decoder)
        self._job = job
        self._cache = cache
        self._augmenter = augmenter

    @property
    def stages(self) -> Counted:
        return {**super().stages, "augment": (self._augmenter.seconds, self._augmenter.samples)}

    def submit(self, step: Step) -> None:
        self._advance()
        rows, store, missing = step.indices, self._job.images, step.indices[:0]
        if store is None:
            rows = np.full(step.batch_size, -1)
            if self._cache is not None:
                rows, store = self._cache.rows(step.indices), self._cache.images
            missing = np.flatnonzero(rows < 0)
        work = None
        if len(missing):
            rows[missing] = ~np.arange(len(missing))
            self._decode(replace(step, crops=None) if self._job.recuts else step, missing)
        else:
            work = self._augmenter.start(store, None, rows, step)
        self._steps.append(_Pending(step, rows, store, work))

    def _advance(self) -> None:
        """Begin to augment the steps whose levels are ready, ahead of their turn."""
        for found in self._steps:
            if found.work is None and found.error is None:
                if self._decoder is None or not self._decoder.ready():
                    return
                try:
                    found.work = self._augment(found)
                except Exception as error:  # It belongs to this step, and is raised in its turn.
                    found.error = error

    def _augment(self, found: _Pending) -> Augmenting:
        ((_, fresh),) = self._decoded(found.step)
        work = self._augmenter.start(found.store, fresh, found.rows, found.step)
        # Greys of more than 8 bits do not fit into a cache of bytes.
        if self._cache is not None and fresh.dtype == self._cache.images.dtype:
            self._cache.put(found.step.indices[found.rows < 0], fresh)
        return work

    def result(self, stream: int | None = None) -> NDArray[Any]:
        found: _Pending = self._steps.popleft()
        if found.error is not None:
            raise found.error
        return (found.work or self._augment(found)).result()

    def discard(self) -> None:
        for found in self._steps:
            if found.work is not None:
                found.work.stop()
        super().discard()

    def close(self) -> None:
        super().close()
        self._augmenter.close()
