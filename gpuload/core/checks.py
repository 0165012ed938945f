"""Checks of arguments that all rooms share, and the words of their errors."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import operator
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

Range = float | tuple[float, float]
AnyClass = TypeVar("AnyClass", bound=type[Any])

_UNITS = {"b": 1}
for _power, _prefix in enumerate("kmgt", start=1):
    _UNITS |= {f"{_prefix}b": 1000**_power, f"{_prefix}ib": 1024**_power}


def checked_int(name: str, value: object, least: int) -> int:
    """Return `value` as an int. Raise ValueError if it is below `least`, or no integer of Python or NumPy."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    return number


def checked_bytes(name: str, value: object) -> int:
    """Return a number of bytes, at least 1, that is given as an integer or as text with a unit.

    kB, MB, GB and TB are powers of 1000; KiB, MiB, GiB and TiB are powers of 1024. Upper and lower case are alike.

    >>> checked_bytes("cache_limit", "1.5 GiB"), checked_bytes("cache_limit", "500MB")
    (1610612736, 500000000)
    >>> checked_bytes("cache_limit", "2 gigs")
    Traceback (most recent call last):
    ValueError: cache_limit must be a number of bytes of at least 1, such as 2_000_000_000, '2GB', '500 MB' or \
'1.5GiB', not '2 gigs'
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b)", value.strip().lower()) if isinstance(value, str) else None
    try:
        size = int(Fraction(match[1]) * _UNITS[match[2]]) if match else checked_int(name, value, 1)
    except (KeyError, ValueError):
        size = 0
    if size < 1:
        raise ValueError(
            f"{name} must be a number of bytes of at least 1, such as 2_000_000_000, '2GB', '500 MB' or '1.5GiB', "
            f"not {value!r}"
        )
    return size


def checked_size(name: str, value: Any) -> tuple[int, int]:
    """Return (height, width), both at least 1."""
    try:
        height, width = value
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (height, width) in pixels, not {value!r}") from None
    return checked_int(name, height, 1), checked_int(name, width, 1)


def interval(name: str, value: Any, neutral: float = 0.0) -> tuple[float, float]:
    """Return (low, high) from a pair, or from a number: the distance to either side of `neutral`."""
    try:
        low, high = (neutral - value, neutral + value) if np.ndim(value) == 0 else value
        low, high = float(low), float(high)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number or a pair (low, high), not {value!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"{name} must be finite with low <= high, not {value!r}")
    return low, high


def numbers(value: Any) -> NDArray[np.float64]:
    """Return the value as an array of doubles; NaN, which every rule refuses, if it holds anything but numbers."""
    try:
        found = np.asarray(value)
        return found.astype(float) if found.dtype.kind in "biuf" else np.array(math.nan)  # NumPy would read "0.5".
    except (TypeError, ValueError):
        return np.array(math.nan)


def number(value: Any) -> float:
    """Return the value as a float; NaN if it is not one number."""
    found = numbers(value)
    return float(found) if found.ndim == 0 else math.nan


def probability(name: str, value: Any) -> float:
    """Return `value` as a float from 0 to 1."""
    if not 0 <= number(value) <= 1:
        raise ValueError(f"{name} must be a probability from 0 to 1, not {value!r}")
    return float(value)


def choice(name: str, value: object, options: Any, *, synonyms: Mapping[str, str] | None = None) -> None:
    """Raise ValueError if `value` is none of the options, with advice where a word like it is known.

    Args:
        name: The argument, as users write it.
        value: The value to check.
        options: A `Literal` of strings, or an iterable of them.
        synonyms: Other libraries' words, in lower case, and the option that each stands for; or, for a word without
            an option, a sentence of advice.

    >>> choice("framework", "pytorch", ["numpy", "torch"], synonyms={"pytorch": "torch"})
    Traceback (most recent call last):
    ValueError: framework must be one of numpy, torch, not 'pytorch': pass framework='torch'
    >>> choice("framework", "nunpy", ["numpy", "torch"])
    Traceback (most recent call last):
    ValueError: framework must be one of numpy, torch, not 'nunpy': did you mean 'numpy'?
    """
    names = list(get_args(options) or options)
    if isinstance(value, str) and value in names:
        return
    advice = ""
    if isinstance(value, str):
        meant = (synonyms or {}).get(value.lower())
        if meant is not None:
            advice = f": pass {name}={meant!r}" if meant in names else f": {meant}"
        elif (near := nearest(value, names)) is not None:
            advice = f": did you mean {near!r}?"
    raise ValueError(f"{name} must be one of {', '.join(names)}, not {value!r}{advice}")


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Return the name that `word` is most likely a misspelling of, or None.

    Names with other digits are none: float64 is not a misspelling of float16.

    >>> nearest("Float-32", ["float32", "float16"]), nearest("float64", ["float32", "float16"])
    ('float32', None)
    """
    digits = re.findall(r"\d", word)
    lowered = {name.lower(): name for name in names if re.findall(r"\d", name) == digits}
    found = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.7)
    return lowered[found[0]] if found else None


def answers_unknown(**hints: str) -> Callable[[AnyClass], AnyClass]:
    """Decorate a class so that an unknown keyword argument is answered with the right one.

    The class's signature, its pickles and `dataclasses.replace` stay as they are. Place it above `@dataclass`.

    Args:
        hints: Advice by unknown argument, such as another library's name for an option. Misspellings of it get the
            same advice.

    >>> @answers_unknown(drop_last="pass last_batch='drop'")
    ... class Loader:
    ...     def __init__(self, *, last_batch="keep"): ...
    >>> Loader(drop_last=True)
    Traceback (most recent call last):
    TypeError: Loader has no argument 'drop_last': pass last_batch='drop'
    >>> Loader(lastbatch="drop")
    Traceback (most recent call last):
    TypeError: Loader has no argument 'lastbatch': did you mean 'last_batch'?
    """

    def decorate(cls: AnyClass) -> AnyClass:
        original = cls.__init__
        _, *parameters = inspect.signature(original).parameters.values()
        known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]

        @functools.wraps(original)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            for name in kwargs:
                if name not in known:
                    raise TypeError(f"{cls.__name__} has no argument {name!r}: {advice(name)}")
            original(self, *args, **kwargs)

        def advice(name: str) -> str:
            near = name if name in hints else nearest(name, [*known, *hints])
            if near is None:
                return f"see help({_public_name(cls)})"
            return hints.get(near) or f"did you mean {near!r}?"

        cls.__init__ = __init__
        return cls

    return decorate


def _public_name(cls: type[Any]) -> str:
    """Return the class's name after the shortest package that has it: "gpuload.Augment"."""
    parts = cls.__module__.split(".")
    packages = [".".join(parts[: number + 1]) for number in range(len(parts))]
    shown = (package for package in packages if getattr(sys.modules.get(package), cls.__name__, None) is cls)
    return f"{next(shown, cls.__module__)}.{cls.__name__}"
