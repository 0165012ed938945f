"""What the tests of all rooms share: photographs, places to run, and the settings of Hypothesis."""

import os

# Before anything imports Keras. The backend that needs no further package here; a run may name another.
os.environ.setdefault("KERAS_BACKEND", "torch")
# A developer's own choice of device is no part of what is tested; the tests of this variable set it themselves.
os.environ.pop("GPULOAD_DEVICE", None)

import secrets
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image, ImageOps

from gpuload.core import available
from gpuload.core import device as cuda
from gpuload.decode.levels import prepare
from gpuload.decode.spec import Decoding

settings.register_profile(
    "gpuload",
    deadline=None,  # The first batch of an engine waits for threads and plugins; no time is asserted anywhere.
    derandomize=True,  # A run can be repeated.
    database=None,
    max_examples=50,
    # `place` and `device` stay what they are from one example to the next.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("gpuload")


# Files of more than half a minute, the longest first.
LONG = [
    "test_kernels",
    "test_benchmarks",
    "test_keras_backends",
    "test_warp_kernel",
    "test_programs",
    "test_demo",
    "test_keras_state",
    "test_ranks",
    "test_engines",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first. `make test` gives a process one file after another: the short ones even out the end."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


class Place(NamedTuple):
    """Where a job runs, in the words of `gpuload.Loader`: `Loader(..., **place._asdict())`."""

    engine: str
    device: str


GPU = "cuda"
THREADS = 2
"""Enough for a test that opens several loaders of files: on a GPU, DALI takes memory for each of its threads first."""
PLACES = [
    pytest.param(Place("numpy", "cpu"), id="numpy-cpu"),
    pytest.param(Place("numba", "cpu"), id="numba-cpu"),
    pytest.param(Place("cupy", GPU), id="cupy-cuda", marks=pytest.mark.gpu),
]


def _require(device: str, there: bool, missing: str) -> None:
    """Skip where something is not there; fail where the run promised a GPU."""
    if there:
        return
    if device == GPU and os.environ.get("GPULOAD_REQUIRE_GPU") == "1":
        pytest.fail(f"GPULOAD_REQUIRE_GPU=1, but {missing}")
    pytest.skip(missing)


def _require_device(device: str) -> None:
    _require(device, device != GPU or cuda.device_count() > 0, "there is no CUDA device")


@pytest.fixture(params=["cpu", pytest.param(GPU, marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Every device that there is."""
    _require_device(request.param)
    return request.param


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    """Every engine, on every device that it runs on. Files are decoded by Pillow for NumPy, and else by DALI."""
    _require_device(request.param.device)
    if request.param.engine != "numpy":
        _require(request.param.device, available.dali_installed(), "NVIDIA DALI is not installed")
    return request.param


@pytest.fixture(params=PLACES[1:])
def dali(request: pytest.FixtureRequest) -> Place:
    """DALI, on every device that it runs on."""
    _require_device(request.param.device)
    _require(request.param.device, available.dali_installed(), "NVIDIA DALI is not installed")
    return request.param


@pytest.fixture(scope="session")
def compiled_resize() -> None:
    """Until the resize is compiled, Pillow's takes its place. Tests of pixels wait for it."""
    if available.numba_installed():
        for decoding in (Decoding(size=(1, 1)), Decoding(size=(1, 1), color="grayscale")):
            prepare(decoding)
        prepare(Decoding(size=(1, 1), antialias=False))


_session = secrets.randbits(32)


@pytest.fixture(autouse=True)
def _global_randomness() -> None:
    """Another state of NumPy's global generator before each test and in each run: nothing here may depend on it."""
    np.random.seed((_session + secrets.randbits(16)) % 2**32)  # noqa: NPY002


SIZES = [(120, 90), (75, 131), (64, 64)]  # (width, height): none the transpose of another, one odd in both
PLAIN = {"astronaut": 3, "cat": 5, "scenery": 9}  # photographs of a class, beside the unusual files
EXIF_ORIENTATION = 0x0112


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 23 small photographs in three classes of 5, 8 and 10.

    JPEGs with whole, halved and quartered colours, and, by name: astronaut/cmyk.jpg, astronaut/turned.jpg (EXIF says:
    to be shown turned by 90 degrees), cat/progressive.jpg, cat/grey.jpg, cat/drawn.bmp, scenery/alpha.png. Read only:
    a test that breaks files copies them first.
    """
    from skimage import data
    from sklearn.datasets import load_sample_images

    pictures = {
        "astronaut": [data.astronaut()],
        "cat": [data.chelsea()],
        "scenery": [data.coffee(), data.rocket(), *load_sample_images().images],
    }
    taken = 0

    def photograph(name: str) -> Image.Image:
        """Another part of one of the class's pictures each time, in the next size."""
        nonlocal taken
        picture = Image.fromarray(pictures[name][taken % len(pictures[name])])
        size, centering = SIZES[taken % len(SIZES)], (taken * 0.37 % 1, taken * 0.61 % 1)
        taken += 1
        return ImageOps.fit(picture, size, bleed=0.2, centering=centering)

    root = tmp_path_factory.mktemp("photos")
    for name, count in PLAIN.items():
        (root / name).mkdir()
        for number in range(count):
            # 0, 1, 2: 4:4:4, 4:2:2, 4:2:0. All nine pairs of size and sampling occur.
            sampling = (taken + taken // 3) % 3
            photograph(name).save(root / name / f"{number}.jpg", quality=90, subsampling=sampling)
    turned = Image.Exif()
    turned[EXIF_ORIENTATION] = 6
    photograph("astronaut").save(root / "astronaut/turned.jpg", exif=turned)
    photograph("astronaut").convert("CMYK").save(root / "astronaut/cmyk.jpg")
    photograph("cat").save(root / "cat/progressive.jpg", progressive=True)
    photograph("cat").convert("L").save(root / "cat/grey.jpg")
    photograph("cat").save(root / "cat/drawn.bmp")
    see_through = photograph("scenery").convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(see_through.size))
    see_through.save(root / "scenery/alpha.png")
    return root
