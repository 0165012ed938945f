"""PyTorch's DataLoader for windows of a series: its order, its signature, and no worker processes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Sized
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.utils.data
from torch.utils.data import BatchSampler, Sampler, SequentialSampler, Subset, default_collate

from gpuload.core.available import announce
from gpuload.run import checkpoint
from gpuload.run.meter import Meter
from gpuload.sources.fingerprint import fingerprint
from gpuload.torch import samplers
from gpuload.torch.dataset import TimeSeriesDataset, as_numbers, to_torch
from gpuload.torch.epoch import Epoch
from gpuload.torch.iteration import Batches, CutAndCollate, PiecePool
from gpuload.torch.order import chooser_of, sampler_of
from gpuload.windows.step import Rows

if TYPE_CHECKING:
    from typing_extensions import Self


class DataLoader(torch.utils.data.DataLoader[Any]):
    """`torch.utils.data.DataLoader` for a `TimeSeriesDataset`: the same batches, cut on the GPU if there is one.

    Yields the same as PyTorch's: `[inputs, targets]`, then a dict of the windows' extras; or inputs alone if there is
    nothing else. Inputs are [B, seq_length, ...]. With the same `torch.manual_seed` or generator it has the same order,
    epoch after epoch, and leaves the generators in the same state. Small batches share one tensor of up to 2 MiB.

    Differences: batches are on the device. `num_workers`, `prefetch_factor`, `timeout`, `worker_init_fn`,
    `multiprocessing_context`, `pin_memory` and `in_order` are checked by PyTorch and have no effect, since no processes
    are needed. A sampler other than PyTorch's sequential one, and its random one without replacement, is read some
    batches ahead, as PyTorch does with workers; so after leaving such an epoch early, its generator is further on. A
    `collate_fn` is called with the samples of each batch, on the device. Random options of windows draw from the seed
    that PyTorch draws for its workers at the start of an epoch, and from the window's position in the epoch.

    `state_dict()` and `load_state_dict` are those of torchdata's `StatefulDataLoader`: the same program goes on in the
    middle of an epoch.

    Args:
        dataset: A `TimeSeriesDataset`, or a `torch.utils.data.Subset` of one, as `random_split` makes them.
        batch_size, shuffle, sampler, batch_sampler, num_workers, collate_fn, pin_memory, drop_last, timeout,
            worker_init_fn, multiprocessing_context, generator, options: As of `torch.utils.data.DataLoader`.
        device, engine, residency, prefetch, threads: As of `gpuload.Loader`.

    Raises:
        TypeError: a data set of another class.
        ValueError, ImportError, RuntimeError: errors of PyTorch and of `gpuload.Loader`.

    >>> dataset = TimeSeriesDataset(np.arange(10), np.arange(10) * 10, seq_length=4)
    >>> loader = DataLoader(dataset, batch_size=3, device="cpu")
    >>> [(inputs.shape, targets.tolist()) for inputs, targets in loader]
    [(torch.Size([3, 4]), [30, 40, 50]), (torch.Size([3, 4]), [60, 70, 80]), (torch.Size([1, 4]), [90])]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[Any] | Iterable[Any] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        *,
        device: str = "auto",
        engine: str = "auto",
        residency: str = "auto",
        prefetch: int = 2,
        threads: int | None = None,
        **options: Any,
    ):
        self.source, self.table = _source(dataset)
        first = dataset, batch_size, shuffle, sampler, batch_sampler, num_workers, collate_fn, pin_memory, drop_last
        super().__init__(*first, timeout, worker_init_fn, multiprocessing_context, generator, **options)
        if self.num_workers:
            announce("num_workers and pin_memory have no effect: windows are cut in this process, on the device")
        if self.collate_fn is default_collate or isinstance(collate_fn, CutAndCollate):
            self.collate_fn = CutAndCollate()
        self._options: dict[str, Any] = {
            "batch_size": self.batch_sampler.batch_size if type(self.batch_sampler) is BatchSampler else 1,
            "device": device,
            "engine": engine,
            "residency": residency,
            "prefetch": prefetch,
            "threads": threads,
            "shuffled": type(sampler_of(self)) is not SequentialSampler,
        }
        self.epoch = Epoch()
        """The epoch that was begun last, or will be begun."""
        self.meter = Meter()
        """Counts the delivered batches and their time."""
        self.pool = self._open()
        """The engines, and what they deliver."""

    def _open(self) -> PiecePool:
        source = self.source
        pool = PiecePool.of(source.series, source.window, framework=to_torch, windows=source.windows, **self._options)
        if isinstance(self.collate_fn, CutAndCollate):
            self.collate_fn.pool = pool
        # Lightning makes the loader again, with another sampler, from attributes with the names of the arguments.
        self.device: str = str(pool.device)
        """Where batches are made and delivered: "cpu" or "cuda:N"."""
        self.engine: str = pool.engine
        """The code that makes them: "cupy" or "numpy"."""
        self.residency, self.prefetch, self.threads = pool.residency, pool.prefetch, pool.threads
        return pool

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "pool": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.meter = Meter()
        self.pool = self._open()

    def __iter__(self) -> Batches:
        return Batches(self)

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        """The values that a state must agree with."""
        chooser = chooser_of(self)
        batches = self.batch_sampler if type(self.batch_sampler) is BatchSampler else None
        table = self.table
        return {
            "windows": len(cast(Sized, self.dataset)),
            "subset": None if table is None else hashlib.blake2b(table.tobytes(), digest_size=8).hexdigest(),
            "batch_size": getattr(batches, "batch_size", None),
            "drop_last": getattr(batches, "drop_last", None),
            "sampler": type(chooser).__name__,
            "samples": len(chooser) if hasattr(chooser, "__len__") else None,
            "source": fingerprint(self.source.series),
            # One text: torch.distributed.checkpoint loads a nested dict name by name, and leaves out unknown names.
            "window": checkpoint.in_words(checkpoint.describe(self.source.window)),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader stands: the number of batches delivered, and the origin of the epoch's order.

        It is the state of the iterator made last. Batches cut ahead do not count. It takes microseconds, except for the
        first, which reads the series. It is less than 1 kB of JSON, plus 7 kB for a random generator if the order is
        drawn from one that was given to the loader or its sampler, or by a sampler other than PyTorch's
        `RandomSampler`. A sampler with a `state_dict` of its own is asked for it after each batch.

        The program itself has to keep the state of PyTorch's global generator for later epochs, with
        `torch.get_rng_state`. Each rank draws for itself, so each saves its own state: `torch.distributed.checkpoint`
        keeps one for all ranks that use the same name.
        """
        epoch, chooser, own = self.epoch, chooser_of(self), self._own_generator()
        state = {"version": checkpoint.VERSION, **epoch.state(), "generator": None, **self._identity}
        if epoch.order is None and epoch.sampler_state is None and own is not None:
            state["order"] = samplers.saved(own)
        if self.generator is not None and self.generator is not own:
            state["generator"] = samplers.saved(self.generator)
        if epoch.sampler_state is None and samplers.is_stateful(chooser):
            state["sampler_state"] = samplers.state_of(chooser)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict()` was: the next iterator has the rest of that epoch, and is empty at its end.

        Its order and the random numbers of its windows are those of the interrupted epoch, and nothing is drawn for
        them. So with the same state of the global generator, the epochs that follow are the same too. Generators given
        by the program get their old state. A sampler with `set_epoch` is told the epoch; if the program then sets
        another one, that epoch begins at its first batch. A sampler with `load_state_dict` gets its state. Any other
        sampler is read from its start, and delivered windows are skipped without cutting them: it must choose the same
        again; or have its `torch.Generator` (None for the global one) at `generator`, and draw when its first number is
        asked for, as PyTorch's samplers do.

        Iterators made before go on as they were.

        Args:
            state: A state of a loader with the same data set, sampler and batch size.

        Raises:
            ValueError: the state is of another loader, with a list of the differences.

        >>> loader = DataLoader(TimeSeriesDataset(np.arange(9), seq_length=1), batch_size=2, shuffle=True, device="cpu")
        >>> batches = iter(loader)
        >>> first = next(batches)
        >>> state = loader.state_dict()
        >>> rest = list(batches)
        >>> loader.load_state_dict(state)
        >>> torch.equal(torch.cat(list(loader)), torch.cat(rest))
        True
        """
        checkpoint.check(state, self._identity)
        epoch, chooser, own = Epoch.of(state), chooser_of(self), self._own_generator()
        if self.generator is not None and state.get("generator") is not None:
            samplers.restore(self.generator, state["generator"])
        if own is not None and epoch.seed is None and epoch.order is not None:
            samplers.restore(own, epoch.order)  # Now: the seed will be drawn from it as well.
            epoch.order = None
        if epoch.finished:
            samplers.load(chooser, epoch.sampler_state)
        if epoch.sampler_epoch is not None:
            samplers.set_epoch(chooser, epoch.sampler_epoch)
        self.epoch = epoch

    def _own_generator(self) -> torch.Generator | None:
        """Return the generator of the sampler, if it is not the global one."""
        generator = samplers.generator_of(chooser_of(self))
        return None if generator is torch.default_generator else generator

    def stats(self, last: int | None = None) -> dict[str, float | int]:
        """Return where the time goes; `last` as of `gpuload.Loader.stats`."""
        return self.pool.stats(self.meter, last)

    def close(self) -> None:
        """Free threads and memory. Iterating again takes them anew."""
        self.pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _source(dataset: Any) -> tuple[TimeSeriesDataset, Rows | None]:
    """Return the data set of windows, and the numbers that a Subset has of it. Raise TypeError for another class."""
    if type(dataset) is Subset:
        source, table = _source(dataset.dataset)
        whole: Any = dataset.dataset
        numbers = as_numbers(dataset.indices, len(whole))
        return source, numbers if table is None else table[numbers]
    if not isinstance(dataset, TimeSeriesDataset):
        reason = f"got {type(dataset).__name__}"
    elif any(
        getattr(type(dataset), name) is not getattr(TimeSeriesDataset, name)
        for name in ("__getitem__", "__getitems__", "__len__")
    ):
        reason = f"{type(dataset).__name__} has methods of its own, which would not be called"
    else:
        return dataset, None
    raise TypeError(
        f"dataset must be a gpuload.torch.TimeSeriesDataset, or a Subset of one, but {reason}: use "
        "torch.utils.data.DataLoader, which takes every data set"
    )
