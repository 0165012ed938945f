"""The native door: a source, a transform, batches."""

from __future__ import annotations

import functools
import itertools
import secrets
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from gpuload.image_pool import ImagePool
from gpuload.plan import Augment, Order, Window, Windows
from gpuload.plan.checks import checked_int
from gpuload.plan.order import LastBatch
from gpuload.pool import Stream
from gpuload.sharding import check_last_batch, shard_of, sharded
from gpuload.sources import ImageSource, Series
from gpuload.window_pool import WindowPool


class Loader:
    """Batches of images or of windows of a series, made ahead of time on the GPU or, without one, on the CPU.

    Yields `(images, labels)` or `(inputs, targets)`, or the first alone where there is no second; with the extras of a
    `Window`, a dict of them comes last. Each iteration is one epoch with an order and random numbers of its own;
    leaving it early and starting again starts the next epoch. The order and what is drawn for a sample depend on
    (seed, epoch, the sample's position in the epoch) alone.

    Images are [B, H, W, C], or [B, C, H, W] for PyTorch, of the transform's dtype; labels [B, ...] of the source's.
    Windows are [B, L, ...] in the layout and of the dtype of the `Window`, which tells the shape of targets too. Small
    batches of windows are parts of one array of up to 2 MiB.

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
    >>> series = gpuload.Series(np.arange(10), targets=np.arange(10) * 10)
    >>> for inputs, targets in gpuload.Loader(series, gpuload.Window(3), batch_size=6, device="cpu"):
    ...     print(inputs.shape, targets)
    (6, 3) [20 30 40 50 60 70]
    (2, 3) [80 90]
    """

    def __init__(
        self,
        source: ImageSource | Series,
        transform: Augment | Window,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int | None = None,
        last_batch: LastBatch = "keep",
        device: str = "auto",
        engine: str = "auto",
        framework: str | None = None,
        residency: str = "auto",
        prefetch: int = 2,
        threads: int | None = None,
        channels_last: bool = False,
        sharding: Any = None,
    ):
        """
        Args:
            source: What there is: ImageFolder, ImageList, ImageFrame or ImageArray; or a Series.
            transform: What is done to each image, an Augment; or what a window of the series is, a Window.
            batch_size: Samples in a batch.
            shuffle: Whether each epoch has a random order of its own.
            seed: Of order and augmentation. None draws one; `loader.seed` tells it.
            last_batch: A short last batch is kept ("keep"), left out ("drop"), or filled up with the epoch's first
                samples ("pad").
            device: "auto", "cpu", "cuda" or "cuda:N". The environment's GPULOAD_DEVICE overrides "auto".
            engine: "auto"; for images "dali" or "numpy", for windows "cupy" (on a GPU) or "numpy" (on the CPU).
            framework: Whose arrays batches are: "numpy", "torch", "tensorflow" (eager tensors; `gpuload.tensorflow`
                has data sets), "jax", "cupy", or "dlpack": something with `__dlpack__` for any other library. None:
                NumPy on the CPU, CuPy on a GPU. "numpy" on a GPU copies each batch to the host.
            residency: Where a series stays while a GPU cuts it: "device", copied there once, or "host", from where
                the rows of each batch are copied ahead of time; "auto" takes "device" where the series needs at most
                half of the memory that is free there.
            prefetch: Batches made ahead of the one in use; of small windows, pieces of several batches.
            threads: CPU threads that decode images, or that cut windows; None: one for each CPU of the process.
            channels_last: For PyTorch, images [B, C, H, W] in its memory format `torch.channels_last`.
            sharding: For JAX, a `jax.sharding.NamedSharding` over the first axis: batches of `batch_size` samples are
                global arrays, spread over the devices of its mesh. Each process makes the part that its own devices
                hold; all of them need the same `seed`.
        """
        self.arguments: dict[str, Any] = {
            name: value for name, value in locals().items() if name not in ("self", "__class__")
        }
        """What the loader was made of."""
        self.seed = secrets.randbits(32) if seed is None else seed
        self.epoch = 0
        """Number of the epoch that the next iteration will be."""
        self._ready: tuple[int, Stream[Any]] | None = None  # A stream that stands at the start of that epoch.
        shard = (0, 1)
        if sharding is not None:
            if framework != "jax":
                raise ValueError(f"sharding is for framework='jax', not for {framework!r}: leave it out")
            if seed is None:
                raise ValueError("seed must be given with sharding, the same in all processes, not None")
            shard = shard_of(sharding, checked_int("batch_size", batch_size, 1))
        options: dict[str, Any] = {
            "batch_size": batch_size if sharding is None else batch_size // shard[1],
            "device": device,
            "engine": engine,
            "framework": framework,
            "prefetch": prefetch,
            "threads": threads,
        }
        self.pool: ImagePool | WindowPool
        """The engines, and what they deliver."""
        if isinstance(source, Series):
            if not isinstance(transform, Window):
                raise ValueError(f"transform must be a gpuload.Window for a Series, not {transform!r}")
            if channels_last:
                raise ValueError("channels_last=True is for images, not for a Series: leave it out")
            if sharding is not None and transform.layout == "LBC":
                raise ValueError(
                    "layout='LBC' has time along the first axis, which sharding spreads: pass layout='BLC' or 'BCL'"
                )
            self.pool = WindowPool(source, transform, residency=residency, shuffled=shuffle, **options)
        else:
            if not isinstance(transform, Augment):
                raise ValueError(f"transform must be a gpuload.Augment for images, not {transform!r}")
            if residency != "auto":
                raise ValueError(f"residency={residency!r} is for a Series, not for images: leave it out")
            self.pool = ImagePool(source, transform, channels_last=channels_last, **options)
        self.order = Order(
            size=len(self.pool),
            batch_size=batch_size,
            shuffle=shuffle,
            seed=self.seed,
            last_batch=last_batch,
            shard=shard,
        )
        if sharding is not None:
            check_last_batch(self.order, sharding)
            self.pool.framework = sharded(self.pool.framework, sharding, shard[1], self.pool.device)

    @property
    def source(self) -> ImageSource | Series:
        """What the loader reads."""
        return self.pool.source

    @property
    def transform(self) -> Augment | Window:
        """What is done to each sample; of images, layout and size settled."""
        return self.pool.transform

    @property
    def batch_size(self) -> int:
        """Samples in a batch; the last may have fewer."""
        return self.order.batch_size

    @property
    def dataset(self) -> ImageSource | Windows:
        """The images, or the windows of the series, under PyTorch's name: its length is the number of samples."""
        return self.pool.windows if isinstance(self.pool, WindowPool) else self.pool.source

    @property
    def sampler(self) -> Sampler:
        """The order, under PyTorch's name."""
        return Sampler(self)

    @property
    def batch_sampler(self) -> None:
        """None, as of PyTorch's loaders whose `sampler` tells all: who looks for the one looks for the other."""

    @property
    def framework(self) -> str:
        """Whose arrays batches are."""
        return self.pool.framework.name

    @property
    def device(self) -> str:
        """Where batches are made and delivered: "cpu" or "cuda:N"."""
        return str(self.pool.device)

    @property
    def engine(self) -> str:
        """What makes them: "dali", "cupy" or "numpy"."""
        return self.pool.engine

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

    def steps(self, epoch: int) -> Iterator[Any]:
        """The plan of one epoch, a `Step` or `WindowStep` each: what is asked of the engine, all numbers drawn."""
        return self.pool.plan(self.order, self.seed, epoch)

    def batches(self, epoch: int) -> Batches:
        """The batches of one epoch, whichever comes next."""
        return Batches(self, checked_int("epoch", epoch, 0))

    def __iter__(self) -> Batches:
        return Batches(self, None)

    def _start(self, epoch: int | None) -> tuple[int, Stream[Any]]:
        """The number of an epoch, None: of the next one, and a stream that stands at its start."""
        if epoch is None:
            epoch, self.epoch = self.epoch, self.epoch + 1
        ready, self._ready = self._ready, None
        if ready is None or ready[0] != epoch:
            # Made ahead across the end of an epoch too: the next one most likely follows. The stream must not hold the
            # loader, which holds it.
            epochs = map(functools.partial(self.pool.plan, self.order, self.seed), itertools.count(epoch))
            ready = epoch, Stream(self.pool, itertools.chain.from_iterable(epochs))
        return ready

    def replace(self, **changes: Any) -> Loader:
        """The same loader with other arguments: the same seed and epoch, threads and memory of its own.

        >>> import numpy as np
        >>> import gpuload
        >>> loader = gpuload.Loader(gpuload.Series(np.arange(9)), gpuload.Window(3), batch_size=4, device="cpu")
        >>> loader.replace(framework="dlpack").framework
        'dlpack'
        """
        loader = Loader(**{**self.arguments, "seed": self.seed, **changes})
        loader.epoch = self.epoch
        return loader

    def close(self) -> None:
        """Free threads and memory. Iterating again takes them anew."""
        self._ready = None
        self.pool.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Sampler:
    """What programs written for PyTorch look for at `loader.sampler`: samples in order, and `set_epoch`."""

    def __init__(self, loader: Loader):
        self._loader = loader

    def __len__(self) -> int:
        return self._loader.order.size

    def __iter__(self) -> Iterator[int]:
        """The samples of the epoch that comes next."""
        return iter(self._loader.order.indices(self._loader.epoch).tolist())

    def set_epoch(self, epoch: int) -> None:
        """As `Loader.set_epoch`."""
        self._loader.set_epoch(epoch)


