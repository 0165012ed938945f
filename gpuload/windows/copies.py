"""Copies of windows and targets, bit by bit: `struct Copy` of `kernels/window/`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from gpuload.gpu.launch import ceil_div, fill, log2

SHARE = 4096
"""Stores of a block, about, if several blocks share a window: 64 kB at 16 bytes each."""


def alignment(*values: int) -> int:
    """Return the largest power of two up to 16 that divides all values."""
    together = math.gcd(16, *(int(value) for value in values))
    return together & -together


@dataclass(frozen=True, kw_only=True)
class Place:
    """The rows that windows are read from."""

    address: int
    """Address of row 0."""
    pitch: int
    """Bytes from one row to the next."""
    dilation: int
    """Rows from one step to the next."""
    staged: int = 0
    """Rows from window to window, if windows were gathered one after another. 0: the rows are those of the series."""

    @property
    def window_alignment(self) -> int:
        """A power of two that divides the address of every window."""
        return alignment(self.address, self.pitch * (self.staged or 1))


class Rows(NamedTuple):
    """The part of each window that is copied."""

    steps: int
    """Number of rows."""
    numbers: int
    """Numbers of a row."""
    size: int
    """Bytes of a number."""
    layout: str
    """Layout of the output."""
    mixed: bool
    """Whether the kernel can write more bytes at once than it reads."""


def fill_copy(structure: Any, rows: Rows, place: Place, out: int, batch: int, threads: int, first: int = 0) -> int:
    """Fill `struct Copy`, and return the number of blocks.

    Args:
        structure: The structure.
        rows: The part of each window.
        place: The rows that it is read from.
        out: Address of the output.
        batch: Number of windows.
        threads: Threads of a block.
        first: Rows from the first row of a window to the first row that is copied.
    """
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
    fill(structure, stores=stores, span=span, pieces=pieces, piece_span=piece_span)
    fill(structure, span_count=shares, piece_span_count=piece_shares, blocks=blocks)
    fill(structure, load=load, store=store, x=x, y=y, z=z)
    return blocks
