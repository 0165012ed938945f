"""What an engine is asked to do for one batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing_extensions import Self

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One batch of images, everything random already drawn. `None` means that the transform has no such part.

    >>> Step(indices=np.array([3, 1, 2])).batch_size
    3
    """

    indices: NDArray[np.int64]
    """[B] numbers of the samples in the source."""
    matrices: Doubles | None = None
    """[B, 2, 3] output to input, in (x, y): rotation, shift, shear, zoom and flips as one (see `gpuload.plan`)."""
    crops: Doubles | None = None
    """[B, ...] what the crop drew; it becomes a box once the size of the image is known."""
    channel_shift: Doubles | None = None
    """[B] levels added to every channel, clipped to the image's own least and greatest value."""
    brightness: Doubles | None = None
    """[B] factors."""
    seed: int = 0
    """With `epoch` and `positions`, of what stands in for samples that cannot be read."""
    epoch: int = 0
    positions: NDArray[np.int64] | None = None
    """[B] where in the epoch each sample stands. None: at 0, 1, ..."""

    def take(self, rows: NDArray[Any]) -> Self:
        """The step of these samples of the batch alone, by number or as booleans.

        >>> Step(indices=np.array([3, 1, 2])).take(np.array([0, 2])).indices
        array([3, 2])
        """
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{n: column[rows] for n, column in columns.items() if isinstance(column, np.ndarray)})

    def split(self, batch_size: int) -> Iterator[Step]:
        """The same as steps of at most that many samples.

        >>> [part.indices.tolist() for part in Step(indices=np.arange(5)).split(2)]
        [[0, 1], [2, 3], [4]]
        """
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        for start in range(0, self.batch_size, batch_size):
            rows = slice(start, start + batch_size)
            part: dict[str, Any] = {
                name: column[rows] if isinstance(column, np.ndarray) else column for name, column in columns.items()
            }
            yield Step(**part)

    @property
    def batch_size(self) -> int:
        """How many samples the batch holds."""
        return len(self.indices)
