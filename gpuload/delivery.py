"""Hands arrays to a framework, on the device where they are, without a copy.

One function for each framework: it takes an engine's array (a NumPy array, or a DALI tensor on the CPU or a GPU), the
device, and the dtype that was asked for, and returns the framework's own array over the same memory. A batch keeps its
memory for as long as it, or anything made from it without a copy, lives.
"""

from __future__ import annotations

import functools
import importlib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuload.cuda import CPU, Device


def to_numpy(array: Any, device: Device, dtype: str | None = None) -> Any:
    """A NumPy array. What lies on a GPU is copied to the host: NumPy has no other memory."""
    host = array if isinstance(array, np.ndarray) else _on_host(array, device)
    if dtype == "bfloat16":
        return host.astype(_required("ml_dtypes", "dtype='bfloat16' in NumPy", "bfloat16").bfloat16)
    return host


def _on_host(array: Any, device: Device) -> Any:
    if device.index is None:
        return np.asarray(array)
    return array.get() if hasattr(array, "get") else np.asarray(array.as_cpu())  # CuPy's, or DALI's


def to_torch(array: Any, device: Device, dtype: str | None = None) -> Any:
    """A `torch.Tensor` on the device."""
    torch = _required("torch", "framework='torch'", "torch")
    if isinstance(array, np.ndarray) and array.dtype.kind == "V":  # NumPy's bfloat16, of which PyTorch knows nothing.
        return to_torch(array.view(np.int16), device).view(torch.bfloat16)
    if device.index is None:
        tensor = torch.from_numpy(np.asarray(array))
    elif isinstance(array, np.ndarray):
        tensor = torch.from_numpy(array).to(str(device), non_blocking=True)
    else:
        tensor = torch.from_dlpack(array)
    return tensor.to(torch.bfloat16) if dtype == "bfloat16" else tensor


def to_cupy(array: Any, device: Device, dtype: str | None = None) -> Any:
    """A `cupy.ndarray` on the device."""
    cupy = _required("cupy", "framework='cupy'", "cuda13")
    with cupy.cuda.Device(device.index):
        result = cupy.asarray(array) if isinstance(array, np.ndarray) else cupy.from_dlpack(array)
        if dtype == "bfloat16":
            return result.astype(_required("ml_dtypes", "dtype='bfloat16' in CuPy", "bfloat16").bfloat16)
    return result


def _torch_empty(shape: tuple[int, ...], dtype: str, device: Device) -> Any:
    torch = importlib.import_module("torch")
    return torch.empty(shape, dtype=getattr(torch, dtype), device=str(device))


def _cupy_empty(shape: tuple[int, ...], dtype: str, device: Device) -> Any:
    cupy = importlib.import_module("cupy")
    if dtype == "bfloat16":
        dtype = _required("ml_dtypes", "dtype='bfloat16' in CuPy", "bfloat16").bfloat16
    with cupy.cuda.Device(device.index):
        return cupy.empty(shape, dtype)


def _torch_split(tensor: Any, size: int) -> Sequence[Any]:
    # For autograd its parts are tensors in their own right: one may be changed in place, as any other batch.
    parts: Sequence[Any] = tensor.unsafe_split(size)
    return parts


def _sliced(array: Any, size: int) -> Sequence[Any]:
    return [array[start : start + size] for start in range(0, len(array), size)]


def _torch_stream(device: Device) -> int:
    return int(importlib.import_module("torch").cuda.current_stream(device.index).cuda_stream)


def _cupy_stream(device: Device) -> int:
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(device.index):
        return int(cupy.cuda.get_current_stream().ptr)


@dataclass(frozen=True)
class Framework:
    """How batches reach one framework."""

    convert: Callable[[Any, Device, str | None], Any]
    """Engine's array, device, dtype -> the framework's array."""
    stream: Callable[[Device], int] | None = None
    """The CUDA stream on which the framework will use the batch; None: wait until the batch is there."""
    empty: Callable[[tuple[int, ...], str, Device], Any] = _cupy_empty
    """Shape, name of a dtype, device -> an array of the framework's own allocator, for a kernel to write."""
    pointer: Callable[[Any], int] = operator.attrgetter("data.ptr")
    """The address of such an array."""
    split: Callable[[Any, int], Sequence[Any]] = _sliced
    """Array, number -> parts of at most that many along the first axis, over the same memory."""
    label_dtype: str | None = None
    """What whole numbers that label images are converted to."""
    layout: str = "HWC"
    """Of an image, where the user does not say."""


FRAMEWORKS = {
    "numpy": Framework(to_numpy),
    "torch": Framework(
        to_torch,
        _torch_stream,
        _torch_empty,
        operator.methodcaller("data_ptr"),
        _torch_split,
        label_dtype="int64",  # PyTorch's losses ask for it.
        layout="CHW",
    ),
    "cupy": Framework(to_cupy, _cupy_stream),
}


def choose(framework: str | None, device: Device) -> Framework:
    """The framework by name; None takes NumPy on the CPU and CuPy on a GPU. Checks that it is there.

    Raises ValueError for an unknown name and for CuPy on the CPU, ImportError for one that is not installed,
    RuntimeError for a PyTorch that cannot use the GPU.
    """
    if framework is None:
        framework = "numpy" if device == CPU else "cupy"
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework must be one of {', '.join(FRAMEWORKS)}, not {framework!r}")
    if framework == "cupy" and device == CPU:
        raise ValueError(
            "framework='cupy' needs a GPU, but batches are made on cpu: pass device='cuda' or framework='numpy'"
        )
    if framework == "cupy":
        _required("cupy", "framework='cupy'", "cuda13")
    if framework == "torch":
        torch = _required("torch", "framework='torch'", "torch")
        if device != CPU and not torch.cuda.is_available():
            raise RuntimeError(
                f"framework='torch' cannot use {device}: the installed PyTorch {torch.__version__} sees no GPU; "
                "install one that is built for CUDA, or pass device='cpu'"
            )
    return FRAMEWORKS[framework]


@functools.cache
def _required(module: str, purpose: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f"{purpose} needs {module}, which is not installed: pip install 'gpuload[{extra}]'") from None
