"""The description of a framework: how batches reach it, and which arrays it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuload.core.available import required
from gpuload.core.device import Device


@dataclass(frozen=True)
class Allocator:
    """How a framework allocates arrays on a GPU."""

    empty: Callable[[tuple[int, ...], str, Device], Any]
    """Takes a shape, the name of a dtype and a device; returns an array for a kernel to write."""
    pointer: Callable[[Any], int]
    """Returns the address of such an array."""


@dataclass(frozen=True, kw_only=True)
class Framework:
    """How batches reach one framework.

    Args:
        name: As users write it.
        convert: Takes an engine's array, the device and a dtype; returns the framework's array. The dtype is "bfloat16"
            where an array in another dtype has to be converted to it, and otherwise it changes nothing.
        extra: Extra of gpuload that installs the framework. None: the framework needs no package of its own.
        has: Whether the framework has arrays of a dtype, given by NumPy's name or as "bfloat16".
        dtype_setting: The framework's setting that gives it more dtypes of numbers, for error messages.
        gpus: Number of GPUs that the framework can use. None: all of them.
        stream: Returns the CUDA stream on which the framework will use the next batch. None: the host waits until the
            batch is complete.
        allocator: Allocates the arrays that kernels write. None: CuPy does, and `convert` makes them the framework's.
        split: Takes one of the framework's arrays and a number; returns parts of at most that many rows, over the same
            memory. None: the engine's array is sliced, and each slice is converted.
        label_dtype: Dtype that integer labels of images are converted to. None: they keep theirs.
        layout: Layout of images where the user asks for none: "HWC" or "CHW".
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
    """Whether the dtype holds numbers of at most 64 bits, or complex ones of at most 128."""
    if dtype == "bfloat16":
        return True
    try:
        found = np.dtype(dtype)
    except TypeError:  # NumPy cannot read every name that it gives: "str32".
        return False
    return found.kind in "biufc" and found.char not in "gG"


def bfloat16(library: str) -> Any:
    """Return the dtype bfloat16 for arrays of NumPy or CuPy, which have none of their own."""
    return required("ml_dtypes", f"dtype='bfloat16' in {library}", "bfloat16").bfloat16
