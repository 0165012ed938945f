"""The decoder of image jobs: it reads steps ahead, gives each image to the decoder that is right for it, and puts the
levels of a step together.

A step goes through three hands. Threads of the `Reader` read its bytes. The feeder, one thread, looks at the headers,
computes the boxes of crops, feeds DALI, and gives the other images to Pillow, which runs in a pool. On the CPU the
finisher, one thread, takes DALI's pictures and has the pool resize them; on a GPU the thread that asks for the levels
takes them.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.device import CPU, Device
from gpuload.core.errors import BadSample, SampleError
from gpuload.decode.by_dali import ByDali
from gpuload.decode.by_pillow import ByPillow
from gpuload.decode.choice import Jpeg, plain_jpeg
from gpuload.decode.spec import Decoding
from gpuload.decode.work import Part, Work
from gpuload.options import Errors
from gpuload.reading.daemon import Daemons
from gpuload.reading.files import in_words
from gpuload.reading.header import too_large
from gpuload.reading.reader import CancelledReading, Reader
from gpuload.sources import EncodedSource

log = logging.getLogger("gpuload")


class Decoder:
    """Reads, decodes and resizes images in threads of its own, in the order in which steps are submitted.

    It looks at three attributes of a step: `indices` [B], the numbers of the samples in the source; `crops` [B, DRAWS],
    the numbers that the crop drew, or None; and `batch_size`.

    Args:
        source: The encoded images.
        decoding: The levels wanted.
        batch_size: Greatest number of samples in a step.
        device: Where DALI decodes.
        threads: Number of threads that decode: DALI's and as many for Pillow.
        errors: The definition of a bad sample.
        dali: Whether DALI decodes what it decodes as Pillow does. False: Pillow decodes all.
        dali_resizes: Whether DALI resizes too, as on a GPU.
    """

    def __init__(
        self,
        source: EncodedSource,
        decoding: Decoding,
        *,
        batch_size: int,
        device: Device = CPU,
        threads: int,
        errors: Errors,
        dali: bool,
        dali_resizes: bool | None = None,
    ):
        self._source, self._decoding, self._errors = source, decoding, errors
        self._resizes = device != CPU if dali_resizes is None else dali_resizes
        self._reader = Reader(source, timeout=errors.timeout, max_bytes=errors.largest)
        self._pool = pool = ThreadPoolExecutor(threads, thread_name_prefix="gpuload-decode")
        self._pillow = ByPillow(decoding, errors.max_pixels, pool, compiled=dali)
        options: dict[str, Any] = {"batch_size": batch_size, "threads": threads, "resizes": self._resizes}
        self._dali = ByDali(decoding, device, pool=pool, **options) if dali else None
        self._feeder, self._finisher = Daemons(1, "gpuload-feed"), Daemons(1, "gpuload-finish")
        self._works: deque[Work] = deque()
        self._told = False
        self.alive = True
        """Whether the decoder can go on."""
        self._closing = threading.RLock()
        _running.add(self)

    @property
    def bytes_read(self) -> int:
        """Encoded bytes read so far."""
        return self._reader.bytes_read

    @property
    def samples(self) -> int:
        """Images that `seconds` counts."""
        return self._reader.samples

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds that threads have spent, by stage; DALI does not tell how long its threads decode."""
        spent = {"read": self._reader.seconds}
        return spent if self._dali else {**spent, "decode": self._pillow.seconds}

    def submit(self, step: Any) -> None:
        """Start a step without waiting for it."""
        work = Work(step, self._reader.submit(step.indices))
        self._works.append(work)  # First: an interrupt may come, and `discard` has to find it.
        work.begun = self._feeder.submit(self._begin, work)
        if not self._resizes:
            work.finished = self._finisher.submit(self._finish, work, None)

    def ready(self) -> bool:
        """Whether `result` is known to return at once."""
        finished = self._works[0].finished
        return finished is not None and finished.done()

    def result(self, stream: int | None = None) -> list[Part]:
        """Return the levels of the oldest step: parts that have all rows together.

        Args:
            stream: CUDA stream that will read the levels, as a number. None: wait until they are there.

        Raises:
            SampleError: some samples of the step cannot be read. Later steps are not affected.
        """
        work = self._works[0]
        try:
            made = self._finish(work, stream) if work.finished is None else work.finished.result()
        except Exception:
            self._works.popleft()
            raise
        self._works.popleft()
        return made

    def discard(self) -> None:
        """Forget all steps."""
        while self._works:
            work = self._works.popleft()
            work.stale = True
            work.reading.cancel()
            for image in list(work.by_pillow.values()):
                image.cancel()

    def close(self) -> None:
        """Free threads and memory."""
        with self._closing:  # A second caller waits for the first: at the end of the process DALI must be at rest.
            if self.alive:
                self.alive = False
                self._close()

    def _close(self) -> None:
        self.discard()
        self._reader.close()
        for threads in (self._feeder, self._finisher):
            threads.join()  # It may be inside DALI, whose pipeline ends with the last reference to it.
            threads.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._dali:
            self._dali.close()

    def __del__(self) -> None:
        if getattr(self, "alive", False):
            self.close()

    def abandon(self) -> None:
        """Forget everything, in a fork: the threads do not exist there."""
        self.alive = False
        self._works.clear()
        if self._dali:
            self._dali.abandon()

    def _begin(self, work: Work) -> None:
        """Give the images of a step to their decoders; run by the feeder."""
        if work.stale:
            return
        try:
            files = work.reading.result()
        except CancelledReading:
            return
        if work.stale:
            return
        jpegs: dict[int, Jpeg] = {}
        for row, data in enumerate(files):
            if isinstance(data, Exception):
                work.bad[row] = in_words(data)
            elif self._dali and (jpeg := plain_jpeg(data)) is not None:
                claim = too_large(jpeg.height, jpeg.width, self._errors.max_pixels)
                if claim is None:
                    jpegs[row] = jpeg
                else:
                    work.bad[row] = f"DecompressionBombError: {claim}"
            else:
                self._pillow.submit(work, row, data)
        if self._dali and jpegs:
            for row in self._dali.feed(work, files, jpegs):
                self._pillow.submit(work, row, files[row])  # type: ignore[arg-type]
            _close_at_exit()

    def _finish(self, work: Work, stream: int | None) -> list[Part]:
        """Return the levels of a step once they are there."""
        try:
            work.begun.result()
            if not work.stale:
                return self._levels(work, stream)
            if self._dali and work.run:
                self._dali.drop(work.run)
            return []
        finally:
            work.reading.release()
            if self._dali and work.run:
                self._dali.free(work.run)

    def _levels(self, work: Work, stream: int | None) -> list[Part]:
        """Return the levels of a step. Raise SampleError if some samples are bad."""
        pictures = self._pictures(work, stream)
        levels, step = self._pillow.gathered(work), work.step
        if work.bad:
            found = [(int(step.indices[row]), reason) for row, reason in sorted(work.bad.items())]
            bad = [BadSample(index, self._source.name(index), reason) for index, reason in found]
            raise SampleError(bad, step.batch_size)
        dtype, rows = self._decoding.dtype, np.fromiter(work.by_pillow, np.int64, len(levels))
        everything = np.arange(step.batch_size)
        if pictures is None:
            return [(everything, _stacked([levels[place] for place in np.argsort(rows).tolist()], dtype))]
        assert self._dali is not None
        assert work.run is not None
        others = _stacked(levels, dtype) if levels else None
        if self._resizes:
            return [(work.run.rows, pictures), *([] if others is None else [(rows, others)])]
        made: NDArray[Any] = np.empty((step.batch_size, *self._decoding.shape), dtype)
        self._dali.put(work.run, pictures, made)
        if others is not None:
            made = made.astype(others.dtype, copy=False)
            made[rows] = others
        return [(everything, made)]

    def _pictures(self, work: Work, stream: int | None) -> Any:
        """Return what DALI has made, or None if Pillow decodes all.

        If DALI fails, Pillow decodes the same images. DALI is asked again, alone, about those that Pillow refuses: what
        becomes of an image does not depend on its batch. Raise DALI's error if it fails at a sound picture too: then
        the device or its memory is in trouble.
        """
        run = work.run
        if self._dali is None or run is None:
            return None
        try:
            return self._dali.taken(run, stream)
        except RuntimeError as error:
            for row, data in zip(run.rows.tolist(), run.files, strict=True):
                self._pillow.submit(work, row, data)
            wait(work.by_pillow.values())
            refused = [
                number for number, row in enumerate(run.rows.tolist()) if work.by_pillow[row].exception() is not None
            ]
            alone = {number: self._dali.alone(run, number) for number in refused}
            for number, levels in alone.items():
                if levels is not None:
                    image: Future[NDArray[Any]] = Future()
                    image.set_result(levels)
                    work.by_pillow[int(run.rows[number])] = image
            if any(levels is None for levels in alone.values()):  # Then this is why DALI failed.
                return None
            if self._dali.is_in_trouble(run):
                raise error
        if not self._told:
            self._told = True
            name = self._source.name(int(work.step.indices[run.rows[0]]))
            log.warning("DALI refuses JPEGs that Pillow reads, among %r and others: Pillow decodes them", name)
        return None


def _stacked(levels: list[NDArray[Any]], dtype: str) -> NDArray[Any]:
    """Return images as one array, float32 if they do not all have the dtype: uint8 does not hold more than 8 bits."""
    same = all(level.dtype == dtype for level in levels)
    return np.stack(levels, dtype=dtype if same else np.float32, casting="unsafe")


_running: weakref.WeakSet[Decoder] = weakref.WeakSet()


def _each(end: Callable[[Decoder], None]) -> None:
    for decoder in list(_running):
        end(decoder)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=functools.partial(_each, Decoder.abandon))


@functools.cache
def _close_at_exit() -> None:
    """Close decoders before DALI ends their pipelines: what was registered last comes first, so DALI is there now."""
    atexit.register(_each, Decoder.close)
