"""NVTX ranges, which name gpuload's work on the time line of NVIDIA's profilers."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext

DOMAIN = "gpuload"


@functools.cache
def range(name: str) -> AbstractContextManager[object]:
    """Return a context that Nsight Systems and other NVTX tools show under this name.

    Each name has one context, for all threads and any depth; without a profiler it costs a few hundred nanoseconds.
    It does nothing without NVIDIA's package nvtx, or with the environment's NVTX_DISABLE=1.
    """
    try:
        import nvtx
    except ImportError:
        return nullcontext()
    context: AbstractContextManager[object] = nvtx.annotate(name, domain=DOMAIN)
    return context
