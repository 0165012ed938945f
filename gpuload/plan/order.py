"""In which order samples are seen, and how an epoch is cut into batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpuload.core.checks import checked_int, choice
from gpuload.plan.streams import philox

LastBatch = Literal["keep", "drop", "pad"]


LISTED = 2**22
"""Up to as many samples are shuffled as a list; of more, each position's sample is computed when its turn comes."""

_ROUNDS = 8
_MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


def scattered(positions: NDArray[np.int64], size: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The samples [B] at these positions, in an order of `size` samples that `keys` settle; nothing is listed.

    A Feistel network over the bits of the position: each half in turn is changed by a hash of the other, which can be
    undone, so that no two positions meet. Where that leads beyond the size, it is done again. Luby and Rackoff, "How to
    construct pseudorandom permutations from pseudorandom functions", 1988; walking in cycles: Black and Rogaway,
    "Ciphers with arbitrary finite domains", 2002.

    >>> sorted(scattered(np.arange(10), 10, np.arange(8, dtype=np.uint64)).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    bits = max(2, (size - 1).bit_length())
    low_bits, one = np.uint64(bits // 2), np.uint64(1)
    masks = (one << np.uint64(bits - bits // 2)) - one, (one << low_bits) - one

    def network(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        halves = [values >> low_bits, values & masks[1]]
        for number in range(_ROUNDS):
            mixed = (halves[1 - number % 2] + keys[number]) * _MIX[0]
            mixed = (mixed ^ (mixed >> np.uint64(32))) * _MIX[1]
            halves[number % 2] = halves[number % 2] ^ ((mixed >> np.uint64(32)) & masks[number % 2])
        joined: NDArray[np.uint64] = halves[0] << low_bits | halves[1]
        return joined

    found = network(positions.astype(np.uint64))
    while len(beyond := np.flatnonzero(found >= np.uint64(size))):
        found[beyond] = network(found[beyond])
    return found.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of one data set: a permutation for each (seed, epoch), cut into batches.

    >>> order = Order(size=5, batch_size=2, shuffle=False)
    >>> [indices.tolist() for _, indices in order.batches(epoch=0)]
    [[0, 1], [2, 3], [4]]
    >>> len(order)
    3
    """

    size: int
    """Number of samples."""
    batch_size: int
    """Samples in a batch, of all ranks together."""
    shuffle: bool = False
    """Whether each epoch has an order of its own, drawn from (seed, epoch)."""
    seed: int = 0
    """Of the permutations; 0 to 2**64 - 1."""
    last_batch: LastBatch = "keep"
    """What becomes of a short last batch: `keep` it, `drop` it, or `pad` it with the epoch's first samples."""
    shard: tuple[int, int] = (0, 1)
    """(rank, count): of each batch, the part of that number out of so many equal ones. In a short last batch parts
    differ by one sample at most, and none is empty: where it has fewer samples than there are ranks, it begins
    earlier."""

    def __post_init__(self) -> None:
        checked_int("size", self.size, 1)
        checked_int("batch_size", self.batch_size, 1)
        if checked_int("seed", self.seed, 0) >= 2**64:
            raise ValueError(f"seed must be below 2**64, not {self.seed!r}")
        choice("last_batch", self.last_batch, LastBatch)
        if len(self) == 0:
            raise ValueError(
                f"last_batch='drop' leaves no batch: batch_size={self.batch_size} is more than the {self.size} "
                "samples; lower batch_size or use last_batch='keep'"
            )
        self.check_start(0)

    def __len__(self) -> int:
        """Number of batches in an epoch, exactly."""
        return self.left(0)

    def left(self, start: int) -> int:
        """Number of batches in what is left of an epoch after its first `start` samples."""
        samples = max(0, self.size - start)
        return samples // self.batch_size if self.last_batch == "drop" else -(-samples // self.batch_size)

    @property
    def repeats(self) -> int:
        """Samples that are seen once more in an epoch, to fill its last batch up."""
        return len(self) * self.batch_size - self.size if self.last_batch == "pad" else 0

    def check_start(self, start: int) -> None:
        """Raise ValueError where what is left after `start` samples gives the ranks no equal numbers of batches."""
        count, samples = self.shard[1], self.size - start
        if self.last_batch == "keep" and samples > 0 and self.left(start) * count > samples:
            raise ValueError(
                f"last_batch='keep' cannot part {samples} samples among {count} ranks in batches of "
                f"{self.batch_size // count} each so that all have as many, none of them empty: pass last_batch='pad' "
                "or 'drop'"
            )

    def indices(self, epoch: int) -> NDArray[np.int64]:
        """[size] every sample once, in the order of that epoch."""
        return self._samples(epoch)(np.arange(self.size))

    def bounds(self, number: int, start: int = 0) -> tuple[int, int]:
        """Positions in the epoch at which batch `number` of what is left after `start` samples begins and ends."""
        first = start + number * self.batch_size
        stop = first + self.batch_size
        if self.last_batch == "keep":
            ahead = self.left(start) - 1 - number  # Batches that follow.
            if ahead == 0:
                first, stop = min(first, self.size - self.shard[1]), self.size
            elif ahead == 1:
                stop = min(stop, self.size - self.shard[1])
        return first, stop

    def batches(
        self, epoch: int, start: int = 0, together: int = 1, numbers: Iterable[int] | None = None
    ) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Each batch of what is left after `start` samples: the position of its first sample, and its samples [B].

        Or those of `numbers`, in that order.

        Or `together` batches in one piece, where that many are left; of a shard always one, since those of several
        batches are no stretch of the epoch.
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
            # A data set smaller than a batch is gone round several times.
            yield int(positions[0]), samples(positions if stop <= self.size else positions % self.size)

    def _samples(self, epoch: int) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
        """A function from positions in the epoch to samples."""
        if not self.shuffle:
            return lambda positions: positions
        generator = philox(self.seed, epoch, stream=0)
        if self.size > LISTED:
            return functools.partial(scattered, size=self.size, keys=generator.random_raw(_ROUNDS))
        # NumPy promises that this class draws the same in every version (NEP 19). It shuffles in linear time.
        permutation: NDArray[np.int64] = np.random.RandomState(generator).permutation(self.size)
        return permutation.take


def substitutes(seed: int, epoch: int, size: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The samples [B] that stand in for those at these positions: another permutation of all, settled by the seed."""
    keys = philox(seed, epoch, stream=2).random_raw(_ROUNDS)
    return scattered(positions % size, size, keys)
