"""Counter-based streams of random numbers."""

from __future__ import annotations

import numpy as np


def philox(seed: int, epoch: int, stream: int, block: int = 0) -> np.random.Philox:
    """The counter-based generator of one (seed, epoch) and purpose, advanced by `block` blocks of four 64-bit numbers.

    Raw output of a NumPy bit generator is the same in every version of NumPy; that of `np.random.Generator` is not.
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([block, 0, 0, stream], dtype=np.uint64))
