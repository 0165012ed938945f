"""The device that batches are made on."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """CUDA device number `index`; the CPU if that is None."""

    index: int | None

    def __str__(self) -> str:
        return "cpu" if self.index is None else f"cuda:{self.index}"


CPU = Device(None)


@functools.cache
def device_count() -> int:
    """Return the number of CUDA devices that this process may use; 0 without a driver.

    NVML, the driver's management library, tells it without `cuInit`, after which forked processes could not use CUDA.
    The driver itself is asked only without NVML, or if `CUDA_VISIBLE_DEVICES` names parts of devices (MIG).
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if "MIG-" not in (visible or ""):
        with contextlib.suppress(OSError):
            return _count_by_nvml(visible)
    count = ctypes.c_int(0)
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value


def _count_by_nvml(visible: str | None) -> int:
    """Return the number of devices that NVML shows and CUDA_VISIBLE_DEVICES leaves; OSError if NVML does not answer."""
    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    if nvml.nvmlInit_v2() != 0:
        raise OSError("NVML does not start")
    count = ctypes.c_uint(0)
    try:
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            raise OSError("NVML does not count the devices")
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

    def there(name: str) -> bool:
        if name.startswith("GPU-"):
            return sum(uuid.startswith(name) for uuid in uuids) == 1
        return name.isdecimal() and int(name) < len(uuids)

    return len(list(itertools.takewhile(there, map(str.strip, names.split(",")))))


def _wanted(device: object) -> tuple[str, object]:
    """Return where the device is named, in the argument or the environment's variable, and the name."""
    if device == "auto" and "GPULOAD_DEVICE" in os.environ:
        return "GPULOAD_DEVICE", os.environ["GPULOAD_DEVICE"]
    is_torch = (type(device).__module__, type(device).__name__) == ("torch", "device")
    return "device", str(device) if is_torch else device


def is_auto(device: object) -> bool:
    """Whether neither the argument nor the environment names a device."""
    return _wanted(device)[1] == "auto"


def resolve(device: object) -> Device:
    """Return the device of that name: "auto", "cpu", "cuda", "cuda:N", or a `torch.device`.

    "auto" takes the first GPU, or else the CPU; the environment's GPULOAD_DEVICE overrides it. Raise ValueError for
    another name, RuntimeError if the machine does not have that CUDA device.

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
        raise ValueError(f"{name} must be 'auto', 'cpu', 'cuda' or 'cuda:N', not {value!r}{_advice(name, value)}")
    if value == "cpu":
        return CPU
    index, count = int(match[1] or 0), device_count()
    if index >= count:
        raise RuntimeError(
            f"{name}={value!r} needs NVIDIA GPU number {index}, but the driver shows {count or 'none'}: "
            "pass device='cpu', or device='auto' to take what is there"
        )
    return Device(index)


def _advice(name: str, value: object) -> str:
    """Return advice if another library calls a device so: "gpu:1", TensorFlow's "/GPU:1", PyTorch's 1."""
    text = f"gpu:{value}" if type(value) is int else str(value).lower()
    match = re.fullmatch(r"/?(?:device:)?(cpu|gpu|cuda)(?::(\d+))?", text)
    if match is None:
        return ""
    number = int(match[2] or 0)
    meant = "cpu" if match[1] == "cpu" else f"cuda:{number}" if number else "cuda"
    return f": pass device={meant!r}" if name == "device" else f": set {name}={meant}"
