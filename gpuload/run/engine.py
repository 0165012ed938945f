"""The protocol of engines. An engine carries out steps; it has no randomness of its own."""

from __future__ import annotations

from typing import Any, Protocol


class Engine(Protocol):
    """Carries out steps in the order in which they are submitted, in threads of its own."""

    @property
    def bytes_read(self) -> int:
        """Bytes of files, or of a series, that were read so far."""

    @property
    def pending(self) -> int:
        """Number of steps submitted whose result was neither taken nor discarded."""

    @property
    def alive(self) -> bool:
        """Whether the engine can go on. If its threads hang at a blocked file, pending steps are lost."""

    def submit(self, step: Any) -> None:
        """Start a step without waiting for it."""

    def result(self, stream: int | None = None) -> Any:
        """Return the oldest pending step's arrays, to which nobody else writes.

        They are images [B, H, W, C] or [B, C, H, W], as an array or a DALI tensor; or a `Cut` of windows. Raise
        SampleError if some files of the step cannot be read; later steps are not affected.

        Args:
            stream: CUDA stream that will read the arrays, as a number. None: wait until they are there.
        """

    def discard(self) -> None:
        """Forget all pending steps."""

    def close(self) -> None:
        """Free threads and memory."""
