"""Buffers on the way to a GPU."""

from __future__ import annotations

from collections import deque
from typing import Any

from gpuload.gpu.runtime import Runtime

ALIGNED = 256
"""Bytes at whose multiples the parts of a staging buffer begin."""


SPARE = 4
"""Staging buffers that wait for the GPU to read them, before whoever needs one waits for it too."""


class Slot:
    """A buffer on the host and one on the device, for what a step brings along."""

    def __init__(self, runtime: Runtime, size: int):
        self.size = size
        self.host = runtime.pinned(size)
        self.device = runtime.memory(size)
        self.read = runtime.event()
        """Happens when the GPU needs neither any more."""
        self.keep: tuple[Any, ...] = ()
        """What else the GPU needs until then."""


class Staging:
    """Buffers that are used again when the GPU has read them."""

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self._idle: deque[Slot] = deque()

    def take(self, size: int) -> Slot:
        """A buffer that nobody uses; or, where there are plenty, one that the GPU will have read soon: whoever writes
        into it waits for `read` first."""
        self.release()
        plenty = len(self._idle) >= SPARE
        for slot in tuple(self._idle):  # One may be given back meanwhile, by whichever thread frees its last user.
            if slot.size >= size and (plenty or self._runtime.happened(slot.read)):
                self._idle.remove(slot)
                return slot
        while self._idle and self._idle[0].size < size and self._runtime.happened(self._idle[0].read):
            self._idle.popleft()
        return Slot(self._runtime, size)

    def give(self, slot: Slot) -> None:
        """Back, when `read` was recorded after the last use."""
        self._idle.append(slot)

    def release(self) -> None:
        """Let go of what the GPU needs no more."""
        for slot in tuple(self._idle):
            if slot.keep and self._runtime.happened(slot.read):
                slot.keep = ()

    def close(self) -> None:
        """Free all, when the GPU has read them."""
        for slot in self._idle:
            self._runtime.wait(slot.read)
        self._idle.clear()
