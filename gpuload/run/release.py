"""A thread that releases engines whose streams were dropped.

Python collects garbage in any thread at any time, also in one that holds a lock which the threads of an engine need to
come to their end. So a finalizer only puts a call into a queue, which is safe everywhere, and this thread waits.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable

log = logging.getLogger("gpuload")


_starting = threading.Lock()
_waiting: queue.SimpleQueue[Callable[[], None]] | None = None
"""The calls that the thread has to make; None: there is no thread."""


def call_soon(call: Callable[[], None]) -> None:
    """Have the thread make a call. Waits for nothing, takes no lock."""
    if (waiting := _waiting) is not None:
        waiting.put(call)


def start_thread() -> None:
    """Start the thread, if this process has none. It lasts as long as the process."""
    global _waiting
    with _starting:
        if _waiting is None:
            _waiting = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(_waiting,), name="gpuload-release", daemon=True).start()


def _serve(waiting: queue.SimpleQueue[Callable[[], None]]) -> None:
    while True:
        try:
            waiting.get()()
        except Exception:
            log.exception("an engine could not be released")


def _forget() -> None:
    """Begin anew in a fork, where the thread does not exist."""
    global _waiting, _starting
    _waiting, _starting = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
