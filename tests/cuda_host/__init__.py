"""Kernels on the host: the same sources, compiled by g++, behind the runtime that engines use."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import functools
import os
import queue
import re
import shutil
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gpuload.core.device import Device
from gpuload.delivery import Allocator
from gpuload.gpu.compile import kernel_source
from gpuload.gpu.launch import Kernel

from .kept import kept

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")
SANITIZER = os.environ.get("GPULOAD_TEST_SANITIZER", "")
"""For g++'s `-fsanitize=`. The process must have its library loaded first."""
PATTERN = 0xA5
"""Each byte of an array before a kernel has written it."""

FLAGS = ["-std=c++20", "-O0", "-g1", "-fPIC", "-pthread", "-ffp-contract=off", "-fno-strict-aliasing"]
WARNINGS = ["-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]
BARRIERS = {"window_cut", "warp_pixels", "warp_images"}
"""Kernels that call `__syncthreads`."""

_ENTRY = re.compile(r'^extern "C" __global__ void __launch_bounds__\(.*\) (\w+)\(const (\w+) p\)', re.M)

_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]


def _command(*arguments: str | Path) -> list[str]:
    sanitize = [f"-fsanitize={SANITIZER}", "-fno-sanitize-recover=all"] if SANITIZER else []
    return [str(COMPILER), *FLAGS, *WARNINGS, *sanitize, f"-I{HERE}", *map(str, arguments)]


def compile_host(*arguments: str | Path, code: str | None = None) -> None:
    """Run g++, on `code` if the arguments end in `-`. Raise RuntimeError with its output if it fails."""
    done = subprocess.run(_command(*arguments), input=code, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)


@functools.cache
def _version() -> str:
    return subprocess.run([str(COMPILER), "--version"], capture_output=True, text=True, check=True).stdout


def _compiled(suffix: str, code: str, *arguments: str | Path) -> Path:
    """Compile a text, or find what an earlier run has made of it."""
    arguments = (*arguments, "-x", "c++", "-")
    header = (HERE / "cuda_host.h").read_text()

    def make(out: Path) -> None:
        compile_host(*arguments, "-o", out, code=code)

    return kept(suffix, make, _version(), *_command(*arguments), header, code)


def host_source(file: str) -> str:
    """Return the text of a source for g++, where `call_name` calls each kernel `name` with its parameters' address."""
    source = kernel_source(file)
    calls = (
        f'extern "C" void call_{name}(const void *p) {{ {name}(*static_cast<const {structure} *>(p)); }}\n'
        for name, structure in _ENTRY.findall(source)
    )
    return '#include "cuda_host.h"\n' + source + "".join(calls)


@functools.cache
def built(file: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """Return the library of a source with the macros of a compiler's options."""
    runner = _compiled(".o", (HERE / "run.cpp").read_text(), "-c")
    defines = [option for option in options if option.startswith("-D")]
    return ctypes.CDLL(str(_compiled(".so", host_source(file), "-shared", *defines, runner)))


def build_all(kernels: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    """Build many libraries at once."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda pair: built(*pair), kernels))


class Block:
    """Memory of the heap, of the exact size, so that a sanitizer sees every access beyond it."""

    def __init__(self, size: int):
        self.size = size
        self.pointer = _libc.malloc(max(1, size))
        weakref.finalize(self, _libc.free, self.pointer)
        self.array = np.frombuffer((ctypes.c_uint8 * size).from_address(self.pointer), np.uint8)
        self.array[:] = PATTERN


class HostArray:
    """An array as engines see those of frameworks: memory, a shape and a dtype."""

    def __init__(self, shape: tuple[int, ...], dtype: str, skew: int):
        import ml_dtypes

        found = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        count = int(np.prod(shape))
        offset = skew * found.itemsize
        self.block = Block(offset + count * found.itemsize)
        self.pointer = self.block.pointer + offset
        self._numbers = (offset, found, shape)

    def numpy(self) -> np.ndarray:
        """Return a view, valid as long as this object."""
        offset, dtype, shape = self._numbers
        return self.block.array[offset:].view(dtype).reshape(shape)


def allocator(skew: int = 0) -> Allocator:
    """Return an allocator of arrays that begin `skew` elements into their memory."""

    def empty(shape: tuple[int, ...], dtype: str, device: Device) -> HostArray:
        return HostArray(shape, dtype, skew)

    return Allocator(empty, lambda array: array.pointer)


class Event:
    """An event of a stream. A wait is for the latest record."""

    def __init__(self) -> None:
        self.happened = threading.Event()
        self.happened.set()


class HostRuntime:
    """The host as a device. A stream is a thread that does the queued work.

    Args:
        threads: Threads of a block, at most.
        free: Bytes that `free_bytes` returns.
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
        """Cleared, it stops all streams."""
        self.gate.set()
        self._held: dict[int, threading.Event] = {}

    def hold(self, stream: int) -> threading.Event:
        """Stop a stream until the event that is returned is set."""
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
            del task  # Nothing that the task refers to may live longer.

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

    def kernel(self, kernel: Kernel) -> tuple[ctypes.CDLL, Any, bool]:
        library = built(kernel.source, kernel.options)
        return library, getattr(library, f"call_{kernel.name}"), kernel.name in BARRIERS

    def launch(self, compiled: tuple[ctypes.CDLL, Any, bool], launch: Any, stream: int) -> None:
        library, function, barriers = compiled
        parameters = launch.parameters.tobytes()
        assert launch.block <= self.threads * (2 if launch.kernel.name == "warp_images" else 1)
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
