"""A loader's batches as a `tf.data.Dataset`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from gpuload.images.pool import ImagePool
from gpuload.loader import Loader
from gpuload.sources import ImageArray
from gpuload.tensorflow.generator import from_generator
from gpuload.windows.pool import WindowPool


def dataset(loader: Loader) -> Any:
    """A `tf.data.Dataset` of the loader's batches, with all of their shapes and dtypes, and its length.

    Each iteration is one epoch, the one that `loader.epoch` names when its first batch is asked for, and moves that
    number on, as `iter(loader)` does. Leaving it early frees what it holds; several at a time have engines of their
    own. Keep the dataset, or one made from it, for as long as anything reads from it.

    Elements are what the loader yields with framework="numpy", as tensors on the host; the loader's own `framework`
    and `sharding` are set aside, and where it names no layout, images are [B, H, W, C]. On a GPU, pixels are made
    there; `tf.data` brings batches to the host, and TensorFlow takes them back where a step needs them:
    `dataset.apply(tf.data.experimental.prefetch_to_device("/gpu:0"))` does so ahead of time. Let TensorFlow leave
    memory to DALI, with `tf.config.experimental.set_memory_growth`.

    What the loader's `on_error` says is done with a file that cannot be read; an error of TensorFlow holds the text of
    the loader's SampleError, which names the file.

    A loader that `load_state_dict` put into the middle of an epoch yields the rest of that first, then whole epochs;
    the length of such a dataset is unknown, as with on_error="skip". Keras, which takes the length of the first epoch
    for that of all, is given the rest on its own: `model.fit(dataset(loader), steps_per_epoch=len(iter(loader)))`, and
    then another dataset.

    `loader.state_dict()` counts what `tf.data` has taken of the loader. That is what it has delivered where it does not
    read ahead: by itself it does, some batches, if not `options.autotune.enabled = False` in `with_options`; and each
    `prefetch(n)` takes up to n.

    Args:
        loader: Of images or windows; not an iterator of it.

    Raises:
        TypeError: `loader` is no Loader.
        ValueError: TensorFlow has no tensors of the dtype of labels or targets.

    >>> import numpy as np
    >>> import gpuload
    >>> import gpuload.tensorflow
    >>> source = gpuload.ImageArray(np.zeros((6, 8, 8, 3), np.uint8), labels=np.arange(6))
    >>> loader = gpuload.Loader(source, gpuload.Augment(hflip=0.5), batch_size=2, device="cpu")
    >>> batches = gpuload.tensorflow.dataset(loader)
    >>> len(batches)
    3
    >>> images, labels = batches.element_spec
    >>> images.shape, labels.dtype
    (TensorShape([2, 8, 8, 3]), tf.int64)
    >>> for images, labels in batches.take(1):
    ...     print(images.shape, labels.numpy())
    (2, 8, 8, 3) [0 1]
    """
    if not isinstance(loader, Loader):
        raise TypeError(
            f"loader must be a gpuload.Loader, which can be iterated again and again, not {loader!r}: pass the Loader "
            "itself"
        )
    own = loader
    if loader.framework != "numpy":
        own = loader.twin(framework="numpy", sharding=None, channels_last=False)
    spec = _spec(own)
    epochs = _Epochs(loader, own)
    every_batch = epochs.whole and not (isinstance(own.pool, ImagePool) and own.pool.policy.on_error == "skip")
    # The caller may be in the scope of a GPU or of a distribution strategy, but `tf.data` lives on the host.
    with tf.device("/cpu:0"):
        batches = from_generator(epochs.batches, spec)
        return batches.apply(tf.data.experimental.assert_cardinality(len(own))) if every_batch else batches


class _Epochs:
    """One epoch of a loader after another, also for iterators in several threads."""

    def __init__(self, loader: Loader, own: Loader):
        """`own`: makes the batches, and may be the loader itself."""
        self._loader = loader
        self._own = own
        self._lock = threading.Lock()
        self.whole = len(iter(loader)) == len(loader)
        """Whether no epoch begins in its middle."""

    def batches(self) -> Iterator[Any]:
        """The batches of the next epoch."""
        loader = self._loader
        with self._lock:
            # The dataset has told its length, and may have a loader of its own, whose seed stays.
            if loader.seed != self._own.seed or (self.whole and len(iter(loader)) < len(loader)):
                raise RuntimeError(
                    "loader.load_state_dict was called after this dataset was made: make the dataset after "
                    "load_state_dict, with gpuload.tensorflow.dataset(loader)"
                )
            begun = loader.begin()
        batches = self._own.batches(begun.epoch, begun.start)
        loader.position = batches.position
        yield from batches


def _spec(loader: Loader) -> Any:
    """The `tf.TensorSpec` of each part of a batch of NumPy arrays."""
    order, pool = loader.order, loader.pool
    short = order.last_batch == "keep" and order.size % order.batch_size
    if isinstance(pool, ImagePool):
        short = short or pool.policy.on_error == "skip"
    batch: Any = None if short else pool.batch_size
    if isinstance(pool, ImagePool):
        return _spec_of_images(pool, batch)
    return _spec_of_windows(pool, batch)


def _spec_of_images(pool: ImagePool, batch: Any) -> Any:
    source, transform = pool.source, pool.transform
    assert transform.size is not None
    channels = source.images.shape[3] if isinstance(source, ImageArray) else transform.channels
    shape = (channels, *transform.size) if transform.layout == "CHW" else (*transform.size, channels)
    images = _tensor("images", (batch, *shape), transform.dtype)
    if source.labels is None:
        return images
    return images, _tensor("labels", (batch, *source.labels.shape[1:]), source.labels.dtype)


def _spec_of_windows(pool: WindowPool, batch: Any) -> Any:
    job = pool.job
    shape = job.arranged(batch, job.window.length, job.item)
    parts = [_tensor("windows", shape, job.out_dtype)]
    if job.has_targets:
        targets = pool.source.targets if job.target_channels is None else None
        dtype = job.out_dtype if targets is None else targets.dtype
        parts.append(_tensor("targets", job.targets_shape(batch), dtype))
    extras = {
        "mask": (shape, "bool"),
        "mean": ((batch, *job.item), "float32"),
        "scale": ((batch, *job.item), "float32"),
        "start": ((batch,), "int64"),
    }
    if job.window.extras:
        parts.append({name: _tensor(name, *extras[name]) for name in job.window.extras})
    return tuple(parts) if len(parts) > 1 else parts[0]


def _tensor(what: str, shape: tuple[Any, ...], dtype: Any) -> Any:
    try:
        return tf.TensorSpec(shape, tf.as_dtype(dtype))
    except TypeError:
        raise ValueError(
            f"{what} must be of a dtype that TensorFlow has, not {dtype}: convert them, for instance with "
            ".astype('float32')"
        ) from None
