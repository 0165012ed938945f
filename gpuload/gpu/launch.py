"""What a launch of any kernel is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OPTIONS = ("-std=c++17", "--fmad=false")


THREADS = 256
"""Of a block, at most: what `__launch_bounds__` in the source says."""


def fields_of(*lines: str) -> list[tuple[str, str]]:
    return [(name, kind) for line in lines for kind, *names in [line.split()] for name in names]


def log2(number: int) -> int:
    """Of the least power of two that is at least `number`."""
    return max(0, int(number) - 1).bit_length()


def ceil_div(number: int, divisor: int) -> int:
    return -(-number // divisor)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch."""

    kernel: str
    parameters: NDArray[np.void]
    """[] `WINDOW`: the only argument, by value."""
    grid: int
    """Blocks."""
    block: int
    """Threads of a block."""
    shared: int
    """Bytes of dynamic shared memory of a block."""
