"""A thread that releases engines whose streams were dropped.

Python collects garbage in any thread at any time, also in one that holds a lock which the threads of an engine need to
come to their end. So a finalizer only puts the pool into a queue, which is safe everywhere, and this thread waits.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from typing import Protocol

log = logging.getLogger("gpuload")


class Settles(Protocol):
    """A pool with engines that were dropped."""

    def settle(self) -> None:
        """Release them."""


_starting = threading.Lock()
_waiting: queue.SimpleQueue[Settles] | None = None
"""The pools that wait for the thread; None: there is no thread."""


def settle_soon(pool: Settles) -> None:
    """Have the thread call `pool.settle()`. Waits for nothing, takes no lock."""
    if (waiting := _waiting) is not None:
        waiting.put(pool)


def start_thread() -> None:
    """Start the thread, if this process has none. It lasts as long as the process."""
    global _waiting
    with _starting:
        if _waiting is None:
            _waiting = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(_waiting,), name="gpuload-release", daemon=True).start()


def _serve(waiting: queue.SimpleQueue[Settles]) -> None:
    while True:
        try:
            waiting.get().settle()
        except Exception:
            log.exception("an engine could not be released")


def _forget() -> None:
    """Begin anew in a fork, where the thread does not exist."""
    global _waiting, _starting
    _waiting, _starting = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
