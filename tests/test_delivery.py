"""Delivery: the framework's own array over the engine's memory, in every framework, dtype and layout."""

import os
from pathlib import Path
from typing import Any

# JAX would take most of a GPU's memory for itself, and TensorFlow tells all that it finds.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import ml_dtypes
import numpy as np
import pytest
import torch
from conftest import PLACES, Place
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuload
from gpuload.core.device import CPU, Device, resolve
from gpuload.delivery import choose
from gpuload.delivery.numpy import to_numpy
from gpuload.images.augment import Augment
from gpuload.images.choose import settle
from gpuload.images.open import open_engine
from gpuload.images.step import Step
from gpuload.plan.order import Order
from gpuload.windows.pool import WindowPool
from gpuload.windows.window import Window

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)
SOURCE = gpuload.ImageArray(IMAGES, labels=np.arange(6, dtype=np.int32))


@pytest.fixture(params=["numpy", "torch", "tensorflow", "jax", "cupy", "dlpack"])
def framework(request: pytest.FixtureRequest) -> str:
    """Every framework that is installed."""
    if request.param not in ("numpy", "dlpack"):
        pytest.importorskip(request.param)
    return request.param


def without_cupy_on_cpu(framework: str, device: str) -> None:
    if framework == "cupy" and device == "cpu":
        pytest.skip("CuPy has no CPU arrays")


def type_of(framework: str, device: str) -> type:
    """What batches are."""
    if framework in ("numpy", "dlpack") and (framework == "numpy" or device == "cpu"):
        return np.ndarray
    module, name = {
        "torch": ("torch", "Tensor"),
        "tensorflow": ("tensorflow", "Tensor"),
        "jax": ("jax", "Array"),
        "cupy": ("cupy", "ndarray"),
        "dlpack": ("cupy", "ndarray"),
    }[framework]
    return getattr(pytest.importorskip(module), name)


def host(array: Any) -> np.ndarray:
    """Whatever it is, in NumPy, with its own dtype."""
    if isinstance(array, torch.Tensor):
        array = array.cpu()
        bfloat16 = array.dtype == torch.bfloat16
        return array.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if bfloat16 else array.numpy()
    return array.get() if hasattr(array, "get") else np.asarray(array)


def where(array: Any) -> str:
    """Its device, as PyTorch spells it."""
    if isinstance(array, np.ndarray):
        return "cpu"
    if isinstance(array, torch.Tensor):
        return str(array.device)
    if hasattr(array, "devices"):
        (device,) = array.devices()
        return "cpu" if device.platform == "cpu" else f"cuda:{device.local_hardware_id}"
    if isinstance(array.device, str):
        return array.device.rpartition("device:")[2].lower().replace("gpu", "cuda").replace("cpu:0", "cpu")
    return f"cuda:{array.device.id}"


def address(array: Any) -> int:
    """Of its first byte."""
    for name in ("data_ptr", "unsafe_buffer_pointer"):
        if hasattr(array, name):
            return getattr(array, name)()
    if isinstance(array, np.ndarray):
        return array.ctypes.data
    return int(array.data.ptr) if hasattr(array, "get") else np.from_dlpack(array).ctypes.data  # CuPy's; TensorFlow's.


def test_no_copy_of_images(place: Place, framework: str) -> None:
    """What is delivered lies where the engine put it."""
    without_cupy_on_cpu(framework, place.device)
    if place.device != "cpu" and framework in ("numpy", "tensorflow"):
        pytest.skip("a copy, as its documentation says")
    transform = Augment(size=(8, 10), rotation=5, layout="HWC")
    device = resolve(place.device)
    engine = open_engine(settle(SOURCE, transform, **place._asdict()), batch_size=5)
    for size in (5, 1):
        engine.submit(transform.step(np.arange(size), seed=1, epoch=0, first=0))
        made = engine.result()
        delivered = choose(framework, device).convert(made, device, "float32")
        assert address(delivered) == address(made)


