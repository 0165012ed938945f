"""A batch keeps its numbers: of those that are held, and of those that are let go while kernels still wait to read."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import torch
from conftest import Place

import gpuload

BATCHES = 1000
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 12, 3), dtype=np.uint8)
VALUES = np.random.default_rng(1).standard_normal((300, 4)).astype(np.float32)

Late = Callable[[Any], Any]
"""Queues a long computation and, behind it, a copy of an array; waits for neither."""


@pytest.fixture(params=["numpy", "torch", "tensorflow", "jax", "cupy", "dlpack"])
def framework(request: pytest.FixtureRequest) -> str:
    if request.param not in ("numpy", "dlpack"):
        pytest.importorskip(request.param)
    return request.param


def late_in_jax(device: str) -> Late:
    """On the CPU, too, JAX computes in its own time: now and then something long, and everything else behind it."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def long(wait: Any) -> Any:
        return jax.lax.fori_loop(0, 8, lambda _, product: product @ product, wait)

    @jax.jit
    def behind(wait: Any, array: Any) -> Any:
        return array + (0 * wait[0, 0]).astype(array.dtype)

    size = 512 if device == "cpu" else 2048
    wait = jax.device_put(jnp.full((size, size), 1 / size), jax.local_devices(backend=device.replace("cuda", "gpu"))[0])
    calls = itertools.count()

    def late(array: Any) -> Any:
        nonlocal wait
        if next(calls) % 40 == 0:
            wait = long(wait)
        return behind(wait, array)

    return late


def late_in_torch(device: str) -> Late:
    def late(array: Any) -> Any:
        if device != "cpu":
            torch.cuda._sleep(500_000)  # cycles: a quarter of a millisecond
        return array.clone()

    return late


def late_in_cupy(device: str) -> Late:
    import cupy

    busy = cupy.full((2048, 2048), 1 / 2048, cupy.float32)

    def late(array: Any) -> Any:
        cupy.matmul(busy, busy)
        return array.copy()

    return late


def late_in(framework: str, device: str) -> Late:
    if framework == "dlpack" and device != "cpu":
        framework = "cupy"
    made = {"jax": late_in_jax, "torch": late_in_torch, "cupy": late_in_cupy}.get(framework)
    if made is not None:
        return made(device)
    return lambda array: array + 0  # NumPy's and TensorFlow's, which wait on the CPU.


def streams(framework: str, device: str) -> Iterator[Any]:
    """The default stream and, where a program can choose, one beside it."""
    yield contextlib.nullcontext()
    if device == "cpu":
        return
    if framework == "torch":
        yield torch.cuda.stream(torch.cuda.Stream())
    elif framework == "cupy":
        import cupy

        yield cupy.cuda.Stream(non_blocking=True)


def finish(framework: str, device: str) -> None:
    """Wait for all streams."""
    if device != "cpu" and framework == "torch":
        torch.cuda.synchronize()
    elif device != "cpu" and framework in ("cupy", "dlpack"):
        import cupy

        cupy.cuda.Device().synchronize()


def host(array: Any) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        return array.cpu().numpy()
    return array.get() if hasattr(array, "get") else np.asarray(array)


def first(loader: gpuload.Loader) -> Iterator[tuple[Any, ...]]:
    """As many batches, of as many epochs as it takes."""
    return itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), BATCHES)


def check_nothing_changes(loader: gpuload.Loader, framework: str, device: str) -> None:
    expected = [tuple(map(np.copy, batch)) for batch in first(loader)]  # NumPy's, taken one by one.
    for stream in streams(framework, device):
        late, copies, held = late_in(framework, device), [], {}
        with stream, loader.replace(framework=framework) as other:
            other.set_epoch(0)
            for number, batch in enumerate(first(other)):
                copies.append(tuple(late(part) for part in batch))
                if number % 3 == 0:
                    held[number] = batch
                if number % 6 == 0:  # Every other one of those is let go sooner or later.
                    held.pop(number - 3 * (number % 10), None)
                del batch
        del other
        assert len(held) > 100
        finish(framework, device)
        for number, (found, wanted) in enumerate(zip(copies, expected, strict=True)):
            for part, numbers in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(host(part), numbers, err_msg=f"batch {number}, read late")
        for number, batch in held.items():
            for part, numbers in zip(batch, expected[number], strict=True):
                np.testing.assert_array_equal(host(part), numbers, err_msg=f"batch {number}, held")


def check_there_is_more_to_see(framework: str, device: str) -> None:
    if device == "cpu" and framework in ("cupy", "dlpack"):
        pytest.skip("CuPy has no CPU arrays, and those of dlpack are NumPy's")


def test_images(place: Place, framework: str) -> None:
    check_there_is_more_to_see(framework, place.device)
    source = gpuload.ImageArray(IMAGES, labels=np.arange(60, dtype=np.int32))
    transform = gpuload.Augment(hflip=0.5, vflip=0.5, rescale=1 / 255, layout="HWC")
    options = {"batch_size": 4, "shuffle": True, "seed": 1, **place._asdict()}
    loader = gpuload.Loader(source, transform, framework="numpy", **options)
    check_nothing_changes(loader, framework, place.device)


@pytest.mark.parametrize(
    ("window", "options"),
    [
        pytest.param(gpuload.Window(16, horizon=2), {}, id="plain"),
        pytest.param(gpuload.Window(16, horizon=2, scaling=0.5, layout="LBC"), {}, id="one by one"),
        pytest.param(gpuload.Window(16, horizon=2, jitter=0.1), {"residency": "host"}, id="from the host"),
    ],
)
def test_windows(device: str, framework: str, window: gpuload.Window, options: Any) -> None:
    check_there_is_more_to_see(framework, device)
    options = {"batch_size": 8, "shuffle": True, "seed": 1, "device": device, **options}
    loader = gpuload.Loader(gpuload.Series(VALUES), window, framework="numpy", **options)
    check_nothing_changes(loader, framework, device)
