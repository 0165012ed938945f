"""In which order PyTorch's DataLoader takes samples, as pieces of several batches to be cut at once."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

from gpuload.torch import samplers
from gpuload.torch.dataset import as_numbers
from gpuload.torch.epoch import Epoch
from gpuload.windows.step import Rows, WindowStep

if TYPE_CHECKING:
    from gpuload.torch.loader import DataLoader


class Piece(NamedTuple):
    """One or several batches that are cut at once."""

    step: WindowStep
    size: int
    """Windows in a batch; the last may have fewer."""
    exhausts: bool
    """Whether PyTorch has come to the sampler's end when it has this piece's last batch."""
    batches: int
    """Batches of the epoch before it."""
    seen: int
    """Windows in those."""
    states: list[Any]
    """Of a sampler that has a state: the one after each batch."""

    @property
    def batch_size(self) -> int:
        """Windows in it."""
        return self.step.batch_size


def pieces(loader: DataLoader, sampled: Iterator[Any], epoch: Epoch) -> Iterator[Piece]:
    """What there is to cut in the rest of an epoch; draws nothing before the first piece is asked for, as PyTorch does.

    It must not hold the iterator, whose stream holds it: what holds itself is not freed at once.
    """
    told = samplers.epoch_of(chooser_of(loader))
    if epoch.sampler_epoch not in (None, told):
        epoch.restart()  # The program wants another epoch than the one whose rest was loaded.
    epoch.sampler_epoch = told
    assert epoch.seed is not None
    batches, seen, count = epoch.batches, epoch.seen, len(cast(Sized, loader.dataset))
    windows, table = loader._source.windows, loader._table
    for size, numbers, exhausts, states in _numbers(loader, sampled, epoch):
        indices = numbers if isinstance(numbers, np.ndarray) else as_numbers(numbers, count)
        rows = indices if table is None else table[indices]
        step = windows.step(rows, seed=epoch.seed, epoch=epoch.number, first=seen)
        yield Piece(step, size, exhausts, batches, seen, states)
        seen += len(indices)
        batches += len(indices) if loader.batch_sampler is None else -(-len(indices) // size)


def _numbers(loader: DataLoader, sampled: Iterator[Any], epoch: Epoch) -> Iterator[tuple[int, Any, bool, list[Any]]]:
    """Of each piece: the size of its batches, the numbers of its windows, whether it exhausts the sampler, its states.

    An array of numbers holds only those that there are.

    `sampled`: what PyTorch would take them from, one by one or batch by batch.
    """
    sampler, batch_sampler = sampler_of(loader), loader.batch_sampler
    source: Iterator[Any]
    pool, single = loader._pool, batch_sampler is None
    size, most = pool.batch_size, pool.together * pool.batch_size
    drop_last = isinstance(batch_sampler, BatchSampler) and batch_sampler.drop_last
    if type(sampler) is SequentialSampler or is_permutation(sampler):
        numbers = _permutation(sampler, epoch)
        end = len(numbers) // size * size if drop_last else len(numbers)
        for start in range(epoch.seen, end, most):
            part = numbers[start : min(start + most, end)]
            yield len(part) if single else size, part, len(part) % size > 0, []
        return
    if type(sampler) is RandomSampler:
        sampler = copy.copy(sampler)
        sampler.generator = _generator(sampler, epoch)
        source, state = itertools.islice(sampler, epoch.seen, None), None
    elif sampler is None or single:
        source, state = _resumed(chooser_of(loader), sampled, epoch, epoch.batches)
    else:
        source, state = _resumed(sampler, None, epoch, epoch.seen)
    if sampler is None or state is not None:
        batches = source if sampler is None else _batches(source, size, drop_last)
        least = 0 if sampler is None else size
        # That numbers have come to an end is seen where there are too few for a batch.
        told = ((batch, state(ended=len(batch) < least) if state else None) for batch in batches)
        for group, states in _grouped(told, most):
            chosen = list(itertools.chain.from_iterable(group))
            yield len(chosen) if single else len(group[0]), chosen, False, states
        epoch.sampler_end = state(ended=True) if state else None
        return
    while taken := list(itertools.islice(source, most)):
        kept = len(taken) // size * size if drop_last else len(taken)
        if kept:
            yield len(taken) if single else size, taken[:kept], False, []
        if len(taken) < most:
            return


def sampler_of(loader: DataLoader) -> Any:
    """What gives numbers one by one; None where a batch sampler of another class than PyTorch's gives batches."""
    if loader.batch_sampler is None:
        return loader.sampler
    return loader.batch_sampler.sampler if type(loader.batch_sampler) is BatchSampler else None


