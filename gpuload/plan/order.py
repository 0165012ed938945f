"""In which order samples are seen, and how an epoch is cut into batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpuload.plan.checks import checked_int, choice

LastBatch = Literal["keep", "drop", "pad"]


def philox(seed: int, epoch: int, stream: int, block: int = 0) -> np.random.Philox:
    """The counter-based generator of one (seed, epoch) and purpose, advanced by `block` blocks of four 64-bit numbers.

    Raw output of a NumPy bit generator is the same in every version of NumPy; that of `np.random.Generator` is not.
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([block, 0, 0, stream], dtype=np.uint64))


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
    """Samples in a batch."""
    shuffle: bool = False
    """Whether each epoch has an order of its own, drawn from (seed, epoch)."""
    seed: int = 0
    """Of the permutations; 0 to 2**64 - 1."""
    last_batch: LastBatch = "keep"
    """What becomes of a short last batch: `keep` it, `drop` it, or `pad` it with the epoch's first samples."""

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

    def __len__(self) -> int:
        """Number of batches in an epoch, exactly."""
        return self.size // self.batch_size if self.last_batch == "drop" else -(-self.size // self.batch_size)

    def indices(self, epoch: int) -> NDArray[np.int64]:
        """[size] every sample once, in the order of that epoch."""
        if not self.shuffle:
            return np.arange(self.size)
        # NumPy promises that this class draws the same in every version (NEP 19). It shuffles in linear time.
        generator = np.random.RandomState(philox(self.seed, epoch, stream=0))
        return generator.permutation(self.size)

    def batches(self, epoch: int, start: int = 0, together: int = 1) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Each batch from number `start` on: the position of its first sample in the epoch, and its samples [B].

        Or `together` batches in one piece, where that many are left.
        """
        # A data set smaller than a batch is gone round several times.
        end = self.size if self.last_batch == "keep" else len(self) * self.batch_size
        indices = np.resize(self.indices(epoch), end) if self.shuffle else None
        for first in range(start * self.batch_size, end, together * self.batch_size):
            last = min(first + together * self.batch_size, end)
            # Without shuffling there may be more samples than would fit the memory as a list.
            yield first, np.arange(first, last) % self.size if indices is None else indices[first:last]
