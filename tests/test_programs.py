"""The programs that people have, in `programs/`, and the same with gpuload's import: they train alike.

Each is there once, as it would be written without gpuload; what stands between its marks is replaced by an import. Real
data: scikit-learn's digits as JPEG files, sunspots, carbon dioxide. `pytest -rP` shows what was measured.
"""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROGRAMS = Path(__file__).with_name("programs")
GENERATOR = "from gpuload.keras import ImageDataGenerator"
# Which program runs, and with which import; without one, as it is.
RUNS = {
    "generator": ("generator", ""),
    "generator, gpuload": ("generator", GENERATOR),
    "sequence": ("sequence", ""),
    "sequence, gpuload": ("sequence", "from gpuload.keras import ImageSequence"),
    "timeseries": ("timeseries", ""),
    "timeseries, gpuload": ("timeseries", "from gpuload.keras import timeseries_dataset_from_array"),
}
FURTHER = {
    "windows": ("windows", ""),
    "windows, gpuload": ("windows", "from gpuload.torch import DataLoader, TimeSeriesDataset"),
    "generator, numpy": (
        "generator",
        f"import functools; {GENERATOR} as G; ImageDataGenerator = functools.partial(G, engine='numpy')",
    ),
}
# Raised by what gpuload is compared with: Keras' generator, and Keras' torch backend (see pyproject.toml).
FILTERS = ["error", "ignore:Please import `affine_transform`", "ignore:__array__ implementation doesn't accept a copy"]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    from gpuload.demo.images import write_digits

    return write_digits(tmp_path_factory.mktemp("programs"))


def run(backend: str, digits: Path, device: str) -> dict[str, Any]:
    """What each program told of its training. They run in one process: to start it takes longest."""
    runs = {**RUNS, **(FURTHER if backend == "torch" else {})}
    environment = {"KERAS_BACKEND": backend, "GPULOAD_DEVICE": device, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if device == "cpu":
        # Nothing of it on a GPU; and in one thread sums are added up in the same order each time.
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    warned = [word for text in FILTERS for word in ("-W", text)]
    words = [word for program in runs.values() for word in program]
    process = subprocess.run(
        [sys.executable, *warned, PROGRAMS, digits, device, *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return dict(zip(runs, json.loads(process.stdout.splitlines()[-1]), strict=True))


@functools.cache
def told(digits: Path, device: str, backend: str) -> dict[str, Any]:
    """Return what each program told, with that backend; run once."""
    return run(backend, digits, device)


# test_keras_backends.py shows faster what each backend is given.
@pytest.fixture(params=["torch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("jax", "tensorflow"))])
def backend(request: pytest.FixtureRequest) -> str:
    for module in (request.param, "tensorflow"):  # The originals need TensorFlow too.
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    return request.param


# The programs take their series from it.
needs_statsmodels = pytest.mark.skipif(
    importlib.util.find_spec("statsmodels") is None, reason="statsmodels is not installed"
)


def histories(digits: Path, device: str, backend: str, name: str, variant: str = "gpuload") -> list[dict[str, Any]]:
    """Of the program as it is, and with gpuload; prints how far they are apart."""
    found = [told(digits, device, backend)[key] for key in (name, f"{name}, {variant}")]
    for history in found:
        assert isinstance(history, dict), history
    theirs, ours = ({key: np.array(values) for key, values in history.items()} for history in found)
    assert theirs.keys() == ours.keys()
    for key in theirs:
        print(f"{backend} {key}: {theirs[key][-1]:.4f} and {ours[key][-1]:.4f}", end=", ")
        print(f"at most {np.abs(ours[key] - theirs[key]).max():.1e} apart")
    return [theirs, ours]


def learnt_alike(theirs: dict[str, Any], ours: dict[str, Any], apart: float, images: int, above: float) -> None:
    """Losses within `apart`, accuracies within 2 of so many images: the last ones far above chance, which is 0.1."""
    for key in ("loss", "val_loss"):
        np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=apart)
    # An image on the border of two classes may fall to the other side.
    np.testing.assert_allclose(ours["val_accuracy"], theirs["val_accuracy"], rtol=0, atol=2.1 / images)
    assert min(history["val_accuracy"][-1] for history in (theirs, ours)) > above


def test_image_data_generator(digits: Path, device: str, backend: str) -> None:
    """DALI counts in float32, SciPy in float64; of digits all but a few pixels still are the same.

    Measured: losses 1e-7 apart, the same accuracy. What training can make of the least difference is allowed for: with
    convolutions in place of the dense layer, losses were up to 8e-3 apart and accuracies up to 2 images of 360.
    """
    learnt_alike(*histories(digits, device, backend, "generator"), apart=1e-3, images=360, above=0.8)


def test_image_data_generator_with_numpy(digits: Path) -> None:
    """The same pixels, by Pillow and SciPy: only matrices may differ, in the last place. Measured: no difference."""
    learnt_alike(*histories(digits, "cpu", "torch", "generator", "numpy"), apart=1e-5, images=360, above=0.8)


def test_sequence(digits: Path, device: str, backend: str) -> None:
    """Pixels of TensorFlow's, to 0.1 levels of 255. Measured: losses 1e-7 apart, the same accuracy."""
    learnt_alike(*histories(digits, device, backend, "sequence"), apart=1e-3, images=352, above=0.85)


@needs_statsmodels
def test_timeseries_dataset_from_array(digits: Path, device: str, backend: str) -> None:
    """The same numbers go in; sums may come out rounded otherwise. Measured: no difference."""
    theirs, ours = histories(digits, device, backend, "timeseries")
    for key, values in theirs.items():
        np.testing.assert_allclose(ours[key], values, rtol=1e-5)
    assert ours["loss"][-1] < 0.7 * ours["loss"][0]


@needs_statsmodels
def test_windows_in_a_data_loader(digits: Path, device: str) -> None:
    """The same windows in the same order: the same losses, bit for bit."""
    theirs, ours = histories(digits, device, "torch", "windows")
    for key, values in theirs.items():
        np.testing.assert_array_equal(ours[key], values)
    assert ours["val_mae"][-1] < 0.5 * ours["val_mae"][0]


def test_the_generator_is_the_one_of_tf_keras() -> None:
    """What users import, and what the tests compare with."""
    tf = pytest.importorskip("tensorflow")
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    assert tf.keras.preprocessing.image.ImageDataGenerator is ImageDataGenerator
