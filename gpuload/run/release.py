"""A thread that releases engines whose streams were dropped.

Python collects garbage in any thread at any time, also in one that holds a lock which the threads of an engine need to
come to their end. So a finalizer only puts the pool into a queue, which is safe everywhere, and this thread waits.
"""

from __future__ import annotations

import functools
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


_queues: dict[int, queue.SimpleQueue[Settles]] = {}
"""The queue by process: in a fork the thread does not exist."""


def settle_soon(pool: Settles) -> None:
    """Have the thread call `pool.settle()`. Waits for nothing, takes no lock."""
    waiting = _queues.get(os.getpid())
    if waiting is not None:
        waiting.put(pool)


@functools.cache
def start_thread(pid: int) -> None:
    """Start the thread of this process, `pid`."""
    _queues[pid] = waiting = queue.SimpleQueue[Settles]()
    threading.Thread(target=_serve, args=(waiting,), name="gpuload-release", daemon=True).start()


def _serve(waiting: queue.SimpleQueue[Settles]) -> None:
    while True:
        try:
            waiting.get().settle()
        except Exception:
            log.exception("an engine could not be released")