class Batches:
    """One epoch's iterator, for one thread at a time. After a SampleError it goes on with the next batch."""

    def __init__(self, loader: Loader, epoch: int | None):
        self._loader = loader
        self._pool: Any = loader.pool
        self._epoch = epoch
        # Which epoch it is, is asked with the first batch, as PyTorch asks a sampler: Lightning makes an iterator, then
        # calls set_epoch, and makes one more only to see whether it can.
        self._started: tuple[int, Stream[Any]] | None = None
        self._left = len(loader)
        self._here: deque[Any] = deque()  # Delivered together, and not yet taken.
        self._in_use = threading.Lock()

    def __iter__(self) -> Batches:
        return self

    def __len__(self) -> int:
        """Batches still to come."""
        return self._left

    def __next__(self) -> Any:
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError(
                "this iterator is being consumed in another thread: make one for each thread, with iter(loader)"
            )
        try:
            return self._next()
        finally:
            self._in_use.release()

    def _next(self) -> Any:
        if self._started is None:
            self._started = self._loader._start(self._epoch)
        epoch, stream = self._started
        if not self._here:
            if not self._left:
                if self._loader._ready is None and stream.alive:
                    self._loader._ready = epoch + 1, stream
                raise StopIteration
            try:
                self._here.extend(self._pool.batches(*next(stream)))
            except Exception:
                lost = stream.last
                self._left -= 1 if lost is None else -(-lost.batch_size // self._pool.batch_size)
                raise
        self._left -= 1
        return self._here.popleft()
