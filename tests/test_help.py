"""`help()` tells everything: each public class, function and method names all of its parameters."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

BUILTIN = (RuntimeError.__init__, Exception.__init__)
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def public() -> Iterator[tuple[str, Any]]:
    for module in ("gpuload", "gpuload.keras", "gpuload.torch", "gpuload.tensorflow"):
        try:
            found = importlib.import_module(module)
        except ImportError:
            continue
        for name in found.__all__:
            yield f"{module}.{name}", getattr(found, name)


PUBLIC = dict(public())


def parameters(function: Any) -> list[str]:
    if inspect.isclass(function) and issubclass(function, Exception) and function.__init__ in BUILTIN:
        return []
    found = inspect.signature(function).parameters.values()
    return [p.name for p in found if p.name not in ("self", "cls") and p.kind not in VARIADIC]


def arguments(text: str) -> set[str]:
    """The names before a colon in the section `Args:`; several may stand before one."""
    section = re.search(r"^ *Args:\n((?:^ {4,}.*\n|^\s*\n)*)", text + "\n", re.M)
    if section is None:
        return set()
    indent = min(len(line) - len(line.lstrip()) for line in section[1].splitlines() if line.strip())
    entries = re.sub(rf"\n {{{indent + 1},}}", " ", section[1])
    return {name for entry in entries.splitlines() if ":" in entry
            for name in re.findall(r"\w+", entry.partition(":")[0])}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_all_parameters_are_told(name: str) -> None:
    found = PUBLIC[name]
    text = inspect.getdoc(found) or ""
    assert text, f"{name} has no docstring"
    missing = [each for each in parameters(found) if each not in arguments(text)]
    assert missing == []
    if not inspect.isclass(found):
        return
    assert not parameters(found) or arguments(text) <= set(inspect.signature(found).parameters)


@pytest.mark.parametrize("name", [name for name, found in PUBLIC.items() if inspect.isclass(found)])
def test_methods_tell_theirs(name: str) -> None:
    for method, function in inspect.getmembers(PUBLIC[name], inspect.isfunction):
        if method.startswith("_") or not (function.__module__ or "").startswith("gpuload"):
            continue
        text = inspect.getdoc(function) or ""
        missing = [each for each in parameters(function) if not re.search(rf"\b{each}\b", text)]
        assert (bool(text), missing) == (True, []), f"{name}.{method}"
    for attribute, found in inspect.getmembers(PUBLIC[name], lambda each: isinstance(each, property)):
        if not attribute.startswith("_") and (found.fget.__module__ or "").startswith("gpuload"):
            assert inspect.getdoc(found), f"{name}.{attribute}"
