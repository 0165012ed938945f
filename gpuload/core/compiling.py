"""How numba compiles code here. Imported by compiled code alone: numba is optional."""

from __future__ import annotations

import functools
from typing import Any

import numba

# Without fastmath, each sum and product is rounded as in SciPy and NumPy.
compiled = functools.partial(numba.njit, nogil=True, error_model="numpy")
"""Decorator: compile a function that does not hold the interpreter's lock."""


def cached(function: Any) -> Any:
    """Compile a function. numba keeps the code beside its file or in the user's cache folder, if it can."""
    try:
        return compiled(cache=True)(function)
    except (RuntimeError, OSError):  # Neither folder can be written to.
        return compiled(function)
