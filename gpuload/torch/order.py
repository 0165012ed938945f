"""In which order PyTorch's DataLoader takes samples, as pieces of several batches to be cut at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

from gpuload.plan import WindowStep
from gpuload.plan.windows import Rows
from gpuload.torch.dataset import as_numbers

if TYPE_CHECKING:
    from gpuload.torch.loader import DataLoader


class Piece(NamedTuple):
    """One or several batches that are cut at once."""

    step: WindowStep
    size: int
    """Windows in a batch; the last may have fewer."""
    exhausts: bool
    """Whether PyTorch has come to the sampler's end when it has this piece's last batch."""


def pieces(loader: DataLoader, sampled: Iterator[Any], seed: int, epoch: int) -> Iterator[Piece]:
    """What there is to cut in an epoch; draws nothing before the first piece is asked for, as PyTorch does.

    It must not hold the iterator, whose stream holds it: what holds itself is not freed at once.
    """
    first, count = 0, len(cast(Sized, loader.dataset))
    windows, table = loader._source.windows, loader._table
    for size, numbers, exhausts in _numbers(loader, sampled):
        indices = numbers if isinstance(numbers, np.ndarray) else as_numbers(numbers, count)
        step = windows.step(indices if table is None else table[indices], seed=seed, epoch=epoch, first=first)
        first += len(indices)
        yield Piece(step, size, exhausts)


def _numbers(loader: DataLoader, sampled: Iterator[Any]) -> Iterator[tuple[int, Any, bool]]:
    """Of each piece: the size of its batches, the numbers of its windows, whether it exhausts the sampler.

    An array of numbers holds only those that there are.

    `sampled`: what PyTorch would take them from, one by one or batch by batch.
    """
    sampler, batch_sampler = sampler_of(loader), loader.batch_sampler
    pool, single = loader._pool, batch_sampler is None
    size, most = pool.batch_size, pool.together * pool.batch_size
    if sampler is None:
        for group in _grouped(sampled, most):
            yield len(group[0]), list(itertools.chain.from_iterable(group)), False
        return
    drop_last = isinstance(batch_sampler, BatchSampler) and batch_sampler.drop_last
    if type(sampler) is SequentialSampler or is_permutation(sampler):
        numbers = _permutation(sampler)
        end = len(numbers) // size * size if drop_last else len(numbers)
        for start in range(0, end, most):
            part = numbers[start : min(start + most, end)]
            yield len(part) if single else size, part, len(part) % size > 0
        return
    source = sampled if single else iter(sampler)
    while taken := list(itertools.islice(source, most)):
        kept = len(taken) // size * size if drop_last else len(taken)
        if kept:
            yield len(taken) if single else size, taken[:kept], False
        if len(taken) < most:
            return


def sampler_of(loader: DataLoader) -> Any:
    """What gives numbers one by one; None where a batch sampler of another class than PyTorch's gives batches."""
    if loader.batch_sampler is None:
        return loader.sampler
    return loader.batch_sampler.sampler if type(loader.batch_sampler) is BatchSampler else None


def is_permutation(sampler: Any) -> bool:
    return (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    )


def _permutation(sampler: Any) -> Rows:
    """The numbers of PyTorch's SequentialSampler or RandomSampler as an array, drawn as the latter draws them."""
    count = len(sampler.data_source)
    if type(sampler) is SequentialSampler:
        return np.arange(count)
    generator = sampler.generator
    if generator is None:
        generator = torch.Generator()
        generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
    numbers: Rows = torch.randperm(count, generator=generator).cpu().numpy()
    return numbers


def _grouped(batches: Iterable[Any], most: int) -> Iterator[list[Any]]:
    """Batches of equal length, but perhaps the last, together: at most that many numbers, or one batch."""
    group: list[Any] = []
    for batch in batches:
        numbers = batch.tolist() if hasattr(batch, "tolist") else list(batch)
        if not numbers:
            raise ValueError("batch_sampler must yield batches with at least one number, not an empty one")
        if group:
            size = len(group[0])
            if len(group[-1]) < size or len(numbers) > size or (len(group) + 1) * size > most:
                yield group
                group = []
        group.append(numbers)
    if group:
        yield group
