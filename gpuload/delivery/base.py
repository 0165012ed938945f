"""Hands arrays to a framework, on the device where they are, without a copy.

One function for each framework: it takes an engine's array (a NumPy array; on a GPU a CuPy array or a DALI tensor), the
device, and the dtype that was asked for, and returns the framework's own array over the same memory. A batch keeps its
memory for as long as it, or anything made from it without a copy, lives. `FRAMEWORKS` lists them, with what else there
is to know of each; CONTRIBUTING tells how to add one.
"""

from __future__ import annotations

import functools
import importlib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuload.core.device import CPU, Device
from gpuload.core.memory import ALIGNED, aligned


def to_numpy(array: Any, device: Device, dtype: str | None = None) -> Any:
    """A NumPy array. What lies on a GPU is copied to the host: NumPy has no other memory."""
    host = array if isinstance(array, np.ndarray) else _on_host(array, device)
    if dtype == "bfloat16":
        return host.astype(_required("ml_dtypes", "dtype='bfloat16' in NumPy", "bfloat16").bfloat16)
    return host


def _on_host(array: Any, device: Device) -> Any:
    if device == CPU:
        return np.asarray(array)
    return array.get() if hasattr(array, "get") else np.asarray(array.as_cpu())  # CuPy's, or DALI's


def to_torch(array: Any, device: Device, dtype: str | None = None) -> Any:
    """A `torch.Tensor` on the device."""
    torch = _framework("torch")
    if isinstance(array, np.ndarray) and array.dtype.kind == "V":  # NumPy's bfloat16, of which PyTorch knows nothing.
        return to_torch(array.view(np.int16), device).view(torch.bfloat16)
    if device == CPU:
        tensor = torch.from_numpy(np.asarray(array))
    elif isinstance(array, np.ndarray):
        tensor = torch.from_numpy(array).to(str(device), non_blocking=True)
    else:
        tensor = torch.from_dlpack(array)
    return tensor.to(torch.bfloat16) if dtype == "bfloat16" else tensor


def to_cupy(array: Any, device: Device, dtype: str | None = None) -> Any:
    """A `cupy.ndarray` on the device."""
    cupy = _framework("cupy")
    with cupy.cuda.Device(device.index):
        result = cupy.asarray(array) if isinstance(array, np.ndarray) else cupy.from_dlpack(array)
        if dtype == "bfloat16":
            return result.astype(_required("ml_dtypes", "dtype='bfloat16' in CuPy", "bfloat16").bfloat16)
    return result


def to_jax(array: Any, device: Device, dtype: str | None = None) -> Any:
    """A `jax.Array` on the device. JAX keeps the memory until no computation reads it.

    Copied are one number a sample, such as labels; and what does not begin at a multiple of 64 bytes: on the CPU by JAX
    itself; on a GPU here, since XLA refuses to run with it.
    """
    jax = _framework("jax")
    if device == CPU or isinstance(array, np.ndarray):
        host = np.asarray(array)
        # Both as jax.device_put, by shorter ways through Python; the shorter one copies.
        if host.ndim == 1:
            result = _jax_copy(device)(host)
        else:
            result = jax.make_array_from_callback(host.shape, _jax_sharding(device), lambda index: host)
    else:
        if hasattr(array, "get") and array.data.ptr % ALIGNED:  # CuPy's; DALI's are aligned.
            with _framework("cupy").cuda.Device(device.index):
                array = array.copy()
        narrow = array.dtype.name == "bfloat16"  # Of which CuPy's DLPack does not speak.
        result = jax.dlpack.from_dlpack(array.view(np.int16) if narrow else array)
        if narrow:
            result = jax.lax.bitcast_convert_type(result, "bfloat16")
    return result.astype("bfloat16") if dtype == "bfloat16" else result


@functools.cache
def _jax_sharding(device: Device) -> Any:
    jax = _framework("jax")
    here = jax.local_devices(backend="cpu" if device == CPU else "gpu")
    number = 0 if device == CPU else [gpu.local_hardware_id for gpu in here].index(device.index)
    return jax.sharding.SingleDeviceSharding(here[number])


@functools.cache
def _jax_copy(device: Device) -> Any:
    here = _jax_sharding(device)
    return _framework("jax").jit(lambda array: array, in_shardings=here, out_shardings=here)