def chooser_of(loader: DataLoader) -> Any:
    """What gives numbers, one by one or batch by batch."""
    sampler = sampler_of(loader)
    return loader.batch_sampler if sampler is None else sampler


def is_permutation(sampler: Any) -> bool:
    return (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    )


def _permutation(sampler: Any, epoch: Epoch) -> Rows:
    """The numbers of PyTorch's SequentialSampler or RandomSampler as an array, drawn as the latter draws them."""
    count = len(sampler.data_source)
    if type(sampler) is SequentialSampler:
        return np.arange(count)
    numbers: Rows = torch.randperm(count, generator=_generator(sampler, epoch)).cpu().numpy()
    return numbers


def _generator(sampler: Any, epoch: Epoch) -> torch.Generator:
    """Where PyTorch's RandomSampler draws the epoch's order from; the epoch is told how it stood."""
    own: torch.Generator | None = sampler.generator
    if epoch.order is None:
        epoch.order = samplers.saved(own) if own else int(torch.empty((), dtype=torch.int64).random_().item())
    generator = own if own and isinstance(epoch.order, str) else torch.Generator()
    samplers.restore(generator, epoch.order)
    return generator


def _resumed(
    sampler: Any, sampled: Iterator[Any] | None, epoch: Epoch, skipped: int
) -> tuple[Iterator[Any], Callable[..., Any] | None]:
    """What is left of any sampler's epoch; and for one that has a state, what tells it."""
    if epoch.sampler_state and not epoch.finished:
        source = samplers.load(sampler, epoch.sampler_state)
        return source, functools.partial(samplers.state_of, sampler, source)
    generator = None if samplers.is_stateful(sampler) else samplers.generator_of(sampler)
    stood = None if generator is None else samplers.saved(generator)
    if generator is not None and epoch.order is not None:
        samplers.restore(generator, epoch.order)
    source = iter(sampler) if sampled is None or epoch.order is not None or skipped else sampled
    if samplers.is_stateful(sampler) or samplers.is_stateful(source):
        epoch.sampler_state = epoch.sampler_state or samplers.state_of(sampler, source)
        return source, functools.partial(samplers.state_of, sampler, source)
    if epoch.order is None:
        epoch.order = stood
    elif generator is torch.default_generator and stood is not None:
        first = list(itertools.islice(source, skipped + 1))  # PyTorch's samplers draw when a number is asked for.
        samplers.restore(generator, stood)
        return itertools.chain(first[skipped:], source), None
    return itertools.islice(source, skipped, None), None


def _batches(numbers: Iterator[Any], size: int, drop_last: bool) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(numbers, size)):
        if len(batch) == size or not drop_last:
            yield batch


def _grouped(batches: Iterable[tuple[Any, Any]], most: int) -> Iterator[tuple[list[Any], list[Any]]]:
    """Batches of equal length, but perhaps the last, together: at most that many numbers, or one batch. And what came
    with each."""
    group: list[Any] = []
    others: list[Any] = []
    for batch, other in batches:
        numbers = batch.tolist() if hasattr(batch, "tolist") else list(batch)
        if not numbers:
            raise ValueError("batch_sampler must yield batches with at least one number, not an empty one")
        if group:
            size = len(group[0])
            if len(group[-1]) < size or len(numbers) > size or (len(group) + 1) * size > most:
                yield group, others
                group, others = [], []
        group.append(numbers)
        others.append(other)
    if group:
        yield group, others
