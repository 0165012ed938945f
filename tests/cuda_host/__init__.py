"""Kernels on the host: the same sources, compiled by g++, behind the engine's own seam."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpuload.core.device import Device
from gpuload.delivery import Allocator
from gpuload.gpu.compile import kernel_source

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")
SANITIZER = os.environ.get("GPULOAD_TEST_SANITIZER", "")
"""Of g++'s `-fsanitize=`; the process has to have its library loaded first."""
PATTERN = 0xA5
"""Each byte of an array before a kernel has written it."""

FLAGS = ["-std=c++20", "-O1", "-g1", "-fPIC", "-pthread", "-ffp-contract=off", "-fno-strict-aliasing"]
WARNINGS = ["-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]

_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]


@functools.cache
def folder() -> Path:
    """Where this run's builds are."""
    path = tempfile.mkdtemp(prefix="gpuload-kernels-")
    weakref.finalize(folder, shutil.rmtree, path, ignore_errors=True)
    return Path(path)


def compile_host(*arguments: str | Path) -> None:
    """Run g++; raises RuntimeError with what it says."""
    sanitize = [f"-fsanitize={SANITIZER}", "-fno-sanitize-recover=all"] if SANITIZER else []
    command = [str(COMPILER), *FLAGS, *WARNINGS, *sanitize, f"-I{HERE}", f"-I{kernel_source('window.cu').parent}"]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)


_building = threading.Lock()


@functools.cache
def _runner() -> Path:
    out = folder() / "run.o"
    compile_host("-c", HERE / "run.cpp", "-o", out)
    return out


@functools.cache
def built(file: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """The library of one source and one set of options, as the launcher gives them to NVRTC."""
    with _building:
        runner = _runner()
    defines = [option for option in options if option.startswith("-D")]
    name = Path(file).stem
    out = folder() / f"{name}{''.join(defines)}.so"
    compile_host("-shared", *defines, HERE / f"{name}.cpp", runner, "-o", out)
    return ctypes.CDLL(str(out))


class Block:
    """Memory of the heap, of exactly that size, so that a sanitizer sees whatever leaves it."""

    def __init__(self, size: int):
        self.size = size
        self.pointer = _libc.malloc(max(1, size))
        weakref.finalize(self, _libc.free, self.pointer)
        self.array = np.frombuffer((ctypes.c_uint8 * size).from_address(self.pointer), np.uint8)
        self.array[:] = PATTERN


class HostArray:
    """What a framework's array is to the engine: memory, a shape and a dtype."""

    def __init__(self, shape: tuple[int, ...], dtype: str, skew: int):
        import ml_dtypes

        found = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        count = int(np.prod(shape))
        offset = skew * found.itemsize
        self.block = Block(offset + count * found.itemsize)
        self.pointer = self.block.pointer + offset
        self._numbers = (offset, found, shape)

    def numpy(self) -> np.ndarray:
        """A view, which needs this object to stay."""
        offset, dtype, shape = self._numbers
        return self.block.array[offset:].view(dtype).reshape(shape)


def allocator(skew: int = 0) -> Allocator:
    """Arrays that begin `skew` elements into their memory."""

    def empty(shape: tuple[int, ...], dtype: str, device: Device) -> HostArray:
        return HostArray(shape, dtype, skew)

    return Allocator(empty, lambda array: array.pointer)


class Event:
    """Of a stream: recorded again and again, and whoever waits waits for what was recorded last by then."""

    def __init__(self) -> None:
        self.happened = threading.Event()
        self.happened.set()


class HostRuntime:
    """A device that is the host: streams are threads that do what was queued, late.

    Args:
        threads: Of a block, at most.
        free: Bytes that are said to be free.
    """

    def __init__(self, threads: int = 256, free: int = 2**40):
        self.name = f"host-{id(self)}"
        self.threads = threads
        self.free = free
        self.launches = 0
        self.copies = 0
        self.uploads = 0
        self.pinned_buffers = 0
        self._queues: dict[int, queue.SimpleQueue[Callable[[], None] | None]] = {}
        self._errors: list[BaseException] = []
        self.gate = threading.Event()
        """Cleared: nothing that is queued is done."""
        self.gate.set()
        self._held: dict[int, threading.Event] = {}

    def hold(self, stream: int) -> threading.Event:
        """Until the event is set, nothing is done that is queued on that stream."""
        self._held[stream] = threading.Event()
        return self._held[stream]

    def close(self) -> None:
        for waiting in self._queues.values():
            waiting.put(None)

    def _work(self, stream: int, waiting: queue.SimpleQueue[Callable[[], None] | None]) -> None:
        while (task := waiting.get()) is not None:
            self.gate.wait()
            if stream in self._held:
                assert self._held[stream].wait(60)
            task()
            del task  # With all that it refers to.

    def _put(self, stream: int, task: Callable[[], None]) -> None:
        if stream not in self._queues:
            waiting = self._queues[stream] = queue.SimpleQueue()
            threading.Thread(target=self._work, args=(stream, waiting), daemon=True).start()
        self._queues[stream].put(task)

    def stream(self) -> int:
        return 1

    def allocating(self, stream: int) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def free_bytes(self) -> int:
        return self.free

    def memory(self, size: int) -> Block:
        return Block(size)

    def pinned(self, size: int) -> Block:
        self.pinned_buffers += 1
        return Block(size)

    def upload(self, to: int, data: np.ndarray) -> None:
        assert data.flags.c_contiguous
        self.uploads += 1
        ctypes.memmove(to, data.ctypes.data, data.nbytes)

    def copy(self, to: int, source: Block, size: int, stream: int) -> None:
        assert size <= source.size
        self.copies += 1
        self._put(stream, lambda: ctypes.memmove(to, source.pointer, size) and None)

    def event(self) -> Event:
        return Event()

    def record(self, event: Event, stream: int) -> None:
        event.happened = happened = threading.Event()
        self._put(stream, happened.set)

    def happened(self, event: Event) -> bool:
        return event.happened.is_set()

    def wait(self, event: Event) -> None:
        assert event.happened.wait(60)

    def follow(self, stream: int, event: Event) -> None:
        happened = event.happened
        self._put(stream, lambda: happened.wait(60) and None)

    def kernel(self, file: str, name: str, options: tuple[str, ...]) -> tuple[ctypes.CDLL, Any, bool]:
        library = built(file, options)
        return library, getattr(library, f"call_{name}"), name in ("window_cut", "warp_pixels", "warp_images")

    def launch(self, kernel: tuple[ctypes.CDLL, Any, bool], launch: Any, stream: int) -> None:
        library, function, barriers = kernel
        parameters = launch.parameters.tobytes()
        assert launch.block <= self.threads * (2 if launch.kernel == "warp_images" else 1)
        assert launch.shared <= 48 * 1024
        self.launches += 1
        self._put(
            stream,
            lambda: (
                library.run(
                    function, parameters, launch.grid, launch.block, ctypes.c_size_t(launch.shared), int(barriers)
                )
                and None
            ),
        )

    def finish(self, stream: int) -> None:
        done = threading.Event()
        self._put(stream, done.set)
        assert done.wait(60)
