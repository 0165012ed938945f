"""An epoch of a `DataLoader` under way."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.data import default_collate
from torch.utils.data.dataloader import _BaseDataLoaderIter

from gpuload.run.stream import Stream
from gpuload.torch.epoch import Epoch
from gpuload.torch.order import Piece, is_permutation, pieces, sampler_of
from gpuload.torch.pool import CutAndCollate
from gpuload.windows.job import Cut

if TYPE_CHECKING:
    from gpuload.torch.loader import DataLoader


class Batches(_BaseDataLoaderIter):
    """One epoch's iterator. PyTorch's own class makes the draws of an epoch's start."""

    def __init__(self, loader: DataLoader):
        epoch = loader._epoch
        if epoch.begun:
            epoch = epoch.following(persistent=False)
        if epoch.seed is None:
            super().__init__(loader)
            epoch.seed = int(self._base_seed)
        else:
            # Nothing is drawn for an epoch that goes on.
            generator = torch.default_generator if loader.generator is None else loader.generator
            before = generator.get_state()
            super().__init__(loader)
            generator.set_state(before)
            self._base_seed = epoch.seed
        self._loader = loader
        self._start(epoch)

    def _reset(self, loader: DataLoader, first_iter: bool = False) -> None:
        super()._reset(loader, first_iter)
        self._stream.close()
        epoch = loader._epoch
        self._start(epoch.following(persistent=True) if epoch.begun else epoch)

    def _start(self, epoch: Epoch) -> None:
        self._here: deque[Any] = deque()  # Delivered together, and not yet taken.
        self._piece: Piece | None = None  # That they are of.
        # A function of the user's is called when its batch's turn has come: it may draw.
        collate = cast(Callable[[Any], Any], self._collate_fn)
        own = collate is default_collate or isinstance(collate, CutAndCollate)
        self._collate = None if own else collate
        epoch.begun = True
        self._epoch = self._loader._epoch = epoch
        self._stream = Stream(self._loader._pool, pieces(self._loader, self._sampler_iter, epoch))
        self._loader.meter.begin()
        # PyTorch's sampler draws a second permutation when it is asked for more than the first, and takes none of it.
        # Who gave the generator sees that it was used.
        sampler = sampler_of(self._loader)
        self._last_draw: Callable[[], Any] | None = None
        if is_permutation(sampler) and sampler.generator is not None:
            self._last_draw = functools.partial(torch.randperm, len(sampler.data_source), generator=sampler.generator)

    def __next__(self) -> Any:
        self._loader._pool.check_process()  # Batches that lie ready are the parent's to deliver.
        if not self._here:
            try:
                self._here.extend(self._stream.delivered(self._parted, self._loader.meter))
            except StopIteration:
                self._finish()
                raise
            self._piece = self._stream.last
        self._num_yielded += 1
        batch = self._here.popleft()
        assert self._piece is not None
        self._count(self._piece)
        if self._piece.exhausts and not self._here:
            self._exhaust()
        return self._collate(batch) if self._collate else batch

    def _count(self, piece: Piece) -> None:
        """Tell the epoch of the piece's batch that is delivered."""
        left, size = len(self._here), 1 if self._loader.batch_sampler is None else piece.size
        total = piece.step.batch_size
        number = -(-total // size) - left
        state = piece.states[number - 1] if piece.states else None
        self._epoch.deliver(piece.batches + number, piece.seen + min(number * size, total), state)

    def _finish(self) -> None:
        self._exhaust()
        if self._loader._epoch is self._epoch:
            self._loader._epoch = self._epoch.following(self._loader.persistent_workers)

    def _exhaust(self) -> None:
        draw, self._last_draw = self._last_draw, None
        if draw is not None:
            draw()

    def _parted(self, piece: Piece, cut: Cut) -> list[Any]:
        """The batches of a piece as PyTorch delivers them, or what `_collate` takes."""
        loader = self._loader
        batches = loader._pool.delivered(cut, piece.size)
        if loader.batch_sampler is None:
            return list(loader._source.samples(batches[0]))
        if self._collate:
            return list(map(loader._source.samples, batches))
        return list(map(list, batches)) if isinstance(batches[0], tuple) else batches
