"""Arrays of Keras' backend: which they are, and batches made of them."""

from __future__ import annotations

import functools
import logging
from typing import Any

import keras
import numpy as np

from gpuload.core.device import CPU, Device
from gpuload.delivery import FRAMEWORKS, Framework, choose

log = logging.getLogger("gpuload")


@functools.cache
def backend_framework(device: Device) -> Framework:
    """What `fit` is best handed of batches made on `device`: the backend's own arrays, on that device.

    NumPy's where the backend cannot use the device, where it would copy them elsewhere anyway, and for TensorFlow,
    whose `fit` takes a data set of its own from NumPy.
    """
    name = keras.backend.backend()
    if name not in ("torch", "jax"):
        if device != CPU:
            log.info("fit copies batches to the host for Keras' %s backend; see gpuload.keras.dataset", name)
        return FRAMEWORKS["numpy"]
    try:
        framework = choose(name, device)
    except (ImportError, RuntimeError) as error:
        log.info("fit copies batches to the host, since %s", error)
        return FRAMEWORKS["numpy"]
    elsewhere = device == CPU and framework.gpus is not None and framework.gpus() > 0
    return FRAMEWORKS["numpy"] if elsewhere else framework


def of_framework(batch: Any, framework: Framework, device: Device) -> Any:
    """A batch of any structure with its NumPy arrays converted; those of dtypes that the framework lacks stay."""

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray) or not framework.has(leaf.dtype.name):
            return leaf
        if not (leaf.flags.writeable and leaf.flags.c_contiguous):
            leaf = leaf.copy()
        return framework.convert(leaf, device, None)

    return batch if framework.name == "numpy" else keras.tree.map_structure(convert, batch)


def asks_ahead() -> str | None:
    """The backend, if its trainer asks for batches before it trains on those that it has.

    TensorFlow's reads by `tf.data`, which prefetches; JAX's sends a batch to a GPU while the one before it is used.
    """
    name: str = keras.backend.backend()
    if name == "jax":
        import jax

        if jax.default_backend() == "cpu" or keras.distribution.distribution() is not None:
            return None
    return None if name == "torch" else name
