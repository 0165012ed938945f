"""Command line of gpuload: `gpuload demo` and `gpuload tune`, from the call to the exit code."""

from __future__ import annotations

import sys

DISTRIBUTIONS = {"sklearn": "scikit-learn"}
"""Packages whose import name differs from the name to install."""


def main() -> None:
    """Run the command line. An error that the user can mend is one line on stderr and exit code 1."""
    try:
        from gpuload.cli.commands import app

        app(prog_name="gpuload")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"gpuload: {one_line(error)}", file=sys.stderr)
        sys.exit(1)


def one_line(error: Exception) -> str:
    """Return the message of an error without line breaks; for a missing package, how to install it."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("gpuload"):
        module = error.name.partition(".")[0]
        return f"this needs {DISTRIBUTIONS.get(module, module)}, which is not installed: pip install 'gpuload[demo]'"
    return " ".join(str(error).split()) or type(error).__name__
