"""A `Loader` for `model.fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from gpuload.core.device import Device
from gpuload.delivery import Framework
from gpuload.images.augment import Augment
from gpuload.images.pool import ImagePool
from gpuload.keras.prefetch import PrefetchedDataset
from gpuload.loader import Loader
from gpuload.run.course import EpochCourse
from gpuload.run.pool import EnginePool
from gpuload.run.progress import Progress
from gpuload.windows.window import Window


def dataset(loader: Loader, arrange: Callable[..., Any] | None = None) -> Any:
    """Return a data set of a loader's batches for `model.fit`, `evaluate` and `predict`.

    With Keras' torch and jax backends it is a `LoaderDataset`, whose batches are the backend's arrays on the loader's
    device; with the tensorflow backend it is `gpuload.tensorflow.dataset(loader)`. Each epoch of `fit` is one epoch of
    the loader, in its order. `fit(shuffle=True)`, the default, shuffles the batches of a `LoaderDataset` once more; for
    TensorFlow's data set it warns that it does not. Images are in Keras' data format, unless the transform has a
    layout.

    `loader.state_dict()` tells where `fit` stands. After `loader.load_state_dict`, before or after this call, `fit`
    goes on there; within an epoch, a `LoaderDataset` needs `fit(shuffle=False)` for it.

    Args:
        loader: A loader of images or windows. Its `framework` is ignored.
        arrange: Called with the parts of each batch; returns what `fit` gets: `(x, y)` or `(x, y, weights)`, with lists
            or dicts for several inputs or outputs. None: the batch as it is.

    Raises:
        TypeError: `loader` is not a `Loader`.
        ValueError: a `Window` with extras and no `arrange`: Keras would take the extras for sample weights.

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
        batches = gpuload.tensorflow.dataset(_twin(loader, "numpy") if first else loader)
        return batches if arrange is None else batches.map(arrange)
    return LoaderDataset(loader, arrange)


def _twin(loader: Loader, framework: str) -> Loader:
    """Return the loader with that framework; images in Keras' data format if the user left the layout open."""
    transform = loader.arguments["transform"]
    if isinstance(transform, Augment) and transform.layout is None:
        first = keras.config.image_data_format() == "channels_first"
        transform = transform.replace(layout="CHW" if first else "HWC")
    return loader.twin(transform=transform, framework=framework, channels_last=False, sharding=None)


class LoaderDataset(PrefetchedDataset):
    """The batches of a loader, for Keras: `self[number]` is that batch of the epoch.

    A pass through the numbers is one epoch of the loader. A look at a first batch, from which Keras builds a new model,
    is none. The state is that of the loader, which knows how far the pass has come.

    Args:
        loader: Its `epoch` is the next pass.
        arrange: Called with the parts of each batch; returns what `fit` gets. None: the batch as it is.
    """

    _as_keras = True

    def __init__(self, loader: Loader, arrange: Callable[..., Any] | None = None):
        super().__init__()
        self.loader, self._arrange, self._meter = loader, arrange, loader.meter
        self._pass: EpochCourse | None = None  # The epoch of `self[number]`; None: the loader's next one.
        self._before: EpochCourse | None = None  # The loader's epoch before the pass began.
        self._progress: Progress | None = None
        if isinstance(loader.pool, ImagePool):
            self._bad = loader.pool.bad

    def __len__(self) -> int:
        return len(self.loader)

    def stats(self, last: int | None = None) -> dict[str, float | int]:
        """Return the loader's figures; `last` as of `gpuload.Loader.stats`."""
        return self.loader.stats(last)

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's state, see `gpuload.Loader.state_dict` and `ResumableDataset.state_dict`."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state of the loader, see `gpuload.Loader.load_state_dict` and `ResumableDataset.load_state_dict`."""
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
    def _here(self) -> EpochCourse:
        if self._pass is None:
            self._pass = self._next_pass()
        return self._pass

    def _next_pass(self) -> EpochCourse:
        loader = self.loader
        found = loader.course_of(loader.epoch, loader.upcoming.start)
        # Keras has no use for an epoch without batches.
        return found if found.count else loader.course_of(loader.epoch + 1)

    def _pass_began(self) -> None:
        self._before, self._pass = self.loader.course, self._next_pass()
        self._count = self._pass.count
        self.loader.course = self._pass
        self._progress = None  # The bar of a pass that was left makes room.
        self._progress = self.loader.show(self._pass)

    def _batch_counted(self) -> None:
        here = self._here
        here.left = here.count - self._taken
        here.obstacle = self._obstacle()
        here.finished = not here.left and here.obstacle is None
        if self._progress is not None:
            self._progress.advance(1)
            if not here.left:
                self._progress.close()

    def _pass_settled(self) -> None:
        if self.loader.epoch == self._here.epoch:
            self.loader.set_epoch(self._here.epoch + 1)

    def on_epoch_end(self) -> None:
        """Settle the next epoch. Called by Keras."""
        if self._looking and self._taken:
            self._pass, self.loader.course, self._progress = None, self._before, None
        elif self._pass is not None and not self._pass.left:
            self._pass.finished = True
        super().on_epoch_end()

    def _open(self, framework: Callable[[Device], Framework]) -> EnginePool:
        return _twin(self.loader, framework(self.loader.pool.device).name).pool

    def _visits(self, numbers: Sequence[int]) -> Iterator[Any]:
        here, loader = self._here, self.loader
        yield from self._ready().plan(loader.order, loader.seed, here.epoch, here.start, numbers)

    def _deliver(self, pool: EnginePool, visit: Any, made: Any) -> Any:
        (batch,) = pool.batches(visit, made)
        if self._arrange is None:
            return batch
        return self._arrange(*batch) if isinstance(batch, tuple) else self._arrange(batch)
