"""A device as engines see it: CuPy's memory, streams, events and launches."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuload.core.device import Device
from gpuload.gpu import compile as compiling
from gpuload.gpu.launch import THREADS, Kernel, Launch

Bytes = NDArray[np.uint8]


class Memory(NamedTuple):
    """Memory of the device, or memory of the host that the device reads directly. Freed with the last reference."""

    owner: Any
    pointer: int
    array: Bytes = np.empty(0, np.uint8)
    """The bytes, if the memory is of the host."""


class _Stream(NamedTuple):
    """A stream of another owner, for CuPy's launches, which read `ptr` only."""

    ptr: int


class CupyRuntime:
    """A CUDA device, through CuPy. Streams are `cudaStream_t` as numbers. All methods raise the device's errors."""

    threads = THREADS
    """Threads of a block, at most; a power of two."""

    def __init__(self, device: Device):
        import cupy

        self.name = str(device)
        """Tells the memory of one device from that of another."""
        self._cupy = cupy
        self._device = device
        self._runtime = cupy.cuda.runtime
        with self._here():
            self._own = cupy.cuda.Stream(non_blocking=True)

    def _here(self) -> Any:
        return self._cupy.cuda.Device(self._device.index)

    def stream(self) -> int:
        """Return the stream that the runtime owns."""
        return int(self._own.ptr)

    @contextlib.contextmanager
    def allocating(self, stream: int | None) -> Any:
        """Return a context for allocations. If `stream` is None, CuPy makes them for the runtime's own stream."""
        if stream is None:
            with self._here(), self._own:
                yield
        else:
            yield

    def free_bytes(self) -> int:
        """Return the bytes of the device's memory that are free."""
        with self._here():
            free, _ = self._runtime.memGetInfo()
            # Memory that CuPy's pool holds and does not use is free for us too.
            return int(free) + int(self._cupy.get_default_memory_pool().free_bytes())

    def memory(self, size: int) -> Memory:
        """Allocate bytes on the device."""
        # CuPy reuses freed memory on the stream that was current at its allocation, so that must be our own stream.
        with self._here(), self._own:
            memory = self._cupy.cuda.alloc(size)
        return Memory(memory, int(memory.ptr))

    def pinned(self, size: int) -> Memory:
        """Allocate pinned bytes on the host."""
        with self._here():
            memory = self._cupy.cuda.alloc_pinned_memory(size)
        return Memory(memory, int(memory.ptr), np.frombuffer(memory, np.uint8, size))

    def upload(self, to: int, data: NDArray[Any]) -> None:
        """Copy a contiguous array to an address on the device, and wait for the copy."""
        with self._here():
            stream = self.stream()
            self._runtime.memcpyAsync(to, data.ctypes.data, data.nbytes, self._runtime.memcpyHostToDevice, stream)
            self._runtime.streamSynchronize(stream)

    def copy(self, to: int, source: Memory, size: int, stream: int) -> None:
        """Queue a copy of the first `size` pinned bytes to an address on the device."""
        with self._here():
            self._runtime.memcpyAsync(to, source.pointer, size, self._runtime.memcpyHostToDevice, stream)

    def event(self) -> Any:
        """Return a new event."""
        with self._here():
            return self._cupy.cuda.Event(disable_timing=True)

    def record(self, event: Any, stream: int) -> None:
        """Queue the event on a stream: it happens when all earlier work of the stream is done."""
        with self._here():
            self._runtime.eventRecord(event.ptr, stream)

    def happened(self, event: Any) -> bool:
        """Return whether the event has happened, or was never recorded."""
        return bool(event.done)

    def wait(self, event: Any) -> None:
        """Block until the event has happened."""
        event.synchronize()

    def follow(self, stream: int, event: Any) -> None:
        """Let later work of the stream wait for the latest record of the event."""
        with self._here():
            self._runtime.streamWaitEvent(stream, event.ptr)

    def kernel(self, kernel: Kernel) -> Any:
        """Return a compiled kernel, for `launch`."""
        return compiling.kernel(kernel.source, kernel.name, kernel.options, self._device)

    def launch(self, compiled: Any, launch: Launch, stream: int) -> None:
        """Queue a launch."""
        # CuPy passes a NumPy array of one element by value. It asks for the array's interface, which spells out each
        # field of a structure; plain bytes have none.
        arguments, shared = (launch.parameters.view(f"V{launch.parameters.nbytes}"),), launch.shared
        with self._here():
            compiled((launch.grid,), (launch.block,), arguments, shared_mem=shared, stream=_Stream(stream))

    def finish(self, stream: int) -> None:
        """Block until all work of the stream is done."""
        with self._here():
            self._runtime.streamSynchronize(stream)


Runtime = CupyRuntime
"""The type of a device. Tests put the host in its place, as an object with the same methods."""
