"""What engines ask of a device, CuPy's answers, and buffers on the way there."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuload.core.device import Device
from gpuload.gpu.compile import kernel as compiled
from gpuload.gpu.launch import THREADS, Launch

Bytes = NDArray[np.uint8]


class Memory(Protocol):
    """Memory on the device; freed with the last reference to it."""

    pointer: int


class Pinned(Memory, Protocol):
    """Memory of the host that the device reads by itself."""

    array: Bytes


class Runtime(Protocol):
    """What the engine asks of a device. Streams are `cudaStream_t` as numbers; errors are raised."""

    name: str
    """Tells one device's memory from another's."""
    threads: int
    """Of a block, at most; a power of two."""

    def stream(self) -> int:
        """A stream of the runtime's own."""

    def allocating(self, stream: int) -> contextlib.AbstractContextManager[Any]:
        """While it lasts, CuPy hands out memory for work on that stream of the runtime's own."""

    def free_bytes(self) -> int:
        """Memory of the device that is free."""

    def memory(self, size: int) -> Memory:
        """`size` bytes on the device."""

    def pinned(self, size: int) -> Pinned:
        """`size` bytes on the host."""

    def upload(self, to: int, data: NDArray[Any]) -> None:
        """Copy an array in one piece to an address on the device; returns when that is done."""

    def copy(self, to: int, source: Pinned, size: int, stream: int) -> None:
        """Queue a copy of the first `size` bytes to an address on the device."""

    def event(self) -> Any:
        """A new event."""

    def record(self, event: Any, stream: int) -> None:
        """Let the event happen when all that is queued on the stream is done."""

    def happened(self, event: Any) -> bool:
        """Whether the event has happened, or was never recorded."""

    def wait(self, event: Any) -> None:
        """Return when the event has happened."""

    def follow(self, stream: int, event: Any) -> None:
        """What is queued on the stream from now on waits for the event, as it was recorded last."""

    def kernel(self, file: str, name: str, options: tuple[str, ...]) -> Any:
        """The kernel `name` of `kernels/file`, compiled."""

    def launch(self, kernel: Any, launch: Launch, stream: int) -> None:
        """Queue a launch."""

    def finish(self, stream: int) -> None:
        """Return when all that is queued on the stream is done."""


class _CupyMemory:
    def __init__(self, memory: Any):
        self._memory = memory
        self.pointer = int(memory.ptr)


class _CupyPinned(_CupyMemory):
    def __init__(self, memory: Any, size: int):
        super().__init__(memory)
        self.array: Bytes = np.frombuffer(memory, np.uint8, size)


class _Stream(NamedTuple):
    """A stream that somebody else made, as CuPy's launches want it: all that they look at is `ptr`."""

    ptr: int


class CupyRuntime:
    """A CUDA device, through CuPy."""

    threads = THREADS

    def __init__(self, device: Device):
        import cupy

        self.name = str(device)
        self._cupy = cupy
        self._device = device
        self._runtime = cupy.cuda.runtime
        with self._here():
            self._own = cupy.cuda.Stream(non_blocking=True)

    def _here(self) -> Any:
        return self._cupy.cuda.Device(self._device.index)

    def stream(self) -> int:
        return int(self._own.ptr)

    @contextlib.contextmanager
    def allocating(self, stream: int) -> Any:
        with self._here(), self._own:
            yield

    def free_bytes(self) -> int:
        with self._here():
            free, _ = self._runtime.memGetInfo()
            # What CuPy's pool holds and does not use is free for us as well.
            return int(free) + int(self._cupy.get_default_memory_pool().free_bytes())

    def memory(self, size: int) -> Memory:
        # CuPy keeps what is freed for the stream that was current: no work of other streams waits for this memory.
        with self._here(), self._own:
            return _CupyMemory(self._cupy.cuda.alloc(size))

    def pinned(self, size: int) -> Pinned:
        with self._here():
            return _CupyPinned(self._cupy.cuda.alloc_pinned_memory(size), size)

    def upload(self, to: int, data: NDArray[Any]) -> None:
        with self._here():
            stream = self.stream()
            self._runtime.memcpyAsync(to, data.ctypes.data, data.nbytes, self._runtime.memcpyHostToDevice, stream)
            self._runtime.streamSynchronize(stream)

    def copy(self, to: int, source: Pinned, size: int, stream: int) -> None:
        with self._here():
            self._runtime.memcpyAsync(to, source.pointer, size, self._runtime.memcpyHostToDevice, stream)

    def event(self) -> Any:
        with self._here():
            return self._cupy.cuda.Event(disable_timing=True)

    def record(self, event: Any, stream: int) -> None:
        with self._here():
            self._runtime.eventRecord(event.ptr, stream)

    def happened(self, event: Any) -> bool:
        return bool(event.done)

    def wait(self, event: Any) -> None:
        event.synchronize()

    def follow(self, stream: int, event: Any) -> None:
        with self._here():
            self._runtime.streamWaitEvent(stream, event.ptr)

    def kernel(self, file: str, name: str, options: tuple[str, ...]) -> Any:
        return compiled(file, name, options, self._device)

    def launch(self, kernel: Any, launch: Launch, stream: int) -> None:
        with self._here():
            # CuPy passes a NumPy array of one element by value.
            kernel(
                (launch.grid,),
                (launch.block,),
                (launch.parameters,),
                shared_mem=launch.shared,
                stream=_Stream(stream),
            )

    def finish(self, stream: int) -> None:
        with self._here():
            self._runtime.streamSynchronize(stream)
