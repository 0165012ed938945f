"""Batches as TensorFlow's eager tensors."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpuload.core.available import required
from gpuload.core.device import CPU, Device
from gpuload.core.memory import ALIGNED, aligned
from gpuload.delivery.base import Framework

_tf = functools.cache(functools.partial(required, "tensorflow", "framework='tensorflow'", "tensorflow"))


def to_tensorflow(array: Any, device: Device, dtype: str | None = None) -> Any:
    """Return an eager `tf.Tensor` on the device, on a GPU a copy.

    TensorFlow releases memory of others while kernels that read it still wait on its stream, which it does not tell.
    """
    tf = _tf()
    if device == CPU or isinstance(array, np.ndarray):
        tensor = _from_host(tf, np.asarray(array), device)
    else:
        with tf.device(f"/GPU:{device.index}"):
            narrow = array.dtype.name == "bfloat16"  # CuPy cannot export it by DLPack.
            capsule = (array.view(np.int16) if narrow else array).__dlpack__()
            tensor = tf.raw_ops.DeepCopy(x=tf.experimental.dlpack.from_dlpack(capsule))
            tf.test.experimental.sync_devices()
            tensor = tf.bitcast(tensor, tf.bfloat16) if narrow else tensor
    return tf.cast(tensor, tf.bfloat16) if dtype == "bfloat16" else tensor


def _from_host(tf: Any, array: Any, device: Device) -> Any:
    if device == CPU and array.dtype.kind in "biufc":
        # TensorFlow's kernels end the process where memory that came by DLPack is not aligned.
        whole = array.flags.c_contiguous and array.ctypes.data % ALIGNED == 0
        return tf.experimental.dlpack.from_dlpack((array if whole else aligned(array)).__dlpack__())
    with tf.device("/CPU:0" if device == CPU else f"/GPU:{device.index}"):
        return tf.convert_to_tensor(array)


TENSORFLOW = Framework(
    name="tensorflow",
    convert=to_tensorflow,
    extra="tensorflow",
    has=lambda dtype: isinstance(getattr(_tf(), dtype, None), _tf().DType) or dtype.startswith(("str", "bytes")),
    gpus=lambda: len(_tf().config.list_physical_devices("GPU")),
)
