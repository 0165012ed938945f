"""In which order samples are seen, and how an epoch is cut into batches."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

LastBatch = Literal["keep", "drop", "pad"]


def philox(seed: int, epoch: int, stream: int, block: int = 0) -> np.random.Philox:
    """The counter-based generator of one (seed, epoch) and purpose, advanced by `block` blocks of four 64-bit numbers.

    Raw output of a NumPy bit generator is the same in every version of NumPy, that of its distributions is not.
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([block, 0, 0, stream], dtype=np.uint64))


def checked_int(name: str, value: object, least: int) -> int:
    """`value` as an int of at least `least`; bool and float are refused."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    return number


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
        if self.last_batch not in get_args(LastBatch):
            raise ValueError(f"last_batch must be one of {', '.join(get_args(LastBatch))}, not {self.last_batch!r}")
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
        keys = philox(self.seed, epoch, stream=0).random_raw(self.size)
        return np.argsort(keys, kind="stable")

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Each batch from number `start` on: the position of its first sample in the epoch, and its samples [B]."""
        indices = self.indices(epoch)
        for number in range(start, len(self)):
            first = number * self.batch_size
            batch = indices[first : first + self.batch_size]
            if self.last_batch == "pad" and len(batch) < self.batch_size:
                # A data set smaller than a batch is gone round several times.
                batch = (
                    np.resize(indices, self.batch_size)
                    if number == 0
                    else np.concatenate([batch, np.resize(indices, self.batch_size - len(batch))])
                )
            yield first, batch
