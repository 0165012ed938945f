"""The engine of images on a GPU, on the host: its decoder is DALI on the CPU, its kernels are compiled by g++.

What it makes must be what the engine of the CPU makes, wherever the images lie: the kernel's arithmetic is that one's.
"""

import itertools
from pathlib import Path
from typing import Any

import cuda_host
import numpy as np
import pytest
from PIL import Image

import gpuload
from gpuload.cache import DeviceCache, HostCache
from gpuload.cache.device import ArrayImages
from gpuload.core import available
from gpuload.core.device import CPU
from gpuload.core.errors import SampleError
from gpuload.decode.decoder import Decoder
from gpuload.gpu.store import pitch
from gpuload.images.augment import Augment
from gpuload.images.choose import settle
from gpuload.images.device_engine import DeviceImageEngine
from gpuload.images.engine import HostImageEngine
from gpuload.images.host import NumbaAugmenter
from gpuload.images.job import ImageJob
from gpuload.images.open import open_cache, open_engine
from gpuload.images.step import Step
from gpuload.options import Cache, Errors
from gpuload.plan.order import Order

pytestmark = [
    pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed"),
    pytest.mark.skipif(not available.dali_installed(), reason="NVIDIA DALI is not installed"),
    pytest.mark.skipif(bool(cuda_host.SANITIZER), reason="DALI does not run under a sanitizer"),
]

BATCH, EPOCHS, STREAM = 6, 3, 7
TRANSFORMS = {
    "warp": Augment(size=(24, 32), rotation=20, zoom=0.2, hflip=0.5, rescale=1 / 255, layout="HWC"),
    "colours": Augment(size=(24, 32), shear=9, fill_mode="wrap", channel_shift=30, brightness=(0.5, 1.5), layout="CHW"),
    "floating": Augment(size=(23, 31), antialias=False, vflip=0.5, mean=(1, 2, 3), std=(4, 5, 6), layout="CHW"),
    "grey": Augment(size=(24, 32), color="grayscale", per_sample="standardize", dtype="float16", layout="HWC"),
}


@pytest.fixture
def runtime() -> Any:
    runtime = cuda_host.HostRuntime(64)
    yield runtime
    runtime.close()


def steps(transform: Augment, size: int) -> list[Step]:
    order = Order(size=size, batch_size=BATCH, shuffle=True, seed=5)
    return [
        transform.step(indices, seed=5, epoch=epoch, first=first)
        for epoch in range(EPOCHS)
        for first, indices in order.batches(epoch)
    ]


def expected(source: Any, transform: Augment, **choice: Any) -> list[np.ndarray]:
    """By the engine of the CPU."""
    job = settle(source, transform, device="cpu", **{"engine": "numba", **choice})
    if job.images is None:
        # DALI's resize, which GPUs have, and one array for a step.
        engine: Any = HostImageEngine(job, decoder=lambda: decoder(job, whole=True), augmenter=NumbaAugmenter(job, 2))
    else:
        engine = open_engine(job, batch_size=BATCH, threads=2)
    found = []
    for step in steps(transform, len(source)):
        engine.submit(step)
        found.append(engine.result())
    engine.close()
    return found


def decoder(job: ImageJob, whole: bool) -> Decoder:
    """The decoder of a GPU, on the host."""

    class OnHost(Decoder):
        def result(self, stream: int | None = None) -> Any:
            parts = super().result()  # It waits: DALI knows nothing of this device's streams.
            if not whole:
                return parts
            rows = np.concatenate([rows for rows, _ in parts])
            levels = np.concatenate([np.asarray(getattr(part, "as_tensor", lambda p=part: p)()) for _, part in parts])
            return [(np.arange(len(rows)), levels[np.argsort(rows)])]

    options: dict[str, Any] = {"batch_size": BATCH, "threads": 2, "errors": Errors(), "dali_resizes": True}
    return OnHost(job.encoded, job.decoding, dali=job.decoder == "dali", **options)


def device_engine(
    source: Any, transform: Augment, cache: DeviceCache, decodes: str | None = "dali"
) -> DeviceImageEngine:
    job = ImageJob(source=source, transform=transform, device=CPU, engine="cupy", decoder=decodes)

    return DeviceImageEngine(
        job, decoder=lambda: decoder(job, whole=False), cache=cache, allocator=cuda_host.allocator()
    )


