"""The reference engine of windows, NumPy on the CPU, which the CUDA engine must match."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from gpuload.core.codes import EPSILON
from gpuload.core.memory import aligned
from gpuload.plan.noise import normal
from gpuload.windows.job import Cut, WindowJob
from gpuload.windows.step import Floats, Rows, WindowStep

Array = NDArray[Any]


def gatherer(array: Array, length: int, dilation: int) -> Callable[[Rows], Array]:
    """Return a function that copies the windows [B, length, ...] of `array` [rows, ...] from their first rows [B].

    It indexes a view of all windows, which takes no memory. The elements of this view are as large as the memory
    layout allows, a window or a row: NumPy copies a few large elements faster than many small ones.
    """
    item, pitch, dtype = array.shape[1:], array.strides[0], array.dtype
    starts, size = len(array) - (length - 1) * dilation, math.prod(item) * dtype.itemsize
    if dtype.hasobject:  # Python counts references to objects, so their bytes cannot be copied.
        steps = np.arange(length) * dilation
        return lambda rows: array[rows[:, np.newaxis] + steps]
    native = dtype.newbyteorder("=")  # A mapped file may have the other byte order.
    contiguous = array[:1].flags.c_contiguous and (pitch == size or len(array) == 1)
    if length == 1 and contiguous:
        return lambda rows: array.take(rows, 0)[:, np.newaxis].astype(native, copy=False)
    if array[:1].flags.c_contiguous and 0 < length * size < 2**31:
        whole = dilation == 1 and contiguous
        element = array[: length if whole else 1].reshape(-1)
        view = as_strided(
            element.view(f"V{element.nbytes}"),
            (starts,) if whole else (starts, length),
            (pitch,) if whole else (pitch, dilation * pitch),
        )
        shape = (-1, length, *item)
        return lambda rows: view[rows].view(dtype).reshape(shape).astype(native, copy=False)
    strided = as_strided(array, (starts, length, *item), (pitch, dilation * pitch, *array.strides[1:]))
    return lambda rows: np.ascontiguousarray(strided[rows]).astype(native, copy=False)


def along_time(values: Array, steps: Array) -> Array:
    """Return `values` [B, L, C] at `steps` [B, L] or [B, L, C]."""
    return np.take_along_axis(values, steps if steps.ndim == 3 else steps[:, :, np.newaxis], axis=1)


def normalized(values: Array, present: Array, standardize: bool) -> tuple[Array, Array, Array, Array]:
    """Normalize each window [L, C] of `values` by its own numbers.

    A value of the window is subtracted before its mean, so that small changes on a high level keep their digits.
    Returns the values [B, L, C], and [B, 1, C] each: the value subtracted first, the mean of the rest, the scale.
    """
    first = present.argmax(axis=1)[:, np.newaxis]
    about = np.take_along_axis(values, first, axis=1)
    about = np.where(np.take_along_axis(present, first, axis=1), about, 0)
    count = np.maximum(present.sum(axis=1, keepdims=True), 1).astype(values.dtype)
    values = values - about
    mean = np.where(present, values, 0).sum(axis=1, keepdims=True) / count
    values -= mean
    scale = np.ones_like(mean)
    if standardize:
        squares = np.where(present, values, 0) ** 2
        scale = np.sqrt(squares.sum(axis=1, keepdims=True) / count) + values.dtype.type(EPSILON)
        values *= 1 / scale
    return values, about, mean, scale


def carried(values: Array, present: Array) -> Array:
    """Replace each missing value by the last present one before it in the window, or by 0."""
    steps = np.arange(values.shape[1])[np.newaxis, :, np.newaxis]
    last = np.maximum.accumulate(np.where(present, steps, -1), axis=1)
    return np.where(last >= 0, along_time(values, np.maximum(last, 0)), 0)


def paced(length: int, pace: Floats) -> tuple[Array, Array, Array]:
    """Return [B, L] the window step before each output step, the one after it, and the weight of the latter."""
    middle = np.float32((length - 1) / 2)
    place = middle + (np.arange(length, dtype=np.float32) - middle) * pace[:, np.newaxis]
    place = np.clip(place, 0, np.float32(length - 1))
    before = np.floor(place).astype(np.int64)
    return before, np.minimum(before + 1, length - 1), place - before.astype(np.float32)


class Cutter:
    """Makes the arrays of a step. Several threads may call it at once."""

    def __init__(self, job: WindowJob):
        self.job, window = job, job.window
        self._values = gatherer(job.series.values, window.length, window.dilation)
        self._targets = gatherer(job.targets, window.target_steps, window.dilation) if job.has_targets else None

    def __call__(self, step: WindowStep) -> Cut:
        job, window, rows = self.job, self.job.window, step.rows
        job.series.check_files()
        inputs, targets = self._values(rows), None
        if self._targets is not None:
            targets = self._targets(rows + window.target_step * window.dilation)
            if job.target_channels is not None:
                targets = targets.reshape(len(rows), window.target_steps, job.channels).take(job.target_channels, -1)
        extras: dict[str, Array] = {}
        if not job.plain or window.extras:
            inputs = inputs.reshape(len(rows), window.length, job.channels)
            with np.errstate(all="ignore"):  # Overflow gives infinity or NaN without a warning, as on a GPU.
                inputs, targets, extras = self._computed(inputs, targets, step)
        if targets is not None:
            shape = job.targets_shape(len(rows))
            targets = self._arranged(targets, job.target_item) if window.horizon else targets[:, 0].reshape(shape)
        if "mask" in extras:
            extras["mask"] = self._arranged(extras["mask"], job.item)
        for name in {"mean", "scale"} & extras.keys():
            extras[name] = extras[name].astype(np.float32).reshape(len(rows), *job.item)
        return Cut(inputs=self._arranged(inputs, job.item), targets=targets, **extras)

    def _arranged(self, array: Array, item: tuple[int, ...]) -> Array:
        """Return an array [B, L, ...] in the window's layout, contiguous."""
        batch, length, layout = len(array), array.shape[1], self.job.window.layout
        if layout != "BLC":
            array = aligned(array.reshape(batch, length, -1).transpose((0, 2, 1) if layout == "BCL" else (1, 0, 2)))
        return array.reshape(self.job.arranged(batch, length, item))

    def _computed(
        self, raw: Array, targets: Array | None, step: WindowStep
    ) -> tuple[Array, Array | None, dict[str, Array]]:
        """Normalize, augment and cast inputs [B, L, C] and targets [B, H, K]. Returns them and the extras."""
        job, window, channels = self.job, self.job.window, self.job.target_channels
        present = ~np.isnan(raw) if job.dtype.kind not in "biu" else np.ones(raw.shape, bool)
        extras = {"mask": present, "start": step.rows.copy()}
        values, future = raw, None if channels is None else targets
        if window.computes:
            values = raw.astype(job.compute_dtype)
            future = None if future is None else future.astype(job.compute_dtype)
        if window.per_sample is not None:
            values, about, mean, scale = normalized(values, present, window.per_sample == "standardize")
            if future is not None:
                future = (future - about[..., channels] - mean[..., channels]) * (1 / scale[..., channels])
            extras |= {"mean": about + mean, "scale": scale}
        if job.mean is not None:
            values -= job.mean
            future = None if future is None else future - job.mean[channels]
        if job.inverse is not None:
            values *= job.inverse
            future = None if future is None else future * job.inverse[channels]
        if window.missing == "zero":
            values = np.where(present, values, 0)
        elif window.missing == "forward":
            values = carried(values, present)
        if step.pace is not None:
            before, after, share = paced(window.length, step.pace)
            low, high, part = along_time(values, before), along_time(values, after), share[:, :, np.newaxis]
            values = np.where(part > 0, low + (high - low) * part.astype(values.dtype), low)
            extras["mask"] = along_time(present, before) & (along_time(present, after) | (part == 0))
        if step.factors is not None:
            factors = step.factors.astype(values.dtype)[:, np.newaxis, np.newaxis]
            values = values * factors
            future = None if future is None else future * factors
            if "scale" in extras:
                extras["scale"] = extras["scale"] / factors
        if step.positions is not None:
            noise = normal(step.seed, step.epoch, step.positions, window.length * job.channels)
            values = values + np.multiply(noise.reshape(values.shape), window.jitter, dtype=values.dtype)
        if future is not None:
            targets = self._cast(future)
        return self._cast(values), targets, {name: array for name, array in extras.items() if job.wants(name)}

    def _cast(self, values: Array) -> Array:
        # NumPy has no bfloat16: the delivery casts float32 to it.
        name = self.job.out_dtype
        return values if self.job.plain else aligned(values, "float32" if name == "bfloat16" else name)


class WindowNumpyEngine:
    """Cuts windows with NumPy, ahead of time in threads if this takes more than a copy from memory."""

    alive = True

    def __init__(self, job: WindowJob, *, threads: int):
        # Glibc returns freed memory to the system, which must map and clear it again for the next batch, unless a block
        # as large was freed before. This block takes no memory, since nothing is written to it.
        np.empty(31 << 20, np.uint8)
        self._cutter = Cutter(job)
        self._bytes_of_window = job.bytes_of_window
        self.bytes_read = 0
        # Copying from memory takes less time than a switch of threads.
        ahead = job.series.mapped or not job.plain
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gpuload") if ahead else None
        self._results: deque[Callable[[], Cut]] = deque()

    @property
    def pending(self) -> int:
        return len(self._results)

    def submit(self, step: WindowStep) -> None:
        self.bytes_read += step.batch_size * self._bytes_of_window
        cut = functools.partial(self._cutter, step)
        self._results.append(cut if self._pool is None else self._pool.submit(cut).result)

    def result(self, stream: int | None = None) -> Cut:
        return self._results.popleft()()

    def discard(self) -> None:
        self._results.clear()

    def close(self) -> None:
        self.discard()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
