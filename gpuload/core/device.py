"""Which device to run on, and the kernels that run there."""

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
    """How many CUDA devices this process may use; 0 where there is no driver.

    Asks the driver's management library (NVML), so that no framework has to be imported and no CUDA context is begun:
    after `cuInit`, processes that are forked could not use CUDA. Where that library is missing, or
    `CUDA_VISIBLE_DEVICES` names parts of devices (MIG), the driver itself is asked.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    counted = None if visible and "MIG-" in visible else _count_by_nvml(visible)
    if counted is not None:
        return counted
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _count_by_nvml(visible: str | None) -> int | None:
    """The devices that NVML shows and CUDA_VISIBLE_DEVICES leaves; None where NVML does not answer."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    try:
        count = ctypes.c_uint(0)
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return None
        if visible is None:
            return count.value
        return _visible(visible, [_uuid(nvml, index) for index in range(count.value)])
    finally:
        nvml.nvmlShutdown()


def _uuid(nvml: ctypes.CDLL, index: int) -> str:
    """Such as "GPU-8f6a..."; "" where there is no saying."""
    handle, text = ctypes.c_void_p(), ctypes.create_string_buffer(96)
    if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
        return ""
    return text.value.decode() if nvml.nvmlDeviceGetUUID(handle, text, len(text)) == 0 else ""


def _visible(names: str, uuids: list[str]) -> int:
    """How many devices a value of CUDA_VISIBLE_DEVICES leaves: those before the first name that is none.

    >>> uuids = ["GPU-8f6a", "GPU-8f6b", "GPU-1c00"]
    >>> [_visible(names, uuids) for names in ("2,0", "0,7,1", "-1", "", "GPU-1c,GPU-8f6b", "GPU-8f6")]
    [2, 1, 0, 0, 2, 0]
    """
    count = 0
    for name in names.split(","):
        name = name.strip()
        if name.startswith("GPU-"):
            there = sum(uuid.startswith(name) for uuid in uuids) == 1
        else:
            there = name.isdecimal() and int(name) < len(uuids)
        if not there:
            break
        count += 1
    return count


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
