"""Threads that the interpreter's end does not wait for."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

Call = tuple[Future[Any], Callable[[], Any]]


class _Queue:
    """Calls that wait for a thread. Threads know the queue and not its owner, so that the owner can be dropped."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.calls: deque[Call] = deque()
        self.idle = self.running = 0
        """Threads that wait for a call, and calls that are being made."""
        self.closed = False


class Daemons:
    """Threads that make calls in the order in which they come, each started when it is needed.

    The interpreter would wait at its end for the threads of a ThreadPoolExecutor, even if their calls never return.
    """

    def __init__(self, most: int, name: str):
        """Take the greatest number of threads, and their name."""
        self._most, self._name = most, name
        self._queue, self._count = _Queue(), 0

    def __del__(self) -> None:
        self.close()

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Make the call once a thread is free."""
        future: Future[Any] = Future()
        with self._queue.changed:
            self._queue.calls.append((future, functools.partial(call, *args)))
            self._staff()
        return future

    def submit_apart(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Make the call at once, in a thread of its own, even if all others are busy."""
        future: Future[Any] = Future()
        queue = _Queue()
        queue.calls.append((future, functools.partial(call, *args)))
        queue.closed = True
        self._thread(queue)
        return future

    def give_up(self) -> None:
        """Count one thread less: its call never returns, and another one takes its place."""
        with self._queue.changed:
            self._count -= 1
            self._staff()

    def join(self) -> None:
        """Wait until all calls have been made; their own threads may do so after a call."""
        with self._queue.changed:
            self._queue.changed.wait_for(lambda: not self._queue.calls and not self._queue.running)

    def close(self) -> None:
        """End the threads after their calls."""
        with self._queue.changed:
            self._queue.closed = True
            self._queue.changed.notify_all()

    def _staff(self) -> None:
        """See to it that a thread takes the next call: one that is idle, or a new one if there may be more."""
        if len(self._queue.calls) > self._queue.idle and self._count < self._most:
            self._count += 1
            self._thread(self._queue)
        self._queue.changed.notify()

    def _thread(self, queue: _Queue) -> None:
        threading.Thread(target=_serve, args=(queue,), name=self._name, daemon=True).start()


def _serve(queue: _Queue) -> None:
    while True:
        with queue.changed:
            queue.idle += 1
            queue.changed.wait_for(lambda: queue.calls or queue.closed)
            queue.idle -= 1
            if not queue.calls:
                return
            future, call = queue.calls.popleft()
            queue.running += 1
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
        with queue.changed:
            queue.running -= 1
            queue.changed.notify_all()
        # Keep no object alive until the next call comes. What is dropped here may call `join`.
        del future, call
