"""Checks that all rooms share: their words, and that decorated classes stay what they are."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import re
from typing import Any, Literal

import numpy as np
import pytest

import gpuload
from gpuload.core.checks import answers_unknown, checked_bytes, checked_int, choice
from gpuload.core.device import CPU, resolve
from gpuload.delivery import choose


def refused(message: str, error: type[Exception] = ValueError) -> Any:
    """The whole message."""
    return pytest.raises(error, match=f"^{re.escape(message)}$")


@answers_unknown(horizontal_flip="pass hflip=0.5")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options with one number."""

    hflip: float = 0.0
    batch_size: int = 1

    def __post_init__(self) -> None:
        checked_int("batch_size", self.batch_size, 1)


@answers_unknown()
class Plain:
    def __init__(self, source: int, *, size: int = 1):
        """Keep both."""
        self.sum = source + size


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"horizontal_flip": True}, "'horizontal_flip': pass hflip=0.5"),
        ({"horizontl_flip": True}, "'horizontl_flip': pass hflip=0.5"),
        ({"hflip": 1, "batchsize": 3}, "'batchsize': did you mean 'batch_size'?"),
        ({"first": 1, "batchsize": 3}, "'first': see help(test_checks.Options)"),
    ],
)
def test_unknown_arguments_are_answered(arguments: dict[str, Any], advice: str) -> None:
    with refused(f"Options has no argument {advice}", TypeError):
        Options(**arguments)
    with refused(f"Options has no argument {advice}", TypeError):
        dataclasses.replace(Options(), **arguments)


