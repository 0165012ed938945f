"""A loader's batches by DALI's TensorFlow plugin: the engine's own graph, run within `tf.data`.

The plugin starts an iterator of its own over each of its inputs, and two of them could begin different epochs. So there
is one input: all that is fed for a sample, its label too, lies in one row of bytes, which the graph takes apart.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from gpuload.cuda import CPU
from gpuload.engines import available_cpus
from gpuload.engines.image_dali import feeds, graph, pipeline
from gpuload.image_pool import ImagePool
from gpuload.loader import Loader
from gpuload.plan import Step
from gpuload.tensorflow.generator import from_generator, kept


def obstacle(loader: Loader, spec: Any, *, named: bool) -> str | None:
    """Why the plugin cannot make the loader's batches, or None; raises it where the plugin was asked for by name."""
    if not isinstance(loader.pool, ImagePool):
        reason = "the plugin makes images, not windows"
    elif loader.engine != "dali":
        reason = f"the plugin runs engine='dali', not {loader.engine!r}"
    elif isinstance(spec, tuple) and spec[1].dtype == tf.string:
        reason = "the plugin takes labels that are numbers, not strings"
    elif asked := _loaders_own(loader):
        reason = f"the plugin has no {asked}"
    elif not _installed():
        reason = "DALI's TensorFlow plugin is not installed"
        if named:
            raise ImportError(f"plugin=True, but {reason}: {_remedy()}")
        return reason
    else:
        try:
            _plugin()
        except (ImportError, OSError, tf.errors.OpError) as error:
            reason = f"DALI's TensorFlow plugin, as it is installed, does not load in TensorFlow {tf.__version__}"
            if named:
                # pip keeps what it built, for whichever TensorFlow.
                again = _remedy("--force-reinstall --no-deps --no-cache-dir ")
                raise ImportError(f"plugin=True, but {reason}: {again}") from error
            return reason
        return None
    if named:
        raise ValueError(f"plugin=True, but {reason}: leave plugin out, for a Python generator over the loader")
    return reason


def _loaders_own(loader: Loader) -> str | None:
    """The first option that only the loader carries out, if it was given one."""
    for name in ("on_error", "max_errors", "errors_log", "timeout", "progress"):
        value, default = loader.arguments[name], inspect.signature(Loader).parameters[name].default
        if value != default:
            return f"{name}={value!r}"
    return None


def _installed() -> bool:
    try:
        return importlib.util.find_spec("nvidia.dali_tf_plugin") is not None
    except ModuleNotFoundError:
        return False


def _plugin() -> Any:
    return importlib.import_module("nvidia.dali.plugin.tf")


