"""Milliseconds that a sample costs by stage, as engines count them."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Mapping
from typing import Any

Counted = Mapping[str, tuple[float, int]]
"""Seconds that threads have spent, and the number of samples, by stage."""


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
