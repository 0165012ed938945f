"""States of loaders: descriptions of options, and the check that a state belongs to a loader."""

from __future__ import annotations

import hashlib
from dataclasses import MISSING, fields
from typing import Any

import numpy as np

VERSION = 1

_LONGEST = 40


def describe(options: Any) -> dict[str, str]:
    """Return the fields of a dataclass that differ from their defaults, in words; long ones as a digest.

    >>> import gpuload
    >>> describe(gpuload.Augment(size=(64, 64), hflip=0.5))
    {'size': '(64, 64)', 'hflip': '0.5'}
    """
    described = {field.name: _words(getattr(options, field.name)) for field in fields(options)}
    defaults = {field.name: _words(field.default) for field in fields(options) if field.default is not MISSING}
    return {name: words for name, words in described.items() if words != defaults.get(name)}


def in_words(described: dict[str, str]) -> str:
    """Return a description as one text.

    PyTorch's distributed checkpoints would read a nested dict name by name, and leave out names that are unknown.

    >>> in_words({"size": "(64, 64)", "hflip": "0.5"})
    'size=(64, 64); hflip=0.5'
    """
    return "; ".join(map("=".join, described.items()))


def _from_words(words: Any) -> Any:
    """Return what `in_words` was given, or another value as it is."""
    if isinstance(words, str) and "=" in words:
        return dict(part.split("=", 1) for part in words.split("; "))
    return words


def _words(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)} {_digest(value.tobytes())}"
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        number = float(value)  # 1 and 1.0 are one option.
        return str(int(number)) if number.is_integer() else repr(number)
    if isinstance(value, list | tuple):
        words = f"({', '.join(map(_words, value))})"
    else:  # The repr of a function has its address, which differs from run to run.
        words = getattr(value, "__qualname__", None) or repr(value)
    return words if len(words) <= _LONGEST else _digest(words.encode())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=6).hexdigest()


def check(state: Any, own: dict[str, Any]) -> None:
    """Raise ValueError, with the differences, if `state` is no state or does not agree with `own`."""
    if not isinstance(state, dict) or "version" not in state:
        raise ValueError(f"state must be what state_dict() returned, not {state!r}")
    if state["version"] != VERSION:
        raise ValueError(f"state must be of version {VERSION}, not {state['version']!r}: another gpuload wrote it")
    if missing := [name for name in own if name not in state]:
        raise ValueError(f"state must be what state_dict() of the same kind of loader returned: it has no {missing[0]}")
    if different := _differences({name: state[name] for name in own}, own):
        raise ValueError(
            f"state is of another loader: {'; '.join(different)}. Make the loader as it was, or leave the state out"
        )


def _differences(theirs: dict[str, Any], own: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name in [*own, *(name for name in theirs if name not in own)]:
        here, there = (_from_words(found.get(name, "the default")) for found in (own, theirs))
        if isinstance(here, dict) or isinstance(there, dict):
            # If all options have their defaults, the text is empty.
            here, there = (found if isinstance(found, dict) else {} for found in (here, there))
            found += _differences(there, here, f"{prefix}{name}.")
        elif here != there:
            found.append(f"{prefix}{name} was {there}, and is {here}")
    return found
