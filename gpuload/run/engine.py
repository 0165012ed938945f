"""Engines carry steps out. They hold no randomness, and every engine gives the same batch for the same step."""

from __future__ import annotations

from typing import Any, Protocol


class Engine(Protocol):
    """Runs steps in the order in which they are submitted, in threads of its own."""

    @property
    def bytes_read(self) -> int:
        """From files, or out of a series, so far."""

    @property
    def pending(self) -> int:
        """Steps submitted whose result was neither taken nor discarded."""

    @property
    def alive(self) -> bool:
        """Whether it can go on. Where a file blocks for good, its threads may hang: then it cannot, and what is pending
        is lost with it."""

    def submit(self, step: Any) -> None:
        """Start a step; does not wait."""

    def result(self, stream: int | None = None) -> Any:
        """What became of the oldest pending step, in arrays that nobody else writes to: for images [B, H, W, C] or
        [B, C, H, W], an array or a DALI tensor; for windows a `Cut`. On a GPU they are ready for work queued on
        `stream` (a `cudaStream_t`).

        Raises SampleError where files cannot be read; the steps after that one are not touched by it.
        """

    def discard(self) -> None:
        """Forget all pending steps."""

    def close(self) -> None:
        """Free threads and memory."""
