"""Launches of the kernels of windows: their parameters, and the shares of blocks and threads in a step. NumPy only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.codes import MISSING, PER_SAMPLE, itemsize
from gpuload.gpu.launch import LARGEST, THREADS, Launch, ceil_div, fill, log2
from gpuload.windows.job import WindowJob
from gpuload.windows.kernel import (
    SHARE,
    WINDOW,
    Part,
    Place,
    compute_dtype,
    copies_targets,
    fill_copy,
    kernel_of,
    time_last,
)
from gpuload.windows.step import WindowStep

_SHARED_MEMORY = 48 * 1024
"""Bytes of shared memory that a block gets on every GPU without asking."""
_TILE = 40 * 1024
"""Bytes of it that hold values."""
_TABLE = 4096
"""Entries of the table of last present values, at most."""


class Launcher:
    """Makes launches for one job. Raises ValueError if windows are too large.

    A block has at most `threads` threads, a power of two up to 256.
    """

    def __init__(self, job: WindowJob, *, threads: int = THREADS):
        window = job.window
        of_values, of_targets = job.dtype.itemsize, job.targets.dtype.itemsize if job.has_targets else 0
        # A cast makes at most 8 bytes of a number.
        largest = max(
            window.length * job.channels * max(8, of_values),
            window.target_steps * job.target_numbers * max(8, of_targets),
        )
        if largest > LARGEST:
            raise ValueError(
                f"length={window.length} and horizon={window.horizon} are too large for engine='cupy': one window of "
                f"{job.channels} channels takes {largest} bytes, and the most is {LARGEST}; pass engine='numpy'"
            )
        self.job, self.kernel, self._threads = job, kernel_of(job), threads
        self._copies_targets = copies_targets(job)
        self._compute_size = compute_dtype(job).itemsize
        self._tile_channels, self._tile_steps, self._staged_tile = self._tile()
        self.constants, self._offsets = self._constants()
        self._target_layout = window.layout if window.horizon else "BLC"
        self._moved = Part(window.length, job.channels, of_values, window.layout, True)
        self._labels = Part(window.target_steps, job.target_numbers, of_targets, self._target_layout, False)
        self._templates: dict[int, Launch] = {}

    def _tile(self) -> tuple[int, int, bool]:
        """Return the channels and steps of a tile of `window_cut`, and whether shared memory holds it."""
        window, size = self.job.window, self._compute_size
        channels = most = max(1, min(self.job.channels, 32, self._threads))
        if not (window.per_sample or window.missing == "forward" or window.draws_time):
            return channels, min(window.length, 64), True
        # Tiles of fewer than 8 channels would read too little of each row at once.
        while window.length * (channels | 1) * size > _TILE and channels > 8:
            channels = ceil_div(channels, 2)
        if window.length * (channels | 1) * size > _TILE:
            return most, window.length, False
        return channels, window.length, True

    def _constants(self) -> tuple[NDArray[np.uint8], dict[str, int]]:
        """Return the arrays that all launches of the job read, in one buffer, and the offset of each."""
        job = self.job
        arrays: dict[str, NDArray[Any] | None] = {"mean": job.mean, "inverse": job.inverse}
        chosen = job.target_channels
        if chosen is not None and not self._copies_targets:
            tile = self._tile_channels if self.kernel.name == "window_cut" else max(1, job.channels)
            order = np.argsort(chosen // tile, kind="stable").astype(np.int32)
            edges = np.arange(ceil_div(max(1, job.channels), tile) + 1) * tile
            arrays["target_channels"], arrays["target_places"] = chosen[order], order
            arrays["target_tiles"] = np.searchsorted(chosen[order], edges).astype(np.int32)
            if self.kernel.name != "window_cut":
                arrays["target_tiles"] = np.array([0, len(chosen)], np.int32)
        offsets, data = {}, b""
        for name, array in arrays.items():
            if array is not None:
                offsets[name] = len(data)
                data += array.tobytes() + bytes(-array.nbytes % 16)
        return np.frombuffer(data, np.uint8), offsets

    def launch(
        self,
        step: WindowStep,
        *,
        values: Place,
        futures: Place | None,
        constants: int,
        drawn: dict[str, int],
        outputs: dict[str, int],
    ) -> Launch:
        """Return the launch that fills `outputs` for a step.

        Args:
            step: The step, of which the size, the seed and the epoch count.
            values: The values of the series, or windows of them.
            futures: The source of the targets: targets or values of the series, or windows of them. None: no targets.
            constants: Address of `self.constants` on the device.
            drawn: Addresses of the step's numbers, by their names in `WindowStep`.
            outputs: Addresses of the arrays that are filled, by their names in `Cut`.
        """
        mask = outputs.get("mask", 0)
        batch = step.batch_size
        template = self._templates.get(batch)
        if template is None:
            template = self._templates[batch] = self._template(batch)
        grid, block, parameters = template.grid, template.block, template.parameters.copy()
        p: Any = parameters
        fill(p, start=outputs.get("start", 0), **drawn)
        if self.kernel.name == "window_copy":
            grid += fill_copy(p["moved"], self._moved, values, outputs["inputs"], batch, block)
        else:
            fill(p, **{name: constants + offset for name, offset in self._offsets.items()})
            fill(p, values=values.address, pitch=values.pitch, staged=values.staged, dilation=values.dilation)
            fill(p, inputs=outputs["inputs"], mask=mask, means=outputs.get("mean", 0), scales=outputs.get("scale", 0))
            fill(p, seed=step.seed, epoch=step.epoch % 2**32)
            self._align(p, values, outputs["inputs"], mask)
        if futures is not None:
            first = 0 if futures.staged else self.job.window.target_step * futures.dilation
            if self._copies_targets:
                grid += fill_copy(p["labels"], self._labels, futures, outputs["targets"], batch, block, first)
            else:
                fill(p, targets=outputs["targets"], futures=futures.address, futures_first=first)
                fill(p, futures_staged=futures.staged, futures_dilation=futures.dilation)
        return replace(template, parameters=parameters, grid=max(1, grid))

    def _align(self, p: Any, values: Place, inputs: int, mask: int) -> None:
        """Set how many elements `window_map` may read, and both kernels may write, at once."""
        job = self.job
        row, numbers = job.channels * job.dtype.itemsize, job.window.length * job.channels
        if (values.dilation == 1 and values.pitch == row) or job.window.length == 1:
            p["running"] = 2 if values.window_alignment % min(16, 4 * job.dtype.itemsize) == 0 else 1
        aligned = inputs % min(16, 4 * itemsize(job.out_dtype)) == 0 and mask % 4 == 0
        p["wide"] = aligned and job.window.layout != "LBC" and numbers % 4 == 0

    def _template(self, batch: int) -> Launch:
        """Return a launch with the parameters that depend on the size of the batch only."""
        job, window = self.job, self.job.window
        parameters: NDArray[np.void] = np.zeros((), WINDOW)
        p: Any = parameters
        p["batch"], p["length"], p["channels"] = batch, window.length, job.channels
        if self.kernel.name == "window_copy":
            return Launch(kernel=self.kernel, parameters=parameters, grid=0, block=self._threads)
        fill(p, jitter=window.jitter, per_sample=PER_SAMPLE[window.per_sample], missing=MISSING[window.missing])
        p["window_out"], p["step_out"], p["channel_out"] = _strides(window.layout, batch, window.length, job.channels)
        shape = self._map if self.kernel.name == "window_map" else self._cut
        grid, block, shared = shape(p, batch)
        if job.target_channels is not None and not self._copies_targets:
            places, steps, layout = len(job.target_channels), window.target_steps, self._target_layout
            p["target_steps"] = steps
            p["target_window_out"], p["target_step_out"], p["target_place_out"] = _strides(layout, batch, steps, places)
            p["target_time_last"] = along_time = layout == "BCL" and steps > 1
            inner = steps if along_time else min(places, self._tile_channels if shared else places)
            if self.kernel.name == "window_map":
                most = log2(self._threads)
                p["target_r"] = r = min(most, log2(places * steps))
                p["target_z"] = z = min(most - r, log2(batch))
                p["target_blocks"] = blocks = ceil_div(batch, 1 << z)
                grid += blocks
                block = max(block, 1 << (r + z))
            else:
                r = int(p["x"] + p["y"])
            p["target_x"] = min(r, log2(inner))
        return Launch(kernel=self.kernel, parameters=parameters, grid=grid, block=block, shared=shared)

    def _map(self, p: Any, batch: int) -> tuple[int, int, int]:
        """Set the shape of `window_map`; return blocks, threads of a block, and its shared memory."""
        job, most = self.job, log2(self._threads)
        quads = max(1, ceil_div(job.window.length * job.channels, 4))
        x = min(most, log2(quads))
        z = min(most - x, log2(batch))
        span = quads if quads <= SHARE // 4 else 4 << x
        p["x"], p["z"], p["span"], p["span_count"] = x, z, span, ceil_div(quads, span)
        p["jump_steps"], p["jump_channels"] = divmod(4 << x, max(1, job.channels))
        p["blocks"] = blocks = ceil_div(batch, 1 << z) * ceil_div(quads, span)
        return blocks, 1 << (x + z), 0

    def _cut(self, p: Any, batch: int) -> tuple[int, int, int]:
        """Set the shape of `window_cut`; return blocks, threads of a block, and its shared memory."""
        job, window, most, size = self.job, self.job.window, log2(self._threads), self._compute_size
        channels, steps = self._tile_channels, self._tile_steps
        x = log2(channels)
        y = min(most, max(x, log2(ceil_div(steps << x, 4)))) - x
        tiles, shares = ceil_div(max(1, job.channels), channels), ceil_div(window.length, steps)
        pitch = channels | 1 if self._staged_tile else 0
        at = ceil_div(steps * pitch * size, 8) * 8
        if window.per_sample:
            p["sums_at"], p["counts_at"] = at, at + (size << (x + y))
            p["moments_at"] = moments = ceil_div(int(p["counts_at"]) + (4 << (x + y)), 8) * 8
            at = moments + channels * 3 * size
        if window.missing == "forward":
            p["segment"] = segment = max(4, log2(ceil_div(window.length, _TABLE // channels)))
            p["segments"] = segments = ceil_div(window.length, 1 << segment)
            p["table_at"], at = at, at + 4 * segments * channels
        shared = ceil_div(at, 8) * 8
        z = min(most - x - y, log2(batch))
        while z and shared << z > _SHARED_MEMORY:
            z -= 1
        p["x"], p["y"], p["z"], p["shared"] = x, y, z, shared
        p["tile_channels"], p["tile_steps"], p["tile_pitch"] = channels, steps, pitch
        p["tiles"], p["span_count"], p["time_last"] = tiles, shares, time_last(job)
        p["whole"] = tiles == shares == 1 and window.layout != "LBC" and not time_last(job)
        p["jump_steps"], p["jump_channels"] = divmod(4 << (x + y), max(1, job.channels))
        p["blocks"] = blocks = ceil_div(batch, 1 << z) * tiles * shares
        return blocks, 1 << (x + y + z), max(8, shared << z)


def _strides(layout: str, batch: int, steps: int, numbers: int) -> tuple[int, int, int]:
    """Return the elements from window to window, from step to step, and from number to number."""
    if layout == "LBC":
        return numbers, batch * numbers, 1
    return steps * numbers, *((1, steps) if layout == "BCL" else (numbers, 1))
