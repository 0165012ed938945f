"""One batch of windows with its random draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class WindowStep:
    """The windows of a step, one batch or a few, and their draws: None for those that the `Window` does not ask for."""

    indices: Rows
    """[B] number of each window."""
    rows: Rows
    """[B] row of each window's first step."""
    pace: Floats | None = None
    """[B] window steps per output step, about the middle of the window; below 0 the output runs backwards."""
    factors: Floats | None = None
    """[B] factor of the values."""
    seed: int = 0
    """Seed of the noise, together with `epoch` and `positions`."""
    epoch: int = 0
    positions: Rows | None = None
    """[B] position of each window in the epoch, if there is noise."""

    @property
    def batch_size(self) -> int:
        """Number of windows in the step."""
        return len(self.indices)
