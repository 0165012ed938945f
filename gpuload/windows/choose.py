"""Which device and which engine windows of a series get."""

from __future__ import annotations

from gpuload.core import available
from gpuload.core.device import CPU, Device, is_auto, resolve
from gpuload.sources import Series


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
    if engine == "cupy" and not available.cupy_installed():
        raise ImportError("engine='cupy' needs CuPy, which is not installed: pip install 'gpuload[cuda13]'")
    if engine == "cupy" and place == CPU:
        raise ValueError(
            "engine='cupy' needs a GPU, but windows are made on cpu: pass device='cuda', or engine='numpy'"
        )
    if engine == "numpy" and named_gpu:
        raise ValueError(f"engine='numpy' runs on the CPU, not on {place}: pass device='cpu', or engine='cupy'")
    if named_gpu and not available.cupy_installed():
        raise ImportError(f"device={device!r} needs CuPy, which is not installed: pip install 'gpuload[cuda13]'")
    said = ""
    if place != CPU and not available.cupy_installed():
        said = ", since CuPy is not installed"
    if engine == "numpy" or said:
        place = CPU
    if place == CPU and residency == "device":
        raise ValueError("residency='device' keeps the series on a GPU, but windows are made on cpu: leave it out")
    engine = "numpy" if place == CPU else "cupy"
    available.announce(f"windows on {place} with {'NumPy' if place == CPU else 'CuPy'}{said}")
    return place, engine
