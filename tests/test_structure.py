"""The shape of the package, from its syntax trees: one direction of imports, no private reaches, short files."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "gpuload"
FILES = {".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): file
         for file in sorted(ROOT.rglob("*.py"))}  # fmt: skip
ROOMS = [
    {"core"},
    {"options"},
    {"plan"},
    {"sources"},
    {"reading"},
    {"delivery"},
    {"decode"},
    {"gpu"},
    {"cache"},
    {"run"},
    {"images", "windows"},
    {"arguments"},
    {"loader"},
    {"statistics"},
    {""},  # gpuload/__init__.py: the public names.
    {"tensorflow", "torch"},
    {"keras"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
"""Each room imports itself and rooms above it; two of one line do not know each other."""
RANKS = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}
LONGEST = 400
HEAVY = [
    "torch",
    "tensorflow",
    "keras",
    "jax",
    "cupy",
    "nvidia",
    "numba",
    "scipy",
    "PIL",
    "pandas",
    "matplotlib",
    "rich",
]


def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text())


def room(name: str) -> str:
    return name.partition(".")[2].partition(".")[0]


def imports(name: str) -> Iterator[str]:
    """The modules of gpuload that a module imports: at its top, in functions, and for types."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom) and node.module in FILES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in FILES else node.module


def test_every_room_has_its_place() -> None:
    assert {room(name) for name in FILES} == set(RANKS)


@pytest.mark.parametrize("name", FILES)
def test_rooms_import_in_one_direction(name: str) -> None:
    own = room(name)
    for other in imports(name):
        assert own == room(other) or RANKS[room(other)] < RANKS[own], f"{name} imports {other}"


def test_there_are_no_circles() -> None:
    # A package's __init__ gathers the names of its modules, which import each other and not the package.
    graph = {name: {other for other in imports(name) if other != name} for name in FILES}
    list(graphlib.TopologicalSorter(graph).static_order())  # Raises CycleError, which names the modules.


def reaches(name: str) -> Iterator[str]:
    for node in ast.walk(tree(name)):
        private = isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr)
        if private and ast.unparse(node.value) not in ("self", "cls"):
            yield f"{FILES[name].name}:{node.lineno} .{node.attr}"


@pytest.mark.parametrize("name", FILES)
def test_nothing_reaches_into_private_parts(name: str) -> None:
    assert list(reaches(name)) == []


@pytest.mark.parametrize("name", FILES)
def test_files_are_short(name: str) -> None:
    assert len(FILES[name].read_text().splitlines()) <= LONGEST


RIDDLES = ("What ", "Whose ", "Those ", "Of ", "Who ", "Else ", "So ", "That ", "Also ", "As of ", "By ")


@pytest.mark.parametrize("name", FILES)
def test_docstrings_begin_with_a_noun_or_a_verb(name: str) -> None:
    texts = [node.value.value for node in ast.walk(tree(name))
             if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]  # fmt: skip
    assert [text for text in texts if isinstance(text, str) and text.startswith(RIDDLES)] == []


def test_import_stays_light() -> None:
    code = f"import sys, gpuload; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
