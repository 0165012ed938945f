"""Random numbers by counter: what is drawn for a sample depends on (seed, epoch, its position in the epoch) alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ORDER, SAMPLES, SUBSTITUTES = range(3)
"""Streams of an epoch: for its permutation, for what is drawn for each sample, and for what replaces bad samples."""


def philox(seed: int, epoch: int, stream: int, block: int = 0) -> np.random.Philox:
    """Return the generator of one stream, advanced by `block` blocks of four 64-bit numbers.

    The raw output of a NumPy bit generator is the same in every version of NumPy; that of `np.random.Generator` is not.
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([block, 0, 0, stream], dtype=np.uint64))


def uniforms(seed: int, epoch: int, first: int, count: int, per: int) -> NDArray[np.float64]:
    """Return [count, per] numbers in [0, 1): `per` of them for each of the positions `first`, `first` + 1, ...

    `per` is a multiple of four, the length of a block. A caller leaves out the numbers that it does not use, so that
    one option never changes what another one draws.
    """
    raw = philox(seed, epoch, SAMPLES, block=first * per // 4).random_raw(count * per)
    found: NDArray[np.float64] = (raw >> np.uint64(11)).astype(np.float64).reshape(count, per) * 2.0**-53
    return found
