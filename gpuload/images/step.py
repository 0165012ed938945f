"""The work of an engine for one batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One batch of images with all random numbers drawn. `None`: the transform has no such part.

    >>> Step(indices=np.array([3, 1, 2])).batch_size
    3
    """

    indices: NDArray[np.int64]
    """[B] numbers of the samples in the source."""
    matrices: Doubles | None = None
    """[B, 2, 3] output to input, in (x, y): rotation, shift, shear, zoom and flips as one (see `affine`)."""
    crops: Doubles | None = None
    """[B, ...] numbers of the crop, which become a box when the size of the image is known."""
    channel_shift: Doubles | None = None
    """[B] levels added to all channels, clipped to the image's least and greatest level."""
    brightness: Doubles | None = None
    """[B] factors."""
    seed: int = 0
    """Determines, with `epoch` and `positions`, the substitutes for bad samples."""
    epoch: int = 0
    positions: NDArray[np.int64] | None = None
    """[B] position of each sample in the epoch. None: 0, 1, ..."""

    def take(self, rows: NDArray[Any] | slice) -> Step:
        """Return the step, of the same class, of some samples: given by number, as booleans or as a slice.

        >>> Step(indices=np.array([3, 1, 2])).take(np.array([0, 2])).indices
        array([3, 2])
        """
        columns = {name: column[rows] for name, column in vars(self).items() if isinstance(column, np.ndarray)}
        return type(self)(**{**vars(self), **columns})

    def split(self, batch_size: int) -> Iterator[Step]:
        """Yield steps of at most `batch_size` samples.

        >>> [part.indices.tolist() for part in Step(indices=np.arange(5)).split(2)]
        [[0, 1], [2, 3], [4]]
        """
        for start in range(0, self.batch_size, batch_size):
            yield self.take(slice(start, start + batch_size))

    @property
    def batch_size(self) -> int:
        return len(self.indices)
