"""A step on its way through the decoder."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.decode.spec import Indices
from gpuload.reading.files import Bytes
from gpuload.reading.reader import Reading

Part = tuple[Indices, Any]
"""Rows [M] of a batch, and their levels [M, H, W, C]: an array, or a DALI TensorList on a GPU."""


@dataclass
class Run:
    """Images of a step that DALI decodes, [M] of them."""

    rows: Indices
    """[M] their rows in the batch."""
    files: list[Bytes]
    sizes: NDArray[np.int64]
    """[M, 2] heights and widths."""
    boxes: NDArray[np.float64] | None
    """[M, 4] boxes of the crop: top, left, height, width; or None."""
    regions: NDArray[np.int64] | None
    """[M, 4] whole pixels that are decoded, likewise; None: all."""
    number: int = 0
    """Number of the run, once DALI has it."""

    def one(self, number: int) -> Run:
        """Return a run of one of the images, for a batch of its own."""
        some = slice(number, number + 1)
        boxes = None if self.boxes is None else self.boxes[some]
        regions = None if self.regions is None else self.regions[some]
        return Run(np.zeros(1, np.int64), self.files[some], self.sizes[some], boxes, regions)

    @property
    def pixels(self) -> int:
        """Number of pixels that are decoded."""
        return int((self.sizes if self.regions is None else self.regions[:, 2:]).prod(axis=1).sum())


@dataclass
class Work:
    """A step on its way."""

    step: Any
    reading: Reading
    begun: Future[None] = field(init=False)
    finished: Future[list[Part]] | None = None
    stale: bool = False
    """Nobody wants the step any more."""
    bad: dict[int, str] = field(default_factory=dict)
    """Reasons by row."""
    by_pillow: dict[int, Future[NDArray[Any]]] = field(default_factory=dict)
    """Levels [H, W, C] by row."""
    run: Run | None = None
    """Images that DALI decodes."""

    def drawn(self, row: int) -> NDArray[np.float64] | None:
        """Return the numbers that the crop drew for a row."""
        return None if self.step.crops is None else self.step.crops[row]
