"""What `kernels/window.cu` is told: its parameters, and how a step is shared out among blocks and threads.

NumPy only. Addresses are plain numbers here, so that the same launch runs on a GPU and, in the tests, on the host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuload.gpu.launch import OPTIONS, THREADS, Launch, ceil_div, fields_of, log2
from gpuload.windows.job import WindowJob
from gpuload.windows.step import WindowStep

SOURCE = "window.cu"

_TYPES = {"bool": "u8", "float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"} | {
    f"{sign}int{bits}": f"{sign or 'i'}{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_MISSING = {"keep": 0, "omit": 0, "zero": 1, "forward": 2}
_PER_SAMPLE = {None: 0, "center": 1, "standardize": 2}

_LARGEST = 2**31 - 2**16
"""Bytes of a window, at most: inside a window the kernel counts in 32 bits."""
_SHARE = 4096
"""Stores of a block, about, where a window is shared out among several: 64 kB at 16 bytes each."""
_SHARED_MEMORY = 48 * 1024
"""Bytes a block may have everywhere without asking for more."""
_TILE = 40 * 1024
"""Bytes of the part of it that holds values."""
_TABLE = 4096
"""Entries of the table of last present values, at most."""


COPY = np.dtype(
    fields_of(
        "u8 source out",
        "i8 pitch first staged piece_in window_out piece_out store_out",
        "u4 stores span",
        "i4 pieces piece_span span_count piece_span_count blocks load store x y z",
    ),
    align=True,
)
"""`struct Copy` of the source."""

WINDOW = np.dtype(
    [
        *fields_of(
            "u8 rows pace factors positions mean inverse target_channels target_places target_tiles",
            "u8 values inputs targets mask means scales start",
            "i8 pitch staged",
            "u8 futures",
            "i8 futures_first futures_staged window_out step_out channel_out",
            "i8 target_window_out target_step_out target_place_out",
            "f8 jitter",
            "u8 seed",
            "u4 epoch",
            "i4 batch length dilation futures_dilation channels target_steps per_sample missing running wide",
            "i4 blocks x y z",
            "u4 span",
            "i4 span_count jump_steps jump_channels",
            "i4 tile_channels tile_steps tile_pitch tiles time_last whole segment segments",
            "i4 sums_at counts_at moments_at table_at shared",
            "i4 target_blocks target_r target_z target_x target_time_last",
        ),
        ("moved", COPY),
        ("labels", COPY),
    ],
    align=True,
)
"""`struct Window` of the source."""


def options(job: WindowJob) -> tuple[str, ...]:
    """What the source is compiled with for a job."""
    if entry(job) == "window_copy":
        return OPTIONS
    name = job.dtype.name
    if job.plain:
        # Only a mask has to tell a number from NaN; else all elements of one size are alike.
        floating = job.wants("mask") and job.dtype.kind not in "biu"
        kind = _TYPES[name] if floating else f"u{8 * job.dtype.itemsize}"
        return (*OPTIONS, f"-DIN={kind}", f"-DOUT={kind}", f"-DCOMPUTE={kind}", "-DPLAIN")
    compute = np.dtype(job.compute_dtype)
    if not job.window.computes and name in ("int64", "uint64"):
        # Rounded once, as NumPy casts them: float64 does not hold them.
        compute = np.dtype(np.float32)
    return (*OPTIONS, f"-DIN={_TYPES[name]}", f"-DOUT={_TYPES[job.out_dtype]}", f"-DCOMPUTE={_TYPES[compute.name]}")


def entry(job: WindowJob) -> str:
    """The kernel that does a job."""
    window = job.window
    if window.per_sample or window.missing == "forward" or window.draws_time or _time_last(job, window.length):
        return "window_cut"
    if job.plain and not job.wants("mask") and (not job.has_targets or copies_targets(job)):
        return "window_copy"
    return "window_map"


def copies_targets(job: WindowJob) -> bool:
    """Whether targets are, bit by bit, whole rows."""
    if not job.has_targets:
        return False
    chosen = job.target_channels
    return chosen is None or (job.plain and np.array_equal(chosen, np.arange(job.channels)))


def _time_last(job: WindowJob, steps: int, numbers: int | None = None) -> bool:
    """Whether time really is the fastest axis of an array in memory."""
    return job.window.layout == "BCL" and steps > 1 and (job.channels if numbers is None else numbers) > 1


def _alignment(*values: int) -> int:
    """The largest power of two, 16 at most, that divides all of them."""
    together = math.gcd(16, *(int(value) for value in values))
    return together & -together


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where rows lie that windows are read from."""

    address: int
    """Of row 0."""
    pitch: int
    """Bytes from one row to the next."""
    dilation: int
    """Rows from one step to the next."""
    staged: int = 0
    """Rows from window to window, where windows were gathered one after another; 0: they lie in the series."""

    @property
    def window_alignment(self) -> int:
        """A power of two that divides the address of every window."""
        return _alignment(self.address, self.pitch * (self.staged or 1))


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The addresses of the arrays that a step fills; 0: not asked for."""

    inputs: int
    targets: int = 0
    mask: int = 0
    mean: int = 0
    scale: int = 0
    start: int = 0


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The addresses of a step's numbers, [batch] each; 0: it has none."""

    rows: int
    pace: int = 0
    factors: int = 0
    positions: int = 0


