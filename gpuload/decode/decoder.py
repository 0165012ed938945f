"""The decoder of image jobs: it reads steps ahead, gives each image to the decoder that is right for it, and puts the
levels of a step together.

A step goes through three hands. Threads of the `Reader` read its bytes. The feeder, one thread, looks at the headers,
computes the boxes of crops, feeds DALI, and gives the other images to Pillow, which runs in a pool. On the CPU the
finisher, one thread, takes DALI's pictures and has the pool resize them; on a GPU the thread that asks for the levels
takes them.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.device import CPU, Device
from gpuload.core.errors import BadSample, SampleError
from gpuload.decode import pillow
from gpuload.decode.choice import dali_takes, plain_jpeg
from gpuload.decode.levels import levels_of, placed, put_levels
from gpuload.decode.reasons import reason
from gpuload.decode.spec import Decoding, Indices
from gpuload.options import Errors
from gpuload.reading.daemon import Daemons
from gpuload.reading.files import Bytes, in_words
from gpuload.reading.header import too_large
from gpuload.reading.reader import CancelledReading, Reader, Reading
from gpuload.sources import EncodedSource

log = logging.getLogger("gpuload")

Part = tuple[Indices, Any]
"""Rows [M] of a batch, and their levels [M, H, W, C]: an array, or a DALI TensorList on a GPU."""


class Undecodable(Exception):
    """An image cannot be decoded. The message is the reason for `BadSample`."""


DECODED_AT_ONCE = 2**28
"""Bytes of pictures that DALI decodes or holds on the CPU from which on the next step waits until they are resized."""


@dataclass
class _Work:
    """A step on its way."""

    step: Any
    reading: Reading
    begun: Future[None] = field(init=False)
    finished: Future[list[Part]] | None = None
    stale: bool = False
    """Nobody wants the step any more."""
    bad: dict[int, str] = field(default_factory=dict)
    """Reasons by row."""
    by_pillow: dict[int, Future[NDArray[Any]]] = field(default_factory=dict)
    by_dali: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    """Rows that DALI decodes; the fields below are about them."""
    run: int = 0
    held: int = 0
    """Bytes of the pictures."""
    files: list[Bytes] = field(default_factory=list)
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    boxes: NDArray[np.float64] | None = None
    regions: NDArray[np.int64] | None = None

    def drawn(self, row: int) -> NDArray[np.float64] | None:
        """Return the numbers that the crop drew for a row."""
        return None if self.step.crops is None else self.step.crops[row]


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
        self._source, self._decoding, self._device, self._errors = source, decoding, device, errors
        self._resizes = device != CPU if dali_resizes is None else dali_resizes
        self._threads, self._batch_size, self._with_dali = threads, batch_size, dali
        self._reader = Reader(source, timeout=errors.timeout, max_bytes=errors.largest)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gpuload-decode")
        self._feeder, self._finisher = Daemons(1, "gpuload-feed"), Daemons(1, "gpuload-finish")
        self._held, self._freed = 0, threading.Condition()
        self._dali: Any = None
        self._works: deque[_Work] = deque()
        self._counting = threading.Lock()
        self._decode_seconds, self._told = 0.0, False
        self.alive = True
        """Whether the decoder can go on."""
        _close_at_exit()
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
        return spent if self._with_dali else {**spent, "decode": self._decode_seconds}

    def submit(self, step: Any) -> None:
        """Start a step without waiting for it."""
        work = _Work(step, self._reader.submit(step.indices))
        work.begun = self._feeder.submit(self._begin, work)
        if not self._resizes:
            work.finished = self._finisher.submit(self._finish, work, None)
        self._works.append(work)

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
        if not self.alive:
            return
        self.alive = False
        self.discard()
        self._reader.close()
        # Their threads may be inside DALI, whose pipeline ends with the last reference to it.
        ends = [threads.submit(lambda: None) for threads in (self._feeder, self._finisher)]
        wait(ends)
        self._feeder.close()
        self._finisher.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._dali is not None:
            self._dali.close()

    def __del__(self) -> None:
        if getattr(self, "alive", False):
            self.close()

    def abandon(self) -> None:
        """Forget everything, in a fork: the threads do not exist there."""
        self.alive = False
        self._works.clear()
        self._dali = None

    def _begin(self, work: _Work) -> None:
        """Give the images of a step to their decoders; run by the feeder."""
        if work.stale:
            return
        try:
            files = work.reading.result()
        except CancelledReading:
            return
        if work.stale:
            return
        jpegs: dict[int, Any] = {}
        for row, data in enumerate(files):
            if isinstance(data, Exception):
                work.bad[row] = in_words(data)
            elif self._with_dali and (jpeg := plain_jpeg(data)) is not None:
                claim = too_large(jpeg.height, jpeg.width, self._errors.max_pixels)
                if claim is None:
                    jpegs[row] = jpeg
                else:
                    work.bad[row] = f"DecompressionBombError: {claim}"
            else:
                work.by_pillow[row] = self._pool.submit(self._by_pillow, work, row, data)
        self._feed(work, files, jpegs)

    def _feed(self, work: _Work, files: list[Any], jpegs: dict[int, Any]) -> None:
        """Feed DALI the plain JPEGs of a step, and Pillow those of them that DALI does not take."""
        rows, decoding = np.fromiter(jpegs, np.int64, len(jpegs)), self._decoding
        sizes = np.array(list(jpegs.values()), np.int64).reshape(-1, 2)
        boxes = None
        if decoding.crop is not None and len(rows):
            drawn = None if work.step.crops is None else work.step.crops[rows]
            boxes = decoding.crop.boxes(sizes[:, 0], sizes[:, 1], decoding.size, drawn)
        if decoding.decode == "scaled":
            some = [
                dali_takes(jpeg, decoding, None if boxes is None else boxes[n]) for n, jpeg in enumerate(jpegs.values())
            ]
            takes = np.array(some, bool)
            for row in rows[~takes].tolist():
                work.by_pillow[row] = self._pool.submit(self._by_pillow, work, row, files[row])
            rows, sizes, boxes = rows[takes], sizes[takes], None if boxes is None else boxes[takes]
        if not len(rows):
            return
        from gpuload.decode.dali import DaliRuns, regions_of

        if self._dali is None:
            options: dict[str, Any] = {"batch_size": self._batch_size, "threads": self._threads}
            self._dali = DaliRuns(decoding, self._device, resizes=self._resizes, **options)
        work.by_dali, work.sizes, work.boxes = rows, sizes, boxes
        work.regions = regions_of(decoding, self._device, sizes, boxes)
        work.files = [files[row] for row in rows.tolist()]
        if not self._resizes:
            self._await_room(work)
        work.run = self._dali.feed(work.files, sizes, boxes, work.regions)

    def _await_room(self, work: _Work) -> None:
        """Wait until there is room for the pictures of a step, or no others are held."""
        pixels = work.sizes if work.regions is None else work.regions[:, 2:]
        work.held = 3 * int(pixels.prod(axis=1).sum())
        with self._freed:
            self._freed.wait_for(lambda: not self._held or self._held + work.held <= DECODED_AT_ONCE)
            self._held += work.held

    def _by_pillow(self, work: _Work, row: int, data: Bytes) -> NDArray[Any]:
        start = time.perf_counter()
        try:
            image, box = pillow.picture(data, self._decoding, work.drawn(row), self._errors.max_pixels)
            if self._with_dali and image.mode in ("RGB", "L"):
                return levels_of(image, self._decoding, box)
            return pillow.cut_and_resized(image, self._decoding, box)
        except Exception as error:  # Pillow's plugins raise far more than OSError for a broken file.
            raise Undecodable(reason(data, error)) from error
        finally:
            with self._counting:
                self._decode_seconds += time.perf_counter() - start

    def _finish(self, work: _Work, stream: int | None) -> list[Part]:
        """Return the levels of a step once they are there."""
        try:
            work.begun.result()
            if not work.stale:
                return self._levels(work, stream)
            if work.run:  # Only what is taken is freed.
                with contextlib.suppress(RuntimeError):
                    self._dali.take(work.run)
            return []
        finally:
            work.reading.release()
            with self._freed:
                self._held -= work.held
                self._freed.notify()

    def _levels(self, work: _Work, stream: int | None) -> list[Part]:
        pictures = None
        if len(work.by_dali):
            try:
                pictures = self._dali.take(work.run, stream)
            except RuntimeError as error:
                self._retry(work, error)
        levels = self._gathered(work)
        rows = np.fromiter(work.by_pillow, np.int64, len(work.by_pillow))
        if pictures is None or not self._resizes:
            return [(np.arange(work.step.batch_size), self._together(work, rows, levels, pictures))]
        parts: list[Part] = [(work.by_dali, pictures)]
        return [*parts, (rows, _stacked(levels, self._decoding.dtype))] if len(rows) else parts

    def _gathered(self, work: _Work) -> list[NDArray[Any]]:
        """Return what Pillow made, row by row. Raise SampleError if some samples of the step are bad."""
        levels = []
        for row, image in work.by_pillow.items():
            if work.stale:
                return []
            try:
                levels.append(image.result())
            except Undecodable as error:
                work.bad[row] = str(error)
        if work.bad:
            step = work.step
            numbers = [(row, int(step.indices[row]), reason) for row, reason in sorted(work.bad.items())]
            bad = [BadSample(index, self._source.name(index), reason) for _, index, reason in numbers]
            raise SampleError(bad, step.batch_size)
        return levels

    def _together(self, work: _Work, rows: Indices, levels: list[NDArray[Any]], pictures: Any) -> NDArray[Any]:
        """Return the levels of a step as one array: float32 if greys of more than 8 bits are among them."""
        decoding = self._decoding
        if pictures is None and len(rows):
            in_order = [levels[place] for place in np.argsort(rows).tolist()]
            return _stacked(in_order, decoding.dtype)
        made: NDArray[Any] = np.empty((work.step.batch_size, *decoding.shape), decoding.dtype)
        if pictures is not None:
            count = len(work.by_dali)
            bounds = np.linspace(0, count, min(self._threads, count) + 1).astype(int).tolist()
            parts = [
                self._pool.submit(self._resize, work, pictures, range(first, last), made)
                for first, last in itertools.pairwise(bounds)
            ]
            wait(parts)
            for part in parts:
                part.result()
        if not levels:
            return made
        others = _stacked(levels, decoding.dtype)
        if others.dtype != made.dtype:
            made = made.astype(others.dtype)
        made[rows] = others
        return made

    def _resize(self, work: _Work, pictures: Any, some: range, made: NDArray[Any]) -> None:
        """Resize some of DALI's pictures into their rows of the batch."""
        for number in some:
            box = None if work.boxes is None else work.boxes[number]
            region = None if work.regions is None else work.regions[number]
            place, part = placed(work.sizes[number], box, region, self._decoding)
            put_levels(np.asarray(pictures[number]), self._decoding, place, part, made[work.by_dali[number]])

    def _retry(self, work: _Work, error: RuntimeError) -> None:
        """Have Pillow decode what DALI failed at: it names the bad samples, and its good ones are as good.

        Raise `error` if DALI fails at a sound picture too: then the device or its memory is in trouble.
        """
        rows = work.by_dali.tolist()
        for row, data in zip(rows, work.files, strict=True):
            work.by_pillow[row] = self._pool.submit(self._by_pillow, work, row, data)
        wait([work.by_pillow[row] for row in rows])
        if any(work.by_pillow[row].exception() is not None for row in rows):
            return
        from gpuload.decode.dali import decodes_a_sound_picture

        if not decodes_a_sound_picture(self._device, int(work.sizes.prod(axis=1).max())):
            raise error
        if not self._told:
            self._told = True
            names = self._source.name(int(work.step.indices[rows[0]]))
            log.warning(
                "DALI refuses JPEGs that Pillow reads, among %d such as %r: Pillow decodes them", len(rows), names
            )


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
    """Close decoders before DALI, once it is imported, ends their pipelines."""
    atexit.register(_each, Decoder.close)
