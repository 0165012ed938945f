"""Normal noise by position, from a generator that runs in CUDA kernels too, so that all engines draw the same.

Philox 4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Return four random words for each counter of four words, which broadcast against each other."""
    a, b, c, d = counter
    left, right = np.uint32(key[0]), np.uint32(key[1])
    with np.errstate(over="ignore"):
        for _ in range(10):
            one, two = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
            a, b = (two >> _HALF).astype(np.uint32) ^ b ^ left, (two & _LOW).astype(np.uint32)
            c, d = (one >> _HALF).astype(np.uint32) ^ d ^ right, (one & _LOW).astype(np.uint32)
            left, right = left + _WEYL[0], right + _WEYL[1]
    return a, b, c, d


def normal(seed: int, epoch: int, positions: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """Return [B, count] standard normal numbers. A row depends on (seed, epoch, its position) alone.

    Number e of a row comes from the block with the counter (e // 4, epoch, position's low word, its high word) and the
    key (seed's low word, its high word), each modulo 2**32. By Box and Muller, the words (p, q) of a pair give
    sqrt(-2 ln u) · (cos 2πv, sin 2πv) with u = ((p >> 8) + 1) / 2**24 and v = (q >> 8) / 2**24, in float32.
    """
    places = positions.astype(np.uint64)[:, np.newaxis]
    low, high = (places & _LOW).astype(np.uint32), (places >> _HALF).astype(np.uint32)
    counter = np.arange(-(-count // 4), dtype=np.uint32), np.array([epoch % 2**32], np.uint32), low, high
    words = [word >> np.uint32(8) for word in philox4x32(counter, (seed % 2**32, seed // 2**32))]
    result = []
    for p, q in (words[:2], words[2:]):
        radius = np.sqrt(np.float32(-2.0) * np.log((p + np.uint32(1)).astype(np.float32) * np.float32(2.0**-24)))
        angle = np.float32(2 * np.pi) * (q.astype(np.float32) * np.float32(2.0**-24))
        result += [radius * np.cos(angle), radius * np.sin(angle)]
    return np.stack(result, axis=-1).reshape(len(positions), -1)[:, :count]
