"""Pinned buffers on the way to a GPU, used again and again."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.gpu.launch import ceil_div
from gpuload.gpu.runtime import Runtime

_ALIGNED = 256
"""The parts of a buffer begin at multiples of so many bytes."""
SPARE = 4
"""Buffers that may wait for the GPU to read them. With as many, the host waits for the oldest and makes no new one."""


def laid_out(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Return the offset of each part in one buffer, by name, and the bytes of the buffer.

    >>> laid_out({"rows": 80, "factors": 40})
    ({'rows': 0, 'factors': 256}, 512)
    """
    offsets, total = {}, 0
    for name, size in sizes.items():
        offsets[name] = total
        total += ceil_div(size, _ALIGNED) * _ALIGNED
    return offsets, total


class Slot:
    """A buffer on the host and one on the device. `read` happens when the GPU needs neither them nor `keep`."""

    def __init__(self, runtime: Runtime, size: int):
        self.size = size
        self.host = runtime.pinned(size)
        self.device = runtime.memory(size)
        self.read = runtime.event()
        self.keep: tuple[Any, ...] = ()

    def write(self, offset: int, array: NDArray[Any]) -> None:
        """Copy an array into the buffer on the host."""
        self.host.array[offset : offset + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)


class Staging:
    """Slots of one device. A slot is used again when the GPU has read it."""

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self._idle: deque[Slot] = deque()

    def take(self, size: int) -> Slot:
        """Return a slot of at least `size` bytes. The caller waits for its event `read` before it writes."""
        self.release()
        plenty = len(self._idle) >= SPARE
        for slot in tuple(self._idle):  # A copy, because another thread may give a slot back meanwhile.
            if slot.size >= size and (plenty or self._runtime.happened(slot.read)):
                self._idle.remove(slot)
                return slot
        while self._idle and self._idle[0].size < size and self._runtime.happened(self._idle[0].read):
            self._idle.popleft()
        return Slot(self._runtime, size)

    def filled(self, arrays: Mapping[str, NDArray[Any]]) -> tuple[Slot, dict[str, int], int]:
        """Return a slot with arrays in its host buffer, their addresses on the device, and the bytes to copy."""
        offsets, size = laid_out({name: array.nbytes for name, array in arrays.items()})
        slot = self.take(size)
        self._runtime.wait(slot.read)
        for name, array in arrays.items():
            slot.write(offsets[name], array)
        return slot, {name: slot.device.pointer + offset for name, offset in offsets.items()}, size

    def give(self, slot: Slot) -> None:
        """Take a slot back, after `read` was recorded behind its last use."""
        self._idle.append(slot)

    def release(self) -> None:
        """Drop the objects kept for launches that have run."""
        for slot in tuple(self._idle):
            if slot.keep and self._runtime.happened(slot.read):
                slot.keep = ()

    def close(self) -> None:
        """Free all slots, when the GPU has read them."""
        for slot in self._idle:
            self._runtime.wait(slot.read)
        self._idle.clear()