def _remedy(options: str = "") -> str:
    """The command that builds the plugin for the DALI and the TensorFlow that are there."""
    for cuda in ("cuda130", "cuda120"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(f"nvidia-dali-{cuda}")
            return f"pip install {options}--no-build-isolation nvidia-dali-tf-plugin-{cuda}=={version}"
    return "see https://docs.nvidia.com/deeplearning/dali/user-guide/docs/installation.html"


def dataset(loader: Loader, steps: Callable[[], Iterator[Step]], ended: Callable[[], Iterator[Any]], spec: Any) -> Any:
    """A `tf.data.Dataset` of the batches of what `steps` begins, an epoch each time, and of those of `ended`, of which
    there are none. `spec`: of its elements."""
    pool = loader.pool
    assert isinstance(pool, ImagePool)
    images_spec, labels_spec = spec if isinstance(spec, tuple) else (spec, None)
    feed = _Feed(pool, steps, None if labels_spec is None else labels_spec.dtype.as_numpy_dtype)
    feed.rows = _Rows(feed.arrays(next(loader.steps(0))))
    batch = images_spec.shape[0]
    inputs = from_generator(feed.packed, tf.TensorSpec((batch, None), tf.uint8))
    # DALI has no bfloat16.
    dtype = tf.float32 if images_spec.dtype == tf.bfloat16 else images_spec.dtype
    plugin = _plugin().experimental
    job = {"batch_size": pool.batch_size, "device_id": pool.device.index}
    batches = plugin.DALIDatasetWithInputs(
        # Each iterator has a pipeline and threads of its own. This one is a description.
        pipeline(pool.source, pool.transform, feed.graph, num_threads=1, **job),
        input_datasets={"rows": plugin.Input(inputs, batch=True)},
        output_dtypes=dtype if labels_spec is None else (dtype, tf.uint8),
        output_shapes=images_spec.shape if labels_spec is None else (images_spec.shape, (batch, None)),
        num_threads=pool.threads or available_cpus(),
        prefetch_queue_depth=max(1, pool.prefetch),
        **job,
    )

    def finished(images: Any, *labels: Any) -> Any:
        images = tf.cast(images, images_spec.dtype)
        return (images, _from_bytes(labels[0], labels_spec)) if labels else images

    # The plugin begins to read when its iterator is made, and Keras makes iterators that it never asks for a batch. A
    # dataset within another begins when it is asked.
    end = from_generator(ended, batches.element_spec)
    epoch = tf.data.Dataset.range(1).flat_map(lambda _: batches.concatenate(end))
    return kept(epoch.map(finished), (inputs, end))


class _Feed:
    """What the plugin is fed, and the graph that it runs."""

    rows: _Rows

    def __init__(self, pool: ImagePool, steps: Callable[[], Iterator[Step]], labels_dtype: Any):
        self._source, self._transform = pool.source, pool.transform
        self._device = "cpu" if pool.device == CPU else "gpu"
        self._steps = steps
        self._labels_dtype = labels_dtype
        self._max_pixels = pool.policy.max_pixels

    def arrays(self, step: Step) -> dict[str, NDArray[Any]]:
        """All that is fed for a step, [B, ...] each."""
        arrays = feeds(self._source, self._transform, step)
        if self._source.labels is not None:
            arrays["labels"] = self._source.labels[step.indices].astype(self._labels_dtype, copy=False)
        return arrays

    def packed(self) -> Iterator[NDArray[np.uint8]]:
        """The rows of each step of an epoch."""
        for step in self._steps():
            yield self.rows.pack(self.arrays(step))

    def graph(self) -> Any:
        """Images, and the bytes of their labels if there are any. Datasets of TensorFlow live on the host."""
        from nvidia.dali import fn, types

        row = fn.external_source(name="rows", dtype=types.UINT8, ndim=1)
        given = functools.partial(self.rows.given, row)
        images = graph(self._source, self._transform, self._device, given, max_pixels=self._max_pixels)
        images = images.cpu() if self._device == "gpu" else images
        return images if self._source.labels is None else (images, self.rows.bytes(row, "labels"))


def _from_bytes(values: Any, spec: Any) -> Any:
    """uint8 [B, bytes] to what they are the bytes of."""
    shape, size = [-1, *spec.shape[1:]], spec.dtype.size
    if spec.dtype == tf.bool:
        values = tf.cast(tf.reshape(values, shape), tf.bool)
    else:
        values = tf.bitcast(tf.reshape(values, shape if size == 1 else [*shape, size]), spec.dtype)
    return tf.ensure_shape(values, spec.shape)


class _Part(NamedTuple):
    start: int
    size: int
    shape: tuple[int, ...]


class _Rows:
    """Where each array of a step lies in the rows of bytes, paths, whose length varies, last."""

    def __init__(self, arrays: dict[str, NDArray[Any]]):
        self._parts: dict[str, _Part] = {}
        self._fixed = 0
        for name, array in arrays.items():
            if name != "paths":
                size = array[0].nbytes
                self._parts[name] = _Part(self._fixed, size, array.shape[1:])
                self._fixed += size

    def pack(self, arrays: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
        """Arrays [B, ...] to rows uint8 [B, bytes]."""
        count = len(next(iter(arrays.values())))
        paths = arrays.get("paths", np.empty((count, 0), np.uint8))
        rows = np.empty((count, self._fixed + paths.shape[1]), np.uint8)
        rows[:, self._fixed :] = paths
        for name, (start, size, _) in self._parts.items():
            rows[:, start : start + size] = np.ascontiguousarray(arrays[name]).reshape(count, -1).view(np.uint8)
        return rows

    def bytes(self, row: Any, name: str) -> Any:
        """The node of an array's bytes, from that of the row."""
        from nvidia.dali import fn

        start, size, _ = self._parts[name]
        return fn.slice(row, start=[start], shape=[size], axes=[0])

    def given(self, row: Any, name: str, dtype: Any, ndim: int, layout: str | None = None) -> Any:
        """The node of an input of `graph`, from that of the row."""
        from nvidia.dali import fn

        if name == "paths":
            return fn.slice(row, start=[self._fixed], rel_end=[1.0], axes=[0])
        shape = self._parts[name].shape
        node = fn.reinterpret(self.bytes(row, name), dtype=dtype, shape=shape or [1], layout=layout)
        return node if shape else fn.squeeze(node, axes=[0])
