"""What the options of all transforms check alike, and the words of their errors."""

from __future__ import annotations

import math
import operator
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

Range = float | tuple[float, float]


def checked_int(name: str, value: object, least: int) -> int:
    """`value` as an int of at least `least`; bool and float are refused."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    return number


def interval(name: str, value: Any, neutral: float = 0.0) -> tuple[float, float]:
    """(low, high) from a number, which stands for that far to either side of `neutral`, or from a pair."""
    try:
        low, high = (neutral - value, neutral + value) if np.ndim(value) == 0 else value
        low, high = float(low), float(high)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number or a pair (low, high), not {value!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"{name} must be finite with low <= high, not {value!r}")
    return low, high


def numbers(value: Any) -> NDArray[np.float64]:
    """The value as an array of doubles; NaN, which no rule allows, where it is none."""
    try:
        found = np.asarray(value)
        return found.astype(float) if found.dtype.kind in "biuf" else np.array(math.nan)  # "0.5" is text.
    except (TypeError, ValueError):
        return np.array(math.nan)


def number(value: Any) -> float:
    """The value as a float; NaN where it is none."""
    found = numbers(value)
    return float(found) if found.ndim == 0 else math.nan


def probability(name: str, value: Any) -> float:
    """`value` as a float from 0 to 1."""
    if not 0 <= number(value) <= 1:
        raise ValueError(f"{name} must be a probability from 0 to 1, not {value!r}")
    return float(value)


def choice(name: str, value: object, literal: Any) -> None:
    """Refuse a value that is none of the literal's."""
    if value not in get_args(literal):
        raise ValueError(f"{name} must be one of {', '.join(map(str, get_args(literal)))}, not {value!r}")


def checked_size(name: str, value: Any) -> tuple[int, int]:
    """(height, width), both at least 1."""
    try:
        height, width = value
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (height, width) in pixels, not {value!r}") from None
    return checked_int(name, height, 1), checked_int(name, width, 1)
