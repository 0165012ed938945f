"""Names for what gpuload does, on the time line of NVIDIA's profilers: NVTX ranges in the domain "gpuload"."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext

DOMAIN = "gpuload"


@functools.cache
def range(name: str) -> AbstractContextManager[object]:
    """A context that Nsight Systems, and whatever else listens to NVTX, shows under this name.

    One object for each name, for all threads and any depth, and nothing but a few hundred nanoseconds where nobody
    listens. NVIDIA's package nvtx is imported with the first range; without it the context does nothing. The
    environment's NVTX_DISABLE=1 silences it.

    >>> with range("submit"):
    ...     pass
    """
    try:
        import nvtx
    except ImportError:
        return nullcontext()
    context: AbstractContextManager[object] = nvtx.annotate(name, domain=DOMAIN)
    return context
