"""Checks of arguments that all rooms share, and the words of their errors."""

from __future__ import annotations

import difflib
import functools
import inspect
import itertools
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
    """Return a number of bytes, at least 1, from an integer or text. kB, MB ... are powers of 1000, KiB ... of 1024.

    >>> checked_bytes("limit", "1.5 GiB"), checked_bytes("limit", "500MB")
    (1610612736, 500000000)
    """
    size, pattern = value, r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b"
    if isinstance(value, str) and (match := re.fullmatch(pattern, value.strip().lower())):
        size = int(Fraction(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " "))
    try:
        return checked_int(name, size, 1)
    except ValueError:
        raise ValueError(
            f"{name} must be a number of bytes of at least 1, such as 2_000_000_000, '2GB', '500 MB' or '1.5GiB', "
            f"not {value!r}"
        ) from None


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
    """Raise ValueError if `value` is none of the options, which are a `Literal` or an iterable of strings.

    `synonyms` has other libraries' words, in lower case, each with the option it stands for or a sentence of advice.

    >>> choice("framework", "nunpy", ["numpy", "torch"])
    Traceback (most recent call last):
    ValueError: framework must be one of numpy, torch, not 'nunpy': did you mean 'numpy'?
    """
    names = list(get_args(options) or options)
    if isinstance(value, str) and value in names:
        return
    advice, word = "", value if isinstance(value, str) else ""
    if (meant := (synonyms or {}).get(word.lower())) is not None:
        advice = f": pass {name}={meant!r}" if meant in names else f": {meant}"
    elif (near := nearest(word, names)) is not None:
        advice = f": did you mean {near!r}?"
    raise ValueError(f"{name} must be one of {', '.join(names)}, not {value!r}{advice}")


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Return the name that `word` most likely misspells, or None. Digits must agree: float64 is not float16.

    >>> nearest("Float-32", ["float32", "float16"]), nearest("float64", ["float32", "float16"])
    ('float32', None)
    """
    digits = re.findall(r"\d", word)
    lowered = {name.lower(): name for name in names if re.findall(r"\d", name) == digits}
    found = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.7)
    return lowered[found[0]] if found else None


def answers_unknown(**hints: str) -> Callable[[AnyClass], AnyClass]:
    """Decorate a class so that an unknown keyword argument is answered with the right one. Place it above `@dataclass`.

    Args:
        hints: Advice by unknown argument, such as another library's name for an option, or by a misspelling of it.

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
            if near is not None:
                return hints.get(near) or f"did you mean {near!r}?"
            # The shortest package that has the class, as in "gpuload.Augment".
            packages = itertools.accumulate(cls.__module__.split("."), "{}.{}".format)
            shown = (each for each in packages if getattr(sys.modules.get(each), cls.__name__, None) is cls)
            return f"see help({next(shown, cls.__module__)}.{cls.__name__})"

        cls.__init__ = __init__
        return cls

    return decorate
