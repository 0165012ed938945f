"""Batches spread over the devices of a JAX mesh, in one process and in two; 64 bits; donation."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

# Before JAX looks for devices: as many CPU devices as a small mesh has, and no more of a GPU's memory than is used.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import numpy as np
import pytest
from conftest import Place
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import gpuload
from gpuload.core.device import Device
from gpuload.delivery import FRAMEWORKS
from gpuload.delivery.sharding import sharded
from gpuload.plan.order import Order

jax = pytest.importorskip("jax")

jnp, NamedSharding, P = jax.numpy, jax.sharding.NamedSharding, jax.sharding.PartitionSpec

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 12, 10, 3), dtype=np.uint8)
SOURCE = gpuload.ImageArray(IMAGES, labels=np.arange(23))
RANDOM = gpuload.Augment(rotation=20, zoom=(0.8, 1.2), hflip=0.5)
VALUES = np.random.default_rng(1).standard_normal((90, 3)).astype(np.float32)


def spread(device: str, shape: tuple[int, ...], *spec: Any) -> Any:
    """A NamedSharding over a mesh of that shape with the axes "data" and "model"; on a GPU, of one device."""
    if device != "cpu":
        shape = (1,) * len(shape)
    devices = jax.devices("cpu" if device == "cpu" else "gpu")[: int(np.prod(shape))]
    return NamedSharding(jax.sharding.Mesh(np.array(devices).reshape(shape), ("data", "model")[: len(shape)]), P(*spec))


def check(array: Any, expected: np.ndarray, sharding: Any) -> None:
    """The global array, how it is spread, and what each device holds."""
    assert isinstance(array, jax.Array)
    spec = sharding.spec[: array.ndim]  # P("data", None) is P("data") for labels.
    assert array.sharding == NamedSharding(sharding.mesh, P(*spec))
    assert array.shape == expected.shape
    np.testing.assert_array_equal(np.asarray(array), expected)
    assert {shard.device for shard in array.addressable_shards} == sharding.device_set
    for shard in array.addressable_shards:
        np.testing.assert_array_equal(np.asarray(shard.data), expected[shard.index])


SPREADS = [
    pytest.param((1,), ("data",), id="1"),
    pytest.param((2,), ("data",), id="2"),
    pytest.param((4,), ("data", None), id="4"),
    pytest.param((2, 2), ("data",), id="2x2 data"),
    pytest.param((2, 2), (("model", "data"),), id="2x2 both"),
    pytest.param((2,), (), id="replicated"),
]


@pytest.mark.parametrize(("shape", "spec"), SPREADS)
def test_images(place: Place, shape: tuple[int, ...], spec: tuple[Any, ...]) -> None:
    """The batches of a loader without a mesh, in every epoch and under every last-batch policy."""
    sharding = spread(place.device, shape, *spec)
    options = {"batch_size": 8, "shuffle": True, "seed": 3, **place._asdict()}
    for last_batch, count, dtype in (("drop", 2, "float32"), ("pad", 3, "bfloat16")):
        transform = RANDOM.replace(dtype=dtype)
        plain = gpuload.Loader(SOURCE, transform, last_batch=last_batch, framework="numpy", **options)
        loader = plain.replace(framework="jax", sharding=sharding)
        for _ in range(2):
            assert len(loader) == count
            for (images, labels), (expected, numbers) in zip(loader, plain, strict=True):
                check(images, expected, sharding)
                check(labels, numbers, sharding)
                assert images.dtype == dtype
    # 22 = 2 * 8 + 6: a short last batch that two devices, and not four, can share.
    if sharding.num_devices == 4 and spec != ("data",):
        return
    plain = gpuload.Loader(SOURCE.take(np.arange(22)), RANDOM, framework="numpy", **options)
    sizes = [len(labels) for _, labels in plain.replace(framework="jax", sharding=sharding)]
    assert sizes == [8, 8, 6]


def test_an_epoch_goes_on(place: Place) -> None:
    """In the middle, with the same arrays on the same devices; the state is that of a loader without a mesh."""
    sharding = spread(place.device, (2,), "data")
    options = {"batch_size": 4, "shuffle": True, "seed": 3, **place._asdict()}
    plain = gpuload.Loader(SOURCE.take(np.arange(22)), RANDOM, framework="numpy", **options)
    expected = list(plain.batches(0))
    for loader in (plain.replace(framework="jax", sharding=sharding), plain.replace()):
        batches = iter(loader)
        next(batches), next(batches)
        state = json.loads(json.dumps(loader.state_dict()))
        assert state["seen"] == 8
        again = plain.replace(framework="jax", sharding=sharding)
        again.load_state_dict(state)
        for (images, labels), (pixels, numbers) in zip(again, expected[2:], strict=True):
            check(images, pixels, sharding)
            check(labels, numbers, sharding)


@pytest.mark.parametrize(("shape", "spec"), SPREADS)
@pytest.mark.parametrize("layout", ["BLC", "BCL"])
def test_windows(device: str, shape: tuple[int, ...], spec: tuple[Any, ...], layout: Any) -> None:
    """Many small batches are cut in one piece, and each is spread."""
    sharding = spread(device, shape, *spec)
    window = gpuload.Window(
        7, horizon=2, per_sample="standardize", layout=layout, extras=("mask", "mean", "scale", "start"), jitter=0.1
    )
    options = {"batch_size": 8, "shuffle": True, "seed": 3, "last_batch": "pad", "device": device}
    plain = gpuload.Loader(gpuload.Series(VALUES), window, framework="numpy", **options)
    loader = plain.replace(framework="jax", sharding=sharding)
    for _ in range(2):
        for batch, expected in zip(loader, plain, strict=True):
            for array, wanted in zip(jax.tree.leaves(batch), jax.tree.leaves(expected), strict=True):
                check(array, wanted, sharding)


def test_a_training_step(device: str) -> None:
    """Jitted, with parameters on every device: the gradients are those of the whole batch."""
    sharding = spread(device, (4,), "data")
    series = gpuload.Series(VALUES, targets=VALUES.sum(axis=1))
    options = {"batch_size": 16, "shuffle": True, "seed": 1, "last_batch": "drop", "device": device}
    loader = gpuload.Loader(series, gpuload.Window(5), framework="jax", sharding=sharding, **options)
    weights = jax.device_put(jnp.ones(15), NamedSharding(sharding.mesh, P()))

    @jax.jit
    def step(weights: Any, inputs: Any, targets: Any) -> Any:
        loss = lambda w: jnp.mean((inputs.reshape(len(inputs), -1) @ w - targets) ** 2)  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(weights)
        return value, weights - 0.05 * gradient

    by_hand = np.ones(15)
    for (inputs, targets), (x, y) in zip(loader, loader.replace(framework="numpy", sharding=None), strict=True):
        value, weights = step(weights, inputs, targets)
        x = x.reshape(len(x), -1)
        error = x @ by_hand - y
        by_hand = by_hand - 0.05 * 2 * error @ x / len(x)
        # float32, and on a GPU TensorFloat-32 in the product.
        np.testing.assert_allclose(value, np.mean(error**2), rtol=1e-4 if device == "cpu" else 0.02)
    assert weights.sharding.is_fully_replicated
    np.testing.assert_allclose(weights, by_hand, rtol=1e-3 if device == "cpu" else 0.05, atol=1e-3)


def test_what_cannot_be_spread() -> None:
    two = spread("cpu", (2,), "data")
    square = spread("cpu", (2, 2), "data", "model")
    one = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    kind = "sharding must be a jax.sharding.NamedSharding over a mesh of devices"
    options = {"batch_size": 8, "framework": "jax", "sharding": two, "seed": 0, "last_batch": "drop", "device": "cpu"}
    for message, changes in [
        (f"{kind}, not SingleDeviceSharding", {"sharding": one}),
        (f"{kind}, not NamedSharding.*AbstractMesh", {"sharding": NamedSharding(two.mesh.abstract_mesh, two.spec)}),
        (f"{kind}, not 2", {"sharding": 2}),
        (
            r"sharding must spread the first axis, that of the samples, and no other, not .*'model'",
            {"sharding": square},
        ),
        ("sharding must spread the first axis", {"sharding": spread("cpu", (2,), None, "data")}),
        ("sharding must spread the first axis", {"sharding": spread("cpu", (2,), P.UNCONSTRAINED)}),
        ("batch_size must be a multiple of the 2 parts that sharding makes, not 9", {"batch_size": 9}),
        ("batch_size must be an integer of at least 1, not 0", {"batch_size": 0}),
        (
            "last_batch='keep' leaves a batch of 7, which sharding cannot spread in 2 equal parts: pass "
            "last_batch='drop' or 'pad'",
            {"last_batch": "keep"},
        ),
        ("sharding is for framework='jax', not for 'numpy': leave it out", {"framework": "numpy"}),
        ("sharding is for framework='jax', not for None: leave it out", {"framework": None}),
        ("seed must be given with sharding, the same in all processes, not None", {"seed": None}),
    ]:
        with pytest.raises(ValueError, match=message):
            gpuload.Loader(SOURCE, RANDOM, **{**options, **changes})
    message = (
        "sharding must be over devices like cuda:0, where batches are made, not over cpu: pass device='cpu', or a mesh"
    )
    with pytest.raises(ValueError, match=message):
        sharded(FRAMEWORKS["jax"], two, 1, Device(0))


@given(
    batches=st.integers(1, 5),
    count=st.integers(2, 4),
    of_each=st.integers(1, 5),
    short=st.integers(0, 19),
    shuffle=st.booleans(),
    last_batch=st.sampled_from(["keep", "drop", "pad"]),
    epoch=st.integers(0, 3),
    together=st.integers(1, 3),
)
def test_parts_make_a_batch(batches, count, of_each, short, shuffle, last_batch, epoch, together) -> None:
    """The parts of all ranks, one after another, are the batch of an order that is not sharded."""
    batch_size = count * of_each
    short = min(short, batch_size - 1) // count * count  # Of a short batch, each rank has as much.
    options = {"size": batches * batch_size + short, "batch_size": batch_size, "shuffle": shuffle, "seed": 5}
    whole = Order(last_batch=last_batch, **options)
    ranks = [Order(last_batch=last_batch, shard=(rank, count), **options) for rank in range(count)]
    assert {len(rank) for rank in ranks} == {len(whole)}
    parts = [list(rank.batches(epoch, together=together)) for rank in ranks]
    for number, (first, indices) in enumerate(whole.batches(epoch)):
        at = first
        for position, part in (rank[number] for rank in parts):
            assert position == at
            at += len(part)
            assert len(part) == len(indices) // count
        np.testing.assert_array_equal(np.concatenate([rank[number][1] for rank in parts]), indices)
    assert {len(rank) for rank in parts} == {len(whole)}


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
@pytest.mark.parametrize("window", [gpuload.Window(16), gpuload.Window(16, per_sample="center")])
def test_a_batch_may_be_donated(device: str, window: gpuload.Window) -> None:
    """XLA may then write to its memory, and to no other: not to the batches beside it, nor to the series."""
    double = jax.jit(lambda batch: batch * 2, donate_argnums=0)
    values = VALUES.repeat(2, axis=0)
    loader = gpuload.Loader(gpuload.Series(values), window, batch_size=16, framework="jax", seed=0, device=device)
    expected = list(loader.replace(framework="numpy"))
    for _ in range(3):
        doubled = [double(batch) for batch in loader]
        for got, wanted in zip(doubled, expected, strict=True):
            np.testing.assert_array_equal(got, 2 * wanted)
        batches = list(loader)
        for number in range(0, len(batches), 2):
            double(batches[number])
        for number in range(1, len(batches), 2):
            np.testing.assert_array_equal(batches[number], expected[number])
    np.testing.assert_array_equal(values, VALUES.repeat(2, axis=0))


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_images_may_be_donated(place: Place) -> None:
    double = jax.jit(lambda batch: batch * 2, donate_argnums=0)
    options = {"batch_size": 4, "seed": 0, **place._asdict()}
    loader = gpuload.Loader(SOURCE, RANDOM, framework="jax", **options)
    for _ in range(3):
        epoch = loader.epoch
        doubled = [double(images) for images, _ in loader]
        plain = loader.replace(framework="numpy")
        plain.set_epoch(epoch)
        for got, (wanted, _) in zip(doubled, plain, strict=True):
            np.testing.assert_array_equal(got, 2 * wanted)


def test_64_bits(device: str) -> None:
    """With jax_enable_x64 what has 64 bits arrives as it is; without, it is refused by name."""
    series = gpuload.Series(np.arange(40) / 3, targets=np.arange(40) + 2**40)
    options = {"batch_size": 6, "framework": "jax", "device": device}
    with pytest.raises(ValueError, match=r"not float64 unless jax_enable_x64 is set: pass Window\(dtype='float32'\)"):
        gpuload.Loader(series, gpuload.Window(5), **options)
    jax.config.update("jax_enable_x64", True)
    try:
        rows = 0
        for inputs, targets, extras in gpuload.Loader(series, gpuload.Window(5, extras=("start",)), **options):
            assert (inputs.dtype, targets.dtype, extras["start"].dtype) == ("float64", "int64", "int64")
            at = np.arange(rows, rows + len(inputs))
            np.testing.assert_array_equal(inputs, (at[:, np.newaxis] + np.arange(5)) / 3)
            np.testing.assert_array_equal(targets, at + 4 + 2**40)
            np.testing.assert_array_equal(extras["start"], at)
            rows += len(inputs)
        assert rows == 36
        source = gpuload.ImageArray(IMAGES, labels=np.arange(23) + 2**40)
        images, labels = next(iter(gpuload.Loader(source, gpuload.Augment(), **options)))
        assert (images.dtype, labels.dtype) == ("float32", "int64")
        np.testing.assert_array_equal(labels, np.arange(6) + 2**40)
    finally:
        jax.config.update("jax_enable_x64", False)


TWO_PROCESSES = """
    import os, re, sys
    import numpy as np, jax
    rank, port = int(sys.argv[1]), sys.argv[2]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
    from jax.experimental import multihost_utils
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    import gpuload

    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    assert [device.process_index for device in devices] == [0, 0, 1, 1]

    def spread(order, *spec):
        return NamedSharding(Mesh(np.array([devices[number] for number in order]), ("data",)), P(*spec))

    def gathered(array):
        return np.asarray(multihost_utils.process_allgather(array, tiled=True)).astype(np.float32)

    def check(array, expected, sharding):
        assert array.sharding == sharding and array.shape == expected.shape
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data).astype(np.float32), expected[shard.index])
        np.testing.assert_array_equal(gathered(array), expected)

    # Images: of 16 files, this process has those alone that it has to read.
    sharding = spread(range(4), "data")
    assert len(os.listdir(".")) == 8
    files = gpuload.ImageList([f"{number}.png" for number in range(16)], np.arange(16))
    options = {"batch_size": 8, "seed": 1, "framework": "jax", "device": "cpu", "sharding": sharding}
    loader = gpuload.Loader(files, gpuload.Augment(size=(4, 4), dtype="bfloat16"), engine="numpy", **options)
    for epoch in range(2):
        for number, (images, labels) in enumerate(loader):
            expected = np.arange(8 * number, 8 * number + 8)
            check(labels, expected, sharding)
            check(images, np.broadcast_to(10 * expected[:, None, None, None], (8, 4, 4, 3)), sharding)

    # Windows, shuffled; the mesh may begin with either process; or every device holds all of them.
    values = np.random.default_rng(0).integers(0, 256, (70, 3)).astype(np.float32)
    window = gpuload.Window(5, horizon=2, dtype="bfloat16", extras=("start",))
    plain = gpuload.Loader(
        gpuload.Series(values), window, batch_size=8, seed=1, shuffle=True, last_batch="pad", device="cpu"
    )
    for mine, sharding in [
        (rank, spread(range(4), "data")),
        (1 - rank, spread([2, 3, 0, 1], "data")),
        (rank, spread([0, 2], "data")),
        (None, spread(range(4))),
    ]:
        plain.set_epoch(0)
        loader = plain.replace(framework="jax", sharding=sharding)
        part = slice(None) if mine is None else slice(4 * mine, 4 * mine + 4)
        rows = np.concatenate([step.rows for step in loader.steps(0)])  # A window's number is its first row.
        np.testing.assert_array_equal(rows, np.concatenate([indices[part] for _, indices in plain.order.batches(0)]))
        for batch, expected in zip(loader, plain, strict=True):
            for array, wanted in zip(jax.tree.leaves(batch), jax.tree.leaves(expected), strict=True):
                check(array, wanted.astype(np.float32), sharding)

    # A jitted step over all devices.
    mean = jax.jit(lambda x: x.astype(np.float32).mean(), out_shardings=NamedSharding(sharding.mesh, P()))
    np.testing.assert_allclose(mean(batch[0]).addressable_data(0), expected[0].astype(np.float32).mean(), rtol=1e-6)

    for message, order in [
        ("sharding must give each process one stretch of the batch, .* order the mesh's devices by", [0, 2, 1, 3]),
        ("sharding must give each process one stretch of the batch, all of the same length", [0, 1, 2]),
        ("sharding must include devices of this process, but its mesh has none", [2 - 2 * rank, 3 - 2 * rank]),
    ]:
        try:
            plain.replace(framework="jax", sharding=spread(order, "data"), batch_size=12)
        except ValueError as error:
            assert re.search(message, str(error)), error
        else:
            raise AssertionError(message)
    multihost_utils.sync_global_devices("done")
    print("done")
"""


def test_two_processes(tmp_path: Path) -> None:
    """Each makes its own part, from what it alone has, and the array is the batch of a loader in one process."""
    for number in range(16):
        folder = tmp_path / str(number // 4 % 2)
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (10 * number,) * 3).save(folder / f"{number}.png")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": str(Path(gpuload.__file__).parents[1]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(TWO_PROCESSES), str(rank), port],
            cwd=tmp_path / str(rank),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        results = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (output, errors) in zip(processes, results, strict=True):
        assert process.returncode == 0, errors
        assert "done" in output  # Gloo talks, too.
