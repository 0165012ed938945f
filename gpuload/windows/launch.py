"""Launches of the kernels of windows: their parameters, and the shares of blocks and threads in a step. NumPy only."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuload.core.codes import MISSING, PER_SAMPLE, itemsize
from gpuload.gpu.launch import LARGEST, THREADS, Launch, ceil_div, fill, log2
from gpuload.windows.job import WindowJob
from gpuload.windows.kernel import WINDOW, compute_dtype, copies_targets, kernel_of, time_last
from gpuload.windows.step import WindowStep

Addresses = dict[str, int]

_SHARED_MEMORY = 48 * 1024  # Bytes that a block gets on every GPU without asking.
_TILE = 40 * 1024  # Bytes of them that hold values.
_TABLE = 4096  # Entries of the table of last present values, at most.
SHARE = 4096
"""Stores of a block, about, if several blocks share a window: 64 kB at 16 bytes each."""


def alignment(*values: int) -> int:
    """Return the largest power of two up to 16 that divides all values."""
    together = math.gcd(16, *(int(value) for value in values))
    return together & -together


class Place(NamedTuple):
    """The rows that windows are read from: the series', or windows that were gathered one after another.

    Row 0 is at `address`, and `pitch` bytes lead to the next row; `dilation` rows lead from step to step, and `staged`
    rows from one gathered window to the next. 0: the rows are the series'.
    """

    address: int
    pitch: int
    dilation: int
    staged: int = 0

    @property
    def window_alignment(self) -> int:
        """A power of two that divides the address of every window."""
        return alignment(self.address, self.pitch * (self.staged or 1))


class Part(NamedTuple):
    """The part of each window that is copied: steps of so many numbers of `size` bytes, to an output in a layout."""

    steps: int
    numbers: int
    size: int
    layout: str
    mixed: bool
    """Whether the kernel can write more bytes at once than it reads."""


def fill_copy(structure: Any, part: Part, place: Place, out: int, batch: int, threads: int, first: int = 0) -> int:
    """Fill `struct Copy`, and return the number of blocks.

    The copy of each of `batch` windows begins `first` rows after its first row, and goes to the address `out`.
    """
    pieces, numbers, size, layout, mixed = part
    row = numbers * size
    piece, piece_in = row, place.dilation * place.pitch
    window_out, piece_out = (row, batch * row) if layout == "LBC" else (pieces * row, row)
    if layout == "BCL" and pieces > 1 and numbers > 1:
        load = store = size
        piece_out, store_out = size, pieces * size
    else:
        if piece_in == row == piece_out or pieces == 1:
            piece, pieces = pieces * row, 1
        inner = (piece_in, piece_out) if pieces > 1 else (0, 0)
        load = alignment(place.window_alignment, inner[0], piece)
        store = alignment(out, window_out, inner[1], piece)
        if store != 16 or not mixed:
            load = store = min(load, store)
        store_out = store
    stores = piece // store
    most = log2(threads)
    x = min(most, log2(stores) if stores <= 32 else max(5, log2(ceil_div(stores, 4))))
    y = min(most - x, log2(pieces))
    z = min(most - x - y, log2(batch))
    span = min(stores, SHARE)
    piece_span = min(pieces, max(1 << y, SHARE // max(1, stores)))
    shares, piece_shares = max(1, ceil_div(stores, max(1, span))), ceil_div(pieces, piece_span)
    blocks = ceil_div(batch, 1 << z) * shares * piece_shares
    fill(structure, source=place.address, out=out, pitch=place.pitch, first=first, staged=place.staged)
    fill(structure, piece_in=piece_in, window_out=window_out, piece_out=piece_out, store_out=store_out)
    fill(structure, stores=stores, span=span, span_count=shares, load=load, store=store, x=x, y=y, z=z)
    fill(structure, pieces=pieces, piece_span=piece_span, piece_span_count=piece_shares, blocks=blocks)
    return blocks


class Launcher:
    """Makes launches for one job, of blocks of at most `threads` threads, a power of two up to 256.

    Raises ValueError if windows are too large.
    """

    def __init__(self, job: WindowJob, *, threads: int = THREADS):
        window = job.window
        of_values, of_targets = job.dtype.itemsize, job.targets.dtype.itemsize if job.has_targets else 0
        # A cast makes at most 8 bytes of a number.
        inputs, targets = window.length * job.channels, window.target_steps * job.target_numbers
        largest = max(inputs * max(8, of_values), targets * max(8, of_targets))
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
        offsets, data = {}, b""
        for name, array in arrays.items():
            if array is not None:
                offsets[name] = len(data)
                data += array.tobytes() + bytes(-array.nbytes % 16)
        return np.frombuffer(data, np.uint8), offsets

    def launch(
        self, step: WindowStep, places: dict[str, Place], constants: int, drawn: Addresses, outputs: Addresses
    ) -> Launch:
        """Return the launch that fills `outputs`, given by the names in `Cut`, for a step.

        The step's numbers are at `drawn`, by their names in `WindowStep`, and `self.constants` are at `constants`.
        `places` are "values" of the series and, if there are targets, "futures": its targets or values.
        """
        values, futures, mask = places["values"], places.get("futures"), outputs.get("mask", 0)
        batch = step.batch_size
        if batch not in self._templates:
            self._templates[batch] = self._template(batch)
        template = self._templates[batch]
        grid, block = template.grid, template.block
        p: Any = template.parameters.copy()
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
        return replace(template, parameters=p, grid=max(1, grid))

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
        p: Any = np.zeros((), WINDOW)
        p["batch"], p["length"], p["channels"] = batch, window.length, job.channels
        if self.kernel.name == "window_copy":
            return Launch(kernel=self.kernel, parameters=p, grid=0, block=self._threads)
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
        return Launch(kernel=self.kernel, parameters=p, grid=grid, block=block, shared=shared)

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
