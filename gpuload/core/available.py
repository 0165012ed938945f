"""What this machine and this process have: CPUs and optional packages."""

from __future__ import annotations

import importlib.util
import logging
import os

log = logging.getLogger("gpuload")


_announced: set[str] = set()


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def dali_installed() -> bool:
    """Whether NVIDIA DALI can be imported."""
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        return False


def numba_installed() -> bool:
    """Whether numba can be imported."""
    return importlib.util.find_spec("numba") is not None


def cupy_installed() -> bool:
    """Whether CuPy can be imported."""
    return importlib.util.find_spec("cupy") is not None


def announce(said: str) -> None:
    """Log a choice, once in a process."""
    if said not in _announced:
        _announced.add(said)
        log.info(said)
