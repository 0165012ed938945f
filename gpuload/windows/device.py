"""The engine of windows on a GPU: CuPy holds the memory, `kernels/window.cu` does the work in one launch a step."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuload.core.device import Device
from gpuload.delivery import Allocator
from gpuload.gpu.runtime import Bytes, CupyRuntime, Runtime
from gpuload.gpu.staging import ALIGNED, Slot, Staging
from gpuload.sources import Series
from gpuload.windows.job import Cut, WindowJob
from gpuload.windows.launch import SOURCE, Drawn, Launcher, Outputs, Place
from gpuload.windows.reference import gatherer
from gpuload.windows.step import Rows, WindowStep

_PIECE = 2**18
"""Bytes gathered at once: a piece is copied twice, the second time out of the processor's cache."""
_UPLOAD = 2**26
"""Bytes of a series copied to the device at once."""


@dataclass(frozen=True)
class _Resident:
    """An array on the device."""

    memory: Any
    """Keeps it there."""
    address: int
    """Of row 0."""
    pitch: int
    """Bytes from row to row."""


_resident: weakref.WeakKeyDictionary[Series, dict[tuple[str, str], _Resident]] = weakref.WeakKeyDictionary()
_uploading = threading.Lock()


def _on_device(array: Any) -> bool:
    return not isinstance(array, np.ndarray)


def _make_resident(series: Series, name: str, runtime: Runtime) -> _Resident:
    """The series' `values` or `targets` on the device: where they lie, or copied there once for all engines."""
    with _uploading:
        held = _resident.setdefault(series, {})
        key = (runtime.name, name)
        if key not in held:
            array = getattr(series, name)
            held[key] = _in_place(array) if _on_device(array) else _uploaded(series, array, runtime)
        return held[key]


def _in_place(array: Any) -> _Resident:
    if not array[:1].flags.c_contiguous:
        array = array.copy(order="C")
    # Whatever made the array may be running still, on a stream that we do not know.
    array.device.synchronize()
    return _Resident(array, int(array.data.ptr), int(array.strides[0]))


