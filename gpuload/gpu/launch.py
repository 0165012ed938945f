"""Kernels, their parameters and their launches, as plain data.

NumPy only. Addresses are plain numbers, so that the same launch runs on a GPU and, in tests, on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

THREADS = 256
"""Threads of a block, at most: the `__launch_bounds__` of the sources."""
LARGEST = 2**31 - 2**16
"""Numbers of an image, and bytes of a window, at most: inside of one, kernels count in 32 bits."""


class Kernel(NamedTuple):
    """A function of a file in the folder `kernels`, and the compiler's options."""

    source: str
    name: str
    options: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch of a kernel: `grid` blocks of `block` threads, with `shared` bytes of dynamic memory each.

    `parameters` is a structure without axes: the only argument, by value.
    """

    kernel: Kernel
    parameters: NDArray[np.void]
    grid: int
    block: int
    shared: int = 0


def options(**macros: object) -> tuple[str, ...]:
    """Return the compiler's options for a source with these macros.

    >>> options(IN="u8", CHANNELS=3)
    ('-std=c++17', '--fmad=false', '-DIN=u8', '-DCHANNELS=3')
    """
    return ("-std=c++17", "--fmad=false", *(f"-D{name}={value}" for name, value in macros.items()))


def fields_of(*lines: str) -> list[tuple[str, str]]:
    """Return fields for `np.dtype`, given as lines of a type and the names that have it.

    >>> fields_of("u8 from to", "i4 count")
    [('from', 'u8'), ('to', 'u8'), ('count', 'i4')]
    """
    return [(name, kind) for line in lines for kind, *names in [line.split()] for name in names]


def fill(structure: Any, **fields: Any) -> None:
    """Set fields of a structure."""
    for name, value in fields.items():
        structure[name] = value


def log2(number: int) -> int:
    """Return the logarithm, rounded up."""
    return max(0, int(number) - 1).bit_length()


def ceil_div(number: int, divisor: int) -> int:
    """Return a quotient, rounded up."""
    return -(-number // divisor)
