"""How much a loader delivered, how fast, and how long whoever takes the batches waited."""

from __future__ import annotations

import operator
import time
from collections import deque
from typing import Any, NamedTuple

from gpuload.core.checks import checked_int

KEPT = 1024
"""Steps that are remembered one by one."""


class Totals(NamedTuple):
    """Of one step of an engine, or of many added up."""

    steps: int = 0
    batches: int = 0
    samples: int = 0
    seconds: float = 0.0
    """From the step before, or the beginning of the iteration, to the moment when it was delivered."""
    wait: float = 0.0
    deliver: float = 0.0
    queued: int = 0
    bytes_read: int = 0

    def stats(self) -> dict[str, float | int]:
        """What `Meter.stats` tells; all 0 where there is nothing."""
        return _figures(*self)


def _figures(
    steps: int,
    batches: int,
    samples: int,
    seconds: float,
    wait: float,
    deliver: float,
    queued: int,
    bytes_read: int,
) -> dict[str, float | int]:
    """Of the fields of `Totals`. Training may ask after each batch of windows, which takes a dozen microseconds."""
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

    One step is one batch of images, or several small batches of windows that were cut at once. Iterations side by side
    are counted together, by one clock: a second in which two are under way counts once, the waiting of both counts.
    Where one begins between two steps of another, the time since the first of these two is lost.

    Nothing is locked, since `add` is on the way of each batch. It need not be: CPython changes threads at calls and at
    jumps backward, and neither lies within an `x += y` of plain numbers; to append to a deque, or to copy it, is one
    call. Without a GIL, of what two threads add in the same microsecond a part may be missed.

    >>> meter = Meter()
    >>> start = meter.begin()
    >>> meter.add(1, 32, wait=0.0, deliver=0.0, queued=2, bytes_read=1000)
    >>> meter.stats()["samples"], meter.stats(last=1)["queue_depth"], meter.since(start).batches
    (32, 2.0, 1)
    """

    def __init__(self) -> None:
        self._now = time.perf_counter()  # Of the last event.
        self._recent: deque[Any] = deque(maxlen=KEPT)  # Totals as plain tuples, which cost less to make.
        self._steps = self._batches = self._samples = self._queued = self._bytes_read = 0
        self._seconds = self._wait = self._deliver = 0.0

    def begin(self) -> Totals:
        """An iteration begins: the time before it, in which nobody took batches, does not count. Returns what was."""
        self._now = time.perf_counter()
        return self.totals()

    def add(self, batches: int, samples: int, *, wait: float, deliver: float, queued: int, bytes_read: int) -> None:
        """A step was delivered.

        Args:
            batches: How many it held.
            samples: How many these held.
            wait: Seconds for which the engine was waited for.
            deliver: Seconds that it took to hand it to the framework.
            queued: Steps that the engine was given ahead.
            bytes_read: From files, or out of a series.
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
        """Of the last so many steps, or of all."""
        if last is None:
            counts = self._steps, self._batches, self._samples
            return Totals(*counts, self._seconds, self._wait, self._deliver, self._queued, self._bytes_read)
        if checked_int("last", last, 1) > KEPT:
            raise ValueError(f"last must be at most {KEPT}, so many steps are kept, not {last}: pass None for all")
        return Totals(*map(sum, zip(Totals(), *list(self._recent)[-last:], strict=True)))

    def since(self, start: Totals) -> Totals:
        """Of all steps since `begin` returned `start`."""
        return Totals(*map(operator.sub, self.totals(), start))

    def stats(self, last: int | None = None) -> dict[str, float | int]:
        """A flat dict of numbers, for TensorBoard, Prometheus, JSON and the like.

        `batches`, `samples`: What was delivered.
        `seconds`: Of the wall clock, in each iteration from its beginning to the last step delivered: pauses between
            epochs do not count.
        `batches_per_second`, `samples_per_second`: What training reaches, not what the loader could.
        `wait_share`: The part of the seconds, 0 to 1, for which the engine was waited for. Near 0 training is the
            bottleneck, near 1 the loader. An iteration always waits for its first batch, and a thread that asks for
            batches ahead of training waits nearly always.
        `wait_ms`, `deliver_ms`: Milliseconds a batch that it waited, and that it took to hand it to the framework.
        `queue_depth`: Steps that the engine was given ahead, on average: `prefetch`, except at the end.
        `bytes_read`, `bytes_per_second`: From files, as they are stored, or out of a series.

        All are 0 where there is nothing yet.

        Args:
            last: Of the last so many steps, 1 to 1024, or of as many as there were. None: of all.

        Raises:
            ValueError: another `last`.

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
        if last is not None:
            return self.totals(last).stats()
        return _figures(
            self._steps,
            self._batches,
            self._samples,
            self._seconds,
            self._wait,
            self._deliver,
            self._queued,
            self._bytes_read,
        )