def to_tensorflow(array: Any, device: Device, dtype: str | None = None) -> Any:
    """An eager `tf.Tensor` on the device.

    On a GPU it is a copy on that GPU: TensorFlow lets go of memory that is not its own while kernels that read it still
    wait on its stream, which it shows nobody.
    """
    tf = _framework("tensorflow")
    if device == CPU or isinstance(array, np.ndarray):
        tensor = _tensorflow_from_host(tf, np.asarray(array), device)
    else:
        with tf.device(f"/GPU:{device.index}"):
            narrow = array.dtype.name == "bfloat16"  # Of which CuPy's DLPack does not speak.
            capsule = (array.view(np.int16) if narrow else array).__dlpack__()
            tensor = tf.raw_ops.DeepCopy(x=tf.experimental.dlpack.from_dlpack(capsule))
            tf.test.experimental.sync_devices()
            tensor = tf.bitcast(tensor, tf.bfloat16) if narrow else tensor
    return tf.cast(tensor, tf.bfloat16) if dtype == "bfloat16" else tensor


def _tensorflow_from_host(tf: Any, array: Any, device: Device) -> Any:
    if device == CPU and array.dtype.kind in "biufc":
        # TensorFlow's kernels end the process where memory that came by DLPack is not aligned.
        whole = array.flags.c_contiguous and array.ctypes.data % ALIGNED == 0
        return tf.experimental.dlpack.from_dlpack((array if whole else aligned(array)).__dlpack__())
    with tf.device("/CPU:0" if device == CPU else f"/GPU:{device.index}"):
        return tf.convert_to_tensor(array)


def to_dlpack(array: Any, device: Device, dtype: str | None = None) -> Any:
    """Something with `__dlpack__` for any library: a NumPy array, or on a GPU a CuPy array whose content is there."""
    if device == CPU:
        return np.asarray(array)
    result = to_cupy(array, device)
    if isinstance(array, np.ndarray):
        cupy = _framework("cupy")
        with cupy.cuda.Device(device.index):
            cupy.cuda.get_current_stream().synchronize()
    return result


def _torch_empty(shape: tuple[int, ...], dtype: str, device: Device) -> Any:
    torch = _framework("torch")
    return torch.empty(shape, dtype=getattr(torch, dtype), device=str(device))


def _cupy_empty(shape: tuple[int, ...], dtype: str, device: Device) -> Any:
    cupy = _framework("cupy")
    if dtype == "bfloat16":
        dtype = _required("ml_dtypes", "dtype='bfloat16' in CuPy", "bfloat16").bfloat16
    with cupy.cuda.Device(device.index):
        return cupy.empty(shape, dtype)


def _torch_split(tensor: Any, size: int) -> Sequence[Any]:
    # For autograd its parts are tensors in their own right: one may be changed in place, as any other batch.
    parts: Sequence[Any] = tensor.unsafe_split(size)
    return parts


def _torch_stream(device: Device) -> int:
    return int(_framework("torch").cuda.current_stream(device.index).cuda_stream)


def _cupy_stream(device: Device) -> int:
    cupy = _framework("cupy")
    with cupy.cuda.Device(device.index):
        return int(cupy.cuda.get_current_stream().ptr)


def _torch_gpus() -> int:
    return int(_framework("torch").cuda.device_count())


def _jax_gpus() -> int:
    jax = _framework("jax")
    try:
        return len(jax.local_devices(backend="gpu"))
    except RuntimeError:  # This JAX is not built for GPUs, or there are none.
        return 0


def _tensorflow_gpus() -> int:
    return len(_framework("tensorflow").config.list_physical_devices("GPU"))


def _torch_has(dtype: str) -> bool:
    torch = _framework("torch")
    return isinstance(getattr(torch, dtype, None), torch.dtype)


def _jax_has(dtype: str) -> bool:
    return _numbers(dtype) and bool(_framework("jax").dtypes.canonicalize_dtype(dtype).name == dtype)


def _tensorflow_has(dtype: str) -> bool:
    tf = _framework("tensorflow")
    return isinstance(getattr(tf, dtype, None), tf.DType) or dtype.startswith(("str", "bytes"))


def _numbers(dtype: str) -> bool:
    if dtype == "bfloat16":
        return True
    try:
        found = np.dtype(dtype)
    except TypeError:  # NumPy does not read all names that it gives: "str32".
        return False
    return found.kind in "biufc" and found.char not in "gG"


def _dlpack_has(dtype: str) -> bool:
    return dtype != "bfloat16" and _numbers(dtype)


@dataclass(frozen=True)
class Allocator:
    """How a framework takes memory on a GPU."""

    empty: Callable[[tuple[int, ...], str, Device], Any]
    """Shape, name of a dtype, device -> an array for a kernel to write."""
    pointer: Callable[[Any], int]
    """The address of such an array."""