def made(engine: DeviceImageEngine, runtime: Any, all_steps: list[Step], stream: int | None) -> list[np.ndarray]:
    """Two steps ahead; each is looked at when the stream has done its work."""
    found, ahead = [], 2
    for step in all_steps[:ahead]:
        engine.submit(step)
    for number in range(len(all_steps)):
        if number + ahead < len(all_steps):
            engine.submit(all_steps[number + ahead])
        array = engine.result(stream)
        if stream is not None:
            runtime.finish(stream)
        found.append(array.numpy().copy())
    return found


def assert_alike(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    """But for the order in which a mean and a deviation are summed up, and what brightness makes of the last digit."""
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3 if one.dtype == np.float16 else 1e-5, atol=1e-4)


def assert_only_sums_differ(found: list[np.ndarray], wanted: list[np.ndarray], transform: Augment) -> None:
    if transform.per_sample:
        assert_alike(found, wanted)
    else:
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("stream", [None, STREAM])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_it_makes_what_the_cpu_makes(photos: Path, runtime: Any, name: str, stream: int | None) -> None:
    """Without a cache, with one for all, one for some, and one for some on the device and others on the host."""
    source, transform = gpuload.ImageFolder(photos), TRANSFORMS[name]
    wanted = expected(source, transform)
    shape, dtype = transform.decoding.shape, transform.decoding.dtype
    image = int(np.prod(shape)) * np.dtype(dtype).itemsize
    size = len(source)
    for on_device, on_host in itertools.product((0, 9, size), (0, 5, size)):
        cache = DeviceCache(on_device, image, runtime, limit=max(1, on_device * pitch(image)))
        if on_host:
            cache.host = HostCache(size, shape, dtype, on_host * image, cache.capacity)
        engine = device_engine(source, transform, cache)
        assert_only_sums_differ(made(engine, runtime, steps(transform, size), stream), wanted, transform)
        assert cache.count == on_device
        assert (cache.host.count if cache.host else 0) == min(on_host, size - on_device)
        read = engine.bytes_read
        engine.submit(steps(transform, size)[0])
        engine.result()
        assert (engine.bytes_read == read) == (on_device + on_host >= size)
        engine.close()


def test_images_of_a_file(photos: Path, runtime: Any, tmp_path: Path) -> None:
    source, transform = gpuload.ImageFolder(photos), TRANSFORMS["warp"]
    wanted = expected(source, transform)
    job = settle(source, transform, device="cpu", engine="numba")
    for run in range(2):
        host = open_cache(job, Cache(place=tmp_path / "pixels"), None)
        engine = device_engine(source, transform, DeviceCache(0, 1, runtime, host=host))
        found = made(engine, runtime, steps(transform, len(source)), STREAM)
        assert_only_sums_differ(found, wanted, transform)
        if run:
            assert engine.bytes_read == 0
        engine.close()
        host.close()


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("on_device", [0, 4, 14])
def test_images_in_memory(runtime: Any, dtype: str, on_device: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (14, 9, 11, 2)).astype(dtype)
    source = gpuload.ImageArray(images)
    transform = Augment(size=(9, 11), rotation=30, hflip=0.5, channel_shift=20, layout="HWC")
    wanted = expected(source, transform)
    image = 9 * 11 * 2 * (1 if dtype == "uint8" else 4)
    limit = max(1, on_device * pitch(image))
    cache = DeviceCache(on_device, image, runtime, limit=limit, host=ArrayImages(images))
    engine = device_engine(source, transform, cache)
    assert_only_sums_differ(made(engine, runtime, steps(transform, 14), STREAM), wanted, transform)
    assert cache.count == on_device
    engine.close()


def test_a_batch_that_cannot_be_made_is_lost_alone(photos: Path, runtime: Any, tmp_path: Path) -> None:
    transform = TRANSFORMS["warp"]
    paths = sorted(photos.rglob("*.jpg"))[:11]
    paths.insert(7, tmp_path / "missing.jpg")
    source = gpuload.ImageList(paths)
    shape = transform.decoding.shape
    cache = DeviceCache(len(source), int(np.prod(shape)), runtime, limit=10**6)
    engine = device_engine(source, transform, cache)
    for _ in range(2):
        for start in (0, 6):
            engine.submit(transform.step(np.arange(start, start + 6), seed=1, epoch=0, first=start))
        assert engine.result().numpy().shape == (6, *shape)
        with pytest.raises(SampleError, match=r"missing\.jpg") as caught:
            engine.result()
        assert caught.value.batch_size == 6
        assert engine.pending == 0
    assert cache.count == 6
    engine.close()


