"""The native door: a source, a transform, batches."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import secrets
import weakref
from collections.abc import Iterator
from typing import Any

from gpuload.cache import CachePolicy
from gpuload.cache.policy import Cache, Limit
from gpuload.core.checks import checked_int
from gpuload.core.errors import MAX_PIXELS, BadSample, ErrorPolicy, OnError
from gpuload.delivery.sharding import check_last_batch, shard_of, sharded
from gpuload.images.augment import Augment
from gpuload.images.pool import ImagePool
from gpuload.plan.order import LastBatch, Order
from gpuload.run import checkpoint, ranks
from gpuload.run.course import Batches, Position, Sampler
from gpuload.run.meter import Meter
from gpuload.run.pool import EnginePool
from gpuload.run.progress import Progress
from gpuload.run.progress import check as check_progress
from gpuload.run.stream import Stream
from gpuload.sources import ImageSource, Series
from gpuload.sources.fingerprint import fingerprint
from gpuload.windows.index import Windows
from gpuload.windows.pool import WindowPool
from gpuload.windows.window import Window


class Loader:
    """Batches of images or of windows of a series, made ahead of time on the GPU or, without one, on the CPU.

    Yields `(images, labels)` or `(inputs, targets)`, or the first alone where there is no second; with the extras of a
    `Window`, a dict of them comes last. Each iteration is one epoch with an order and random numbers of its own;
    leaving it early and starting again starts the next epoch. The order and what is drawn for a sample depend on
    (seed, epoch, the sample's position in the epoch) alone.

    Images are [B, H, W, C], or [B, C, H, W] for PyTorch, of the transform's dtype; labels [B, ...] of the source's.
    Windows are [B, L, ...] in the layout and of the dtype of the `Window`, which tells the shape of targets too. Small
    batches of windows are parts of one array of up to 2 MiB.

    `state_dict()` tells where it stands, to the batch; `load_state_dict` goes on there, in another process, or with
    another number of ranks. `stats()` tells where the time goes.

    Raises SampleError, from the batch concerned only, where a file cannot be read and `on_error` is "raise";
    TooManyErrors; ValueError, ImportError and RuntimeError at once for arguments that make no sense here.

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
        shard: ranks.Shard = None,
        sharding: Any = None,
        on_error: OnError = "raise",
        max_errors: int | float | None = None,
        errors_log: str | os.PathLike[str] | None = None,
        max_pixels: int | None = MAX_PIXELS,
        timeout: float | None = None,
        cache: Cache = "auto",
        cache_limit: Limit = None,
        cache_size: tuple[int, int] | None = None,
        progress: bool | str = False,
    ):
        """
        Args:
            source: What there is: ImageFolder, ImageList, ImageFrame or ImageArray; or a Series.
            transform: What is done to each image, an Augment; or what a window of the series is, a Window.
            batch_size: Samples in a batch; with `shard`, in that of one rank.
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
            shard: Which part of the samples this process gets, of one order for all: (rank, count), or "auto" to ask
                torch.distributed, Ray Train, JAX or torchrun. All ranks get as many batches, and need the same `seed`;
                "keep" leaves some with one sample less in the last batch. None: all samples.
            sharding: For JAX, a `jax.sharding.NamedSharding` over the first axis: batches of `batch_size` samples are
                global arrays, spread over the devices of its mesh. Each process makes the part that its own devices
                hold; all of them need the same `seed`.
            on_error: What becomes of a file that cannot be read: "raise" SampleError; "skip" the sample, so that its
                batch is shorter, and left out where nothing is left of it; "replace" it with a sample that the seed
                settles, so that shapes stay. Other samples are what they would have been. `errors` lists the bad ones.
            max_errors: Different bad samples from which on TooManyErrors is raised: above this number, or as a float
                below 1 above this share of the whole data set. Each rank counts those that it has met itself, and so
                raises at that many of its own.
            errors_log: A file to which each bad sample is added, as a line of JSON.
            max_pixels: An image whose header claims more is a bad sample, and not decoded. By default Pillow's limit.
            timeout: Seconds that reading a batch may take before files in it that block are bad samples. None: any.
            cache: Where decoded and resized images are kept for the epochs to come, which then neither read nor decode;
                the batches are the same. "auto": in the host's memory, as many as fit; "host" the same, by name; None:
                nowhere; or the path of a file, for later runs and for all processes of a machine: it is made where
                there is none, and an image whose file has changed since is decoded again. What is in memory is kept
                until the loader is closed, whatever becomes of the files.
            cache_limit: Bytes that it may take, or as a float a share of the memory, or of the disk, that is free.
                None: a quarter of the memory; of a disk, what it needs.
            cache_size: With `RandomResizedCrop`, which leaves nothing to keep: (height, width) that images are resized
                to and kept at. Each crop is then cut out of that image, whatever aspect ratio it had before, and
                resized once more. On the CPU.
            progress: True shows a bar while batches are taken, and a line at the end of each epoch; "summary" the line
                alone. The bar needs rich. Of several ranks, the first shows them.
        """
        self.arguments: dict[str, Any] = {
            name: value for name, value in locals().items() if name not in ("self", "__class__")
        }
        """What the loader was made of."""
        self.seed = secrets.randbits(32) if seed is None else seed
        self.epoch = 0
        """Number of the epoch that the next iteration will be."""
        self.position: Position | None = None
        """Where the iteration stands that was begun last."""
        self.meter = Meter()
        """What was delivered, and how long it took."""
        self._seen = 0  # Samples of the next epoch that were seen before a checkpoint.
        self._ready: tuple[int, Stream[Any]] | None = None  # A stream that stands at the start of that epoch.
        self._shown: weakref.WeakSet[Progress] = weakref.WeakSet()
        self._twins: weakref.WeakSet[EnginePool] = weakref.WeakSet()  # Their pools.
        check_progress(progress)
        checked_int("batch_size", batch_size, 1)
        rank, count = self._part()
        self.pool: ImagePool | WindowPool = self._windows(count) if isinstance(source, Series) else self._images(count)
        """The engines, and what they deliver."""
        self.order = Order(
            size=len(self.pool),
            batch_size=self.pool.batch_size * count,
            shuffle=shuffle,
            seed=self.seed,
            last_batch=last_batch,
            shard=(rank, count),
        )
        if sharding is not None:
            check_last_batch(self.order, sharding)
            self.pool.framework = sharded(self.pool.framework, sharding, count, self.pool.device)

    def _part(self) -> tuple[int, int]:
        """(rank, count): which part of each batch this process makes."""
        given = self.arguments
        sharding, seed, skips = given["sharding"], given["seed"], given["on_error"] == "skip"
        if sharding is None:
            part = ranks.resolve(given["shard"])
            if part[1] > 1 and seed is None:
                raise ValueError(f"seed must be given with {part[1]} ranks, the same in all of them, not None")
            if part[1] > 1 and skips:
                raise ValueError(
                    f"on_error='skip' would leave {part[1]} ranks with batches of different sizes, or without one: "
                    "pass on_error='replace'"
                )
            return part
        if given["framework"] != "jax":
            raise ValueError(f"sharding is for framework='jax', not for {given['framework']!r}: leave it out")
        if seed is None:
            raise ValueError("seed must be given with sharding, the same in all processes, not None")
        if given["shard"] is not None:
            raise ValueError("shard and sharding both part batches among processes: leave shard out")
        if skips:
            raise ValueError("on_error='skip' leaves batches that sharding cannot spread: pass on_error='replace'")
        return shard_of(sharding, given["batch_size"])

    def _options(self, count: int) -> dict[str, Any]:
        """What the pools of both kinds take; with `sharding`, `batch_size` is that of all `count` parts."""
        options = {name: self.arguments[name] for name in ("device", "engine", "framework", "prefetch", "threads")}
        parts = 1 if self.arguments["sharding"] is None else count
        return {**options, "batch_size": self.arguments["batch_size"] // parts}

    def _images(self, count: int) -> ImagePool:
        given, transform = self.arguments, self.arguments["transform"]
        if not isinstance(transform, Augment):
            raise ValueError(f"transform must be a gpuload.Augment for images, not {transform!r}")
        if given["residency"] != "auto":
            raise ValueError(f"residency={given['residency']!r} is for a Series, not for images: leave it out")
        policy, caching = (
            kind(**{field.name: given[field.name] for field in dataclasses.fields(kind)})
            for kind in (ErrorPolicy, CachePolicy)
        )
        options = {**self._options(count), "policy": policy, "caching": caching}
        return ImagePool(given["source"], transform, channels_last=given["channels_last"], **options)

    def _windows(self, count: int) -> WindowPool:
        given, window = self.arguments, self.arguments["transform"]
        if not isinstance(window, Window):
            raise ValueError(f"transform must be a gpuload.Window for a Series, not {window!r}")
        if given["channels_last"]:
            raise ValueError("channels_last=True is for images, not for a Series: leave it out")
        if given["sharding"] is not None and window.layout == "LBC":
            raise ValueError(
                "layout='LBC' has time along the first axis, which sharding spreads: pass layout='BLC' or 'BCL'"
            )
        for field in (*dataclasses.fields(ErrorPolicy), *dataclasses.fields(CachePolicy)):
            if given[field.name] != field.default:
                raise ValueError(f"{field.name} is for images that are read from files, not for a Series: leave it out")
        options = self._options(count)
        return WindowPool(given["source"], window, residency=given["residency"], shuffled=given["shuffle"], **options)

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
        return int(self.arguments["batch_size"])

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

    @property
    def errors(self) -> list[BadSample]:
        """The bad samples that were found, each once."""
        return self.pool.errors

    def __repr__(self) -> str:
        return (
            f"Loader({self.source!r}, {self.transform!r}, batch_size={self.batch_size}, seed={self.seed}, "
            f"device={self.device!r}, engine={self.engine!r})"
        )

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self.order)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch number `epoch`, from its start; of one that `load_state_dict` named, from where
        that stands."""
        if checked_int("epoch", epoch, 0) != self.epoch:
            self.epoch, self._seen = epoch, 0

    def steps(self, epoch: int) -> Iterator[Any]:
        """The plan of one epoch, a `Step` or `WindowStep` each: what is asked of the engine, all numbers drawn."""
        return self.pool.plan(self.order, self.seed, epoch)

    def batches(self, epoch: int, start: int = 0) -> Batches:
        """The batches of one epoch, whichever comes next; `start`: without its first so many samples."""
        return Batches(self, Position(self.order, checked_int("epoch", epoch, 0), checked_int("start", start, 0)))

    def __iter__(self) -> Batches:
        return Batches(self, None)

    def begin(self) -> Position:
        """Begin the epoch that comes next: the number of the one after it will be next."""
        position = Position(self.order, self.epoch, self._seen)
        self.epoch, self._seen = self.epoch + 1, 0
        return position

    def _stream(self, position: Position) -> Stream[Any]:
        """A stream that stands there."""
        ready, self._ready = self._ready, None
        if ready is None or ready[0] != position.epoch or position.seen:
            # Made ahead across the end of an epoch too: the next one most likely follows. The stream must not hold the
            # loader, which holds it.
            plan = functools.partial(self.pool.plan, position.order, position.order.seed)
            following = itertools.chain.from_iterable(map(plan, itertools.count(position.epoch + 1)))
            return Stream(self.pool, itertools.chain(plan(position.epoch, position.seen), following))
        return ready[1]

    def _watch(self, position: Position) -> Progress | None:
        """An iteration begins there, and its figures; what shows them, where something was asked for."""
        shown, errors = self.arguments["progress"], self.errors
        if not shown or self.order.shard[0]:  # One of all ranks.
            self.meter.begin()
            return None
        progress = Progress(position.epoch, position.count, self.meter, lambda: len(errors), bar=shown is True)
        self._shown.add(progress)
        return progress

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree in."""
        return {
            "seed": self.seed,
            "samples": self.order.size,
            "batch_size": self.batch_size,
            "shuffle": bool(self.order.shuffle),
            "last_batch": self.order.last_batch,
            "source": fingerprint(self.source),
            "transform": checkpoint.in_words(checkpoint.describe(self.arguments["transform"])),
            "cache_size": self.arguments["cache_size"] and str(tuple(self.arguments["cache_size"])),
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: which samples of which epoch were delivered, of all ranks together.

        Batches that were made ahead do not count. Ranks in step have the same state. Small, and takes microseconds, but
        for the first, which looks at the source; JSON and pickle can hold it, `torch.distributed.checkpoint` and
        torchdata's conventions know it. In the middle of an epoch, of the iteration that was begun last.
        """
        position = self.position
        if position is None or position.finished:
            epoch, seen = self.epoch, self._seen
        else:
            epoch, seen = position.epoch, position.seen
        return {"version": checkpoint.VERSION, "epoch": epoch, "seen": seen, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict()` was: the next iteration has the rest of that epoch, and is empty at its end.

        With another number of ranks it has the samples that no rank had. A loader whose seed was drawn takes that of
        the state. Iterators that were begun before go on as they were.

        Raises ValueError where the state is of another source, transform, batch size, order or seed, saying what
        differs; or where so many ranks cannot share what is left.

        >>> import numpy as np
        >>> import gpuload
        >>> loader = gpuload.Loader(gpuload.Series(np.arange(9)), gpuload.Window(1), batch_size=2, device="cpu")
        >>> batches = iter(loader)
        >>> for _ in range(3):
        ...     batch = next(batches)
        >>> again = loader.replace()
        >>> again.load_state_dict(loader.state_dict())
        >>> [batch.tolist() for batch in again]
        [[[6], [7]], [[8]]]
        """
        own = self._identity
        drawn = self.arguments["seed"] is None and isinstance(state, dict) and "seed" in state
        checkpoint.check(state, {**own, "seed": state["seed"]} if drawn else own)
        epoch, seen = (checked_int(name, state.get(name), 0) for name in ("epoch", "seen"))
        order = dataclasses.replace(self.order, seed=state["seed"])
        order.check_start(seen)
        self.order, self.seed = order, state["seed"]
        own["seed"] = self.seed
        self.epoch, self._seen = epoch, seen
        self.position = self._ready = None

    def stats(self, last: int | None = None) -> dict[str, float | int]:
        """Where the time goes, as a plain dict of numbers: see `gpuload.run.meter.Meter.stats`.

        Also `errors`, the number of bad samples, and of images, as soon as they are known, `read_ms`, `decode_ms` and
        `augment_ms`: milliseconds that one sample takes in one thread, of all samples since the loader was made,
        whatever `last` says. The threads count them, but for DALI's, which do not tell how long they read and decode:
        at the first call, and at most once a minute, a thread in the background begins to do so with a few samples, for
        some tenths of a second. Until it is done these two are those of the time before, or not there.

        Args:
            last: Of the last so many steps. None: of all since the loader was made.
        """
        return self.pool.stats(self.meter, last)

    def replace(self, **changes: Any) -> Loader:
        """The same loader with other arguments: the same seed and epoch, threads and memory of its own.

        >>> import numpy as np
        >>> import gpuload
        >>> loader = gpuload.Loader(gpuload.Series(np.arange(9)), gpuload.Window(3), batch_size=4, device="cpu")
        >>> loader.replace(framework="dlpack").framework
        'dlpack'
        """
        loader = Loader(**{**self.arguments, "seed": self.seed, **changes})
        loader.epoch, loader._seen = self.epoch, self._seen
        return loader

    def twin(self, **changes: Any) -> Loader:
        """As `replace`, to be iterated over in this loader's place: with its cache, its bad samples and its figures are
        told here; it is closed with this one."""
        loader = self.replace(**changes)
        loader.meter, loader._shown = self.meter, self._shown
        self._twins.add(loader.pool)
        if isinstance(loader.pool, ImagePool) and isinstance(self.pool, ImagePool):
            loader.pool.borrow(self.pool)
        return loader

    def close(self) -> None:
        """Free threads and memory, also of iterations that are under way, which cannot go on. Iterating again takes
        them anew."""
        self._ready = None
        for progress in list(self._shown):
            progress.stop()
        for twin in list(self._twins):  # Before the cache that they share.
            twin.close()
        self.pool.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
