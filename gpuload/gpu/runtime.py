"""A device as engines see it, and CuPy's implementation of it."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuload.core.device import Device
from gpuload.gpu import compile as compiling
from gpuload.gpu.launch import THREADS, Kernel, Launch

Bytes = NDArray[np.uint8]


class Memory(Protocol):
    """Memory on the device, freed with the last reference to it."""

    pointer: int


class Pinned(Memory, Protocol):
    """Memory of the host that the device reads directly."""

    array: Bytes


class Runtime(Protocol):
    """A device. Streams are `cudaStream_t` as numbers. All methods raise the device's errors."""

    name: str
    """Tells the memory of one device from that of another."""
    threads: int
    """Threads of a block, at most; a power of two."""

    def stream(self) -> int:
        """Return the stream that the runtime owns."""

    def allocating(self, stream: int) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which CuPy allocates memory for work on the runtime's own stream."""

    def free_bytes(self) -> int:
        """Return the bytes of the device's memory that are free."""

    def memory(self, size: int) -> Memory:
        """Allocate bytes on the device."""

    def pinned(self, size: int) -> Pinned:
        """Allocate pinned bytes on the host."""

    def upload(self, to: int, data: NDArray[Any]) -> None:
        """Copy a contiguous array to an address on the device, and wait for the copy."""

    def copy(self, to: int, source: Pinned, size: int, stream: int) -> None:
        """Queue a copy of the first `size` bytes to an address on the device."""

    def event(self) -> Any:
        """Return a new event."""

    def record(self, event: Any, stream: int) -> None:
        """Queue the event on a stream: it happens when all earlier work of the stream is done."""

    def happened(self, event: Any) -> bool:
        """Return whether the event has happened, or was never recorded."""

    def wait(self, event: Any) -> None:
        """Block until the event has happened."""

    def follow(self, stream: int, event: Any) -> None:
        """Let later work of the stream wait for the latest record of the event."""

    def kernel(self, kernel: Kernel) -> Any:
        """Return a compiled kernel, for `launch`."""

    def launch(self, compiled: Any, launch: Launch, stream: int) -> None:
        """Queue a launch."""

    def finish(self, stream: int) -> None:
        """Block until all work of the stream is done."""


class _CupyMemory:
    def __init__(self, memory: Any):
        self._memory = memory
        self.pointer = int(memory.ptr)


class _CupyPinned(_CupyMemory):
    def __init__(self, memory: Any, size: int):
        super().__init__(memory)
        self.array: Bytes = np.frombuffer(memory, np.uint8, size)


class _Stream(NamedTuple):
    """A stream of another owner, for CuPy's launches, which read `ptr` only."""

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
            # Memory that CuPy's pool holds and does not use is free for us too.
            return int(free) + int(self._cupy.get_default_memory_pool().free_bytes())

    def memory(self, size: int) -> Memory:
        # CuPy reuses freed memory on the stream that was current at its allocation, so that must be our own stream.
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

    def kernel(self, kernel: Kernel) -> Any:
        return compiling.kernel(kernel.source, kernel.name, kernel.options, self._device)

    def launch(self, compiled: Any, launch: Launch, stream: int) -> None:
        # CuPy passes a NumPy array of one element by value.
        arguments, shared = (launch.parameters,), launch.shared
        with self._here():
            compiled((launch.grid,), (launch.block,), arguments, shared_mem=shared, stream=_Stream(stream))

    def finish(self, stream: int) -> None:
        with self._here():
            self._runtime.streamSynchronize(stream)