def _uploaded(series: Series, array: NDArray[Any], runtime: Runtime) -> _Resident:
    series.check_files()
    row = _row(array)
    memory = runtime.memory(max(1, len(array) * row))
    rows = max(1, _UPLOAD // max(1, row))
    for first in range(0, len(array) if row else 0, rows):
        part = array[first : first + rows]
        runtime.upload(memory.pointer + first * row, np.ascontiguousarray(part, part.dtype.newbyteorder("=")))
    return _Resident(memory, memory.pointer, row)


def _row(array: Any) -> int:
    """Bytes of a row."""
    return int(np.prod(array.shape[1:], dtype=np.int64)) * int(array.dtype.itemsize)


def _gather_into(array: NDArray[Any], length: int, dilation: int) -> Callable[[Rows, Bytes], None]:
    """A function that copies windows, by their first rows [B], into memory of as many bytes."""
    gather, window = gatherer(array, length, dilation), length * _row(array)
    together = max(1, _PIECE // max(1, window))

    def copy(rows: Rows, out: Bytes) -> None:
        for first in range(0, len(rows), together):
            part = gather(rows[first : first + together])
            out[first * window : (first + len(part)) * window] = part.reshape(-1).view(np.uint8)

    return copy


@dataclass
class _Pending:
    """A step on its way."""

    step: WindowStep
    slot: Slot
    gathered: Future[None] | None = None


class WindowCupyEngine:
    """Cuts steps on a GPU, each with one copy to the device and one launch.

    Args:
        job: What is done.
        device: Where.
        allocator: Makes the arrays that are filled.
        residency: Where the series stays: on the "device"; or on the "host", where threads gather windows ahead of
            time. "auto": on the device, where it takes at most half of the memory that is free there.
        threads: For gathering.
        runtime: What runs copies and launches; None: CuPy on `device`.

    Raises ValueError for targets of a dtype that no GPU has, windows too large, and a series on a GPU with
    `residency="host"`; ImportError where CuPy or NVRTC is missing.
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
        self._kernel = runtime.kernel(SOURCE, self._launcher.kernel, self._launcher.options)
        self._constants = runtime.memory(max(1, len(self._launcher.constants.buffer)))
        if len(self._launcher.constants.buffer):
            runtime.upload(self._constants.pointer, self._launcher.constants.buffer)
        self._source = None if not job.has_targets else "targets" if job.target_channels is None else "values"
        self.residency = self._settled(residency)
        """Where the series is: "device" or "host"."""
        self._values = self._futures = None
        self._pool: ThreadPoolExecutor | None = None
        if self.residency == "device":
            self._values = _make_resident(job.series, "values", runtime)
            self._futures = None if self._source is None else _make_resident(job.series, self._source, runtime)
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
        series = self._job.series
        if residency != "auto":
            return "device" if residency == "device" else "host"
        arrays = {name: getattr(series, name) for name in {"values", self._source or "values"}}
        held = _resident.get(series, {})
        missing = sum(
            len(array) * _row(array)
            for name, array in arrays.items()
            if not _on_device(array) and (self._runtime.name, name) not in held
        )
        fits = missing <= self._runtime.free_bytes() // 2
        return "device" if fits or any(map(_on_device, arrays.values())) else "host"

    @property
    def pending(self) -> int:
        return len(self._pending)

    def submit(self, step: WindowStep) -> None:
        self.bytes_read += step.batch_size * self._job.bytes_of_window
        pending = _Pending(
            step, self._staging.take(_Layout(self._job, step, self._source, self._pool is not None).size)
        )
        if self._pool is not None:
            pending.gathered = self._pool.submit(self._gather, step, pending.slot)
        self._pending.append(pending)

    def _gather(self, step: WindowStep, slot: Slot) -> None:
        job = self._job
        job.series.check_files()
        self._runtime.wait(slot.read)
        parts = _Layout(job, step, self._source, True)
        self._gather_values(step.rows, slot.host.array[parts.values :][: parts.values_size])
        if self._source is not None:
            rows = step.rows + job.window.target_step * job.window.dilation
            self._gather_futures(rows, slot.host.array[parts.futures :][: parts.futures_size])

    def result(self, stream: int | None = None) -> Cut:
        pending = self._pending.popleft()
        try:
            if pending.gathered is not None:
                pending.gathered.result()
            return self._cut(pending.step, pending.slot, stream)
        finally:
            self._staging.give(pending.slot)

    def _cut(self, step: WindowStep, slot: Slot, stream: int | None) -> Cut:
        runtime = self._runtime
        parts = _Layout(self._job, step, self._source, self._pool is not None)
        if self._pool is None:
            runtime.wait(slot.read)
        for offset, numbers in parts.drawn:
            slot.host.array[offset : offset + numbers.nbytes].view(numbers.dtype)[:] = numbers
        own = runtime.stream() if stream is None else stream
        with runtime.allocating(own) if stream is None else contextlib.nullcontext():
            cut = self._empty(step.batch_size)
        base = slot.device.pointer
        values, futures = self._places(parts, base)
        launch = self._launcher.launch(
            step,
            values=values,
            futures=futures,
            constants=self._constants.pointer,
            drawn=Drawn(**{name: base + offset for name, offset in parts.names.items()}),
            outputs=Outputs(
                **{
                    name: 0 if array is None else self._allocator.pointer(array)
                    for name, array in ((name, getattr(cut, name)) for name in Outputs.__dataclass_fields__)
                }
            ),
        )
        runtime.copy(base, slot.host, parts.size, own)
        runtime.launch(self._kernel, launch, own)
        runtime.record(slot.read, own)
        if stream is None:
            runtime.finish(own)
        return cut

    def _places(self, parts: _Layout, base: int) -> tuple[Place, Place | None]:
        job, window = self._job, self._job.window
        if self._values is not None:
            values = Place(address=self._values.address, pitch=self._values.pitch, dilation=window.dilation)
            if self._futures is None:
                return values, None
            return values, Place(address=self._futures.address, pitch=self._futures.pitch, dilation=window.dilation)
        row = _row(job.series.values)
        values = Place(address=base + parts.values, pitch=row, dilation=1, staged=window.length)
        if self._source is None:
            return values, None
        row = _row(getattr(job.series, self._source))
        return values, Place(address=base + parts.futures, pitch=row, dilation=1, staged=window.target_steps)

    def _empty(self, batch: int) -> Cut:
        """The arrays of a step, to be filled."""
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
                # Its thread may be writing still, and the buffer is for the next step.
                pending.gathered.exception()
            self._staging.give(pending.slot)

    def close(self) -> None:
        self.discard()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._staging.close()


class _Layout:
    """Where the parts of a step lie in its buffer."""

    def __init__(self, job: WindowJob, step: WindowStep, source: str | None, staged: bool):
        self.names: dict[str, int] = {}
        self.drawn: list[tuple[int, NDArray[Any]]] = []
        at = 0
        for name in Drawn.__dataclass_fields__:
            numbers = getattr(step, name)
            if numbers is not None:
                self.names[name] = at
                self.drawn.append((at, numbers))
                at += -(-numbers.nbytes // ALIGNED) * ALIGNED
        self.values = self.values_size = self.futures = self.futures_size = 0
        if staged:
            self.values = at
            self.values_size = step.batch_size * job.window.length * _row(job.series.values)
            at += -(-self.values_size // ALIGNED) * ALIGNED
            if source is not None:
                self.futures = at
                self.futures_size = step.batch_size * job.window.target_steps * _row(getattr(job.series, source))
                at += -(-self.futures_size // ALIGNED) * ALIGNED
        self.size = at


def _check(job: WindowJob, residency: str) -> None:
    series = job.series
    if residency not in ("auto", "device", "host"):
        raise ValueError(f"residency must be one of auto, device, host, not {residency!r}")
    if residency == "host":
        for name in ("values", "targets"):
            if getattr(series, name) is not None and _on_device(getattr(series, name)):
                raise ValueError(
                    f"residency='host' is for a series on the host, but its {name} lie on a GPU: leave it out"
                )
    if job.target_channels is None and series.targets is not None:
        dtype = series.targets.dtype
        if (dtype.kind not in "biufc" and dtype.name != "bfloat16") or dtype.itemsize > 16:
            raise ValueError(
                f"targets must be numbers of at most 16 bytes for engine='cupy', but those of the series are {dtype}: "
                "number them with np.unique(targets, return_inverse=True)[1], or pass engine='numpy'"
            )
