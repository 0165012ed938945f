"""Threads that the interpreter's end does not wait for."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Daemons:
    """Threads that make calls in the order in which they come, each started when a call finds no other one idle.

    The interpreter would wait at its end for the threads of a ThreadPoolExecutor, even if their calls never return.
    """

    def __init__(self, most: int, name: str):
        """Take the greatest number of threads, and their name."""
        self._most, self._name = most, name
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._count = self._started = 0

    def __del__(self) -> None:
        self.close()

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Make the call once a thread is free."""
        future: Future[Any] = Future()
        self._calls.put((future, functools.partial(call, *args)))
        if not self._idle.acquire(blocking=False):
            self._start()
        return future

    def submit_apart(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Make the call at once, in a thread of its own, even if all others are busy."""
        calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        future: Future[Any] = Future()
        calls.put((future, functools.partial(call, *args)))
        calls.put(None)
        self._thread(calls, None)
        return future

    def _start(self) -> None:
        """Start a thread, unless there are as many as allowed."""
        with self._lock:
            if self._count >= self._most:
                return
            self._count += 1
            self._started += 1
        self._thread(self._calls, self._idle)

    def _thread(self, calls: queue.SimpleQueue[Any], idle: threading.Semaphore | None) -> None:
        threading.Thread(target=_serve, args=(calls, idle), name=self._name, daemon=True).start()

    def give_up(self) -> None:
        """Count one thread less: its call never returns, and another one may take its place."""
        with self._lock:
            self._count -= 1

    def close(self) -> None:
        """End the threads after their calls."""
        for _ in range(self._started):
            self._calls.put(None)


def _serve(calls: queue.SimpleQueue[Any], idle: threading.Semaphore | None) -> None:
    while (item := calls.get()) is not None:
        future, call = item
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
        # Keep no object alive until the next call comes.
        del item, future, call
        if idle is not None:
            idle.release()
