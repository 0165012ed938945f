"""Crops beside torchvision's own, on Pillow's images: the same boxes give the same pixels."""

import io
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from gpuload import Augment, CenterCrop, ImageBytes, Loader, RandomResizedCrop
from tests.conftest import Place

pytestmark = pytest.mark.usefixtures("compiled_resize")

SIZES = [(500, 375), (375, 500), (640, 480), (90, 61), (33, 200)]
"""(width, height)"""


@pytest.fixture(scope="module")
def torchvision() -> ModuleType:
    """torchvision with its transforms. Beside another build of PyTorch it misses two operators, of no concern here."""
    torch = pytest.importorskip("torch")
    try:
        return pytest.importorskip("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    found = pytest.importorskip("torchvision")
    found.gpuload_library = library  # Without it the operators would go.
    return found


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """JPEGs with noise, so that a pixel that is read too much shows."""
    rng, found = np.random.default_rng(0), []
    for number, (width, height) in enumerate(SIZES):
        coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        image.save(file := io.BytesIO(), "JPEG", quality=92, subsampling=number % 3)
        found.append(file.getvalue())
    return found


def delivered(pictures: list[bytes], transform: Augment, place: Place) -> np.ndarray:
    options = {"cache": None, "shuffle": False, "seed": 3, "framework": "numpy", **place._asdict()}
    with Loader(ImageBytes(pictures), transform, batch_size=len(pictures), **options) as loader:
        return next(iter(loader))


def assert_alike(found: np.ndarray, expected: list[Image.Image], place: Place) -> None:
    """1 level on 99% of the numbers. GPUs have other decoders and another resize, and pictures here are small, with
    much of a border: 3 levels on 95%."""
    for levels, image in zip(found, expected, strict=True):
        off = np.abs(levels - np.asarray(image, np.float32))
        most, share = (1, 0.99) if place.device == "cpu" else (3, 0.95)
        assert (off <= most).mean() >= share


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_random_resized_crop(torchvision, pictures: list[bytes], place: Place, interpolation: str) -> None:
    functional = torchvision.transforms.functional
    mode = torchvision.transforms.InterpolationMode(interpolation)
    for size in ((224, 224), (40, 64)):
        transform = Augment(size=size, crop=RandomResizedCrop(), interpolation=interpolation, layout="HWC")
        drawn = transform.step(np.arange(len(SIZES)), seed=3, epoch=0, first=0).crops
        widths, heights = zip(*SIZES, strict=True)
        boxes = transform.crop.boxes(heights, widths, size, drawn).astype(int).tolist()
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures]
        expected = [
            functional.resized_crop(image, *box, list(size), mode) for image, box in zip(images, boxes, strict=True)
        ]
        assert_alike(delivered(pictures, transform, place), expected, place)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("length", "size"), [(256, (224, 224)), (48, (48, 31)), (100, (3, 77))])
def test_resize_and_center_crop(
    torchvision, pictures: list[bytes], place: Place, interpolation: str, length: int, size: tuple[int, int]
) -> None:
    mode = torchvision.transforms.InterpolationMode(interpolation)
    steps = [torchvision.transforms.Resize(length, mode), torchvision.transforms.CenterCrop(size)]
    compose = torchvision.transforms.Compose(steps)
    transform = Augment(size=size, crop=CenterCrop(resize=length), interpolation=interpolation, layout="HWC")
    expected = [compose(Image.open(io.BytesIO(data)).convert("RGB")) for data in pictures]
    assert_alike(delivered(pictures, transform, place), expected, place)
