"""The kernel of a job, the structures of its parameters, and `struct Copy`: windows or targets bit by bit."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gpuload.core.codes import TYPES
from gpuload.gpu.launch import Kernel, ceil_div, fields_of, fill, log2, options
from gpuload.windows.job import WindowJob

SHARE = 4096
"""Stores of a block, about, if several blocks share a window: 64 kB at 16 bytes each."""

# The structures `Copy` and `Window` of the sources.
COPY = np.dtype(
    fields_of(
        "u8 source out",
        "i8 pitch first staged piece_in window_out piece_out store_out",
        "u4 stores span",
        "i4 pieces piece_span span_count piece_span_count blocks load store x y z",
    ),
    align=True,
)

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


def kernel_of(job: WindowJob) -> Kernel:
    """Return the kernel that does a job."""
    window, name = job.window, job.dtype.name
    cuts = window.per_sample or window.missing == "forward" or window.draws_time or time_last(job)
    if not cuts and job.plain and not job.wants("mask") and (not job.has_targets or copies_targets(job)):
        return Kernel("window_copy.cu", "window_copy", options())
    if job.plain:
        # Only a mask needs to tell numbers from NaN; for all else, elements of one size are alike.
        floating = job.wants("mask") and job.dtype.kind not in "biu"
        kind = TYPES[name] if floating else f"u{8 * job.dtype.itemsize}"
        made = options(IN=kind, OUT=kind, COMPUTE=kind, PLAIN=1)
    else:
        made = options(IN=TYPES[name], OUT=TYPES[job.out_dtype], COMPUTE=TYPES[compute_dtype(job).name])
    return Kernel("window.cu", "window_cut" if cuts else "window_map", made)


def compute_dtype(job: WindowJob) -> np.dtype[np.generic]:
    """Return the dtype that the kernel computes in."""
    if job.plain:
        return job.dtype
    if not job.window.computes and job.dtype.name in ("int64", "uint64"):
        # One rounding, as in NumPy's cast: float64 does not hold all values.
        return np.dtype(np.float32)
    return np.dtype(job.compute_dtype)


def copies_targets(job: WindowJob) -> bool:
    """Return whether targets are whole rows, bit by bit."""
    chosen = job.target_channels
    if chosen is None:
        return job.has_targets
    return job.plain and np.array_equal(chosen, np.arange(job.channels))


def time_last(job: WindowJob) -> bool:
    """Return whether time is the fastest axis of the inputs in memory, and not the only one."""
    return job.window.layout == "BCL" and job.window.length > 1 and job.channels > 1


def alignment(*values: int) -> int:
    """Return the largest power of two up to 16 that divides all values."""
    together = math.gcd(16, *(int(value) for value in values))
    return together & -together


class Place(NamedTuple):
    """The rows that windows are read from: the series', or windows that were gathered one after another."""

    address: int
    """Address of row 0."""
    pitch: int
    """Bytes from one row to the next."""
    dilation: int
    """Rows from one step to the next."""
    staged: int = 0
    """Rows from one gathered window to the next. 0: the rows are the series'."""

    @property
    def window_alignment(self) -> int:
        """A power of two that divides the address of every window."""
        return alignment(self.address, self.pitch * (self.staged or 1))


class Part(NamedTuple):
    """The part of each window that is copied."""

    steps: int
    numbers: int
    """Numbers of a step."""
    size: int
    """Bytes of a number."""
    layout: str
    """Layout of the output."""
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
