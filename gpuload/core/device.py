"""The device that batches are made on."""

from __future__ import annotations

import ctypes
import functools
import os
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """The CPU, or one CUDA device.

    Args:
        index: Number of the CUDA device. None: the CPU.
    """

    index: int | None

    def __str__(self) -> str:
        return "cpu" if self.index is None else f"cuda:{self.index}"


CPU = Device(None)


@functools.cache
def device_count() -> int:
    """Return the number of CUDA devices that this process may use; 0 without a driver.

    The driver's management library (NVML) tells it without a framework and without a CUDA context: after `cuInit`,
    forked processes could not use CUDA. The driver itself is asked only if that library is missing, or if
    `CUDA_VISIBLE_DEVICES` names parts of devices (MIG).
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
    """Return the number of devices that NVML shows and CUDA_VISIBLE_DEVICES leaves; None if NVML does not answer."""
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
    """Return a device's UUID, such as "GPU-8f6a..."; "" if NVML does not tell it."""
    handle, text = ctypes.c_void_p(), ctypes.create_string_buffer(96)
    if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
        return ""
    return text.value.decode() if nvml.nvmlDeviceGetUUID(handle, text, len(text)) == 0 else ""


def _visible(names: str, uuids: list[str]) -> int:
    """Return the number of devices that a value of CUDA_VISIBLE_DEVICES leaves: those before the first unknown name.

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


def _wanted(device: object) -> tuple[str, object]:
    """Return what names the device, the argument or the environment's variable, and the name."""
    if type(device).__module__ == "torch" and type(device).__name__ == "device":
        return "device", str(device)
    if device == "auto" and "GPULOAD_DEVICE" in os.environ:
        return "GPULOAD_DEVICE", os.environ["GPULOAD_DEVICE"]
    return "device", device


def is_auto(device: object) -> bool:
    """Whether neither the argument nor the environment names a device."""
    return _wanted(device)[1] == "auto"


def resolve(device: object) -> Device:
    """Return the device of that name.

    Args:
        device: "auto", "cpu", "cuda", "cuda:N", or a `torch.device`. "auto" takes the first GPU, or else the CPU; the
            environment's GPULOAD_DEVICE overrides it.

    Raises:
        ValueError: The name is another one.
        RuntimeError: The machine does not have that CUDA device.

    >>> str(resolve("cpu"))
    'cpu'
    >>> resolve("gpu:1")
    Traceback (most recent call last):
    ValueError: device must be 'auto', 'cpu', 'cuda' or 'cuda:N', not 'gpu:1': pass device='cuda:1'
    """
    name, value = _wanted(device)
    if value == "auto":
        return Device(0) if device_count() else CPU
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", value) if isinstance(value, str) else None
    if match is None:
        advice = ""
        if (meant := _meant(value)) is not None:
            advice = f": pass device={meant!r}" if name == "device" else f": set {name}={meant}"
        raise ValueError(f"{name} must be 'auto', 'cpu', 'cuda' or 'cuda:N', not {value!r}{advice}")
    if value == "cpu":
        return CPU
    index, count = int(match[1] or 0), device_count()
    if index >= count:
        raise RuntimeError(
            f"{name}={value!r} needs NVIDIA GPU number {index}, but the driver shows {count or 'none'}: "
            "pass device='cpu', or device='auto' to take what is there"
        )
    return Device(index)


def _meant(value: object) -> str | None:
    """Return the device that another library's name stands for: "gpu:1", TensorFlow's "/GPU:1", PyTorch's 1."""
    text = f"gpu:{value}" if type(value) is int else str(value).lower()
    match = re.fullmatch(r"/?(?:device:)?(cpu|gpu|cuda)(?::(\d+))?", text)
    if match is None:
        return None
    number = int(match[2] or 0)
    return "cpu" if match[1] == "cpu" else f"cuda:{number}" if number else "cuda"
