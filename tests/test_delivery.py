"""Delivery: the framework's own array over the engine's memory, and every dtype and layout."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from conftest import Place

import gpuload
from gpuload import delivery, engines
from gpuload.cuda import CPU, resolve
from gpuload.plan import Augment, Step

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)
SOURCE = gpuload.ImageArray(IMAGES, labels=np.arange(6, dtype=np.int32))


def host(array: Any) -> np.ndarray:
    """Whatever it is, in NumPy, as float32."""
    if isinstance(array, torch.Tensor):
        return array.float().cpu().numpy()
    return np.asarray(array.get() if hasattr(array, "get") else array).astype(np.float32)


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_no_copy(place: Place, framework: str) -> None:
    """What is delivered lies where the engine put it."""
    if place.device != "cpu" and framework == "numpy":
        pytest.skip("NumPy on a GPU is a copy, as its documentation says")
    transform = Augment(size=(8, 10), rotation=5, layout="HWC")
    device = resolve(place.device)
    engine = engines.open_engine(SOURCE, transform, batch_size=6, device=device, engine=place.engine)
    engine.submit(transform.step(np.arange(6), seed=1, epoch=0, first=0))
    made = engine.result()
    delivered = delivery.choose(framework, device).convert(made, device, "float32")
    address = made.ctypes.data if isinstance(made, np.ndarray) else made.data_ptr()
    assert (delivered.data_ptr() if framework == "torch" else delivered.ctypes.data) == address


@pytest.mark.parametrize("framework", ["numpy", "torch", "cupy", None])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "uint8"])
@pytest.mark.parametrize("layout", ["HWC", "CHW", None])
def test_dtypes_and_layouts(place: Place, framework: str | None, dtype, layout) -> None:
    if framework == "cupy" and place.device == "cpu":
        pytest.skip("CuPy has no CPU arrays")
    transform = Augment(dtype=dtype, layout=layout)
    loader = gpuload.Loader(SOURCE, transform, batch_size=6, framework=framework, **place._asdict())
    ((images, labels),) = loader
    expected_type = {"numpy": np.ndarray, "torch": torch.Tensor}.get(framework or "numpy")
    if expected_type is not None and (framework or place.device == "cpu"):
        assert isinstance(images, expected_type)
        assert isinstance(labels, expected_type)
    first = layout == "CHW" or (layout is None and framework == "torch")
    # bfloat16 keeps 8 bits of a level: whole levels up to 255 are exact.
    np.testing.assert_array_equal(host(images), IMAGES.transpose(0, 3, 1, 2) if first else IMAGES)
    np.testing.assert_array_equal(host(labels), np.arange(6))
    names = {"bfloat16": (torch.bfloat16, ml_dtypes.bfloat16)}
    as_torch, as_numpy = names.get(dtype, (getattr(torch, dtype), dtype))
    assert images.dtype == (as_torch if framework == "torch" else np.dtype(as_numpy))
    if framework == "torch":
        assert labels.dtype == torch.int64  # what torch's losses ask for
        assert images.device == labels.device == torch.device(loader.device)


def test_a_tensor_outlives_its_loader(photos: Path, place: Place) -> None:
    options = {"batch_size": 4, "framework": "torch", **place._asdict()}
    loader = gpuload.Loader(gpuload.ImageFolder(photos), Augment(size=(16, 16), interpolation="nearest"), **options)
    images, _ = next(iter(loader))
    copy = images.clone()
    loader.close()
    del loader
    torch.randn(1000, 1000) @ torch.randn(1000, 1000)
    assert torch.equal(images, copy)
    images += 1  # and is the user's to change


def test_steps_run_without_a_loader(place: Place) -> None:
    """An engine is usable on its own: steps in, arrays out, in order."""
    transform = Augment(size=(8, 10), layout="HWC")
    device = resolve(place.device)
    engine = engines.open_engine(SOURCE, transform, batch_size=2, device=device, engine=place.engine)
    for first in (0, 2, 4):
        engine.submit(Step(indices=np.arange(first, first + 2)))
    assert engine.pending == 3
    for first in (0, 2, 4):
        images = delivery.to_numpy(engine.result(), device)
        np.testing.assert_array_equal(images, IMAGES[first : first + 2])
    engine.close()


def test_unknown_and_impossible() -> None:
    names = "numpy, torch, tensorflow, jax, cupy, dlpack"
    with pytest.raises(ValueError, match=f"framework must be one of {names}, not 'paddle'"):
        delivery.choose("paddle", CPU)
    with pytest.raises(ValueError, match="framework='cupy' needs a GPU, but batches are made on cpu"):
        delivery.choose("cupy", CPU)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="framework='torch' cannot use cuda:0"):
            delivery.choose("torch", gpuload.cuda.Device(0))
