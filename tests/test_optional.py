"""What is not installed is missed by name, with the extra that installs it, and by nothing else."""

import os
import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
    import sys

    hidden = {"torch", "tensorflow", "keras", "jax", "cupy", "ml_dtypes", "nvidia.dali", "numba"}

    class Hiding:
        '''One of Python's own finders, which does not find what is hidden, as if it were not installed.'''

        def __init__(self, finder):
            self._finder = finder

        def __getattr__(self, name):
            return getattr(self._finder, name)

        def find_spec(self, name, path=None, target=None):
            if any(name == package or name.startswith(package + ".") for package in hidden):
                return None
            return self._finder.find_spec(name, path, target)

    sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]

    import numpy as np
    import gpuload

    images = np.arange(5 * 8 * 6 * 3, dtype=np.uint8).reshape(5, 8, 6, 3)
    source, augment = gpuload.ImageArray(images, labels=np.arange(5)), gpuload.Augment(layout="HWC")
    series, window = gpuload.Series(np.arange(20, dtype=np.float32)), gpuload.Window(4)
    windows = np.lib.stride_tricks.sliding_window_view(series.values, 4)

    def refused(use, message):
        try:
            use()
        except ImportError as error:
            assert str(error) == message, error
        else:
            raise AssertionError(message)

    def images_loader(**options):
        return gpuload.Loader(source, augment, **{"batch_size": 2, "device": "cpu", **options})

    def windows_loader(**options):
        return gpuload.Loader(series, window, **{"batch_size": 3, "device": "cpu", **options})
"""

IN_TURN = """
    import importlib

    def works(framework):
        batches = [(np.asarray(x), np.asarray(y)) for x, y in images_loader(framework=framework)]
        np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), images)
        assert np.concatenate([y for _, y in batches]).tolist() == [0, 1, 2, 3, 4]
        parts = [np.asarray(part) for part in windows_loader(framework=framework)]
        np.testing.assert_array_equal(np.concatenate(parts), windows)

    def check():
        works("numpy")
        works("dlpack")
        for module in ("torch", "tensorflow", "jax"):
            if module not in hidden:
                works(module)
                continue
            message = f"framework='{module}' needs {module}, which is not installed: pip install 'gpuload[{module}]'"
            refused(lambda: images_loader(framework=module), message)
            refused(lambda: windows_loader(framework=module), message)
            if module == "jax":
                refused(lambda: images_loader(framework=module, sharding=object(), seed=0), message)
        for module, name, extra in [
            ("torch", "PyTorch", "torch"),
            ("tensorflow", "TensorFlow", "tensorflow"),
            ("keras", "Keras 3", "tensorflow"),
        ]:
            if module in hidden:
                message = f"gpuload.{module} needs {name}, which is not installed: pip install 'gpuload[{extra}]'"
                refused(lambda: importlib.import_module(f"gpuload.{module}"), message)
            else:
                importlib.import_module(f"gpuload.{module}")
        message = "which is not installed: pip install 'gpuload[cpu]'"
        assert images_loader().engine == ("numpy" if "numba" in hidden else "numba")
        if "numba" in hidden:
            refused(lambda: images_loader(engine="numba"), f"engine='numba' needs numba, {message}")
        files, size = gpuload.ImageList(["a.jpg"]), gpuload.Augment(size=(8, 8))
        decoding = gpuload.Loader(files, size, batch_size=1, device="cpu")
        assert decoding.decoder == ("pillow" if hidden & {"nvidia.dali", "numba"} else "dali")
        if "nvidia.dali" in hidden:
            dali = {"batch_size": 1, "device": "cpu", "decoder": "dali"}
            refused(lambda: gpuload.Loader(files, size, **dali), f"decoder='dali' needs NVIDIA DALI, {message}")
        message = "engine='cupy' needs CuPy, which is not installed: pip install 'gpuload[cuda13]'"
        refused(lambda: windows_loader(engine="cupy"), message)
        cut = gpuload.Loader(series, window.replace(dtype="bfloat16"), batch_size=17, device="cpu")
        if "ml_dtypes" in hidden:
            message = "ml_dtypes, which is not installed: pip install 'gpuload[bfloat16]'"
            refused(lambda: next(iter(cut)), f"dtype='bfloat16' in NumPy needs {message}")
        else:
            np.testing.assert_array_equal(next(iter(cut)).astype(np.float32), windows)
        if "torch" not in hidden:  # which has a bfloat16 of its own
            (batch,) = cut.replace(framework="torch")
            np.testing.assert_array_equal(batch.float(), windows)

    check()
    for name in sys.argv[1:]:
        hidden -= set(name.split("+"))
        check()
"""

ON_A_GPU = """
    message = "device='cuda' needs CuPy, which is not installed: pip install 'gpuload[cuda13]'"
    refused(lambda: windows_loader(device="cuda"), message)
    refused(lambda: images_loader(device="cuda"), message)
    assert {images_loader(device="auto").device, windows_loader(device="auto").device} == {"cpu"}
    hidden.remove("nvidia.dali")
    message = "device='cuda' needs CuPy, which is not installed: pip install 'gpuload[cuda13]'"
    refused(lambda: images_loader(device="cuda"), message)
    assert images_loader(device="auto").device == "cpu"
    hidden.remove("cupy")
    (batch,) = images_loader(device="cuda", framework="numpy", batch_size=5)
    np.testing.assert_array_equal(batch[0], images)
    hidden.remove("torch")
    (batch,) = images_loader(device="cuda", framework="torch", batch_size=5)
    np.testing.assert_array_equal(batch[0].cpu(), images)
"""


def run(script: str, *arguments: str, backend: str = "torch") -> None:
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    command = [sys.executable, "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(script), *arguments]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, env=environment
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("backend", "order"),
    [
        ("torch", ["torch", "nvidia.dali", "numba", "ml_dtypes+keras"]),
        ("tensorflow", ["ml_dtypes", "tensorflow", "keras", "jax", "nvidia.dali+numba"]),
    ],
)
def test_each_is_optional(backend: str, order: list[str]) -> None:
    """First nothing is there, then one after another is: what is there works, and what is not is named."""
    for module in ("torch", "tensorflow", "keras", "jax", "nvidia.dali", "numba"):
        pytest.importorskip(module)
    run(IN_TURN, *order, backend=backend)


def test_each_is_optional_on_a_gpu(device: str) -> None:
    if device == "cpu":
        pytest.skip("the test above")
    run(ON_A_GPU)