@pytest.mark.parametrize("window", [Window(24), Window(24, per_sample="standardize"), Window(24, dtype="float16")])
def test_no_copy_of_windows(device: str, framework: str, window: Window) -> None:
    """What a window's numbers were written to is what is delivered, as parts of one piece."""
    without_cupy_on_cpu(framework, device)
    if device != "cpu" and framework in ("numpy", "tensorflow"):
        pytest.skip("a copy, as its documentation says")
    values = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)
    series = gpuload.Series(values)
    pool = WindowPool.of(series, window, batch_size=32, device=device, framework=lambda place: choose(framework, place))
    assert pool.job.plain == (window.dtype is window.per_sample is None)
    if device == "cpu" and pool.job.plain and framework in ("jax", "tensorflow"):
        pytest.skip("NumPy's own memory, which is a copy where it is not aligned")
    engine = pool.open_engine()
    (step,) = pool.plan(Order(size=len(pool), batch_size=32), 0, 0)
    engine.submit(step)
    cut = engine.result()
    parts = pool.delivered(cut)
    size = 32 * 24 * 4 * (2 if window.dtype else 4)
    assert [address(part) - address(cut.inputs) for part in parts] == [size * number for number in range(len(parts))]
    assert len(parts) == 6
    engine.close()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "uint8"])
def test_dtypes_and_layouts_of_images(place: Place, framework: str, dtype: Any) -> None:
    without_cupy_on_cpu(framework, place.device)
    options = {"batch_size": 4, "framework": framework, **place._asdict()}
    if framework == "dlpack" and dtype == "bfloat16":  # NumPy's __dlpack__ does not speak of it.
        with pytest.raises(ValueError, match="dtype of the transform must be of a dtype that framework='dlpack' has"):
            gpuload.Loader(SOURCE, Augment(dtype=dtype), **options)
        return
    for layout in ("HWC", "CHW", None):
        loader = gpuload.Loader(SOURCE, Augment(dtype=dtype, layout=layout), **options)
        batches = list(loader)
        assert loader.framework == framework
        for array in (part for batch in batches for part in batch):
            assert isinstance(array, type_of(framework, place.device))
            assert where(array) == ("cpu" if framework == "numpy" else loader.device)
        images, labels = (np.concatenate([host(part) for part in parts]) for parts in zip(*batches, strict=True))
        first = layout == "CHW" or (layout is None and framework == "torch")
        # bfloat16 keeps 8 bits of a level: whole levels up to 255 are exact.
        np.testing.assert_array_equal(
            images.astype(np.float32), IMAGES.transpose(0, 3, 1, 2) if first else IMAGES, strict=False
        )
        assert images.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        np.testing.assert_array_equal(labels, np.arange(6))
        assert labels.dtype == ("int64" if framework == "torch" else "int32")  # what torch's losses ask for


def test_the_default_framework(place: Place) -> None:
    loader = gpuload.Loader(SOURCE, Augment(), batch_size=6, **place._asdict())
    assert loader.framework == ("numpy" if place.device == "cpu" else "cupy")
    ((images, _),) = loader
    np.testing.assert_array_equal(host(images), IMAGES)


NUMBERS = [*(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "bool", "float16", "float32"]


def labels_loader(labels: Any, framework: str, device: str) -> gpuload.Loader:
    place = next(p.values[0] for p in PLACES if p.values[0].device == device)
    source = gpuload.ImageArray(np.zeros((6, 1, 1, 1), np.uint8), labels=np.asarray(labels))
    return gpuload.Loader(source, Augment(), batch_size=4, framework=framework, **place._asdict())


@pytest.mark.parametrize("dtype", [*NUMBERS, "float64", "complex64", "complex128"])
def test_labels_are_delivered_with_their_dtype(device: str, framework: str, dtype: str) -> None:
    """But whole numbers become int64 for PyTorch, and int32 in JAX where it has no int64."""
    without_cupy_on_cpu(framework, device)
    for shape in ((6,), (6, 2, 3)):
        labels = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 128, shape).astype(dtype)
        if framework == "jax" and dtype in ("float64", "complex128"):
            with pytest.raises(ValueError, match=f"has, not {dtype} unless jax_enable_x64 is set: "):
                labels_loader(labels, framework, device)
            continue
        batches = [part for _, part in labels_loader(labels, framework, device)]
        expected = {"torch": "int64" if "int" in dtype else dtype, "jax": dtype.replace("uint64", "int64")}
        narrow = {"int64": "int32"} if framework == "jax" else {}
        name = expected.get(framework, dtype)
        assert [part.shape[0] for part in batches] == [4, 2]
        assert all(isinstance(part, type_of(framework, device)) for part in batches)
        got = np.concatenate([host(part) for part in batches])
        assert got.dtype == narrow.get(name, name)
        np.testing.assert_array_equal(got, labels)


