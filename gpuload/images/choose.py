"""Which device and which engine a job of images gets."""

from __future__ import annotations

import importlib.util
from typing import Any

from gpuload.core import available
from gpuload.core.device import CPU, Device, is_auto, resolve
from gpuload.core.errors import ErrorPolicy
from gpuload.images.augment import Augment
from gpuload.run.engine import Engine
from gpuload.sources import ImageArray, ImageSource


def missing(place: Device) -> str | None:
    """The first package that is not installed of those that the fast engine of images needs at a place."""
    if not available.dali_installed():
        return "NVIDIA DALI"
    if place == CPU:
        return None if importlib.util.find_spec("numba") is not None else "numba"
    return None if available.cupy_installed() else "CuPy"


def choose(source: ImageSource, transform: Augment, device: str, engine: str) -> tuple[Device, str]:
    """The device and the engine ("dali" or "numpy") for a job.

    `auto` takes the GPU and DALI where they are there and can do all that `transform` asks for, and says once what it
    took; what was named is taken, or raises. Raises ValueError for unknown names and for a job that the named engine or
    device cannot do, RuntimeError for a CUDA device that is not there, ImportError for a package that is not installed.
    """
    from gpuload.images.host_engine import unsupported

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
    available.announce(said)
    return place, engine


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
    threads = threads or available.available_cpus()
    policy = policy or ErrorPolicy()
    if engine == "numpy":
        from gpuload.images.reference import NumpyEngine

        return NumpyEngine(source, transform, threads=threads, policy=policy, cache=cache, kept=kept)

    def decoder() -> Any:
        from gpuload.decode.dali import DaliDecoder

        assert not isinstance(source, ImageArray)
        return DaliDecoder(
            source, kept or transform, batch_size=batch_size, device=device, threads=threads, policy=policy
        )

    if device != CPU:
        from gpuload.images.device_engine import DeviceImageEngine

        return DeviceImageEngine(source, transform, decoder=decoder, cache=cache, device=device, allocator=allocator)
    from gpuload.images.host_engine import HostImageEngine

    return HostImageEngine(source, transform, decoder=decoder, cache=cache, threads=threads, recuts=kept is not None)
