"""The arrays of Keras' backend."""

from __future__ import annotations

import functools
import logging
from typing import Any

import keras
import numpy as np

from gpuload import delivery
from gpuload.core.device import CPU, Device
from gpuload.delivery import FRAMEWORKS, Framework

log = logging.getLogger("gpuload")


@functools.cache
def backend_framework(device: Device) -> Framework:
    """Return the framework whose arrays `fit` takes best, for batches made on `device`: the backend.

    It is NumPy if the backend cannot use the device, or would copy the arrays elsewhere anyway; and for TensorFlow,
    whose `fit` makes a data set of its own from NumPy's arrays.
    """
    name = keras.backend.backend()
    if name not in ("torch", "jax"):
        if device != CPU:
            log.info("fit copies batches to the host for Keras' %s backend; see gpuload.keras.dataset", name)
        return FRAMEWORKS["numpy"]
    try:
        framework = delivery.choose(name, device)
    except (ImportError, RuntimeError) as error:
        log.info("fit copies batches to the host, since %s", error)
        return FRAMEWORKS["numpy"]
    elsewhere = device == CPU and framework.gpus is not None and framework.gpus() > 0
    return FRAMEWORKS["numpy"] if elsewhere else framework


def pool_framework(device: Device) -> Framework:
    """Return the framework of a pool that serves `fit`.

    On a GPU it is the backend, in whose memory the engine writes. On the CPU it is NumPy: `of_framework` converts whole
    batches, without a copy, with the labels and weights that the user gave.
    """
    return to_numpy(device) if device == CPU else backend_framework(device)


def to_numpy(device: Device) -> Framework:
    """Return NumPy, on any device."""
    return FRAMEWORKS["numpy"]


def of_framework(batch: Any, framework: Framework, device: Device) -> Any:
    """Return a batch of any structure with its NumPy arrays converted, except dtypes that the framework lacks."""

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray) or not framework.has(leaf.dtype.name):
            return leaf
        if not (leaf.flags.writeable and leaf.flags.c_contiguous):
            leaf = leaf.copy()
        return framework.convert(leaf, device, None)

    return batch if framework.name == "numpy" else keras.tree.map_structure(convert, batch)


def asks_ahead() -> str | None:
    """Return the backend's name if its trainer asks for batches ahead of the one that it trains on, or None.

    TensorFlow's trainer reads by `tf.data`, which prefetches. JAX's sends a batch to a GPU while it uses another one.
    """
    name: str = keras.backend.backend()
    if name == "jax":
        import jax

        if jax.default_backend() == "cpu" or keras.distribution.distribution() is not None:
            return None
    return None if name == "torch" else name
