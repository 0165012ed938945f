"""An epoch of a `DataLoader` under way."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch.utils.data import default_collate
from torch.utils.data.dataloader import _BaseDataLoaderIter

from gpuload.run.course import Course
from gpuload.torch.order import Loading, Piece, is_permutation, pieces, sampler_of
from gpuload.torch.pool import CutAndCollate
from gpuload.windows.job import Cut


class Batches(_BaseDataLoaderIter):
    """An iterator over one epoch. PyTorch's own class makes the draws at the start of an epoch."""

    def __init__(self, loader: Loading):
        epoch = loader.epoch
        if epoch.begun:
            epoch = epoch.following(loader.persistent_workers)
        base = cast(Any, super())
        if epoch.seed is None:
            base.__init__(loader)
            epoch.seed = int(self._base_seed)
        else:
            # An epoch that goes on draws nothing.
            generator = torch.default_generator if loader.generator is None else loader.generator
            before = generator.get_state()
            base.__init__(loader)
            generator.set_state(before)
            self._base_seed = epoch.seed
        self._loader = loader
        # A function of the user's may draw, so it is called in its batch's turn.
        collate = cast(Callable[[Any], Any], self._collate_fn)
        own = collate is default_collate or isinstance(collate, CutAndCollate)
        self._collate = None if own else collate
        epoch.begun = True
        self._epoch = self._loader.epoch = epoch
        self._course = Course(self._loader.pool, self._loader.meter)
        self._course.begin(pieces(self._loader, self._sampler_iter, epoch))
        # PyTorch's sampler draws a second permutation at its end, and takes nothing from it. The state of the user's
        # generator shows it.
        sampler = sampler_of(self._loader)
        self._last_draw: Callable[[], Any] | None = None
        if is_permutation(sampler) and sampler.generator is not None:
            self._last_draw = functools.partial(torch.randperm, len(sampler.data_source), generator=sampler.generator)

    def __next__(self) -> Any:
        try:
            batch = self._course.take(self._parted)
        except StopIteration:
            self._finish()
            raise
        self._num_yielded += 1
        assert self._course.stream is not None
        piece: Piece = self._course.stream.last
        self._count(piece)
        if piece.exhausts and not self._course.waiting:
            self._exhaust()
        return self._collate(batch) if self._collate else batch

    def _count(self, piece: Piece) -> None:
        """Note in the epoch that a batch of the piece was delivered."""
        left, size = self._course.waiting, 1 if self._loader.batch_sampler is None else piece.size
        total = piece.step.batch_size
        number = -(-total // size) - left
        state = piece.states[number - 1] if piece.states else None
        self._epoch.deliver(piece.batches + number, piece.seen + min(number * size, total), state)

    def _finish(self) -> None:
        self._exhaust()
        if self._loader.epoch is self._epoch:
            self._loader.epoch = self._epoch.following(self._loader.persistent_workers)

    def _exhaust(self) -> None:
        draw, self._last_draw = self._last_draw, None
        if draw is not None:
            draw()

    def _parted(self, piece: Piece, cut: Cut) -> list[Any]:
        """Return the batches of a piece as PyTorch delivers them, or as `_collate` takes them."""
        loader = self._loader
        batches = loader.pool.delivered(cut, piece.size)
        if loader.batch_sampler is None:
            return list(loader.source.samples(batches[0]))
        if self._collate:
            return list(map(loader.source.samples, batches))
        return list(map(list, batches)) if isinstance(batches[0], tuple) else batches
