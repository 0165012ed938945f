"""What reading, decoding and augmenting an image cost: counted by the engines, or measured beside them."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

EVERY = 60.0
"""Seconds after which is measured again."""

Measure = Callable[[], Mapping[str, float]]
"""Seconds that a sample takes, by stage; raises nothing."""


class Stages:
    """Adds up what engines have counted, those too that are closed."""

    def __init__(self, measure: Measure | None = None):
        """`measure`: tells, in some tenths of a second, the stages that engines do not count."""
        self._measure = measure
        self._measured: dict[str, float] = {}
        self._asked = -EVERY
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._engines: weakref.WeakSet[Any] = weakref.WeakSet()
        self._samples, self._seconds = 0, dict[str, float]()  # Of engines that are closed.

    def opened(self, engine: Any) -> None:
        """Count what this engine does."""
        with self._lock:
            self._engines.add(engine)

    def closed(self, engine: Any) -> None:
        """It does no more."""
        with self._lock:
            if engine in self._engines:
                self._engines.discard(engine)
                self._samples, self._seconds = _added(self._samples, self._seconds, engine)

    def milliseconds(self) -> dict[str, float]:
        """Those that a sample takes in one thread: `read_ms`, `decode_ms` and `augment_ms`, as far as they are known.

        What engines do not count is that of the last measurement; another one begins where it is time for it.
        """
        with self._lock:
            samples, seconds, engines = self._samples, self._seconds, list(self._engines)
        if self._measure is not None and engines:
            self._begin(self._measure)
        for engine in engines:
            samples, seconds = _added(samples, seconds, engine)
        found = dict(self._measured)
        if samples:
            found |= {f"{stage}_ms": 1000 * spent / samples for stage, spent in seconds.items()}
        return found

    def _begin(self, measure: Measure) -> None:
        now = time.monotonic()
        if now - self._asked < EVERY or os.getpid() != self._pid:
            return
        self._asked = now
        # It knows nothing of the pool, which may be closed meanwhile. The interpreter waits for it where it ends: what
        # ended it in the middle of DALI might end the process.
        thread = threading.Thread(target=_run, args=(measure, self._measured), name="gpuload-stages")
        try:
            thread.start()
        except RuntimeError:  # The interpreter is at its end, or there are too many threads: it is only figures.
            return


def _run(measure: Measure, into: dict[str, float]) -> None:
    into.update({f"{stage}_ms": 1000 * seconds for stage, seconds in measure().items()})


def _added(samples: int, seconds: Mapping[str, float], engine: Any) -> tuple[int, dict[str, float]]:
    """With what an engine has counted."""
    if hasattr(engine, "augmented"):
        spent, more = engine.augmented
        own = {"augment": spent}
    else:
        own, more = engine.seconds, engine.samples
    return samples + more, {stage: seconds.get(stage, 0.0) + spent for stage, spent in own.items()}
