"""A loader's batches as a `tf.data.Dataset`."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from gpuload.images.pool import ImagePool
from gpuload.loader import Loader
from gpuload.run.course import Batches


def dataset(loader: Loader) -> Any:
    """Return a `tf.data.Dataset` of the loader's batches, with all shapes and dtypes and its length.

    Each iteration is one epoch: the one that `loader.epoch` names when its first batch is asked for. It moves that
    number on, as `iter(loader)` does. Leaving it early frees what it holds; several at a time have engines of their
    own. Keep the dataset, or one made from it, for as long as anything reads from it.

    Elements are what the loader yields with framework="numpy", as tensors on the host. The loader's own `framework` and
    `sharding` are set aside; if its transform has no layout, images are [B, H, W, C]. On a GPU, pixels are made there;
    `tf.data` brings batches to the host, and TensorFlow takes them back when a step needs them.
    `dataset.apply(tf.data.experimental.prefetch_to_device("/gpu:0"))` does so ahead of time. Have TensorFlow leave
    memory to DALI with `tf.config.experimental.set_memory_growth`.

    Bad files are treated as the loader's `errors` say. An error of TensorFlow holds the text of the loader's
    SampleError, which names the file.

    After `load_state_dict` in the middle of an epoch, the dataset yields the rest of that epoch first, then whole
    epochs. The length of such a dataset is unknown, as with on_error="skip". Keras takes the length of the first epoch
    for that of all, so give it the rest on its own: `model.fit(dataset(loader), steps_per_epoch=len(iter(loader)))`,
    and then another dataset.

    `loader.state_dict()` counts the batches that `tf.data` has taken from the loader. By default `tf.data` takes some
    batches ahead, so that these are more than it has delivered: `options.autotune.enabled = False` in `with_options`
    stops that. Each `prefetch(n)` takes up to n ahead.

    Args:
        loader: A loader of images or windows; not an iterator of it.

    Raises:
        TypeError: `loader` is not a Loader.
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
    own = loader if loader.framework == "numpy" else loader.twin(framework="numpy", sharding=None, channels_last=False)
    skips = isinstance(own.pool, ImagePool) and own.pool.options.on_error == "skip"
    epochs = _Epochs(loader, own)
    # The caller may be in the scope of a GPU or of a distribution strategy, but `tf.data` lives on the host.
    with tf.device("/cpu:0"):
        batches = _from_generator(epochs.batches, _spec(own, skips))
        every_batch = epochs.whole and not skips
        return batches.apply(tf.data.experimental.assert_cardinality(len(own))) if every_batch else batches


class _Epochs:
    """The epochs of a loader, one after another, for iterators in any threads. `own` makes the batches."""

    def __init__(self, loader: Loader, own: Loader):
        self._loader, self._own, self._lock = loader, own, threading.Lock()
        self.whole = loader.upcoming.count == len(loader)
        """Whether no epoch begins in its middle."""

    def batches(self) -> Iterator[Any]:
        """Yield the batches of the next epoch."""
        loader = self._loader
        with self._lock:
            # The dataset has told its length, and may have a loader of its own, whose seed stays.
            if loader.seed != self._own.seed or (self.whole and loader.upcoming.count < len(loader)):
                raise RuntimeError(
                    "loader.load_state_dict was called after this dataset was made: make the dataset after "
                    "load_state_dict, with gpuload.tensorflow.dataset(loader)"
                )
            begun = loader.begin()
        loader.course = course = self._own.course_of(begun.epoch, begun.start)
        try:
            yield from Batches(self._own, course)
        except GeneratorExit:  # The loader keeps the course, which tells its state, but need not keep its engine.
            course.close()
            raise


def _from_generator(method: Callable[[], Iterator[Any]], spec: Any) -> Any:
    """Return a dataset of what a bound method yields. The method's object lives as long as the dataset.

    `tf.data.Dataset.from_generator` keeps its function until the process ends. So the function knows the object only
    weakly; otherwise every dataset would leave a loader behind, with its threads and its memory on the GPU.
    """
    weak = weakref.WeakMethod(method)

    def generator() -> Iterator[Any]:
        found = weak()
        if found is None:
            raise RuntimeError("this tf.data.Dataset was deleted: keep it for as long as anything reads from it")
        yield from found()

    dataset = tf.data.Dataset.from_generator(generator, output_signature=spec)
    dataset.gpuload_epochs = method  # Keeps the object alive. Datasets made from this one keep it in their turn.
    return dataset


def _spec(loader: Loader, skips: bool) -> Any:
    """Return the `tf.TensorSpec` of each part of a batch of NumPy arrays."""
    order, pool = loader.order, loader.pool
    short = order.last_batch == "keep" and order.size % order.batch_size
    batch: Any = None if short or skips else pool.batch_size
    if isinstance(pool, ImagePool):
        labels = pool.source.labels
        images = _tensor("images", pool.job.output_shape(batch), pool.transform.dtype)
        return images if labels is None else (images, _tensor("labels", (batch, *labels.shape[1:]), labels.dtype))
    job = pool.job
    shape = job.arranged(batch, job.window.length, job.item)
    parts = [_tensor("windows", shape, job.out_dtype)]
    if job.has_targets:
        targets = pool.source.targets if job.target_channels is None else None
        dtype = job.out_dtype if targets is None else targets.dtype
        parts.append(_tensor("targets", job.targets_shape(batch), dtype))
    of_item = (batch, *job.item), "float32"
    extras = {"mask": (shape, "bool"), "mean": of_item, "scale": of_item, "start": ((batch,), "int64")}
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
