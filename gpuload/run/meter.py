"""Counts of delivered batches, their pace, and the time that the consumer waited."""

from __future__ import annotations

import operator
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from gpuload.core.checks import checked_int

Counted = Mapping[str, tuple[float, int]]
"""Seconds that threads have spent, and the number of samples, by stage."""

KEPT = 1024  # Steps that are remembered one by one.


class Totals(NamedTuple):
    """Figures of one step of an engine, or sums over many."""

    steps: int = 0
    batches: int = 0
    samples: int = 0
    seconds: float = 0.0
    """Seconds from the delivery before, or the beginning of the iteration, to this delivery."""
    wait: float = 0.0
    deliver: float = 0.0
    queued: int = 0
    bytes_read: int = 0

    def stats(self) -> dict[str, float | int]:
        """Return the figures of `Meter.stats`; all 0 if there is nothing."""
        # Training may ask after each batch of windows, which takes a dozen microseconds: no property, no loop.
        steps, batches, samples, seconds, wait, deliver, queued, bytes_read = self
        a_second = 1 / seconds if seconds > 0 else 0.0
        a_batch = 1000 / batches if batches else 0.0
        share = wait * a_second
        return {
            "batches": batches,
            "samples": samples,
            "seconds": seconds,
            "batches_per_second": batches * a_second,
            "samples_per_second": samples * a_second,
            "wait_share": share if share < 1 else 1.0,
            "wait_ms": wait * a_batch,
            "deliver_ms": deliver * a_batch,
            "queue_depth": queued / steps if steps else 0.0,
            "bytes_read": bytes_read,
            "bytes_per_second": bytes_read * a_second,
        }


class Meter:
    """Counts the steps of a loader, which calls `begin` for each iteration and `add` for each step.

    One step is one batch of images, or several small batches of windows that were cut together. Iterations side by side
    are counted together, by one clock: a second in which two are under way counts once, and the waiting of both counts.
    If one begins between two steps of another, the time since the first of these steps is lost.

    Nothing is locked, since `add` is called for each batch. CPython changes threads at calls and at jumps backward, and
    neither is part of an `x += y` of plain numbers; appending to a deque, or copying it, is one call. Without a GIL,
    sums that two threads add in the same microsecond may be missed.

    >>> meter = Meter()
    >>> start = meter.begin()
    >>> meter.add(1, 32, wait=0.0, deliver=0.0, queued=2, bytes_read=1000)
    >>> meter.stats()["samples"], meter.stats(last=1)["queue_depth"], meter.since(start).batches
    (32, 2.0, 1)
    """

    def __init__(self) -> None:
        self._now = time.perf_counter()  # Time of the last event.
        self._recent: deque[Any] = deque(maxlen=KEPT)  # Totals as plain tuples, which cost less to make.
        self._steps = self._batches = self._samples = self._queued = self._bytes_read = 0
        self._seconds = self._wait = self._deliver = 0.0

    def begin(self) -> Totals:
        """Begin an iteration: time before it does not count. Return the totals so far."""
        self._now = time.perf_counter()
        return self.totals()

    def add(self, batches: int, samples: int, *, wait: float, deliver: float, queued: int, bytes_read: int) -> None:
        """Count a delivered step of that many batches and samples.

        Args:
            wait, deliver: Seconds of waiting for the engine, and for handing the step to the framework.
            queued: Number of steps that the engine has ahead.
            bytes_read: Bytes of files, or of a series.
        """
        now = time.perf_counter()
        seconds = now - self._now
        self._now = now
        self._recent.append((1, batches, samples, seconds, wait, deliver, queued, bytes_read))
        self._steps += 1
        self._batches += batches
        self._samples += samples
        self._seconds += seconds
        self._wait += wait
        self._deliver += deliver
        self._queued += queued
        self._bytes_read += bytes_read

    def totals(self, last: int | None = None) -> Totals:
        """Return the sums over the last steps, `last` of them, or over all steps."""
        if last is None:
            counts = self._steps, self._batches, self._samples
            return Totals(*counts, self._seconds, self._wait, self._deliver, self._queued, self._bytes_read)
        if checked_int("last", last, 1) > KEPT:
            raise ValueError(f"last must be at most {KEPT}, so many steps are kept, not {last}: pass None for all")
        return Totals(*map(sum, zip(Totals(), *list(self._recent)[-last:], strict=True)))

    def since(self, start: Totals) -> Totals:
        """Return the sums over the steps since `begin` returned `start`."""
        return Totals(*map(operator.sub, self.totals(), start))

    def stats(self, last: int | None = None) -> dict[str, float | int]:
        """Return a flat dict of numbers, for TensorBoard, Prometheus, JSON and the like; all 0 if there is nothing.

        `batches`, `samples`: Delivered batches and samples.
        `seconds`: Wall-clock seconds in iterations, from their beginning to the last delivery; pauses between epochs do
            not count.
        `batches_per_second`, `samples_per_second`: The pace of training, not the greatest pace of the loader.
        `wait_share`: Share of the seconds, 0 to 1, spent waiting for the engine. Near 0 training is the bottleneck,
            near 1 the loader. An iteration always waits for its first batch, and a thread that asks for batches ahead
            of training waits nearly always.
        `wait_ms`, `deliver_ms`: Milliseconds a batch of waiting, and of handing it to the framework.
        `queue_depth`: Average number of steps that the engine has ahead: `prefetch`, except at the end.
        `bytes_read`, `bytes_per_second`: Bytes of files as they are stored, or of a series.

        Args:
            last: Number of steps, 1 to 1024, counted from the last one, that the figures cover. None: all.

        Raises:
            ValueError: `last` is out of range.

        >>> import gpuload
        >>> series = gpuload.Series(np.arange(1000.0))
        >>> loader = gpuload.Loader(series, gpuload.Window(10), batch_size=64, device="cpu")
        >>> logged = {}
        >>> for batch in loader:
        ...     for name, value in loader.stats(last=100).items():
        ...         logged[f"loader/{name}"] = value  # writer.add_scalar(f"loader/{name}", value, step)
        >>> stats = loader.stats()
        >>> stats["batches"], stats["samples"], logged["loader/samples"]
        (16, 991, 991)
        >>> 0 <= stats["wait_share"] <= 1
        True
        """
        return self.totals(last).stats()


class Stages:
    """Adds up what engines tell as `stages`, a `Counted`; closed engines included."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: weakref.WeakSet[Any] = weakref.WeakSet()
        self._seconds: Counter[str] = Counter()  # Of closed engines.
        self._samples: Counter[str] = Counter()

    def opened(self, engine: Any) -> None:
        """Count what this engine does."""
        with self._lock:
            self._engines.add(engine)

    def closed(self, engine: Any) -> None:
        """Keep what this engine has counted, and forget the engine."""
        with self._lock:
            if engine in self._engines:
                self._engines.discard(engine)
                _add(engine, self._seconds, self._samples)

    def milliseconds(self) -> dict[str, float]:
        """Return `read_ms`, `decode_ms` and `augment_ms` of one sample in one thread, as far as engines count them."""
        with self._lock:
            seconds, samples, engines = self._seconds.copy(), self._samples.copy(), list(self._engines)
        for engine in engines:
            _add(engine, seconds, samples)
        return {f"{stage}_ms": 1000 * seconds[stage] / count for stage, count in samples.items() if count}


def _add(engine: Any, seconds: Counter[str], samples: Counter[str]) -> None:
    for stage, (spent, count) in engine.stages.items():
        seconds[stage] += spent
        samples[stage] += count
