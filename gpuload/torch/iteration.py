"""An epoch of a `DataLoader` under way, and the pool that cuts its pieces."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.utils.data import default_collate, get_worker_info
from torch.utils.data.dataloader import _BaseDataLoaderIter

from gpuload.run.course import Course
from gpuload.run.engine import Engine
from gpuload.torch.dataset import Samples, cut_once
from gpuload.torch.order import Piece, is_permutation, pieces, sampler_of
from gpuload.windows.job import Cut
from gpuload.windows.pool import WindowPool


class PiecePool(WindowPool):
    """Cuts pieces, which know the size of their batches."""

    def submit(self, engine: Engine, step: Piece) -> Piece:
        engine.submit(step.step)
        return step


class CutAndCollate:
    """The default `collate_fn`: cuts a batch of a `TimeSeriesDataset` on the loader's device.

    It serves code that makes PyTorch's own `DataLoader` from a loader's parts, as Accelerate does. In worker processes,
    and for windows without targets and extras, which PyTorch stacks as a list, it is PyTorch's `default_collate`.
    """

    pool: PiecePool | None = None

    def __call__(self, samples: Any) -> Any:
        cuts = isinstance(samples, Samples) and samples.step is not None
        if self.pool is None or not cuts or get_worker_info() is not None:
            return default_collate(samples)
        return list(self.pool.delivered(cut_once(self.pool, samples.step), samples.step.batch_size)[0])

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Threads and GPU memory cannot be sent to another process.


class Batches(_BaseDataLoaderIter):
    """An iterator over one epoch of a `DataLoader`. PyTorch's own class makes the draws at the start of an epoch."""

    def __init__(self, loader: Any):
        epoch = loader.epoch
        if epoch.begun:
            epoch = epoch.following(loader.persistent_workers)
        generator = torch.default_generator if loader.generator is None else loader.generator
        before = generator.get_state()
        cast(Any, super()).__init__(loader)
        if epoch.seed is None:
            epoch.seed = int(self._base_seed)
        else:  # An epoch that goes on draws nothing.
            generator.set_state(before)
            self._base_seed = epoch.seed
        self._loader = loader
        # A function of the user's may draw, so it is called in its batch's turn.
        collate: Any = self._collate_fn
        self._collate = None if collate is default_collate or isinstance(collate, CutAndCollate) else collate
        epoch.begun = True
        self._epoch = loader.epoch = epoch
        self._course = Course(loader.pool, loader.meter)
        self._course.begin(pieces(loader, self._sampler_iter, epoch))
        # PyTorch's sampler draws a second permutation at its end, and takes nothing from it. The state of the user's
        # generator shows it.
        sampler = sampler_of(loader)
        self._redrawn = sampler if is_permutation(sampler) and sampler.generator is not None else None

    def __next__(self) -> Any:
        loader, epoch = self._loader, self._epoch
        try:
            batch = self._course.take(self._parted)
        except StopIteration:
            self._exhaust()
            if loader.epoch is epoch:
                loader.epoch = epoch.following(loader.persistent_workers)
            raise
        self._num_yielded += 1
        assert self._course.stream is not None
        piece: Piece = self._course.stream.last
        size = 1 if loader.batch_sampler is None else piece.size
        number = -(-piece.batch_size // size) - self._course.waiting
        epoch.batches, epoch.seen = piece.batches + number, piece.seen + min(number * size, piece.batch_size)
        epoch.sampler_state, epoch.finished = piece.states[number - 1] if piece.states else None, False
        if piece.exhausts and not self._course.waiting:
            self._exhaust()
        return self._collate(batch) if self._collate else batch

    def _exhaust(self) -> None:
        sampler, self._redrawn = self._redrawn, None
        if sampler is not None:
            torch.randperm(len(sampler.data_source), generator=sampler.generator)

    def _parted(self, piece: Piece, cut: Cut) -> list[Any]:
        """Return the batches of a piece as PyTorch delivers them, or as `_collate` takes them."""
        loader = self._loader
        batches = loader.pool.delivered(cut, piece.size)

        def samples(batch: Any) -> Samples:
            return Samples(loader.source.window, lambda: batch)

        if loader.batch_sampler is None:
            return list(samples(batches[0]))
        if self._collate:
            return list(map(samples, batches))
        return list(map(list, batches)) if isinstance(batches[0], tuple) else batches
