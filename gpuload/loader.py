"""The native door: a source, a transform, batches."""

from __future__ import annotations

import functools
import itertools
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuload.plan import Augment, Order, Step
from gpuload.plan.checks import checked_int
from gpuload.plan.order import LastBatch
from gpuload.pool import EnginePool, Stream
from gpuload.sources import ImageSource

SAMPLES_DRAWN_AT_ONCE = 1024


def planned(order: Order, transform: Augment, seed: int, epoch: int) -> Iterator[Step]:
    """The steps of one epoch."""
    batches = order.batches(epoch)
    # NumPy's cost is by the call: several batches are drawn in one.
    several = max(1, SAMPLES_DRAWN_AT_ONCE // order.batch_size)
    while group := list(itertools.islice(batches, several)):
        indices = np.concatenate([batch for _, batch in group])
        step = transform.step(indices, seed=seed, epoch=epoch, first=group[0][0])
        yield from step.split(order.batch_size)


class Loader:
    """Batches of a source's images, made ahead of time on the GPU or, without one, on the CPU.

    Yields `(images, labels)`, or `images` alone where the source has no labels. Each iteration is one epoch with an
    order and random numbers of its own; leaving it early and starting again starts the next epoch. The order and what
    is drawn for a sample depend on (seed, epoch, the sample's position in the epoch) alone.

    Images are [B, H, W, C], or [B, C, H, W] for PyTorch, of the transform's dtype; labels [B, ...] of the source's.

    Raises SampleError, from the batch concerned only, where a file cannot be read; ValueError, ImportError and
    RuntimeError at once for arguments that make no sense here.

    >>> import numpy as np
    >>> import gpuload
    >>> source = gpuload.ImageArray(np.zeros((5, 8, 8, 3), np.uint8), labels=np.arange(5))
    >>> loader = gpuload.Loader(source, gpuload.Augment(hflip=0.5), batch_size=2, device="cpu")
    >>> [(images.shape, labels.tolist()) for images, labels in loader]
    [((2, 8, 8, 3), [0, 1]), ((2, 8, 8, 3), [2, 3]), ((1, 8, 8, 3), [4])]
    >>> len(loader)
    3
    """

    def __init__(
        self,
        source: ImageSource,
        transform: Augment,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int | None = None,
        last_batch: LastBatch = "keep",
        device: str = "auto",
        engine: str = "auto",
        framework: str | None = None,
        prefetch: int = 2,
        threads: int | None = None,
    ):
        """
        Args:
            source: What there is: ImageFolder, ImageList, ImageFrame or ImageArray.
            transform: What is done to each image.
            batch_size: Samples in a batch.
            shuffle: Whether each epoch has a random order of its own.
            seed: Of order and augmentation. None draws one; `loader.seed` tells it.
            last_batch: A short last batch is kept ("keep"), left out ("drop"), or filled up with the epoch's first
                samples ("pad").
            device: "auto", "cpu", "cuda" or "cuda:N". The environment's GPULOAD_DEVICE overrides "auto".
            engine: "auto", "dali" or "numpy".
            framework: "numpy", "torch" or "cupy": whose arrays batches are. None: NumPy on the CPU, CuPy on a GPU.
                "numpy" on a GPU copies each batch to the host.
            prefetch: Batches made ahead of the one in use.
            threads: CPU threads that decode; None: one for each CPU of the process.
        """
        if not isinstance(transform, Augment):
            raise ValueError(f"transform must be a gpuload.Augment, not {transform!r}")
        self.seed = secrets.randbits(32) if seed is None else seed
        self.order = Order(
            size=len(source), batch_size=batch_size, shuffle=shuffle, seed=self.seed, last_batch=last_batch
        )
        self.epoch = 0
        """Number of the epoch that the next iteration will be."""
        self._ready: tuple[int, Stream[Step]] | None = None  # A stream that stands at the start of that epoch.
        self._pool = EnginePool(
            source,
            transform,
            batch_size=batch_size,
            device=device,
            engine=engine,
            framework=framework,
            prefetch=prefetch,
            threads=threads,
        )

    @property
    def source(self) -> ImageSource:
        """What the loader reads."""
        return self._pool.source

    @property
    def transform(self) -> Augment:
        """What is done to each image, layout and size settled."""
        return self._pool.transform

    @property
    def device(self) -> str:
        """Where batches are made and delivered: "cpu" or "cuda:N"."""
        return str(self._pool.device)

    @property
    def engine(self) -> str:
        """What makes them: "dali" or "numpy"."""
        return self._pool.engine

    def __repr__(self) -> str:
        return (
            f"Loader({self.source!r}, {self.transform!r}, batch_size={self.order.batch_size}, seed={self.seed}, "
            f"device={self.device!r}, engine={self.engine!r})"
        )

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self.order)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch number `epoch`."""
        self.epoch = checked_int("epoch", epoch, 0)

    def steps(self, epoch: int) -> Iterator[Step]:
        """The plan of one epoch: what each batch holds and what is drawn for it. Reads no file."""
        return planned(self.order, self.transform, self.seed, epoch)

    def __iter__(self) -> Batches:
        epoch, self.epoch = self.epoch, self.epoch + 1
        ready, self._ready = self._ready, None
        if ready is None or ready[0] != epoch:
            # Made ahead across the end of an epoch too: the next one most likely follows. The stream must not hold the
            # loader, which holds it.
            epochs = map(functools.partial(planned, self.order, self.transform, self.seed), itertools.count(epoch))
            ready = epoch, Stream(self._pool, itertools.chain.from_iterable(epochs))
        return Batches(self, epoch, ready[1])

    def close(self) -> None:
        """Free threads and memory. Iterating again takes them anew."""
        self._ready = None
        self._pool.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Batches:
    """One epoch's iterator. After a SampleError it goes on with the next batch."""

    def __init__(self, loader: Loader, epoch: int, stream: Stream[Step]):
        self._loader = loader
        self._epoch = epoch
        self._stream = stream
        self._left = len(loader)

    def __iter__(self) -> Batches:
        return self

    def __len__(self) -> int:
        """Batches still to come."""
        return self._left

    def __next__(self) -> Any:
        if not self._left:
            if self._loader._ready is None and self._stream.alive:
                self._loader._ready = self._epoch + 1, self._stream
            raise StopIteration
        self._left -= 1
        step, images = next(self._stream)
        pool = self._loader._pool
        return images if pool.source.labels is None else (images, pool.targets(step))
