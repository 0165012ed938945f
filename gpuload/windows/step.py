"""One batch of windows, everything random already drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class WindowStep:
    """One batch of windows, or a few batches in one piece. `None` means that the transform has no such part."""

    indices: Rows
    """[B] numbers of the windows."""
    rows: Rows
    """[B] row of each window's first step."""
    pace: Floats | None = None
    """[B] steps of the window that one step of the output covers, about the middle; below 0 it runs backwards."""
    factors: Floats | None = None
    """[B] what values are multiplied by."""
    seed: int = 0
    """With `epoch` and `positions`, of the noise."""
    epoch: int = 0
    positions: Rows | None = None
    """[B] where in the epoch each window stands; only where there is noise."""

    @property
    def batch_size(self) -> int:
        """How many windows the step holds."""
        return len(self.indices)
