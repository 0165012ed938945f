"""PyTorch's DataLoader for windows of a series: its order, its signature, and no worker processes."""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
import torch.utils.data
from torch.utils.data import BatchSampler, Sampler, SequentialSampler, Subset, default_collate, get_worker_info
from torch.utils.data.dataloader import _BaseDataLoaderIter

from gpuload.engines import Engine
from gpuload.engines.windows import Cut
from gpuload.plan.windows import Rows
from gpuload.pool import Stream
from gpuload.torch.dataset import Samples, TimeSeriesDataset, as_numbers, cut_once
from gpuload.torch.order import Piece, is_permutation, pieces, sampler_of
from gpuload.window_pool import WindowPool

log = logging.getLogger("gpuload")


class DataLoader(torch.utils.data.DataLoader[Any]):
    """`torch.utils.data.DataLoader` for a `TimeSeriesDataset`: the same batches, cut on the GPU where there is one.

    Yields what PyTorch's would: `[inputs, targets]`, with the extras of the windows in a dict that comes last; inputs
    alone where there is nothing else; inputs [B, seq_length, ...]. With the same `torch.manual_seed` or generator it
    has the same order, epoch after epoch, and leaves the generators in the same state. Small batches are parts of one
    tensor of up to 2 MiB.

    What differs: batches are on the device; `num_workers`, `prefetch_factor`, `timeout`, `worker_init_fn`,
    `multiprocessing_context`, `pin_memory` and `in_order` are checked by PyTorch and have no effect, since no processes
    are needed. A sampler other than PyTorch's sequential one and its random one without replacement is read some
    batches ahead, as by PyTorch with workers: who breaks off such an epoch finds its generator further on. A
    `collate_fn` is called with the samples of each batch, on the device. Random options of windows draw from the seed
    that PyTorch draws for its workers at the start of an epoch, and from the window's position in the epoch.

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
        """
        Args:
            dataset: A `TimeSeriesDataset`, or a `torch.utils.data.Subset` of one, as `random_split` makes them.
            batch_size, ..., generator, options: As in `torch.utils.data.DataLoader`.
            device, engine, residency, prefetch, threads: As in `gpuload.Loader`.

        Raises:
            TypeError: a data set of another class.
            ValueError, ImportError, RuntimeError: what PyTorch or `gpuload.Loader` raise.
        """
        source, self._table = _source(dataset)
        super().__init__(
            dataset,
            batch_size,
            shuffle,
            sampler,
            batch_sampler,
            num_workers,
            collate_fn,
            pin_memory,
            drop_last,
            timeout,
            worker_init_fn,
            multiprocessing_context,
            generator,
            **options,
        )
        if self.num_workers:
            _announce_workers()
        if self.collate_fn is default_collate or isinstance(collate_fn, CutAndCollate):
            self.collate_fn = CutAndCollate()
        self._source = source
        self._options: dict[str, Any] = {
            "batch_size": self.batch_sampler.batch_size if type(self.batch_sampler) is BatchSampler else 1,
            "device": device,
            "engine": engine,
            "residency": residency,
            "prefetch": prefetch,
            "threads": threads,
            "shuffled": type(sampler_of(self)) is not SequentialSampler,
        }
        self._pool = self._open()

    def _open(self) -> _Pool:
        source = self._source
        pool = _Pool(source.series, source.window, framework="torch", windows=source.windows, **self._options)
        if isinstance(self.collate_fn, CutAndCollate):
            self.collate_fn.pool = pool
        # Lightning makes a loader again, with another sampler, from the attributes that are named as the arguments.
        self.device: str = str(pool.device)
        """Where batches are made and delivered: "cpu" or "cuda:N"."""
        self.engine: str = pool.engine
        """What makes them: "cupy" or "numpy"."""
        self.residency, self.prefetch, self.threads = pool.residency, pool.prefetch, pool.threads
        return pool

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_pool": None, "_iterator": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._pool = self._open()

    def _get_iterator(self) -> Batches:
        return Batches(self)

    def close(self) -> None:
        """Free threads and memory. Iterating again takes them anew."""
        self._pool.close()


class _Pool(WindowPool):
    """Delivers a step as it was cut: into what it is to be parted is known with the step."""

    def submit(self, engine: Engine, step: Piece) -> None:
        engine.submit(step.step)

    def deliver(self, engine: Engine) -> Any:
        return engine.result(self.stream)


class CutAndCollate:
    """The `collate_fn` where the user gives none: cuts a batch of a `TimeSeriesDataset` on the loader's device.

    The loader does not need it. It is for those who make PyTorch's own `DataLoader` again of a loader's parts, as
    Accelerate does: batches are still made where they would be. In worker processes, and for windows without targets
    and extras, which PyTorch stacks as a list of tensors, it is PyTorch's `default_collate`.
    """

    pool: _Pool | None = None

    def __call__(self, samples: Any) -> Any:
        cuts = isinstance(samples, Samples) and samples.step is not None
        if self.pool is None or not cuts or get_worker_info() is not None:
            return default_collate(samples)
        return list(self.pool.delivered(cut_once(self.pool, samples.step), samples.step.batch_size)[0])

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Threads and a GPU's memory are no luggage.


class Batches(_BaseDataLoaderIter):
    """One epoch's iterator. PyTorch's own class makes the draws of an epoch's start."""

    def __init__(self, loader: DataLoader):
        super().__init__(loader)
        self._loader = loader
        self._epoch = 0  # Counts on where the iterator is used again, with the same base seed (persistent_workers).
        self._start()

    def _reset(self, loader: DataLoader, first_iter: bool = False) -> None:
        super()._reset(loader, first_iter)
        self._stream.close()
        self._epoch += 1
        self._start()

    def _start(self) -> None:
        self._here: deque[Any] = deque()  # Delivered together, and not yet taken.
        self._exhausts = False
        # A function of the user's is called when its batch's turn has come: it may draw.
        collate = cast(Callable[[Any], Any], self._collate_fn)
        own = collate is default_collate or isinstance(collate, CutAndCollate)
        self._collate = None if own else collate
        steps = pieces(self._loader, self._sampler_iter, int(self._base_seed), self._epoch)
        self._stream = Stream(self._loader._pool, steps)
        # PyTorch's sampler draws a second permutation when it is asked for more than the first, and takes none of it.
        # Who gave the generator sees that it was used.
        sampler = sampler_of(self._loader)
        self._last_draw: Callable[[], Any] | None = None
        if is_permutation(sampler) and sampler.generator is not None:
            self._last_draw = functools.partial(torch.randperm, len(sampler.data_source), generator=sampler.generator)

    def __next__(self) -> Any:
        if not self._here:
            try:
                piece, cut = next(self._stream)
            except StopIteration:
                self._exhaust()
                raise
            self._exhausts = piece.exhausts
            self._here.extend(self._parted(piece, cut))
        self._num_yielded += 1
        batch = self._here.popleft()
        if self._exhausts and not self._here:
            self._exhaust()
        return self._collate(batch) if self._collate else batch

    def _exhaust(self) -> None:
        draw, self._last_draw = self._last_draw, None
        if draw is not None:
            draw()

    def _parted(self, piece: Piece, cut: Cut) -> Iterable[Any]:
        """The batches of a piece as PyTorch delivers them, or what `_collate` takes."""
        loader = self._loader
        batches = loader._pool.delivered(cut, piece.size)
        if loader.batch_sampler is None:
            return loader._source.samples(batches[0])
        if self._collate:
            return map(loader._source.samples, batches)
        return map(list, batches) if isinstance(batches[0], tuple) else batches


def _source(dataset: Any) -> tuple[TimeSeriesDataset, Rows | None]:
    """The data set of windows, and which of them a Subset has. Raises TypeError where it is something else."""
    if type(dataset) is Subset:
        source, table = _source(dataset.dataset)
        whole: Any = dataset.dataset
        numbers = as_numbers(dataset.indices, len(whole))
        return source, numbers if table is None else table[numbers]
    own = (TimeSeriesDataset.__getitem__, TimeSeriesDataset.__getitems__, TimeSeriesDataset.__len__)
    if isinstance(dataset, TimeSeriesDataset):
        kind = type(dataset)
        if (kind.__getitem__, kind.__getitems__, kind.__len__) == own:
            return dataset, None
        reason = f"{kind.__name__} has methods of its own, which would not be called"
    else:
        reason = f"got {type(dataset).__name__}"
    raise TypeError(
        f"dataset must be a gpuload.torch.TimeSeriesDataset, or a Subset of one, but {reason}: use "
        "torch.utils.data.DataLoader, which takes every data set"
    )


@functools.cache
def _announce_workers() -> None:
    """Log it, once in a process."""
    log.info("num_workers and pin_memory have no effect: windows are cut in this process, on the device")
