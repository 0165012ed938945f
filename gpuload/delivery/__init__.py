"""Hands batches to a framework, on the device where they are, without a copy where the framework allows that.

Each file defines one `Framework`. Its `convert` takes an engine's array (a NumPy array; on a GPU a CuPy array or a DALI
tensor) and returns the framework's own over the same memory, which lives as long as the batch, or anything made from it
without a copy. No framework is imported before it is chosen. CONTRIBUTING tells how to add one.
"""

from __future__ import annotations

import importlib

from gpuload.core.available import required
from gpuload.core.checks import choice
from gpuload.core.device import CPU, Device
from gpuload.delivery.base import Allocator, Framework
from gpuload.delivery.cupy import CUPY, CUPY_ALLOCATOR
from gpuload.delivery.dlpack import DLPACK
from gpuload.delivery.jax import JAX
from gpuload.delivery.numpy import NUMPY
from gpuload.delivery.tensorflow import TENSORFLOW
from gpuload.delivery.torch import TORCH

__all__ = ["CUPY_ALLOCATOR", "FRAMEWORKS", "Allocator", "Framework", "choose"]

FRAMEWORKS = {framework.name: framework for framework in (NUMPY, TORCH, TENSORFLOW, JAX, CUPY, DLPACK)}

_KERAS = "for Keras use gpuload.keras, which delivers to Keras' backend"
_SYNONYMS = {"pytorch": "torch", "tf": "tensorflow", "np": "numpy", "numpy.ndarray": "numpy", "keras": _KERAS}


def choose(framework: str | None, device: Device) -> Framework:
    """Return the framework of that name, or NumPy on the CPU and CuPy on a GPU.

    Raise ValueError for an unknown name, or for "cupy" with batches on the CPU; ImportError if the framework is not
    installed; RuntimeError if it cannot use the GPU.
    """
    if framework is None:
        framework = "numpy" if device == CPU else "cupy"
    choice("framework", framework, FRAMEWORKS, synonyms=_SYNONYMS)
    if framework == "cupy" and device == CPU:
        advice = "pass device='cuda' or framework='numpy'"
        raise ValueError(f"framework='cupy' needs a GPU, but batches are made on cpu: {advice}")
    module = "cupy" if framework == "dlpack" and device != CPU else framework
    if (extra := FRAMEWORKS[module].extra) is not None:
        required(module, f"framework={framework!r}", extra)
    chosen = FRAMEWORKS[framework]
    if device.index is not None and chosen.gpus is not None and (count := chosen.gpus()) <= device.index:
        version = importlib.import_module(framework).__version__
        raise RuntimeError(
            f"framework={framework!r} cannot use {device}: the installed {framework} {version} sees "
            f"{count or 'no'} GPU; install one that is built for CUDA, or pass device='cpu'"
        )
    return chosen
