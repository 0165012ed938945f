"""Engines carry steps out. They hold no randomness, and every engine gives the same batch for the same step."""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import Any, Protocol

from gpuload.cuda import CPU, Device, is_auto, resolve
from gpuload.errors import ErrorPolicy
from gpuload.plan import Augment
from gpuload.sources import ImageArray, ImageSource, Series

log = logging.getLogger("gpuload")
_announced: set[str] = set()


class Engine(Protocol):
    """Runs steps in the order in which they are submitted, in threads of its own."""

    @property
    def bytes_read(self) -> int:
        """From files, or out of a series, so far."""

    @property
    def pending(self) -> int:
        """Steps submitted whose result was neither taken nor discarded."""

    @property
    def alive(self) -> bool:
        """Whether it can go on. Where a file blocks for good, its threads may hang: then it cannot, and what is pending
        is lost with it."""

    def submit(self, step: Any) -> None:
        """Start a step; does not wait."""

    def result(self, stream: int | None = None) -> Any:
        """What became of the oldest pending step, in arrays that nobody else writes to: for images [B, H, W, C] or
        [B, C, H, W], an array or a DALI tensor; for windows a `Cut`. On a GPU they are ready for work queued on
        `stream` (a `cudaStream_t`).

        Raises SampleError where files cannot be read; the steps after that one are not touched by it.
        """

    def discard(self) -> None:
        """Forget all pending steps."""

    def close(self) -> None:
        """Free threads and memory."""


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def dali_installed() -> bool:
    """Whether NVIDIA DALI can be imported."""
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        return False


def cupy_installed() -> bool:
    """Whether CuPy can be imported."""
    return importlib.util.find_spec("cupy") is not None


def missing(place: Device) -> str | None:
    """The first package that is not installed of those that the fast engine of images needs at a place."""
    if not dali_installed():
        return "NVIDIA DALI"
    if place == CPU:
        return None if importlib.util.find_spec("numba") is not None else "numba"
    return None if cupy_installed() else "CuPy"


def choose(source: ImageSource, transform: Augment, device: str, engine: str) -> tuple[Device, str]:
    """The device and the engine ("dali" or "numpy") for a job.

    `auto` takes the GPU and DALI where they are there and can do all that `transform` asks for, and says once what it
    took; what was named is taken, or raises. Raises ValueError for unknown names and for a job that the named engine or
    device cannot do, RuntimeError for a CUDA device that is not there, ImportError for a package that is not installed.
    """
    from gpuload.engines.image_engine import unsupported

    if engine not in ("auto", "dali", "numpy"):
        raise ValueError(f"engine must be one of auto, dali, numpy, not {engine!r}")
    place = resolve(device)
    named_gpu = place != CPU and not is_auto(device)
    obstacle = unsupported(source, transform)
    lacks_on_gpu = missing(place) if place != CPU else None
    if lacks_on_gpu and not named_gpu:
        place = CPU
    lacks = missing(place)
    if engine == "dali" and lacks and place == CPU:
        raise ImportError(f"engine='dali' needs {lacks}, which is not installed: pip install 'gpuload[cpu]'")
    if engine == "dali" and obstacle:
        raise ValueError(f"engine='dali' cannot do {obstacle}: pass engine='numpy', or 'auto' to have one chosen")
    if engine == "numpy" and named_gpu:
        raise ValueError(f"engine='numpy' runs on the CPU, not on {place}: pass device='cpu', or engine='dali'")
    if named_gpu and obstacle:
        raise ValueError(f"device={device!r} cannot do {obstacle}: pass device='cpu', or leave that option out")
    if named_gpu and lacks:
        raise ImportError(f"device={device!r} needs {lacks}, which is not installed: pip install 'gpuload[cuda13]'")
    if engine == "auto":
        engine = "numpy" if lacks or obstacle else "dali"
    if engine == "numpy":
        place = CPU
    said = f"images on {place} with {'DALI' if engine == 'dali' else 'NumPy, SciPy and Pillow'}"
    if engine == "numpy" and obstacle:
        said += f", since DALI cannot do {obstacle}"
    elif found := lacks if engine == "numpy" else lacks_on_gpu:
        said += f", since {found} is not installed"
    announce(said)
    return place, engine


