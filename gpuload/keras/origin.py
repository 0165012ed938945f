"""Random generators that remember their seed, and orders that two numbers determine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 624
"""Number of 32-bit words in a block of the Mersenne Twister; its state is a block and a position in it."""


class Shared:
    """The one random generator that all of Keras' iterators share. Each batch of a flow with a seed replaces it."""

    generator: Any = np.random


class Seeded(np.random.RandomState):
    """A `RandomState(value)` that remembers `value`.

    >>> Seeded(7).permutation(4).tolist() == np.random.RandomState(7).permutation(4).tolist()
    True
    """

    def __init__(self, value: int):
        super().__init__(value)
        self.value = value


class Origin:
    """The origin of an order: a generator that was seeded with `value` and has given out a number of 32-bit words.

    These two numbers determine an order of any size, in every version of NumPy, which keeps `RandomState` as it is
    (NEP 19).

    >>> generator = Seeded(7)
    >>> numbers = generator.random_sample(1000)
    >>> origin = Origin.of(generator)
    >>> origin.value, origin.words
    (7, 2000)
    >>> order = generator.permutation(5)
    >>> Origin(7, 2000).draw(5).tolist() == order.tolist()
    True
    """

    def __init__(self, value: int, words: int | None = None, state: Any = None):
        self.value = value
        self._words = words
        self._state = state

    @classmethod
    def of(cls, generator: Seeded) -> Origin:
        """Return the present origin of a generator's draws."""
        return cls(generator.value, state=generator.get_state(legacy=False)["state"])

    @property
    def words(self) -> int:
        """Number of words given out. Counted by drawing them again: 100 ms for a million."""
        if self._words is None:
            bits, _ = _seeded(self.value)
            block = -1  # A fresh generator is at the end of a block before the first.
            while not np.array_equal(bits.state["state"]["key"], self._state["key"]):
                bits.random_raw(_BLOCK, output=False)
                block += 1
            self._words = block * _BLOCK + int(self._state["pos"])
        return self._words

    def draw(self, size: int) -> NDArray[np.int64]:
        """Return the order [size] that was drawn from here."""
        bits, generator = _seeded(self.value)
        bits.random_raw(self.words, output=False)
        return generator.permutation(size)


def _seeded(value: int) -> tuple[np.random.MT19937, np.random.RandomState]:
    """Return the bit generator of `RandomState(value)`, and the latter."""
    bits = np.random.MT19937()
    generator = np.random.RandomState(bits)
    generator.seed(value)
    return bits, generator