def test_labels_that_a_framework_lacks(device: str, framework: str) -> None:
    without_cupy_on_cpu(framework, device)
    names = ["ant", "bee", "ant", "fly", "bee", "fly"]
    if framework == "numpy" or (framework, device) == ("tensorflow", "cpu"):
        got = np.concatenate([host(part) for _, part in labels_loader(names, framework, device)])
        assert [name.decode() if isinstance(name, bytes) else name for name in got] == names
    for labels in (names, np.arange(6).astype("datetime64[D]"), np.ones(6, np.longdouble), np.array([None] * 6)):
        if framework == "numpy" or (framework == "tensorflow" and labels is names):
            continue
        message = (
            f"labels must be of a dtype that framework='{framework}' has, not .*: "
            r"(number them with np\.unique|labels\.astype)"
        )
        with pytest.raises(ValueError, match=message):
            labels_loader(labels, framework, device)
    if framework == "jax":
        message = "framework='jax' has, not int64 unless jax_enable_x64 is set: number them"
        with pytest.raises(ValueError, match=message):
            labels_loader(np.arange(6) + 2**31, framework, device)


def test_windows_that_a_framework_lacks(device: str) -> None:
    pytest.importorskip("jax")
    series = gpuload.Series(np.zeros((9, 2)), targets=np.arange(9))
    options = {"batch_size": 4, "device": device}
    for framework, source, window, message in [
        (
            "jax",
            series,
            Window(3),
            r"values must .*='jax' has, not float64 unless jax_enable_x64 is set: pass Window\(dtype='float32'\)",
        ),
        (
            "jax",
            series,
            Window(3, dtype="float32"),
            r"targets must .*, not int64 unless jax_enable_x64 is set: targets.astype\('float32'\), or 'int32'",
        ),
        (
            "dlpack",
            series,
            Window(3, dtype="bfloat16"),
            r"values must .* framework='dlpack' has, not bfloat16: pass Window\(dtype='float32'\)",
        ),
        (
            "torch",
            gpuload.Series(np.zeros(9), targets=np.array(list("abcabcabc"))),
            Window(3),
            r"targets must .*='torch' has, not str32: number them with np.unique\(targets, return_inverse=True\)",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            gpuload.Loader(source, window, framework=framework, **options)


def windows_by_hand(values: np.ndarray, window: Window) -> dict[str, np.ndarray]:
    """All windows of a series, batch first: inputs, targets (channels as targets) and extras, before the layout."""
    length, horizon, dtype = window.length, window.horizon, np.float64
    starts = np.arange(len(values) - length - max(1, horizon) + 1)
    inputs = np.stack([values[s : s + length] for s in starts]).astype(dtype)
    targets = np.stack([values[s + length : s + length + max(1, horizon)] for s in starts]).astype(dtype)
    found = {"mask": np.isfinite(inputs), "start": starts}
    if window.per_sample:
        mean, scale = inputs.mean(axis=1, keepdims=True), inputs.std(axis=1, keepdims=True) + 1e-6
        inputs, targets = (inputs - mean) / scale, (targets - mean) / scale
        found |= {"mean": mean[:, 0], "scale": scale[:, 0]}
    if window.target_channels is not None:
        targets = targets[..., list(window.target_channels)]
    return found | {"inputs": inputs, "targets": targets if horizon else targets[:, 0]}


@given(
    rows=st.integers(15, 60),
    length=st.integers(1, 9),
    horizon=st.integers(0, 3),
    layout=st.sampled_from(["BLC", "BLC", "BCL", "LBC"]),
    values=st.sampled_from(["float32", "float16", "bfloat16", "int32", "uint8"]),
    dtype=st.sampled_from([None, None, "bfloat16", "float32"]),
    channels=st.sampled_from([None, [0], [2, 0]]),
    per_sample=st.sampled_from([None, "standardize"]),
    batch_size=st.integers(1, 64),
)
@settings(max_examples=25)
def test_windows(
    device: str, framework: str, rows, length, horizon, layout, values, dtype, channels, per_sample, batch_size
) -> None:
    """Inputs, channels as targets, and all extras, in batches that are parts of one piece."""
    without_cupy_on_cpu(framework, device)
    whole = np.random.default_rng(rows * length).integers(0, 256, (rows, 3))
    extras = ("mask", "start", *(("mean", "scale") if per_sample else ()))
    window = Window(
        length,
        horizon=horizon,
        target=None if horizon else "after",
        target_channels=channels,
        layout=layout,
        dtype=dtype,
        per_sample=per_sample,
        extras=extras,
    )
    series = gpuload.Series(whole.astype(ml_dtypes.bfloat16 if values == "bfloat16" else values))
    if framework == "dlpack" and "bfloat16" in (dtype, values if dtype is None else None):
        return
    loader = gpuload.Loader(series, window, batch_size=batch_size, framework=framework, device=device)
    expected = windows_by_hand(whole, window)
    seen = 0
    for inputs, targets, got in loader:
        assert set(got) == set(extras)
        part = slice(seen, seen + batch_size)
        for name, array in {"inputs": inputs, "targets": targets, **got}.items():
            assert isinstance(array, type_of(framework, device))
            assert where(array) == ("cpu" if framework == "numpy" else loader.device)
            wanted, found = expected[name][part], host(array)
            if name in ("inputs", "mask") or (name == "targets" and horizon):
                wanted = wanted.transpose({"BLC": (0, 1, 2), "BCL": (0, 2, 1), "LBC": (1, 0, 2)}[layout])
            assert found.shape == wanted.shape
            if name == "start":
                assert found.dtype == ("int32" if framework == "jax" else "int64")
            elif name == "mask":
                assert found.dtype == bool
            exact = not per_sample or name in ("start", "mask")
            eps = 0 if exact else max(float(ml_dtypes.finfo(found.dtype).eps), 1e-6)
            # Half a step of the dtype for its rounding, the rest for the order of sums in float32.
            np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=4 * eps, atol=4 * eps)
        seen += len(expected["start"][part])
    assert seen == len(expected["start"])


@pytest.mark.parametrize("columns", [1, 3, 5])
def test_memory_that_is_not_aligned(device: str, framework: str, columns: int) -> None:
    """Parts of a piece begin anywhere, and TensorFlow's and XLA's kernels want memory that does not."""
    without_cupy_on_cpu(framework, device)
    values = np.random.default_rng(0).standard_normal((700, columns)).astype(np.float32)
    loader = gpuload.Loader(gpuload.Series(values), Window(7), batch_size=3, framework=framework, device=device)
    expected = np.lib.stride_tricks.sliding_window_view(values, 7, axis=0).transpose(0, 2, 1)
    for number, batch in enumerate(loader):
        wanted = expected[3 * number : 3 * number + 3]
        flat = wanted.reshape(len(wanted), -1)
        if framework == "tensorflow":
            tf = pytest.importorskip("tensorflow")
            rows = tf.reshape(batch, flat.shape)
            product = tf.matmul(rows, rows, transpose_b=True)
        else:
            rows = batch.reshape(flat.shape)
            product = rows @ rows.T
        # A sum of at most 35 products of about 1, in float32 or, on a GPU, in TensorFloat-32.
        np.testing.assert_allclose(host(product), flat @ flat.T, atol=1e-4 if device == "cpu" else 0.1)
        np.testing.assert_array_equal(host(rows[:, 1:] * 2), flat[:, 1:] * 2)


def test_a_tensor_outlives_its_loader(photos: Path, place: Place, framework: str) -> None:
    without_cupy_on_cpu(framework, place.device)
    options = {"batch_size": 4, "framework": framework, **place._asdict()}
    loader = gpuload.Loader(gpuload.ImageFolder(photos), Augment(size=(16, 16), interpolation="nearest"), **options)
    images, _ = next(iter(loader))
    copy = host(images).copy()
    loader.close()
    del loader
    torch.randn(1000, 1000) @ torch.randn(1000, 1000)
    np.testing.assert_array_equal(host(images), copy)
    if framework == "torch":
        images += 1  # and is the user's to change


def test_steps_run_without_a_loader(place: Place) -> None:
    """An engine is usable on its own: steps in, arrays out, in order."""
    transform = Augment(size=(8, 10), layout="HWC")
    device = resolve(place.device)
    engine = open_engine(settle(SOURCE, transform, **place._asdict()), batch_size=2)
    for first in (0, 2, 4):
        engine.submit(Step(indices=np.arange(first, first + 2)))
    assert engine.pending == 3
    for first in (0, 2, 4):
        images = to_numpy(engine.result(), device)
        np.testing.assert_array_equal(images, IMAGES[first : first + 2])
    engine.close()


def test_unknown_and_impossible(framework: str) -> None:
    names = "numpy, torch, tensorflow, jax, cupy, dlpack"
    with pytest.raises(ValueError, match=f"framework must be one of {names}, not 'paddle'"):
        choose("paddle", CPU)
    with pytest.raises(ValueError, match="framework='cupy' needs a GPU, but batches are made on cpu: pass device="):
        choose("cupy", CPU)
    if framework in ("torch", "tensorflow", "jax"):
        message = (
            rf"framework='{framework}' cannot use cuda:99: the installed {framework} \d.* sees (no|\d+) GPU; install "
            "one that is built for CUDA, or pass device='cpu'"
        )
        with pytest.raises(RuntimeError, match=message):
            choose(framework, Device(99))
