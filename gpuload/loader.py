"""The native door: a source, a transform, batches."""

from __future__ import annotations

import functools
import os
import secrets
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gpuload.arguments import HINTS, identity_of, part_of, pool_of
from gpuload.core.checks import answers_unknown, checked_int
from gpuload.core.errors import BadSample
from gpuload.delivery.sharding import check_last_batch
from gpuload.images.augment import Augment
from gpuload.images.pool import ImagePool
from gpuload.options import Cache, Errors, OnError
from gpuload.plan.order import LastBatch, Order
from gpuload.run import checkpoint, ranks
from gpuload.run.course import Batches, EpochCourse, Sampler
from gpuload.run.meter import Meter
from gpuload.run.pool import EnginePool
from gpuload.run.progress import Progress
from gpuload.run.progress import check as check_progress
from gpuload.sources import ImageSource, Readable, Series, as_source
from gpuload.windows.index import Windows
from gpuload.windows.pool import WindowPool
from gpuload.windows.window import Window


@answers_unknown(**HINTS)
class Loader:
    """Batches of images, or of windows of a series, made ahead of time on the GPU or, without one, on the CPU.

    Yields `(images, labels)` or `(inputs, targets)`, or the first alone if there is no second; the extras of a `Window`
    come last, in a dict. Images are [B, H, W, C], or [B, C, H, W] for PyTorch, of the transform's dtype; labels are
    [B, ...] of the source's. Windows are [B, L, ...] in the layout and dtype of the `Window`. Small batches of windows
    share one array of up to 2 MiB.

    Each iteration is one epoch. The order, and the random numbers of a sample, depend only on (seed, epoch, position of
    the sample in the epoch). Leaving an iteration early and iterating again starts the next epoch.

    `state_dict()` tells where the loader stands, to the batch. `load_state_dict` goes on there, in another process or
    with another number of ranks. `stats()` tells where the time goes. A loader can be pickled: its arguments and its
    place in the epoch are kept; its threads, caches and figures are not.

    Args:
        source: `ImageFolder`, `ImageList`, `ImageFrame`, `ImageArray`, `ImageBytes` or a `Series`; or an object of your
            own with `len` and `read(indices)`, which returns encoded images: see `gpuload.sources.CustomSource`.
        transform: An `Augment` for images, a `Window` for a series.
        batch_size: Samples in a batch, at least 1; with `shard`, in the batch of one rank.
        shuffle: Whether each epoch has a random order of its own.
        seed: Seed of order and augmentation, 0 to 2**64 - 1. None draws one, which `loader.seed` tells.
        last_batch: A short last batch is kept ("keep"), left out ("drop"), or filled up with the epoch's first samples
            ("pad").
        device: "auto", "cpu", "cuda", "cuda:N" or a `torch.device`. The environment variable GPULOAD_DEVICE overrides
            "auto".
        engine: Code that makes batches. "auto" takes the fastest that can do the job: "cupy" on a GPU, "numba" on the
            CPU for images, or "numpy", the reference. For windows "cupy" or "numpy".
        decoder: Decoder of image files. "auto" takes "dali" if it is installed and can do the job, else "pillow"; with
            engine="numpy" it takes "pillow", as Keras does.
        framework: Framework whose arrays are delivered: "numpy", "torch", "tensorflow" (eager tensors;
            `gpuload.tensorflow` has data sets), "jax", "cupy", or "dlpack" (objects with `__dlpack__` for any other
            library). None: NumPy on the CPU, CuPy on a GPU. "numpy" on a GPU copies each batch to the host.
        residency: Place of a series while a GPU cuts it: "device", copied there once, or "host", from where the rows of
            each batch are copied ahead of time. "auto" takes "device" if the series needs at most half of the memory
            that is free there.
        prefetch: Batches made ahead of the one in use, at least 0; for small windows, pieces of several batches.
        threads: CPU threads that decode images, or cut windows. None: one for each CPU of the process.
        channels_last: For PyTorch: images [B, C, H, W] in the memory format `torch.channels_last`.
        shard: Part of the samples for this process: (rank, count), or "auto" to ask torch.distributed, Ray Train, JAX
            or torchrun. All ranks get the same number of batches and need the same `seed`; with "keep", the last batch
            of some ranks has one sample less. None: all samples.
        sharding: For JAX: a `jax.sharding.NamedSharding` over the first axis. Batches of `batch_size` samples are
            global arrays over the devices of its mesh; each process makes the part that its devices hold. All processes
            need the same `seed`.
        cache: Where decoded images are kept for later epochs: a `Cache`, or its place alone: "auto", "device", "host",
            None or the path of a file.
        errors: What counts as a bad sample and what happens to it: an `Errors`. None: bad samples raise.
        on_error: Short form: "raise", "skip" or "replace", for `Errors(on_error=...)`.
        progress: True shows a bar while batches are taken, and a line at the end of each epoch; "summary" shows the
            line alone. The bar needs rich. Only the first rank shows them.

    Raises:
        ValueError, TypeError: arguments that make no sense, at once.
        ImportError: a package that the arguments need is not installed.
        RuntimeError: a device that does not exist.
        SampleError: while iterating, for the batch concerned only: a file cannot be read, and `on_error` is "raise".
        TooManyErrors: while iterating: more bad samples than `Errors(max_errors=...)` allows.

    >>> import gpuload, numpy as np
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
        source: ImageSource | Readable | Series,
        transform: Augment | Window,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int | None = None,
        last_batch: LastBatch = "keep",
        device: Any = "auto",
        engine: str = "auto",
        decoder: str = "auto",
        framework: str | None = None,
        residency: str = "auto",
        prefetch: int = 2,
        threads: int | None = None,
        channels_last: bool = False,
        shard: ranks.Shard = None,
        sharding: Any = None,
        cache: Cache | str | os.PathLike[str] | None = "auto",
        errors: Errors | None = None,
        on_error: OnError | None = None,
        progress: bool | str = False,
    ):
        data: dict[str, Any] = {"source": as_source(source), "transform": transform}
        data["batch_size"] = checked_int("batch_size", batch_size, 1)
        order = {"shuffle": shuffle, "seed": seed, "last_batch": last_batch, "shard": shard, "sharding": sharding}
        code = {"device": device, "engine": engine, "decoder": decoder, "framework": framework, "residency": residency}
        work = {"prefetch": prefetch, "threads": threads, "channels_last": channels_last, "progress": progress}
        care = {"cache": Cache.of(cache), "errors": Errors.of(errors, on_error)}
        self.arguments: dict[str, Any] = {**data, **order, **code, **work, **care}
        """The arguments by name; short forms as the options that they stand for."""
        self.seed: int = secrets.randbits(32) if seed is None else checked_int("seed", seed, 0)
        self.meter = Meter()
        """Counts the delivered batches and their time."""
        self.bars: weakref.WeakSet[Progress] = weakref.WeakSet()
        self._twins: weakref.WeakSet[EnginePool] = weakref.WeakSet()  # Their pools.
        check_progress(progress)
        part = part_of(self.arguments)
        self.pool: ImagePool | WindowPool = pool_of(self.arguments, part[1])
        """The engines, and what they deliver."""
        self.order = Order(
            size=len(self.pool),
            batch_size=self.pool.batch_size * part[1],
            shuffle=shuffle,
            seed=self.seed,
            last_batch=last_batch,
            shard=part,
        )
        if sharding is not None:
            check_last_batch(self.order, sharding)
        self.upcoming = self.course_of(0)
        """The epoch that comes next."""
        self.course: EpochCourse | None = None
        """The epoch that was begun last."""

    @property
    def source(self) -> ImageSource | Series:
        """The images or the series."""
        return self.pool.source

    @property
    def transform(self) -> Augment | Window:
        """The transform; for images, with layout and size settled."""
        return self.pool.transform

    @property
    def batch_size(self) -> int:
        """Number of samples in a batch; the last batch may have fewer."""
        return int(self.arguments["batch_size"])

    @property
    def dataset(self) -> ImageSource | Windows:
        """The images, or the windows of the series. Its length is the number of samples, as in PyTorch."""
        return self.pool.windows if isinstance(self.pool, WindowPool) else self.pool.source

    @property
    def sampler(self) -> Sampler:
        """The order of the samples, with the methods of a sampler of PyTorch."""
        return Sampler(self)

    @property
    def batch_sampler(self) -> None:
        """None. Code that reads `sampler` often reads `batch_sampler` too, so both exist."""

    @property
    def framework(self) -> str:
        """The framework whose arrays are delivered, such as "torch"."""
        return self.pool.framework.name

    @property
    def device(self) -> str:
        """Where batches are made and delivered: "cpu" or "cuda:N"."""
        return str(self.pool.device)

    @property
    def engine(self) -> str:
        """The code that makes batches: "numpy", "numba" or "cupy"."""
        return self.pool.engine

    @property
    def decoder(self) -> str | None:
        """The decoder of image files: "dali" or "pillow". None: there are no files."""
        return self.pool.job.decoder if isinstance(self.pool, ImagePool) else None

    @property
    def errors(self) -> list[BadSample]:
        """The bad samples found so far, each once."""
        return self.pool.errors

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next iteration will be."""
        return self.upcoming.epoch

    def __repr__(self) -> str:
        more = f"batch_size={self.batch_size}, seed={self.seed}, device={self.device!r}, engine={self.engine!r}"
        return f"Loader({self.source!r}, {self.transform!r}, {more})"

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self.order)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, which begins at the start of that epoch.

        If `load_state_dict` has named the same epoch, it begins where the state stands.
        """
        if checked_int("epoch", epoch, 0) != self.epoch:
            self.upcoming = self.course_of(epoch)

    def steps(self, epoch: int) -> Iterator[Any]:
        """Yield the plan of one epoch: a `Step` or `WindowStep` for each batch, with all random numbers drawn."""
        return self.pool.plan(self.order, self.seed, epoch)

    def course_of(self, epoch: int, start: int = 0) -> EpochCourse:
        """Return an epoch, without its first `start` samples, that is yet to be begun."""
        return EpochCourse(self.pool, self.meter, self.order, epoch, start)

    def batches(self, epoch: int, start: int = 0) -> Batches:
        """Return an iterator over the batches of one epoch, without its first `start` samples."""
        return Batches(self, self.course_of(checked_int("epoch", epoch, 0), checked_int("start", start, 0)))

    def __iter__(self) -> Batches:
        return Batches(self, None)

    def begin(self) -> EpochCourse:
        """Return the epoch that comes next, and move on to the one after it."""
        course = self.upcoming
        self.upcoming = self.course_of(course.epoch + 1)
        return course

    def finish(self, course: EpochCourse) -> None:
        """Hand the stream of a finished `course`, which has made the next batches ahead, to the next epoch."""
        following = self.upcoming
        if course.alive and following.stream is None and (following.epoch, following.start) == (course.epoch + 1, 0):
            following.stream = course.stream

    def show(self, course: EpochCourse) -> Progress | None:
        """Begin the figures of a `course`. Return its progress bar if one is wanted."""
        wanted, errors = self.arguments["progress"], self.errors
        if not wanted or self.order.shard[0]:  # One of all ranks shows it.
            self.meter.begin()
            return None
        progress = Progress(course.epoch, course.count, self.meter, lambda: len(errors), bar=wanted is True)
        self.bars.add(progress)
        return progress

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        """The values that a state must agree with."""
        return identity_of(self.arguments, self.order, self.source)

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader stands: the epoch, and the number of its samples delivered to all ranks together.

        Batches made ahead do not count. In the middle of an epoch it is the state of the iteration begun last. Ranks in
        step have the same state. It is small and takes microseconds, except for the first, which reads the source's
        names. JSON, pickle, `torch.distributed.checkpoint` and torchdata's conventions can hold it.
        """
        course = self.upcoming if self.course is None or self.course.finished else self.course
        return {"version": checkpoint.VERSION, "epoch": course.epoch, "seen": course.seen, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict()` was: the next iteration is the rest of that epoch, and is empty at its end.

        With another number of ranks it has the samples that no rank had. A loader whose seed was drawn takes the seed
        of the state. Iterators begun before go on as they were.

        Args:
            state: A state of a loader with the same source, transform, batch size, order and seed.

        Raises:
            ValueError: the state is of another loader, with a list of the differences; or this number of ranks cannot
                share the rest of the epoch.

        >>> import gpuload, numpy as np
        >>> loader = gpuload.Loader(gpuload.Series(np.arange(9)), gpuload.Window(1), batch_size=2, device="cpu")
        >>> batches = iter(loader)
        >>> first = [next(batches).tolist() for _ in range(3)]
        >>> again = loader.replace()
        >>> again.load_state_dict(loader.state_dict())
        >>> [batch.tolist() for batch in again]
        [[[6], [7]], [[8]]]
        """
        own = self._identity
        drawn = self.arguments["seed"] is None and isinstance(state, dict) and "seed" in state
        checkpoint.check(state, {**own, "seed": state["seed"]} if drawn else own)
        epoch, seen = (checked_int(name, state.get(name), 0) for name in ("epoch", "seen"))
        order = replace(self.order, seed=state["seed"])
        order.check_start(seen)
        self.order, self.seed = order, state["seed"]
        own["seed"] = self.seed
        self.course, self.upcoming = None, self.course_of(epoch, seen)

    def stats(self, last: int | None = None) -> dict[str, float | int]:
        """Return where the time goes, as a flat dict of numbers: see `gpuload.run.meter.Meter.stats`.

        It also has `errors`, the number of bad samples, and for images, as far as threads count them, milliseconds that
        one sample takes in one thread: `read_ms` and `decode_ms` (Pillow; DALI does not tell), and `augment_ms` (CPU).
        These are of all samples since the loader was made.

        Args:
            last: Number of steps, counted from the last one, that the figures cover. None: all since the loader was
                made.
        """
        return self.pool.stats(self.meter, last)

    def replace(self, **changes: Any) -> Loader:
        """Return a loader with some arguments changed, the same seed and epoch, and threads and memory of its own."""
        if "on_error" in changes:
            changes = {"errors": replace(self.arguments["errors"], on_error=changes["on_error"]), **changes}
        loader = Loader(**{**self.arguments, "seed": self.seed, **changes})
        loader.upcoming = loader.course_of(self.epoch, self.upcoming.start)
        return loader

    def twin(self, **changes: Any) -> Loader:
        """Return a loader as `replace` does, to be iterated over in place of this one.

        It shares this loader's cache, bad samples and figures, and is closed with it.
        """
        loader = self.replace(**changes)
        loader.meter, loader.bars = self.meter, self.bars
        loader.upcoming = loader.course_of(self.epoch, self.upcoming.start)
        self._twins.add(loader.pool)
        if isinstance(loader.pool, ImagePool) and isinstance(self.pool, ImagePool):
            loader.pool.borrow(self.pool)
        return loader

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, ({**self.arguments, "seed": self.seed}, self.arguments["seed"], self.state_dict())

    def close(self) -> None:
        """Free threads and memory. Iterations under way cannot go on; a new iteration takes them anew."""
        self.upcoming.stream = None
        for progress in list(self.bars):
            progress.stop()
        for twin in list(self._twins):  # Before the cache that they share.
            twin.close()
        self.pool.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _restored(arguments: dict[str, Any], seed: int | None, state: dict[str, Any]) -> Loader:
    """Return the loader that was pickled."""
    loader = Loader(**arguments)
    loader.arguments["seed"] = seed
    loader.load_state_dict(state)
    return loader