def test_the_public_name_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of a room is shown where users import it from."""
    Order = type("Order", (), {"__init__": gpuload.Order.__init__, "__module__": gpuload.Order.__module__})
    answers_unknown()(Order)
    with refused("Order has no argument 'what': see help(gpuload.plan.order.Order)", TypeError):
        Order(what=1)
    monkeypatch.setattr(gpuload, "Order", Order)
    with refused("Order has no argument 'what': see help(gpuload.Order)", TypeError):
        Order(what=1)


def test_what_python_says_stays() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'source'"):
        Plain(size=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"takes 2 positional arguments but 3 were given"):
        Plain(1, 2)  # type: ignore[misc]
    with refused("batch_size must be an integer of at least 1, not 0"):
        Options(batch_size=0)


def test_decorated_classes_stay_what_they_are() -> None:
    assert str(inspect.signature(Options)) == "(*, hflip: 'float' = 0.0, batch_size: 'int' = 1) -> None"
    assert str(inspect.signature(Plain)) == "(source: 'int', *, size: 'int' = 1)"
    assert Plain.__init__.__doc__ == "Keep both."
    assert Plain(source=3, size=4).sum == Plain(6).sum == 7
    options = Options(hflip=0.5)
    assert pickle.loads(pickle.dumps(options)) == options == dataclasses.replace(Options(), hflip=0.5)
    assert repr(options) == "Options(hflip=0.5, batch_size=1)"
    assert [field.name for field in dataclasses.fields(Options)] == ["hflip", "batch_size"]


def test_a_subclass_has_arguments_of_its_own() -> None:
    class More(Plain):
        def __init__(self, source: int, extra: int, **options: Any):
            super().__init__(source, **options)
            self.sum += extra

    assert More(1, extra=2, size=3).sum == 6
    with refused("Plain has no argument 'siez': did you mean 'size'?", TypeError):
        More(1, extra=2, siez=3)


SYNONYMS = {"horizontal": "h", "diagonal": "turn the image instead"}


@pytest.mark.parametrize(
    "options", [Literal["h", "v", "float32"], ("h", "v", "float32"), {"h": 1, "v": 2, "float32": 3}]
)
@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ("horizontal", ": pass axis='h'"),
        ("Horizontal", ": pass axis='h'"),
        ("diagonal", ": turn the image instead"),
        ("flaot32", ": did you mean 'float32'?"),
        ("Float-32", ": did you mean 'float32'?"),
        ("float64", ""),
        ("x", ""),
        (None, ""),
        (np.zeros(3), ""),
    ],
)
def test_choices(options: Any, value: Any, advice: str) -> None:
    for good in ("h", "v", "float32"):
        choice("axis", good, options, synonyms=SYNONYMS)
    with refused(f"axis must be one of h, v, float32, not {value!r}{advice}"):
        choice("axis", value, options, synonyms=SYNONYMS)


def test_integers_of_numpy() -> None:
    for kind in (int, np.int8, np.uint64):
        found = checked_int("n", kind(3), 1)
        assert (found, type(found)) == (3, int)
        assert type(checked_bytes("n", kind(3))) is int


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1),
        (np.int64(2**40), 2**40),
        ("1 B", 1),
        ("64kB", 64_000),
        ("500 MB", 500_000_000),
        ("2GB", 2 * 10**9),
        ("2 tb", 2 * 10**12),
        (" 1.5GiB ", 3 * 2**29),
        ("0.1KiB", 102),
        ("9007199254740993 B", 2**53 + 1),
        ("1MIB", 2**20),
        ("1TiB", 2**40),
    ],
)
def test_bytes(value: Any, number: int) -> None:
    assert checked_bytes("limit", value) == number


@pytest.mark.parametrize(
    "value", [0, -1, True, 1.5, None, "", "2", "2G", "2 gigs", "-1GB", "0GB", "1e9B", "1 iB", "GB", "1,5GB", [1], "²GB"]
)
def test_bytes_that_are_none(value: Any) -> None:
    with refused(
        "limit must be a number of bytes of at least 1, such as 2_000_000_000, '2GB', '500 MB' or '1.5GiB', "
        f"not {value!r}"
    ):
        checked_bytes("limit", value)


@pytest.mark.parametrize(
    ("framework", "advice"),
    [
        ("pytorch", "pass framework='torch'"),
        ("PyTorch", "pass framework='torch'"),
        ("tf", "pass framework='tensorflow'"),
        ("np", "pass framework='numpy'"),
        ("numpy.ndarray", "pass framework='numpy'"),
        ("tensor-flow", "did you mean 'tensorflow'?"),
        ("keras", "for Keras use gpuload.keras, which delivers to Keras' backend"),
    ],
)
def test_names_of_frameworks(framework: str, advice: str) -> None:
    names = "numpy, torch, tensorflow, jax, cupy, dlpack"
    with refused(f"framework must be one of {names}, not {framework!r}: {advice}"):
        choose(framework, CPU)


@pytest.mark.parametrize(
    ("device", "advice"),
    [
        ("gpu", ": pass device='cuda'"),
        ("GPU:0", ": pass device='cuda'"),
        ("gpu:1", ": pass device='cuda:1'"),
        ("/device:GPU:1", ": pass device='cuda:1'"),
        ("CUDA:2", ": pass device='cuda:2'"),
        ("/CPU:0", ": pass device='cpu'"),
        ("CPU", ": pass device='cpu'"),
        (0, ": pass device='cuda'"),
        (3, ": pass device='cuda:3'"),
        ("cuda:x", ""),
        ("mps", ""),
        (-1, ""),
        (True, ""),
        (None, ""),
    ],
)
def test_names_of_devices(device: Any, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', not {device!r}{advice}"):
        resolve(device)
    if isinstance(device, str):
        monkeypatch.setenv("GPULOAD_DEVICE", device)
        advice = advice.replace("pass device=", "set GPULOAD_DEVICE=").replace("='", "=").rstrip("'")
        with refused(f"GPULOAD_DEVICE must be 'auto', 'cpu', 'cuda' or 'cuda:N', not {device!r}{advice}"):
            resolve("auto")


def test_devices_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("GPULOAD_DEVICE", "cuda:77")  # It overrides "auto" alone.
    assert resolve(torch.device("cpu")) == resolve("cpu") == CPU
    with pytest.raises(RuntimeError, match=r"^device='cuda:98' needs NVIDIA GPU number 98, but the driver shows "):
        resolve(torch.device("cuda", 98))
    with refused("device must be 'auto', 'cpu', 'cuda' or 'cuda:N', not 'meta'"):
        resolve(torch.device("meta"))