def choose_for_windows(series: Series, device: str, engine: str, residency: str) -> tuple[Device, str]:
    """The device and the engine ("cupy" or "numpy") for windows of a series, by the rules of `choose`."""
    if engine not in ("auto", "cupy", "numpy"):
        raise ValueError(f"engine must be one of auto, cupy, numpy for windows, not {engine!r}")
    if residency not in ("auto", "device", "host"):
        raise ValueError(f"residency must be one of auto, device, host, not {residency!r}")
    place = resolve(device)
    named_gpu = place != CPU and not is_auto(device)
    there = None if series.gpu is None else Device(series.gpu)
    if there is not None and is_auto(device) and engine != "numpy":
        place = there
    if there is not None and place != there:
        raise ValueError(
            f"values lie on {there}, but windows are asked for on {place} with engine={engine!r}: pass "
            f"device='{there}', or copy them to the host with values.get(), for PyTorch values.cpu()"
        )
    if engine == "cupy" and not cupy_installed():
        raise ImportError("engine='cupy' needs CuPy, which is not installed: pip install 'gpuload[cuda13]'")
    if engine == "cupy" and place == CPU:
        raise ValueError(
            "engine='cupy' needs a GPU, but windows are made on cpu: pass device='cuda', or engine='numpy'"
        )
    if engine == "numpy" and named_gpu:
        raise ValueError(f"engine='numpy' runs on the CPU, not on {place}: pass device='cpu', or engine='cupy'")
    if named_gpu and not cupy_installed():
        raise ImportError(f"device={device!r} needs CuPy, which is not installed: pip install 'gpuload[cuda13]'")
    said = ""
    if place != CPU and not cupy_installed():
        said = ", since CuPy is not installed"
    if engine == "numpy" or said:
        place = CPU
    if place == CPU and residency == "device":
        raise ValueError("residency='device' keeps the series on a GPU, but windows are made on cpu: leave it out")
    engine = "numpy" if place == CPU else "cupy"
    announce(f"windows on {place} with {'NumPy' if place == CPU else 'CuPy'}{said}")
    return place, engine


def announce(said: str) -> None:
    """Log a choice, once in a process."""
    if said not in _announced:
        _announced.add(said)
        log.info(said)


def open_engine(
    source: ImageSource,
    transform: Augment,
    *,
    batch_size: int,
    device: Device,
    engine: str,
    threads: int | None = None,
    policy: ErrorPolicy | None = None,
    cache: Any = None,
    allocator: Any = None,
    kept: Augment | None = None,
) -> Engine:
    """A new engine, as `choose` chose it.

    Args:
        threads: For decoding; None takes all CPUs of the process.
        policy: What counts as a bad sample.
        cache: Keeps decoded images. On a GPU there must be one.
        allocator: On a GPU, makes the arrays of batches.
        kept: The transform whose first half makes these, where they are of another size than batches.
    """
    threads = threads or available_cpus()
    policy = policy or ErrorPolicy()
    if engine == "numpy":
        from gpuload.engines.image_numpy import NumpyEngine

        return NumpyEngine(source, transform, threads=threads, policy=policy, cache=cache, kept=kept)

    def decoder() -> Any:
        from gpuload.engines.image_dali import DaliDecoder

        assert not isinstance(source, ImageArray)
        return DaliDecoder(
            source, kept or transform, batch_size=batch_size, device=device, threads=threads, policy=policy
        )

    if device != CPU:
        from gpuload.engines.image_gpu import DeviceImageEngine

        return DeviceImageEngine(source, transform, decoder=decoder, cache=cache, device=device, allocator=allocator)
    from gpuload.engines.image_engine import HostImageEngine

    return HostImageEngine(source, transform, decoder=decoder, cache=cache, threads=threads, recuts=kept is not None)
