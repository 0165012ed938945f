"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

import gpuload

MODULES = ["gpuload", *(module.name for module in pkgutil.walk_packages(gpuload.__path__, "gpuload."))]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module: ModuleType = importlib.import_module(name)
    globals_ = {**vars(module), "np": importlib.import_module("numpy")}
    result = doctest.testmod(module, extraglobs=globals_, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