def test_a_sample_that_stands_twice_in_a_batch(photos: Path, runtime: Any) -> None:
    source, transform = gpuload.ImageFolder(photos), TRANSFORMS["warp"]
    cache = DeviceCache(len(source), 24 * 32 * 3, runtime, limit=10**6)
    engine = device_engine(source, transform, cache)
    indices = np.array([3, 3, 5, 3])
    for _ in range(2):
        engine.submit(Step(indices=indices))
        made = engine.result()
        array = made.numpy()
        np.testing.assert_array_equal(array[0], array[1])
        np.testing.assert_array_equal(array[0], array[3])
        assert (array[0] != array[2]).any()
    assert cache.count == 2
    engine.close()


def test_pillow_decodes_for_a_gpu(photos: Path, runtime: Any) -> None:
    """Decoders and engines cross: levels that Pillow made on the host are copied to the device."""
    source, transform = gpuload.ImageFolder(photos), TRANSFORMS["warp"]
    wanted = expected(source, transform, decoder="pillow")
    shape, dtype = transform.decoding.shape, transform.decoding.dtype
    image, size = int(np.prod(shape)) * np.dtype(dtype).itemsize, len(source)
    for on_device, on_host in itertools.product((0, 9, size), (0, size)):
        host = HostCache(size, shape, dtype, limit=on_host * image) if on_host else None
        cache = DeviceCache(on_device, image, runtime, limit=max(1, on_device * pitch(image)), host=host)
        engine = device_engine(source, transform, cache, "pillow")
        assert_only_sums_differ(made(engine, runtime, steps(transform, size), STREAM), wanted, transform)
        assert cache.count == on_device
        engine.close()


def test_greys_that_a_gpu_does_not_hold(runtime: Any, tmp_path: Path) -> None:
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "deep.png")
    source = gpuload.ImageList([tmp_path / "deep.png"])
    transform = Augment(size=(9, 9), color="grayscale", layout="HWC")
    engine = device_engine(source, transform, DeviceCache(0, 81, runtime), "pillow")
    engine.submit(transform.step(np.array([0]), seed=0, epoch=0, first=0))
    with pytest.raises(
        ValueError, match="keeps at most 8 bits on a GPU, but a file of this batch has more: pass device="
    ):
        engine.result()
    engine.close()


RESIZES = {
    "nearest": Augment(size=(48, 40), interpolation="nearest"),
    "nearest, odd": Augment(size=(100, 33), interpolation="nearest"),
    "nearest, cut": Augment(size=(24, 40), interpolation="nearest", crop=gpuload.RandomResizedCrop()),
    "nearest, middle": Augment(size=(32, 64), interpolation="nearest", crop=gpuload.CenterCrop(fraction=0.9)),
    "nearest, grey": Augment(size=(48, 40), interpolation="nearest", color="grayscale"),
    "bilinear, cut": Augment(size=(24, 40), crop=gpuload.RandomResizedCrop()),
    "bicubic, middle": Augment(size=(24, 40), interpolation="bicubic", crop=gpuload.CenterCrop(resize=60)),
    "floating": Augment(size=(24, 40), antialias=False),
}


@pytest.mark.parametrize("name", RESIZES)
def test_dali_resizes_as_pillow_does(tmp_path: Path, name: str) -> None:
    """The graph of a GPU, on the host. To the nearest pixel exactly, where two are equally near too."""
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(
        [(64, 48), (80, 96), (120, 160), (96, 60), (100, 200), (33, 77), (99, 50)]
    ):
        coarse = Image.fromarray(rng.integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.jpg", quality=95)
    source, transform = gpuload.ImageList(sorted(tmp_path.iterdir())), RESIZES[name]
    step = transform.step(np.arange(len(source)), seed=1, epoch=0, first=0)
    found = []
    for decodes in ("dali", "pillow"):
        job = ImageJob(source=source, transform=transform, device=CPU, engine="numba", decoder=decodes)
        made = decoder(job, whole=True)
        for start in (0, 1):
            made.submit(step.take(np.arange(start, start + BATCH)))
        found.append(np.concatenate([made.result()[0][1].astype(float) for _ in range(2)]))
        made.close()
    off = np.abs(found[0] - found[1])[:, 3:-3, 3:-3]  # At the border DALI weighs pixels otherwise.
    if "nearest" in name:
        assert off.max() <= (1 if transform.color == "grayscale" else 0)
    else:
        assert (off <= 2).mean() >= 0.98
