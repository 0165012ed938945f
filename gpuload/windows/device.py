"""The engine of windows on a GPU: CuPy holds the memory, and one launch a step does the work."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuload.core.device import Device
from gpuload.delivery import Allocator
from gpuload.gpu.runtime import Bytes, CupyRuntime, Runtime
from gpuload.gpu.staging import Slot, Staging, laid_out
from gpuload.windows.copies import Place
from gpuload.windows.job import Cut, WindowJob
from gpuload.windows.launch import Drawn, Launcher, Outputs
from gpuload.windows.reference import gatherer
from gpuload.windows.resident import make_resident, missing_bytes, on_device, row_bytes
from gpuload.windows.step import Rows, WindowStep

_PIECE = 2**18
"""Bytes gathered at once, so that the second copy of a piece reads the processor's cache."""
_DRAWN = [field.name for field in fields(Drawn)]
_OUTPUTS = [field.name for field in fields(Outputs)]


def _gather_into(array: NDArray[Any], length: int, dilation: int) -> Callable[[Rows, Bytes], None]:
    """Return a function that copies windows, given by their first rows [B], into memory of their size."""
    gather, window = gatherer(array, length, dilation), length * row_bytes(array)
    together = max(1, _PIECE // max(1, window))

    def copy(rows: Rows, out: Bytes) -> None:
        for first in range(0, len(rows), together):
            part = gather(rows[first : first + together])
            out[first * window : (first + len(part)) * window] = part.reshape(-1).view(np.uint8)

    return copy


@dataclass
class _Pending:
    """A submitted step."""

    step: WindowStep
    slot: Slot
    offsets: dict[str, int]
    """Offsets of the step's arrays in the slot, by name; "values" and "futures" are gathered windows."""
    size: int
    """Bytes of them all."""
    gathered: Future[None] | None = None


class WindowCupyEngine:
    """Cuts steps on a GPU, each with one copy to the device and one launch.

    Args:
        job: The job.
        device: The GPU.
        allocator: Makes the arrays of batches.
        residency: Memory that holds the series: "device"; or "host", from where threads gather windows ahead of time.
            "auto": the device, if the series takes at most half of its free memory.
        threads: Threads that gather.
        runtime: Runs copies and launches. None: CuPy on `device`.

    Raises:
        ValueError: If targets have a dtype that no GPU has, if windows are too large, or if the series lies on a GPU
            and `residency` is "host".
        ImportError: If CuPy or NVRTC is missing.
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
        self._job = job
        self._device = device
        self._allocator = allocator
        self._runtime = runtime = runtime or CupyRuntime(device)
        self._launcher = Launcher(job, threads=runtime.threads)
        self._kernel = runtime.kernel(self._launcher.kernel)
        self._constants = runtime.memory(max(1, len(self._launcher.constants.buffer)))
        if len(self._launcher.constants.buffer):
            runtime.upload(self._constants.pointer, self._launcher.constants.buffer)
        self._source = None if not job.has_targets else "targets" if job.target_channels is None else "values"
        self.residency = self._settled(residency)
        """Memory that holds the series: "device" or "host"."""
        self._values = self._futures = None
        self._pool: ThreadPoolExecutor | None = None
        if self.residency == "device":
            self._values = make_resident(job.series, "values", runtime)
            self._futures = None if self._source is None else make_resident(job.series, self._source, runtime)
        else:
            window = job.window
            self._gather_values = _gather_into(job.series.values, window.length, window.dilation)
            if self._source is not None:
                array = getattr(job.series, self._source)
                self._gather_futures = _gather_into(array, window.target_steps, window.dilation)
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gpuload")
        self._pending: deque[_Pending] = deque()
        self._staging = Staging(runtime)

    def _settled(self, residency: str) -> Literal["device", "host"]:
        if residency != "auto":
            return "device" if residency == "device" else "host"
        series, names = self._job.series, {"values", self._source or "values"}
        fits = missing_bytes(series, names, self._runtime) <= self._runtime.free_bytes() // 2
        return "device" if fits or any(on_device(getattr(series, name)) for name in names) else "host"

    @property
    def pending(self) -> int:
        return len(self._pending)

    def submit(self, step: WindowStep) -> None:
        self.bytes_read += step.batch_size * self._job.bytes_of_window
        offsets, size = laid_out(self._sizes(step))
        pending = _Pending(step, self._staging.take(size), offsets, size)
        if self._pool is not None:
            pending.gathered = self._pool.submit(self._gather, pending)
        self._pending.append(pending)

    def _sizes(self, step: WindowStep) -> dict[str, int]:
        """Return the bytes of the step's arrays, by name."""
        drawn = {name: getattr(step, name) for name in _DRAWN}
        sizes = {name: numbers.nbytes for name, numbers in drawn.items() if numbers is not None}
        if self._pool is not None:
            window, series = self._job.window, self._job.series
            sizes["values"] = step.batch_size * window.length * row_bytes(series.values)
            if self._source is not None:
                sizes["futures"] = step.batch_size * window.target_steps * row_bytes(getattr(series, self._source))
        return sizes

    def _gather(self, pending: _Pending) -> None:
        job, slot, rows = self._job, pending.slot, pending.step.rows
        job.series.check_files()
        self._runtime.wait(slot.read)
        self._gather_values(rows, slot.host.array[pending.offsets["values"] :])
        if self._source is not None:
            rows = rows + job.window.target_step * job.window.dilation
            self._gather_futures(rows, slot.host.array[pending.offsets["futures"] :])

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
        with runtime.allocating(own) if stream is None else contextlib.nullcontext():
            cut = self._empty(step.batch_size)
        values, futures = self._places(offsets, base)
        arrays = {name: getattr(cut, name) for name in _OUTPUTS if getattr(cut, name) is not None}
        launch = self._launcher.launch(
            step,
            values=values,
            futures=futures,
            constants=self._constants.pointer,
            drawn=Drawn(**{name: base + offsets[name] for name in drawn}),
            outputs=Outputs(**{name: self._allocator.pointer(array) for name, array in arrays.items()}),
        )
        runtime.copy(base, slot.host, pending.size, own)
        runtime.launch(self._kernel, launch, own)
        runtime.record(slot.read, own)
        if stream is None:
            runtime.finish(own)
        return cut

    def _places(self, offsets: dict[str, int], base: int) -> tuple[Place, Place | None]:
        """Return the rows of values, and those of targets."""
        job, window = self._job, self._job.window
        if self._values is not None:
            values = Place(address=self._values.address, pitch=self._values.pitch, dilation=window.dilation)
            if self._futures is None:
                return values, None
            return values, Place(address=self._futures.address, pitch=self._futures.pitch, dilation=window.dilation)
        row = row_bytes(job.series.values)
        values = Place(address=base + offsets["values"], pitch=row, dilation=1, staged=window.length)
        if self._source is None:
            return values, None
        row = row_bytes(getattr(job.series, self._source))
        return values, Place(address=base + offsets["futures"], pitch=row, dilation=1, staged=window.target_steps)

    def _empty(self, batch: int) -> Cut:
        """Return new arrays for a step."""
        job, window = self._job, self._job.window

        def empty(shape: tuple[int, ...], dtype: str) -> Any:
            return self._allocator.empty(shape, dtype, self._device)

        inputs = job.arranged(batch, window.length, job.item)
        targets = None
        if job.has_targets:
            raw = job.series.targets if job.target_channels is None else None
            targets = empty(job.targets_shape(batch), job.out_dtype if raw is None else raw.dtype.name)
        return Cut(
            inputs=empty(inputs, job.out_dtype),
            targets=targets,
            mask=empty(inputs, "bool") if job.wants("mask") else None,
            mean=empty((batch, *job.item), "float32") if job.wants("mean") else None,
            scale=empty((batch, *job.item), "float32") if job.wants("scale") else None,
            start=empty((batch,), "int64") if job.wants("start") else None,
        )

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
    series = job.series
    if residency == "host":
        for name in ("values", "targets"):
            if getattr(series, name) is not None and on_device(getattr(series, name)):
                raise ValueError(
                    f"residency='host' is for a series on the host, but its {name} lie on a GPU: leave residency out"
                )
    if job.target_channels is None and series.targets is not None:
        dtype = series.targets.dtype
        if (dtype.kind not in "biufc" and dtype.name != "bfloat16") or dtype.itemsize > 16:
            raise ValueError(
                f"targets must be numbers of at most 16 bytes for engine='cupy', but those of the series are {dtype}: "
                "number them with np.unique(targets, return_inverse=True)[1], or pass engine='numpy'"
            )