@dataclass(frozen=True)
class Constants:
    """What a job's launches read that never changes, and where in one buffer each array of it begins."""

    buffer: NDArray[np.uint8]
    offsets: dict[str, int] = field(default_factory=dict)


class Launcher:
    """Makes launches of one job.

    Args:
        job: What is done.
        threads: Of a block, at most; a power of two, 256 at most.
    """

    def __init__(self, job: WindowJob, *, threads: int = THREADS):
        window = job.window
        row = job.channels * job.dtype.itemsize
        largest = max(window.length * max(row, 8 * job.channels), window.target_steps * _row_of_targets(job))
        if largest > _LARGEST:
            raise ValueError(
                f"length={window.length} and horizon={window.horizon} are too large for engine='cupy': one window of "
                f"{job.channels} channels takes {largest} bytes, and the most is {_LARGEST}; pass engine='numpy'"
            )
        self.job = job
        self.kernel = entry(job)
        self.options = options(job)
        self._threads = threads
        self._copies_targets = copies_targets(job)
        compute = next((name[10:] for name in self.options if name.startswith("-DCOMPUTE=")), "u8")
        self._compute_size = int(compute.lstrip("abcdefghijklmnopqrstuvwxyz")) // 8
        self._tile_channels, self._tile_steps, self._staged_tile = self._tile()
        self.constants = self._constants()
        self._moved = _Rows(window.length, job.channels, job.dtype.itemsize, window.layout, True)
        numbers = int(np.prod(job.target_item, dtype=np.int64)) if job.has_targets else 0
        layout = window.layout if window.horizon else "BLC"
        self._labels = _Rows(window.target_steps, numbers, _item_of_targets(job), layout, False)
        self._templates: dict[int, tuple[NDArray[np.void], int, int, int]] = {}

    def _tile(self) -> tuple[int, int, bool]:
        """Channels and steps of what one block of `window_cut` does of a window, and whether shared memory holds it."""
        window, size = self.job.window, self._compute_size
        channels = most = max(1, min(self.job.channels, 32, self._threads))
        if not (window.per_sample or window.missing == "forward" or window.draws_time):
            return channels, min(window.length, 64), True
        # Fewer channels than these would read too little of each row at once.
        while window.length * (channels | 1) * size > _TILE and channels > 8:
            channels = ceil_div(channels, 2)
        if window.length * (channels | 1) * size > _TILE:
            return most, window.length, False
        return channels, window.length, True

    def _constants(self) -> Constants:
        job = self.job
        arrays: dict[str, NDArray[Any]] = {}
        if job.mean is not None:
            arrays["mean"] = job.mean
        if job.inverse is not None:
            arrays["inverse"] = job.inverse
        chosen = job.target_channels
        if chosen is not None and not self._copies_targets:
            tile = self._tile_channels if self.kernel == "window_cut" else max(1, job.channels)
            order = np.argsort(chosen // tile, kind="stable").astype(np.int32)
            edges = np.arange(ceil_div(max(1, job.channels), tile) + 1) * tile
            arrays["target_channels"], arrays["target_places"] = chosen[order], order
            arrays["target_tiles"] = np.searchsorted(chosen[order], edges).astype(np.int32)
            if self.kernel != "window_cut":
                arrays["target_tiles"] = np.array([0, len(chosen)], np.int32)
        offsets, pieces, at = {}, [], 0
        for name, array in arrays.items():
            offsets[name] = at
            data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
            pieces += [data, np.zeros(-len(data) % 16, np.uint8)]
            at += len(data) + -len(data) % 16
        return Constants(np.concatenate(pieces) if pieces else np.zeros(0, np.uint8), offsets)

    def launch(
        self,
        step: WindowStep,
        *,
        values: Place,
        futures: Place | None,
        constants: int,
        drawn: Drawn,
        outputs: Outputs,
    ) -> Launch:
        """The launch that fills `outputs` for a step.

        Args:
            step: What was planned; only its size, seed and epoch are looked at.
            values: The values of the series, or windows of them.
            futures: What targets are read from: the targets of the series, its values, or windows of either.
                None: there are none.
            constants: The address of `self.constants.buffer` on the device.
            drawn: The step's numbers on the device.
            outputs: What is written.
        """
        batch = step.batch_size
        template = self._templates.get(batch)
        if template is None:
            template = self._templates[batch] = self._template(batch)
        parameters, grid, block, shared = template[0].copy(), *template[1:]
        p: Any = parameters
        p["rows"], p["pace"], p["factors"], p["positions"] = drawn.rows, drawn.pace, drawn.factors, drawn.positions
        p["start"] = outputs.start
        if self.kernel == "window_copy":
            grid += _fill_copy(p["moved"], self._moved, values, outputs.inputs, batch, block)
        else:
            for name, offset in self.constants.offsets.items():
                p[name] = constants + offset
            p["values"], p["pitch"], p["staged"], p["dilation"] = (
                values.address,
                values.pitch,
                values.staged,
                values.dilation,
            )
            p["inputs"], p["mask"] = outputs.inputs, outputs.mask
            p["means"], p["scales"] = outputs.mean, outputs.scale
            p["seed"], p["epoch"] = step.seed, step.epoch % 2**32
            self._align(p, values, outputs)
        if futures is not None:
            first = 0 if futures.staged else self.job.window.target_step * futures.dilation
            if self._copies_targets:
                grid += _fill_copy(p["labels"], self._labels, futures, outputs.targets, batch, block, first)
            else:
                p["targets"], p["futures"], p["futures_first"] = outputs.targets, futures.address, first
                p["futures_staged"], p["futures_dilation"] = futures.staged, futures.dilation
        return Launch(kernel=self.kernel, parameters=parameters, grid=max(1, grid), block=block, shared=shared)

    def _align(self, p: Any, values: Place, outputs: Outputs) -> None:
        """How wide `window_map` may read and both kernels may write."""
        job = self.job
        row, numbers = job.channels * job.dtype.itemsize, job.window.length * job.channels
        if (values.dilation == 1 and values.pitch == row) or job.window.length == 1:
            p["running"] = 2 if values.window_alignment % min(16, 4 * job.dtype.itemsize) == 0 else 1
        size = np.dtype("uint16" if job.out_dtype == "bfloat16" else job.out_dtype).itemsize
        p["wide"] = (
            job.window.layout != "LBC"
            and numbers % 4 == 0
            and _alignment(outputs.inputs) % min(16, 4 * size) == 0
            and _alignment(outputs.mask) % 4 == 0
        )

    def _template(self, batch: int) -> tuple[NDArray[np.void], int, int, int]:
        """The parameters that depend on the batch's size alone, blocks, threads of a block, and its shared memory."""
        job, window = self.job, self.job.window
        parameters: NDArray[np.void] = np.zeros((), WINDOW)
        p: Any = parameters
        p["batch"], p["length"], p["channels"] = batch, window.length, job.channels
        if self.kernel == "window_copy":
            return parameters, 0, self._threads, 0
        p["jitter"], p["per_sample"], p["missing"] = (
            window.jitter,
            _PER_SAMPLE[window.per_sample],
            _MISSING[window.missing],
        )
        p["window_out"], p["step_out"], p["channel_out"] = _strides(window.layout, batch, window.length, job.channels)
        shape = self._map if self.kernel == "window_map" else self._cut
        grid, block, shared = shape(p, batch)
        if job.target_channels is not None and not self._copies_targets:
            places, steps = len(job.target_channels), window.target_steps
            layout = window.layout if window.horizon else "BLC"
            p["target_steps"] = steps
            p["target_window_out"], p["target_step_out"], p["target_place_out"] = _strides(layout, batch, steps, places)
            time_last = layout == "BCL" and steps > 1
            p["target_time_last"] = time_last
            inner = steps if time_last else min(places, self._tile_channels if shared else places)
            if self.kernel == "window_map":
                most = log2(self._threads)
                p["target_r"] = r = min(most, log2(places * steps))
                p["target_z"] = z = min(most - r, log2(batch))
                p["target_blocks"] = blocks = ceil_div(batch, 1 << z)
                grid += blocks
                block = max(block, 1 << (r + z))
            else:
                r = int(p["x"] + p["y"])
            p["target_x"] = min(r, log2(inner))
        return parameters, grid, block, shared

    def _map(self, p: Any, batch: int) -> tuple[int, int, int]:
        job, most = self.job, log2(self._threads)
        quads = max(1, ceil_div(job.window.length * job.channels, 4))
        x = min(most, log2(quads))
        z = min(most - x, log2(batch))
        span = quads if quads <= _SHARE // 4 else 4 << x
        p["x"], p["z"], p["span"], p["span_count"] = x, z, span, ceil_div(quads, span)
        p["jump_steps"], p["jump_channels"] = divmod(4 << x, max(1, job.channels))
        p["blocks"] = blocks = ceil_div(batch, 1 << z) * ceil_div(quads, span)
        return blocks, 1 << (x + z), 0

    def _cut(self, p: Any, batch: int) -> tuple[int, int, int]:
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
        p["tiles"], p["span_count"] = tiles, shares
        p["time_last"] = _time_last(job, window.length)
        p["whole"] = tiles == shares == 1 and (
            window.layout == "BLC" or (window.layout == "BCL" and not p["time_last"])
        )
        p["jump_steps"], p["jump_channels"] = divmod(4 << (x + y), max(1, job.channels))
        p["blocks"] = blocks = ceil_div(batch, 1 << z) * tiles * shares
        return blocks, 1 << (x + y + z), max(8, shared << z)


class _Rows(NamedTuple):
    """What is copied of each window."""

    steps: int
    """Rows."""
    numbers: int
    """In a row."""
    size: int
    """Bytes of a number."""
    layout: str
    """Of the output."""
    mixed: bool
    """Whether the kernel can write more at once than it reads."""


def _fill_copy(m: Any, rows: _Rows, place: Place, out: int, batch: int, threads: int, first: int = 0) -> int:
    """Fill `struct Copy` for blocks of that many threads; returns how many blocks it takes."""
    pieces, numbers, size, layout, mixed = rows
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
        load = _alignment(place.window_alignment, inner[0], piece)
        store = _alignment(out, window_out, inner[1], piece)
        if store != 16 or not mixed:
            load = store = min(load, store)
        store_out = store
    stores = piece // store
    most = log2(threads)
    x = min(most, log2(stores) if stores <= 32 else max(5, log2(ceil_div(stores, 4))))
    y = min(most - x, log2(pieces))
    z = min(most - x - y, log2(batch))
    span = stores if stores <= _SHARE else _SHARE
    piece_span = min(pieces, max(1 << y, _SHARE // max(1, stores)))
    shares, piece_shares = max(1, ceil_div(stores, max(1, span))), ceil_div(pieces, piece_span)
    blocks = ceil_div(batch, 1 << z) * shares * piece_shares
    m["source"], m["out"], m["pitch"], m["first"], m["staged"] = (
        place.address,
        out,
        place.pitch,
        first,
        place.staged,
    )
    m["piece_in"], m["window_out"], m["piece_out"], m["store_out"] = piece_in, window_out, piece_out, store_out
    m["stores"], m["span"], m["pieces"], m["piece_span"] = stores, span, pieces, piece_span
    m["span_count"], m["piece_span_count"], m["blocks"] = shares, piece_shares, blocks
    m["load"], m["store"], m["x"], m["y"], m["z"] = load, store, x, y, z
    return blocks


def _item_of_targets(job: WindowJob) -> int:
    """Bytes of one number of the targets."""
    targets = job.series.targets
    return int(targets.dtype.itemsize if job.target_channels is None and targets is not None else job.dtype.itemsize)


def _row_of_targets(job: WindowJob) -> int:
    """Bytes of one row of the targets, before or after a cast."""
    if not job.has_targets:
        return 0
    return int(np.prod(job.target_item, dtype=np.int64)) * max(8, _item_of_targets(job))


def _strides(layout: str, batch: int, steps: int, numbers: int) -> tuple[int, int, int]:
    """Elements from window to window, from step to step, and from number to number."""
    if layout == "LBC":
        return numbers, batch * numbers, 1
    return steps * numbers, *((1, steps) if layout == "BCL" else (numbers, 1))
