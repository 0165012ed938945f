"""Arrays of NumPy, pandas, PyTorch and CuPy, and `.npy` files, as arrays over the same memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuload.core.available import required
from gpuload.sources.base import Array, few, layout, shown
from gpuload.sources.maps import map_under


def is_panel(values: Any) -> bool:
    """Whether the value is a list of arrays, one for each series, and not a list of numbers."""
    arrays = values if isinstance(values, list | tuple) else ()
    return len(arrays) > 0 and all(np.ndim(each) and hasattr(each, "shape") for each in arrays)


def joined(values: Sequence[Any], targets: Any) -> tuple[Array, Array | None, list[int]]:
    """Return the values and targets of all series end to end, and the number of rows of each series."""
    parts = [as_array(f"values[{number}]", part) for number, part in enumerate(values)]
    lengths = [len(part) for part in parts]
    if targets is None:
        return _concatenated("values", parts), None, lengths
    if not is_panel(targets) or len(targets) != len(values):
        count = f"{len(targets)} arrays" if isinstance(targets, list | tuple) else layout(np.asarray(targets))
        raise ValueError(f"targets must be a list of {len(values)} arrays, as values is: got {count}")
    ends = [as_array(f"targets[{number}]", part) for number, part in enumerate(targets)]
    for number, (end, length) in enumerate(zip(ends, lengths, strict=True)):
        if len(end) != length:
            rule = f"targets[{number}] must have one entry for each row of values[{number}]"
            raise ValueError(f"{rule}: it has {len(end)} for {length} rows")
    return _concatenated("values", parts), _concatenated("targets", ends), lengths


def _concatenated(name: str, parts: list[Array]) -> Any:
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"{name} must have the same channels in every series: got rows of {few(sorted(shapes))}")
    if len({isinstance(part, np.ndarray) for part in parts}) > 1:
        raise ValueError(f"{name} must lie all on the host or all on a GPU: bring the list together first")
    return (np if isinstance(parts[0], np.ndarray) else _on_gpu(name)).concatenate(parts)


def as_array(name: str, values: Any) -> Any:
    """Return the values as an array over the same memory: NumPy's, or CuPy's if they lie on a GPU.

    Only another byte order, or a list of numbers, makes a copy.
    """
    if isinstance(values, str | os.PathLike):
        values = _opened(name, values)
    elif type(values).__module__.partition(".")[0] == "torch":
        values = _from_torch(name, values.detach())
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(f"{name} must be an array without a mask: fill it in with values.filled(np.nan)")
    if hasattr(values, "__cuda_array_interface__"):
        array = _on_gpu(name).asarray(values)
    else:
        array = as_numpy(name, "be an array, or a list of arrays", values)
    if not array.ndim:
        raise ValueError(f"{name} must be an array with time along its first axis, not {shown(values)}")
    if not array.dtype.isnative and map_under(array) is None:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def _opened(name: str, path: str | os.PathLike[str]) -> Any:
    file = repr(os.fspath(path))
    try:
        found = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        message = f"{name} must be an .npy file of numbers, but {file} is none: write one with np.save ({error})"
        raise ValueError(message) from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise ValueError(f"{name} must be one array in an .npy file, but {file} is an archive: open it first")
    return found


def as_numpy(name: str, rule: str, values: Any) -> Array:
    """Return a NumPy array. Raise ValueError, which names the argument and its rule, if NumPy cannot make one."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must {rule}: {error}") from None


def _from_torch(name: str, tensor: Any) -> Any:
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy and CuPy take it as whole numbers only.
        narrow = required("ml_dtypes", f"{name} in bfloat16", "bfloat16").bfloat16
        return _from_torch(name, tensor.view(required("torch", name, "torch").int16)).view(narrow)
    try:
        if not tensor.is_cuda:
            return tensor.numpy()
        # The work that fills the tensor may still run, on a stream that is unknown here.
        required("torch", name, "torch").cuda.synchronize(tensor.device)
        return _on_gpu(name).asarray(tensor)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name} must be a dense tensor of numbers: {error}") from None


def _on_gpu(name: str) -> Any:
    """Return CuPy. Raise ImportError, which names the argument, if it is not installed."""
    return required("cupy", f"{name} on a GPU", "cuda13")
