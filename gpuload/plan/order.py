"""The order of samples in an epoch, and how it is cut into batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuload.core.checks import checked_int, choice
from gpuload.plan.streams import ORDER, SUBSTITUTES, philox

Indices = NDArray[np.int64]
LastBatch = Literal["keep", "drop", "pad"]

LISTED = 2**22
"""Number of samples up to which an epoch is shuffled as a list. In a larger one, samples are computed by position."""

_ROUNDS = 8
_MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


def scattered(positions: Indices, size: int, keys: NDArray[np.uint64]) -> Indices:
    """Return the samples [B] at these positions, in an order of `size` samples that `keys` settle, without a list.

    A Feistel network permutes the numbers with as many bits as `size` takes: it changes each half of the bits in turn
    by a hash of the other half, which can be undone. A result beyond `size` goes through the network again. Luby and
    Rackoff, "How to construct pseudorandom permutations from pseudorandom functions", 1988; Black and Rogaway,
    "Ciphers with arbitrary finite domains", 2002.
    """
    bits = max(2, (size - 1).bit_length())
    low_bits = np.uint64(bits // 2)
    masks = np.uint64(2 ** (bits - bits // 2) - 1), np.uint64(2 ** (bits // 2) - 1)

    def network(values: NDArray[np.uint64]) -> Any:
        halves = [values >> low_bits, values & masks[1]]
        for number, key in enumerate(keys):
            this, other = number % 2, 1 - number % 2
            mixed = (halves[other] + key) * _MIX[0]
            mixed = (mixed ^ (mixed >> np.uint64(32))) * _MIX[1]
            halves[this] = halves[this] ^ ((mixed >> np.uint64(32)) & masks[this])
        return halves[0] << low_bits | halves[1]

    found: NDArray[np.uint64] = network(positions.astype(np.uint64))
    while len(beyond := np.flatnonzero(found >= np.uint64(size))):
        found[beyond] = network(found[beyond])
    return found.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of one data set: a permutation for each (seed, epoch), cut into batches.

    Args:
        size: Number of samples.
        batch_size: Samples in a batch, of all ranks together.
        shuffle: Whether each epoch has a random order of its own, drawn from (seed, epoch).
        seed: Seed of the permutations, from 0 to 2**64 - 1.
        last_batch: A short last batch is kept ("keep"), left out ("drop"), or filled up with the epoch's first samples
            ("pad").
        shard: (rank, count) The part of each batch that this process gets, of `count` equal ones. In a short last batch
            the parts differ by one sample at most, and none is empty: a batch with fewer samples than ranks begins
            earlier, with samples of the batch before it.

    Raises:
        ValueError: An argument is out of its range; there would be no batch; or the ranks cannot share the last one.

    >>> order = Order(size=5, batch_size=2, shuffle=False)
    >>> [indices.tolist() for _, indices in order.batches(epoch=0)]
    [[0, 1], [2, 3], [4]]
    >>> len(order)
    3
    """

    size: int
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    last_batch: LastBatch = "keep"
    shard: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("batch_size", 1), ("seed", 0)):
            object.__setattr__(self, name, checked_int(name, getattr(self, name), least))
        if self.seed >= 2**64:
            raise ValueError(f"seed must be below 2**64, not {self.seed!r}")
        choice("last_batch", self.last_batch, LastBatch)
        if len(self) == 0:
            raise ValueError(
                f"last_batch='drop' leaves no batch: batch_size={self.batch_size} is more than the {self.size} "
                "samples; lower batch_size or use last_batch='keep'"
            )
        self.check_start(0)

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self.left(0)

    def left(self, start: int) -> int:
        """Return the number of batches after an epoch's first `start` samples."""
        samples = max(0, self.size - start)
        return samples // self.batch_size if self.last_batch == "drop" else -(-samples // self.batch_size)

    @property
    def repeats(self) -> int:
        """Number of samples that come a second time in an epoch, to fill its last batch up."""
        return len(self) * self.batch_size - self.size if self.last_batch == "pad" else 0

    def check_start(self, start: int) -> None:
        """Raise ValueError if the ranks cannot have equal numbers of batches after the first `start` samples."""
        count, samples = self.shard[1], self.size - start
        if self.last_batch == "keep" and samples > 0 and self.left(start) * count > samples:
            raise ValueError(
                f"last_batch='keep' cannot part {samples} samples among {count} ranks in batches of "
                f"{self.batch_size // count} each so that all have as many, none of them empty: pass last_batch='pad' "
                "or 'drop'"
            )

    def indices(self, epoch: int) -> Indices:
        """Return [size] every sample once, in the order of that epoch."""
        found: Indices = self._samples(epoch)(np.arange(self.size))
        return found

    def bounds(self, number: int, start: int = 0) -> tuple[int, int]:
        """Return the positions in the epoch between which batch `number` lies, counted after `start` samples."""
        first = start + number * self.batch_size
        stop = first + self.batch_size
        ahead = self.left(start) - 1 - number  # Number of batches that follow.
        if self.last_batch == "keep" and ahead == 0:
            first, stop = min(first, self.size - self.shard[1]), self.size
        elif self.last_batch == "keep" and ahead == 1:
            stop = min(stop, self.size - self.shard[1])
        return first, stop

    def batches(
        self, epoch: int, start: int = 0, together: int = 1, numbers: Iterable[int] | None = None
    ) -> Iterator[tuple[int, Indices]]:
        """Yield each batch: the position of its first sample, and its samples [B].

        Args:
            epoch: Number of the epoch.
            start: Number of samples at the epoch's start that are left out.
            together: Number of batches in one piece, at most. A shard's parts of several batches do not adjoin: 1.
            numbers: Numbers of the batches to yield, in this order, counted after `start`. None: all of them.
        """
        rank, count = self.shard
        together = together if count == 1 else 1
        samples, left = self._samples(epoch), self.left(start)
        for number in range(0, left, together) if numbers is None else numbers:
            first, stop = self.bounds(number, start)
            if together > 1:
                stop = self.bounds(min(number + together, left) - 1, start)[1]
            size = stop - first
            positions = np.arange(first + size * rank // count, first + size * (rank + 1) // count)
            # A data set that is smaller than a batch is repeated.
            yield int(positions[0]), samples(positions if stop <= self.size else positions % self.size)

    def _samples(self, epoch: int) -> Callable[[Indices], Any]:
        """Return a function from positions in the epoch to samples."""
        if not self.shuffle:
            return lambda positions: positions
        generator = philox(self.seed, epoch, ORDER)
        if self.size > LISTED:
            return functools.partial(scattered, size=self.size, keys=generator.random_raw(_ROUNDS))
        # NumPy promises that RandomState draws the same in every version (NEP 19).
        return np.random.RandomState(generator).permutation(self.size).take


def substitutes(seed: int, epoch: int, size: int, positions: Indices) -> Indices:
    """Return the samples [B] that replace those at these positions, from a second permutation of all samples."""
    return scattered(positions % size, size, philox(seed, epoch, SUBSTITUTES).random_raw(_ROUNDS))
