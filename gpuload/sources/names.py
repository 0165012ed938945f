"""Many file names in little memory."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from gpuload.sources.checks import Array


class Names:
    """File names as the file system spells them, in two arrays, since a million objects would cost memory and time.

    Args:
        blob: uint8, the names one after another, each ended by a NUL.
        count: Number of names, if it is known. `offsets` is then made at the first access.
    """

    def __init__(self, blob: npt.NDArray[np.uint8], count: int | None = None):
        self.blob = blob
        self._count = len(self.offsets) - 1 if count is None else count

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """[N + 1] Name `i`, with its NUL, is `blob[offsets[i]:offsets[i + 1]]`."""
        return np.concatenate((np.zeros(1, np.int64), np.flatnonzero(self.blob == 0) + 1))

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, object]:
        # A copy makes its own `offsets`.
        return {"blob": self.blob, "_count": len(self)}

    def pick(self, indices: Array | slice) -> list[bytes]:
        """Return some names as bytes."""
        starts, stops = self.offsets[:-1][indices], self.offsets[1:][indices] - 1
        view = self.blob.data
        return [bytes(view[a:b]) for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]

    def take(self, indices: Array | slice) -> Names:
        """Return some names as `Names`."""
        starts, lengths = self.offsets[:-1][indices], np.diff(self.offsets)[indices]
        ends = np.cumsum(lengths)
        blob = np.empty(lengths.sum(), np.uint8)
        # The gather needs 16 bytes for each byte of a name; in chunks, that stays small.
        for first in range(0, len(starts), 65536):
            chunk = slice(first, first + 65536)
            here = np.repeat(starts[chunk] + lengths[chunk] - ends[chunk], lengths[chunk])
            to = slice(ends[first] - lengths[first], ends[first] - lengths[first] + len(here))
            blob[to] = self.blob[here + np.arange(to.start, to.stop)]
        return Names(blob)
