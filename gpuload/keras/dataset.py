"""A `Loader` for `model.fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from gpuload.delivery import Framework
from gpuload.keras.backend import backend_framework
from gpuload.keras.prefetch import PrefetchedDataset
from gpuload.loader import Loader
from gpuload.plan import Augment, Window
from gpuload.pool import EnginePool


def dataset(loader: Loader, arrange: Callable[..., Any] | None = None) -> Any:
    """What `model.fit`, `evaluate` and `predict` take in place of a loader: batches where the model is.

    With Keras' torch and jax backends a `LoaderDataset`, whose batches are the backend's arrays on the loader's device;
    with its tensorflow backend `gpuload.tensorflow.dataset(loader)`. Either way each epoch of `fit` is one epoch of the
    loader, in its order. `fit(shuffle=True)`, the default, shuffles the batches of a `LoaderDataset` once more; of
    TensorFlow's, it warns that it does not. Images are in Keras' data format, unless the transform says otherwise.

    Args:
        loader: Of images or windows. Its `framework` is of no account.
        arrange: Called with the parts of each batch; what it returns is what `fit` gets: `(x, y)`, `(x, y, weights)`,
            with lists or dicts of several inputs or outputs. None: the batch as it is.

    Raises:
        TypeError: something other than a `Loader`.
        ValueError: a `Window` with extras and no `arrange`: Keras would take them for the weights of samples.

    >>> import gpuload, numpy as np
    >>> source = gpuload.ImageArray(np.zeros((5, 8, 8, 3), np.uint8), labels=np.arange(10).reshape(5, 2))
    >>> loader = gpuload.Loader(source, gpuload.Augment(), batch_size=2, device="cpu")
    >>> batches = dataset(loader, lambda x, y: (x, {"digit": y[:, 0], "colour": y[:, 1]}))
    >>> len(batches), batches[1][1]["digit"].tolist()
    (3, [4, 6])
    """
    if not isinstance(loader, Loader):
        raise TypeError(
            f"loader must be a gpuload.Loader, not {type(loader).__name__}: pass the loader itself where this is an "
            "iterator of it, which has one epoch and may be in use elsewhere"
        )
    transform = loader.transform
    if isinstance(transform, Window) and transform.extras and arrange is None:
        raise ValueError(
            f"extras={list(transform.extras)} come third in a batch, where Keras has the weights of samples: pass "
            "arrange, a function of (inputs, targets, extras), or leave the extras out"
        )
    if keras.backend.backend() == "tensorflow":
        import gpuload.tensorflow

        first = keras.config.image_data_format() == "channels_first"
        batches = gpuload.tensorflow.dataset(_for_keras(loader) if first else loader)
        return batches if arrange is None else batches.map(arrange)
    return LoaderDataset(loader, arrange)


def _for_keras(loader: Loader) -> Loader:
    """The loader with NumPy arrays; images in Keras' data format where the user left that open."""
    transform = loader.arguments["transform"]
    if isinstance(transform, Augment) and transform.layout is None:
        first = keras.config.image_data_format() == "channels_first"
        transform = transform.replace(layout="CHW" if first else "HWC")
    return loader.replace(transform=transform, framework="numpy", channels_last=False, sharding=None)


class LoaderDataset(PrefetchedDataset):
    """The batches of a loader, for Keras. `self[number]` is that batch of the epoch.

    A pass through the numbers is an epoch of the loader. Keras builds a new model from the first batch of a pass that
    it then gives up: the epoch of that one comes once more.
    """

    def __init__(self, loader: Loader, arrange: Callable[..., Any] | None = None):
        super().__init__()
        self.loader = loader
        """Whose `epoch` tells the next pass."""
        self._arrange = arrange
        self._epoch = loader.epoch
        self._taken: int | None = None  # Batches of this pass; None before the first.

    def __len__(self) -> int:
        return len(self.loader)

    def __getitem__(self, number: int) -> Any:
        # Keras reads `num_batches` at the start of each pass.
        if self._shuffle_state is not None or self._taken is None:
            if self._taken != 1 or len(self) == 1:
                self._epoch, self.loader.epoch = self.loader.epoch, self.loader.epoch + 1
            self._taken = 0
            with self.lock:
                self._drop()
        self._taken += 1
        return super().__getitem__(number)

    @property
    def _framework(self) -> Framework:
        assert self._pool is not None
        return backend_framework(self._pool.device)

    def _open(self) -> EnginePool:
        return _for_keras(self.loader).pool

    def _visits(self, numbers: Sequence[int]) -> Iterator[Any]:
        assert self._pool is not None
        yield from self._pool.plan(self.loader.order, self.loader.seed, self._epoch, numbers)

    def _deliver(self, visit: Any, delivered: Any) -> Any:
        assert self._pool is not None
        (batch,) = self._pool.batches(visit, delivered)
        if self._arrange is None:
            return batch
        return self._arrange(*batch) if isinstance(batch, tuple) else self._arrange(batch)
