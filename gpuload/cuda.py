"""Which device to run on."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import re
from dataclasses import dataclass

log = logging.getLogger("gpuload")


@dataclass(frozen=True)
class Device:
    """A place where pixels are made: `cpu`, or one CUDA device."""

    index: int | None
    """Number of the CUDA device; None is the CPU."""

    def __str__(self) -> str:
        return "cpu" if self.index is None else f"cuda:{self.index}"


CPU = Device(None)


@functools.cache
def device_count() -> int:
    """How many CUDA devices the driver shows; 0 where there is no driver.

    Asks the driver itself, so that no framework has to be imported.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _wanted(device: str) -> tuple[str, str]:
    """Who names the device, and what it is."""
    if device == "auto" and "GPULOAD_DEVICE" in os.environ:
        return "GPULOAD_DEVICE", os.environ["GPULOAD_DEVICE"]
    return "device", device


def is_auto(device: str) -> bool:
    """Whether neither the argument nor the environment names a device."""
    return _wanted(device)[1] == "auto"


def resolve(device: str) -> Device:
    """The device that `"auto"`, `"cpu"`, `"cuda"` or `"cuda:N"` names.

    Raises ValueError for another spelling and RuntimeError for a CUDA device that is not there.

    >>> str(resolve("cpu"))
    'cpu'
    """
    name, value = _wanted(device)
    if value == "auto":
        return Device(0) if device_count() else CPU
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{name} must be 'auto', 'cpu', 'cuda' or 'cuda:N', not {value!r}")
    if value == "cpu":
        return CPU
    index, count = int(match[1] or 0), device_count()
    if index >= count:
        raise RuntimeError(
            f"{name}={value!r} needs NVIDIA GPU number {index}, but the driver shows {count or 'none'}: "
            "pass device='cpu', or device='auto' to take what is there"
        )
    return Device(index)
