"""The engine of windows on a GPU: CuPy holds the memory, and one launch a step does the work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpuload.core.device import Device
from gpuload.delivery import Allocator
from gpuload.gpu.runtime import Bytes, CupyRuntime, Runtime
from gpuload.gpu.staging import Slot, Staging, laid_out
from gpuload.windows.job import Cut, WindowJob
from gpuload.windows.launch import Launcher, Place
from gpuload.windows.reference import gatherer
from gpuload.windows.resident import Resident, make_resident, missing_bytes, on_device, row_bytes
from gpuload.windows.step import Rows, WindowStep

_PIECE = 2**18
"""Bytes gathered at once, so that the second copy of a piece reads the processor's cache."""
_DRAWN = ("rows", "pace", "factors", "positions")


class _Part(NamedTuple):
    """Values or targets of the series, and the steps of each window that are read."""

    name: str
    array: Any
    steps: int
    first: int
    """Rows from the first row of a window to its first step that is read."""

    @property
    def window_bytes(self) -> int:
        return self.steps * row_bytes(self.array)

    def gather(self, dilation: int) -> Callable[[Rows, Bytes], None]:
        """Return a function that copies the part of windows, given by their first rows [B], into memory."""
        gather, size = gatherer(self.array, self.steps, dilation), self.window_bytes
        together = max(1, _PIECE // max(1, size))

        def copy(rows: Rows, out: Bytes) -> None:
            for start in range(0, len(rows), together):
                part = gather(rows[start : start + together] + self.first)
                out[start * size : (start + len(part)) * size] = part.reshape(-1).view(np.uint8)

        return copy


@dataclass
class _Pending:
    """A submitted step, and the offsets of its arrays in the first `size` bytes of the slot."""

    step: WindowStep
    slot: Slot
    offsets: dict[str, int]
    size: int
    gathered: Future[None] | None = None


class WindowCupyEngine:
    """Cuts steps on a GPU, each with one copy to the device and one launch, into arrays of the allocator.

    Args:
        residency: Memory that holds the series: "device"; or "host", from where `threads` threads gather windows ahead
            of time. "auto": the device, if the series takes at most half of its free memory.
        runtime: Runs copies and launches. None: CuPy on `device`.
    """

    alive = True

    def __init__(
        self,
        job: WindowJob,
        *,
        device: Device,
        allocator: Allocator,
        residency: str = "auto",
        threads: int,
        runtime: Runtime | None = None,
    ):
        _check(job, residency)
        self.bytes_read = 0
        self._job, self._device, self._allocator = job, device, allocator
        self._runtime = runtime = runtime or CupyRuntime(device)
        self._launcher = Launcher(job, threads=runtime.threads)
        self._kernel = runtime.kernel(self._launcher.kernel)
        constants = self._launcher.constants
        self._constants = runtime.memory(max(1, len(constants)))
        if len(constants):
            runtime.upload(self._constants.pointer, constants)
        series, window = job.series, job.window
        self._parts = {"values": _Part("values", series.values, window.length, 0)}
        if job.target_source:
            first = window.target_step * window.dilation
            self._parts["futures"] = _Part(job.target_source, job.targets, window.target_steps, first)
        if residency == "auto":
            parts = self._parts.values()
            missing = missing_bytes(series, {part.name for part in parts}, runtime)
            fits = missing <= runtime.free_bytes() // 2 or any(on_device(part.array) for part in parts)
            residency = "device" if fits else "host"
        self.residency = residency
        self._held: dict[str, Resident] = {}
        self._gathers: dict[str, Callable[[Rows, Bytes], None]] = {}
        self._pool: ThreadPoolExecutor | None = None
        if self.residency == "device":
            self._held = {key: make_resident(series, part.name, runtime) for key, part in self._parts.items()}
        else:
            self._gathers = {key: part.gather(window.dilation) for key, part in self._parts.items()}
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gpuload")
        self._pending: deque[_Pending] = deque()
        self._staging = Staging(runtime)

    @property
    def pending(self) -> int:
        return len(self._pending)

    def submit(self, step: WindowStep) -> None:
        self.bytes_read += step.batch_size * self._job.bytes_of_window
        drawn = {name: getattr(step, name) for name in _DRAWN}
        sizes = {name: numbers.nbytes for name, numbers in drawn.items() if numbers is not None}
        sizes |= {key: step.batch_size * self._parts[key].window_bytes for key in self._gathers}
        offsets, size = laid_out(sizes)
        pending = _Pending(step, self._staging.take(size), offsets, size)
        if self._pool is not None:
            pending.gathered = self._pool.submit(self._gather, pending)
        self._pending.append(pending)

    def _gather(self, pending: _Pending) -> None:
        self._job.series.check_files()
        self._runtime.wait(pending.slot.read)
        for key, gather in self._gathers.items():
            gather(pending.step.rows, pending.slot.host.array[pending.offsets[key] :])

    def result(self, stream: int | None = None) -> Cut:
        pending = self._pending.popleft()
        try:
            if pending.gathered is not None:
                pending.gathered.result()
            return self._cut(pending, stream)
        finally:
            self._staging.give(pending.slot)

    def _cut(self, pending: _Pending, stream: int | None) -> Cut:
        runtime, step, slot, offsets = self._runtime, pending.step, pending.slot, pending.offsets
        if self._pool is None:
            runtime.wait(slot.read)
        base, drawn = slot.device.pointer, [name for name in _DRAWN if name in offsets]
        for name in drawn:
            slot.write(offsets[name], getattr(step, name))
        own = runtime.stream() if stream is None else stream
        with runtime.allocating(stream):
            arrays = self._empty(step.batch_size)
        launch = self._launcher.launch(
            step,
            {key: self._place(key, part, base, offsets) for key, part in self._parts.items()},
            self._constants.pointer,
            {name: base + offsets[name] for name in drawn},
            {name: self._allocator.pointer(array) for name, array in arrays.items()},
        )
        runtime.copy(base, slot.host, pending.size, own)
        runtime.launch(self._kernel, launch, own)
        runtime.record(slot.read, own)
        if stream is None:
            runtime.finish(own)
        return Cut(**arrays)

    def _place(self, key: str, part: _Part, base: int, offsets: dict[str, int]) -> Place:
        if key in self._held:
            return Place(self._held[key].address, self._held[key].pitch, self._job.window.dilation)
        return Place(base + offsets[key], row_bytes(part.array), 1, staged=part.steps)

    def _empty(self, batch: int) -> dict[str, Any]:
        """Return new arrays for a step, by their names in `Cut`."""
        job, channels = self._job, (batch, *self._job.item)
        inputs = job.arranged(batch, job.window.length, job.item)
        shapes = {"inputs": (inputs, job.out_dtype)}
        if job.has_targets:
            shapes["targets"] = (job.targets_shape(batch), job.target_dtype)
        extras = {"mask": (inputs, "bool"), "mean": (channels, "float32"), "scale": (channels, "float32")}
        extras["start"] = ((batch,), "int64")
        shapes |= {name: extras[name] for name in job.window.extras}
        return {name: self._allocator.empty(shape, dtype, self._device) for name, (shape, dtype) in shapes.items()}

    def discard(self) -> None:
        while self._pending:
            pending = self._pending.popleft()
            if pending.gathered is not None and not pending.gathered.cancel():
                # The thread may still write into the buffer, which the next step will use.
                pending.gathered.exception()
            self._staging.give(pending.slot)

    def close(self) -> None:
        self.discard()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._staging.close()


def _check(job: WindowJob, residency: str) -> None:
    """Raise ValueError if the series' arrays are in the wrong place, or targets of a dtype that no GPU has."""
    for name in ("values", "targets") if residency == "host" else ():
        array = getattr(job.series, name)
        if array is not None and on_device(array):
            raise ValueError(
                f"residency='host' is for a series on the host, but its {name} lie on a GPU: leave residency out"
            )
    if job.target_source == "targets":
        dtype = job.targets.dtype
        if (dtype.kind not in "biufc" and dtype.name != "bfloat16") or dtype.itemsize > 16:
            raise ValueError(
                f"targets must be numbers of at most 16 bytes for engine='cupy', but those of the series are {dtype}: "
                "number them with np.unique(targets, return_inverse=True)[1], or pass engine='numpy'"
            )
