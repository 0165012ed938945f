"""A `Loader` for `model.fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from gpuload.delivery import Framework
from gpuload.images.augment import Augment
from gpuload.images.pool import ImagePool
from gpuload.keras.backend import backend_framework
from gpuload.keras.prefetch import PrefetchedDataset
from gpuload.loader import Loader
from gpuload.run.course import Position
from gpuload.run.pool import EnginePool
from gpuload.run.progress import Progress
from gpuload.windows.window import Window


def dataset(loader: Loader, arrange: Callable[..., Any] | None = None) -> Any:
    """What `model.fit`, `evaluate` and `predict` take in place of a loader: batches where the model is.

    With Keras' torch and jax backends a `LoaderDataset`, whose batches are the backend's arrays on the loader's device;
    with its tensorflow backend `gpuload.tensorflow.dataset(loader)`. Either way each epoch of `fit` is one epoch of the
    loader, in its order. `fit(shuffle=True)`, the default, shuffles the batches of a `LoaderDataset` once more; of
    TensorFlow's, it warns that it does not. Images are in Keras' data format, unless the transform says otherwise.

    `loader.state_dict()` tells where `fit` stands; after `loader.load_state_dict`, before or after this call, `fit`
    goes on there. Within an epoch a `LoaderDataset` needs `fit(shuffle=False)` for it.

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
    return loader.twin(transform=transform, framework="numpy", channels_last=False, sharding=None)


class Pass(Position):
    """How far Keras has come in an epoch of a loader."""

    obstacle: str | None = None
    """Why that cannot be told."""

    @property
    def seen(self) -> int:
        if self.obstacle is not None:
            raise RuntimeError(self.obstacle)
        return super().seen


class LoaderDataset(PrefetchedDataset):
    """The batches of a loader, for Keras. `self[number]` is that batch of the epoch.

    A pass through the numbers is an epoch of the loader; a look at a first batch, from which Keras builds a new model,
    is none. Its state is that of the loader, which knows how far the pass has come.
    """

    def __init__(self, loader: Loader, arrange: Callable[..., Any] | None = None):
        super().__init__()
        self.loader = loader
        """Whose `epoch` tells the next pass."""
        self._arrange = arrange
        self._pass: Pass | None = None  # Where `self[number]` comes from; None: from the loader's next epoch.
        self._before: Position | None = None  # Where the loader stood when the pass began.
        self._progress: Progress | None = None
        self._meter = loader.meter
        if isinstance(loader.pool, ImagePool):
            self._bad = loader.pool.bad

    def __len__(self) -> int:
        return len(self.loader)

    def stats(self, last: int | None = None) -> dict[str, float | int]:
        """As of the loader."""
        return self.loader.stats(last)

    def state_dict(self) -> dict[str, Any]:
        """As of the loader, see `Loader.state_dict` and `ResumableDataset.state_dict`."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As of the loader, see `Loader.load_state_dict` and `ResumableDataset.load_state_dict`."""
        with self.lock:
            self.loader.load_state_dict(state)
            self._forget_pass()
            self._drop()
            self._pass = None

    def _left(self) -> int:
        return self._next_pass().count

    @property
    def _stop(self) -> int:
        return self._here.count

    @property
    def _here(self) -> Pass:
        if self._pass is None:
            self._pass = self._next_pass()
        return self._pass

    def _next_pass(self) -> Pass:
        loader = self.loader
        found = Pass(loader.order, loader.epoch, loader._seen)
        # Keras has no use for an epoch without batches.
        return found if found.count else Pass(loader.order, loader.epoch + 1, 0)

    def _begin_pass(self, counting: bool) -> None:
        super()._begin_pass(counting=True)  # Also where a program goes through the numbers by itself.
        self._before, self._pass = self.loader.position, self._next_pass()
        self._count = self._pass.count
        self.loader.position = self._pass
        self._progress = None  # Of a pass that was left: its bar makes room.
        self._progress = self.loader._watch(self._pass)

    def _counted(self, number: int) -> None:
        super()._counted(number)
        here = self._here
        here.left = here.count - self._taken
        here.obstacle = self._obstacle()
        here.finished = not here.left and here.obstacle is None
        if self._progress is not None:
            self._progress.advance(1)
            if not here.left:
                self._progress.close()

    def _settle(self) -> None:
        if self.loader.epoch == self._here.epoch:
            self.loader.set_epoch(self._here.epoch + 1)
        super()._settle()

    def on_epoch_end(self) -> None:
        """As of every data set; called by Keras."""
        if self._looking and self._taken:
            self._pass, self.loader.position, self._progress = None, self._before, None
        elif self._pass is not None and not self._pass.left:
            self._pass.finished = True
        super().on_epoch_end()

    @property
    def _framework(self) -> Framework:
        assert self._pool is not None
        return backend_framework(self._pool.device)

    def _open(self) -> EnginePool:
        return _for_keras(self.loader).pool

    def _visits(self, numbers: Sequence[int]) -> Iterator[Any]:
        here, loader = self._here, self.loader
        yield from self._ready().plan(loader.order, loader.seed, here.epoch, here.start, numbers)

    def _deliver(self, visit: Any, made: Any) -> Any:
        assert self._pool is not None
        (batch,) = self._pool.batches(visit, made)
        if self._arrange is None:
            return batch
        return self._arrange(*batch) if isinstance(batch, tuple) else self._arrange(batch)
