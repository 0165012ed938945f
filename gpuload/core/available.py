"""CPUs and optional packages that this process can use."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from typing import Any

log = logging.getLogger("gpuload")

_announced: set[str] = set()


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # Not even the package around it is there.
        return False


dali_installed = functools.partial(_installed, "nvidia.dali")
numba_installed = functools.partial(_installed, "numba")
cupy_installed = functools.partial(_installed, "cupy")


def required(module: str, purpose: str, extra: str) -> Any:
    """Import an optional package. Raise ImportError, naming the extra of gpuload that installs it, if that fails."""
    try:
        return importlib.import_module(module)
    except ImportError as error:  # The cause is shown too: the package may be installed, and broken.
        message = f"{purpose} needs {module}, which is not installed: pip install 'gpuload[{extra}]'"
        raise ImportError(message) from error


def announce(message: str) -> None:
    """Log a message, once in a process."""
    if message not in _announced:
        _announced.add(message)
        log.info(message)
