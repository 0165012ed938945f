"""Statistics of a data set, against NumPy over all of its images, and against Keras."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import Place
from keras.src.legacy.preprocessing.image import ImageDataGenerator as KerasGenerator

import gpuload


@pytest.mark.parametrize("layout", ["HWC", "CHW", None])
def test_mean_and_std(photos: Path, place: Place, layout) -> None:
    source = gpuload.ImageFolder(photos)
    transform = gpuload.Augment(size=(20, 24), rescale=1 / 255, hflip=0.5, rotation=30, layout=layout)
    fitted = gpuload.fit(source, transform, batch_size=5, **place._asdict())
    plain = gpuload.Augment(size=(20, 24), rescale=1 / 255)
    loader = gpuload.Loader(source, plain, batch_size=23, framework="numpy", **place._asdict())
    ((images, _),) = loader
    images = images.astype(np.float64)
    np.testing.assert_allclose(fitted.mean, images.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(fitted.std, images.std(axis=(0, 1, 2)), rtol=1e-6)
    assert (fitted.rotation, fitted.hflip, fitted.layout) == (30, 0.5, layout)
    # With them, a data set has mean 0 and standard deviation 1.
    normal = gpuload.Loader(
        source, plain.replace(mean=fitted.mean, std=fitted.std), batch_size=23, framework="numpy", **place._asdict()
    )
    ((images, _),) = normal
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(images.std(axis=(0, 1, 2)), 1, atol=1e-3)


@pytest.mark.parametrize("count", [12, 400])
@pytest.mark.parametrize("layout", ["HWC", "CHW"])
def test_whitening(layout, count: int) -> None:
    """As Keras' ImageDataGenerator fits and applies it, with more numbers in an image than images and with fewer."""
    images = np.random.default_rng(0).uniform(0, 255, (count, 6, 5, 3)).astype(np.float32)
    theirs = KerasGenerator(featurewise_center=True, zca_whitening=True, zca_epsilon=1.0, rescale=1 / 255)
    if layout == "CHW":
        theirs = KerasGenerator(
            featurewise_center=True, zca_whitening=True, zca_epsilon=1.0, rescale=1 / 255, data_format="channels_first"
        )
    expected = images.transpose(0, 3, 1, 2) if layout == "CHW" else images
    theirs.fit(expected)
    transform = gpuload.fit(
        gpuload.ImageArray(images),
        gpuload.Augment(rescale=1 / 255, layout=layout).replace(size=(6, 5)),
        zca_epsilon=1.0,
        device="cpu",
    )
    np.testing.assert_allclose(transform.zca, theirs.zca_whitening_matrix, atol=1e-3)
    (whitened,) = gpuload.Loader(gpuload.ImageArray(images), transform, batch_size=count, device="cpu")
    np.testing.assert_allclose(whitened, next(theirs.flow(expected, batch_size=count, shuffle=False)), atol=2e-3)


@pytest.mark.parametrize("channels", [1, 4])
def test_arrays_of_other_channels(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 5, 4, channels), dtype=np.uint8)
    fitted = gpuload.fit(gpuload.ImageArray(images), gpuload.Augment(), device="cpu")
    np.testing.assert_allclose(fitted.mean, images.mean(axis=(0, 1, 2)))
    (normal,) = gpuload.Loader(gpuload.ImageArray(images), fitted, batch_size=9, device="cpu")
    np.testing.assert_allclose(normal.std(axis=(0, 1, 2)), 1, rtol=1e-4)


def test_errors() -> None:
    source = gpuload.ImageArray(np.zeros((4, 3, 3, 3), np.uint8))
    with pytest.raises(ValueError, match="std must be above 0 in every channel"):
        gpuload.fit(source, gpuload.Augment(), device="cpu")
    with pytest.raises(ValueError, match="zca_epsilon must be at least 0, not -1"):
        gpuload.fit(source, gpuload.Augment(), zca_epsilon=-1, device="cpu")
    with warnings.catch_warnings(), pytest.raises(TypeError, match="colour"):
        gpuload.fit(source, gpuload.Augment(), colour=1)