CUPY = Allocator(_cupy_empty, operator.attrgetter("data.ptr"))


@dataclass(frozen=True)
class Framework:
    """How batches reach one framework."""

    name: str
    """As users write it."""
    convert: Callable[[Any, Device, str | None], Any]
    """Engine's array, device, dtype -> the framework's array."""
    has: Callable[[str], bool] = lambda dtype: True
    """Whether it has arrays of a dtype, by NumPy's name or "bfloat16"."""
    gpus: Callable[[], int] | None = None
    """How many GPUs it can use; None: as many as there are."""
    stream: Callable[[Device], int] | None = None
    """The CUDA stream on which the framework will use the batch; None: wait until the batch is there."""
    allocator: Allocator | None = None
    """Makes the arrays that kernels write; None: CuPy does, and they are converted."""
    split: Callable[[Any, int], Sequence[Any]] | None = None
    """Array of its own, number -> parts of at most that many along the first axis, over the same memory; None: the
    engine's array is sliced, and each slice converted."""
    label_dtype: str | None = None
    """What whole numbers that label images are converted to."""
    layout: str = "HWC"
    """Of an image, where the user does not say."""

    def parts(self, array: Any, size: int, convert: Callable[[Any], Any]) -> Sequence[Any]:
        """The framework's arrays of at most `size` samples each, over the memory of one that `convert` makes its."""
        if self.split is not None:
            return self.split(convert(array), size)
        return [convert(array[start : start + size]) for start in range(0, len(array), size)]

    def check_dtype(self, what: str, dtype: str, instead: str) -> None:
        """Raise ValueError where the framework has no arrays of that dtype. `instead`: what to do."""
        if self.has(dtype):
            return
        reason = " unless jax_enable_x64 is set" if self.name == "jax" and _numbers(dtype) else ""
        raise ValueError(f"{what} must be of a dtype that framework={self.name!r} has, not {dtype}{reason}: {instead}")


EXTRAS = {"torch": "torch", "cupy": "cuda13", "tensorflow": "tensorflow", "jax": "jax"}
"""Modules that a framework needs, and the extras of gpuload that install them."""

FRAMEWORKS = {
    framework.name: framework
    for framework in (
        Framework("numpy", to_numpy),
        Framework(
            "torch",
            to_torch,
            _torch_has,
            _torch_gpus,
            _torch_stream,
            Allocator(_torch_empty, operator.methodcaller("data_ptr")),
            _torch_split,
            label_dtype="int64",  # PyTorch's losses ask for it.
            layout="CHW",
        ),
        Framework("tensorflow", to_tensorflow, _tensorflow_has, _tensorflow_gpus),
        Framework("jax", to_jax, _jax_has, _jax_gpus),
        Framework("cupy", to_cupy, _numbers, stream=_cupy_stream, allocator=CUPY),
        Framework("dlpack", to_dlpack, _dlpack_has),
    )
}


def choose(framework: str | None, device: Device) -> Framework:
    """The framework by name; None takes NumPy on the CPU and CuPy on a GPU. Checks that it is there.

    Raises ValueError for an unknown name and for CuPy on the CPU, ImportError for one that is not installed,
    RuntimeError for one that cannot use the GPU.
    """
    if framework is None:
        framework = "numpy" if device == CPU else "cupy"
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework must be one of {', '.join(FRAMEWORKS)}, not {framework!r}")
    if framework == "cupy" and device == CPU:
        raise ValueError(
            "framework='cupy' needs a GPU, but batches are made on cpu: pass device='cuda' or framework='numpy'"
        )
    needs = "cupy" if framework == "dlpack" and device != CPU else framework
    if needs in EXTRAS:
        _framework(needs, framework)
    chosen = FRAMEWORKS[framework]
    if device.index is not None and chosen.gpus is not None and chosen.gpus() <= device.index:
        version = _framework(framework).__version__
        raise RuntimeError(
            f"framework={framework!r} cannot use {device}: the installed {framework} {version} sees "
            f"{chosen.gpus() or 'no'} GPU; install one that is built for CUDA, or pass device='cpu'"
        )
    return chosen


def _framework(module: str, name: str | None = None) -> Any:
    return _required(module, f"framework={name or module!r}", EXTRAS[module])


@functools.cache
def _required(module: str, purpose: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:  # Of a library that is there and broken, the cause tells.
        raise ImportError(
            f"{purpose} needs {module}, which is not installed: pip install 'gpuload[{extra}]'"
        ) from error
