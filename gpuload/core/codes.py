"""Codes: the numbers and names by which options and element types reach compiled code (CUDA kernels and numba)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

PerSample = Literal["center", "standardize"]

EPSILON = 1e-6
"""Added to the standard deviation of a sample, as in Keras."""

# numba keeps compiled code with these numbers on disk, so a number never changes: new names go at the end.
BORDERS = {"nearest": 0, "constant": 1, "reflect": 2, "wrap": 3}
"""Codes of `Augment.fill_mode`."""
PER_SAMPLE: dict[str | None, int] = {None: 0, "center": 1, "standardize": 2}
"""Codes of `per_sample`, of images and windows."""
MISSING = {"keep": 0, "omit": 0, "zero": 1, "forward": 2}
"""Codes of `Window.missing`. A window with a missing value never reaches a kernel under "omit"."""

TYPES = {"bool": "u8", "float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"} | {
    f"{sign}int{bits}": f"{sign or 'i'}{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
"""Names of element types in kernels, by name of the dtype."""


def itemsize(dtype: str) -> int:
    """Return the bytes of a number, by NumPy's name of its dtype or "bfloat16".

    >>> itemsize("bfloat16"), itemsize("uint8")
    (2, 1)
    """
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def codes_header() -> str:
    """Return these tables as C++, which kernels include as `codes.h`.

    >>> print(codes_header().splitlines()[1])
    enum { PER_SAMPLE_NONE = 0, PER_SAMPLE_CENTER = 1, PER_SAMPLE_STANDARDIZE = 2 };
    """
    tables: dict[str, dict[Any, int]] = {"BORDER": BORDERS, "PER_SAMPLE": PER_SAMPLE, "MISSING": MISSING}
    lines = []
    for prefix, table in tables.items():
        codes = (f"{prefix}_{str(name).upper()} = {code}" for name, code in table.items())
        lines.append(f"enum {{ {', '.join(codes)} }};")
    return "\n".join([*lines, f"#define EPSILON {EPSILON!r}", ""])
