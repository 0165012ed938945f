"""Batches as JAX arrays."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpuload.core.available import required
from gpuload.core.device import CPU, Device
from gpuload.core.memory import ALIGNED
from gpuload.delivery.base import Framework, is_number
from gpuload.delivery.cupy import import_cupy

import_jax = functools.cache(functools.partial(required, "jax", "framework='jax'", "jax"))


def to_jax(array: Any, device: Device, dtype: str | None = None) -> Any:
    """Return a `jax.Array` on the device. JAX keeps the memory until no computation reads it.

    Arrays with one number a sample, such as labels, are copied. So are those whose address is no multiple of 64 bytes,
    which XLA refuses: on the CPU by JAX itself, on a GPU here.
    """
    jax = import_jax()
    if device == CPU or isinstance(array, np.ndarray):
        host = np.asarray(array)
        if host.ndim == 1:  # Both ways do what jax.device_put does, with less Python. This one is faster, and copies.
            result = _copy_to(device)(host)
        else:
            result = jax.make_array_from_callback(host.shape, _sharding(device), lambda index: host)
    else:
        if hasattr(array, "get") and array.data.ptr % ALIGNED:  # A CuPy array; DALI's tensors are aligned.
            with import_cupy().cuda.Device(device.index):
                array = array.copy()
        narrow = array.dtype.name == "bfloat16"  # CuPy cannot export it by DLPack.
        result = jax.dlpack.from_dlpack(array.view(np.int16) if narrow else array)
        if narrow:
            result = jax.lax.bitcast_convert_type(result, "bfloat16")
    return result.astype("bfloat16") if dtype == "bfloat16" else result


@functools.cache
def _sharding(device: Device) -> Any:
    here = import_jax().local_devices(backend="cpu" if device == CPU else "gpu")
    number = 0 if device == CPU else [gpu.local_hardware_id for gpu in here].index(device.index)
    return import_jax().sharding.SingleDeviceSharding(here[number])


@functools.cache
def _copy_to(device: Device) -> Any:
    here = _sharding(device)
    return import_jax().jit(lambda array: array, in_shardings=here, out_shardings=here)


def _has(dtype: str) -> bool:
    return is_number(dtype) and bool(import_jax().dtypes.canonicalize_dtype(dtype).name == dtype)


def _gpus() -> int:
    try:
        return len(import_jax().local_devices(backend="gpu"))
    except RuntimeError:  # This JAX is not built for GPUs, or the machine has none.
        return 0


JAX = Framework(name="jax", convert=to_jax, extra="jax", has=_has, dtype_setting="jax_enable_x64", gpus=_gpus)
