"""The order in which PyTorch's DataLoader takes samples, as pieces of several batches that are cut at once."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

from gpuload.torch import samplers
from gpuload.torch.dataset import as_numbers
from gpuload.torch.epoch import Epoch
from gpuload.windows.step import Rows, WindowStep


class Piece(NamedTuple):
    """One or several batches that are cut at once."""

    step: WindowStep
    size: int
    """Number of windows in a batch; the last may have fewer."""
    exhausts: bool
    """Whether PyTorch reaches the sampler's end with this piece's last batch."""
    batches: int
    seen: int
    """Number of batches of the epoch before it, and of windows in them."""
    states: list[Any]
    """States of a stateful sampler after each batch."""

    @property
    def batch_size(self) -> int:
        """Number of windows in the piece."""
        return self.step.batch_size


def pieces(loader: Any, sampled: Iterator[Any], epoch: Epoch) -> Iterator[Piece]:
    """Yield the rest of an epoch. Nothing is drawn before the first piece is asked for, as in PyTorch.

    It must not hold the iterator, whose stream holds it: a circle of references is not freed at once.
    """
    told = samplers.epoch_of(chooser_of(loader))
    if epoch.sampler_epoch not in (None, told):
        epoch.restart()  # The program wants another epoch than the loaded one.
    epoch.sampler_epoch = told
    assert epoch.seed is not None
    batches, seen, count = epoch.batches, epoch.seen, len(loader.dataset)
    windows, table = loader.source.windows, loader.table
    for size, numbers, exhausts, states in _numbers(loader, sampled, epoch):
        indices = numbers if isinstance(numbers, np.ndarray) else as_numbers(numbers, count)
        rows = indices if table is None else table[indices]
        step = windows.step(rows, seed=epoch.seed, epoch=epoch.number, first=seen)
        yield Piece(step, size, exhausts, batches, seen, states)
        seen += len(indices)
        batches += len(indices) if loader.batch_sampler is None else -(-len(indices) // size)


def _numbers(loader: Any, sampled: Iterator[Any], epoch: Epoch) -> Iterator[tuple[int, Any, bool, list[Any]]]:
    """Yield for each piece: batch size, numbers of its windows, whether it exhausts the sampler, its states.

    An array of numbers is known to be in range. `sampled` is the iterator that PyTorch would take numbers from, one by
    one or batch by batch.
    """
    sampler, batch_sampler = sampler_of(loader), loader.batch_sampler
    source: Iterator[Any]
    pool, single = loader.pool, batch_sampler is None
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
        batches, least = (source, 0) if sampler is None else (_batches(source, size, drop_last), size)
        # The end of the numbers shows in a batch that has too few.
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


def sampler_of(loader: Any) -> Any:
    """Return the source of single numbers. None: a batch sampler of another class than PyTorch's gives batches."""
    if loader.batch_sampler is None:
        return loader.sampler
    return loader.batch_sampler.sampler if type(loader.batch_sampler) is BatchSampler else None


def chooser_of(loader: Any) -> Any:
    """Return the source of numbers, one by one or batch by batch."""
    sampler = sampler_of(loader)
    return loader.batch_sampler if sampler is None else sampler


def is_permutation(sampler: Any) -> bool:
    once = type(sampler) is RandomSampler and not sampler.replacement
    return once and sampler.num_samples == len(sampler.data_source)


def _permutation(sampler: Any, epoch: Epoch) -> Rows:
    """Return all numbers of a SequentialSampler or a RandomSampler, with the draws of the latter."""
    count = len(sampler.data_source)
    if type(sampler) is SequentialSampler:
        return np.arange(count)
    numbers: Rows = torch.randperm(count, generator=_generator(sampler, epoch)).cpu().numpy()
    return numbers


def _generator(sampler: Any, epoch: Epoch) -> torch.Generator:
    """Return the generator of the epoch's order, as of PyTorch's RandomSampler; note its state in the epoch."""
    own: torch.Generator | None = sampler.generator
    if epoch.order is None:
        epoch.order = samplers.saved(own) if own else int(torch.empty((), dtype=torch.int64).random_().item())
    generator = own if own and isinstance(epoch.order, str) else torch.Generator()
    samplers.restore(generator, epoch.order)
    return generator


def _resumed(
    sampler: Any, sampled: Iterator[Any] | None, epoch: Epoch, skipped: int
) -> tuple[Iterator[Any], Callable[..., Any] | None]:
    """Return the rest of any sampler's epoch, and for a stateful sampler a function that returns its state."""
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
    """Yield groups of batches of equal length (the last may be shorter), and the second item of each.

    A group has at most `most` numbers, or is one batch.
    """
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
