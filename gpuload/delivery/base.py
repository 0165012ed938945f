"""The description of a framework: how batches reach it, and which arrays it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpuload.core.available import required
from gpuload.core.device import Device


@dataclass(frozen=True)
class Allocator:
    """How a framework allocates arrays on a GPU: `empty` takes a shape, a dtype's name and a device."""

    empty: Callable[[tuple[int, ...], str, Device], Any]
    pointer: Callable[[Any], int]


@dataclass(frozen=True, kw_only=True)
class Framework:
    """How batches reach one framework.

    Args:
        name: As users write it.
        convert: Takes an engine's array, the device and a dtype; returns the framework's array. It converts to
            "bfloat16" only; other dtypes change nothing.
        extra: Extra of gpuload that installs the framework. None: the framework needs no package of its own.
        has: Whether the framework has arrays of a dtype, given by NumPy's name or as "bfloat16".
        dtype_setting: The framework's setting that gives it more dtypes of numbers, for error messages.
        gpus: Number of GPUs that the framework can use. None: all of them.
        stream: Returns the CUDA stream that will use the next batch. None: the host waits for the batch.
        allocator: Allocates the arrays that kernels write. None: CuPy does, and `convert` makes them the framework's.
        split: Cuts one of the framework's arrays into parts of at most so many rows, over the same memory. None: the
            engine's array is sliced, and each slice is converted.
        label_dtype: Dtype that integer labels of images are converted to. None: they keep theirs.
        layout: Layout of images by default: "HWC" or "CHW".
    """

    name: str
    convert: Callable[[Any, Device, str | None], Any]
    extra: str | None = None
    has: Callable[[str], bool] = lambda dtype: True
    dtype_setting: str | None = None
    gpus: Callable[[], int] | None = None
    stream: Callable[[Device], int] | None = None
    allocator: Allocator | None = None
    split: Callable[[Any, int], Sequence[Any]] | None = None
    label_dtype: str | None = None
    layout: str = "HWC"

    def parts(self, array: Any, size: int, convert: Callable[[Any], Any]) -> Sequence[Any]:
        """Cut an engine's array into arrays of the framework, of at most `size` samples each, over the same memory."""
        if self.split is not None:
            return self.split(convert(array), size)
        return [convert(array[start : start + size]) for start in range(0, len(array), size)]

    def check_dtype(self, what: str, dtype: str, instead: str) -> None:
        """Raise ValueError if the framework has no arrays of that dtype. `instead` names the next step."""
        if self.has(dtype):
            return
        unless = f" unless {self.dtype_setting} is set" if self.dtype_setting and is_number(dtype) else ""
        raise ValueError(f"{what} must be of a dtype that framework={self.name!r} has, not {dtype}{unless}: {instead}")


def is_number(dtype: str) -> bool:
    """Whether the dtype, by NumPy's name, holds numbers of at most 64 bits, or complex ones of at most 128."""
    return bool(re.fullmatch("bfloat16|bool|u?int(8|16|32|64)|float(16|32|64)|complex(64|128)", dtype))


def bfloat16(library: str) -> Any:
    """Return the dtype bfloat16 for arrays of NumPy or CuPy, which have none of their own."""
    return required("ml_dtypes", f"dtype='bfloat16' in {library}", "bfloat16").bfloat16
