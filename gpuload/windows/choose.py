"""Choice of the device and the engine for windows of a series."""

from __future__ import annotations

from gpuload.core import available
from gpuload.core.device import CPU, Device, is_auto, resolve
from gpuload.sources import Series

ENGINES = ("auto", "cupy", "numpy")
RESIDENCIES = ("auto", "device", "host")
# Next steps for engines that people try here.
OTHER_ENGINES = {
    "dali": "DALI decodes images, a Series needs no decoder; leave engine out",
    "cuda": "pass engine='cupy'",
    "gpu": "pass engine='cupy'",
    "cpu": "pass engine='numpy'",
}


def choose_for_windows(series: Series, device: str, engine: str, residency: str) -> tuple[Device, str]:
    """Return the device and the engine, "cupy" on a GPU or "numpy" on the CPU, and log them once.

    "auto" takes the GPU that holds the values, or the first GPU, if CuPy is installed; otherwise the CPU. Raise
    ValueError if the arguments contradict each other or the place of the values.
    """
    if engine not in ENGINES:
        hint = f": {OTHER_ENGINES[engine]}" if str(engine) in OTHER_ENGINES else ""
        raise ValueError(f"engine must be one of {', '.join(ENGINES)} for windows, not {engine!r}{hint}")
    if residency not in RESIDENCIES:
        raise ValueError(f"residency must be one of {', '.join(RESIDENCIES)}, not {residency!r}")
    place, has_cupy = resolve(device), available.cupy_installed()
    gpu_named = place != CPU and not is_auto(device)
    if engine == "numpy" and gpu_named:
        raise ValueError(f"engine='numpy' runs on the CPU, not on {place}: pass device='cpu', or engine='cupy'")
    home = None if series.gpu is None else Device(series.gpu)
    if engine == "numpy":
        place = CPU
    elif home is not None and is_auto(device):
        place = home
    if home is not None and place != home:
        raise ValueError(
            f"the values of the series are on {home}, but windows are to be cut on {place} with engine={engine!r}: "
            f"pass device='{home}', or copy the values to the host with values.get(), in PyTorch values.cpu()"
        )
    if (engine == "cupy" or gpu_named) and not has_cupy:
        asked = "engine='cupy'" if engine == "cupy" else f"device={device!r}"
        raise ImportError(f"{asked} needs CuPy, which is not installed: pip install 'gpuload[cuda13]'")
    if engine == "cupy" and place == CPU:
        raise ValueError("engine='cupy' needs a GPU, but windows are cut on cpu: pass device='cuda', or engine='numpy'")
    reason = "" if place == CPU or has_cupy else ", since CuPy is not installed"
    place = CPU if reason else place
    if place == CPU and residency == "device":
        raise ValueError("residency='device' keeps the series on a GPU, but windows are cut on cpu: leave it out")
    available.announce(f"windows on {place} with {'NumPy' if place == CPU else 'CuPy'}{reason}")
    return place, "numpy" if place == CPU else "cupy"
