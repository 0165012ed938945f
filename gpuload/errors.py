"""What gpuload raises beyond Python's own errors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BadSample:
    """One sample that could not be read."""

    index: int
    """Its number in the source."""
    path: str
    """Its file."""
    reason: str
    """What the decoder, or the file system, said."""


class SampleError(RuntimeError):
    """A batch could not be made because some of its files could not be read.

    Only that batch is lost: the loader goes on with the next one.

    >>> error = SampleError([BadSample(7, "train/cat/7.jpg", "image file is truncated")], batch_size=32)
    >>> print(error)
    cannot read 'train/cat/7.jpg' (sample 7): image file is truncated. Repair or remove the file; \
the other 31 samples of its batch were not delivered, the next batch can be.
    """

    def __init__(self, samples: list[BadSample], batch_size: int):
        self.samples = samples
        """The samples that failed, in the batch's order."""
        self.batch_size = batch_size
        """How many samples the batch has, good ones included."""
        first, more = samples[0], len(samples) - 1
        others = f" (and {more} more: see .samples)" if more else ""
        super().__init__(
            f"cannot read {first.path!r} (sample {first.index}): {first.reason}{others}. Repair or remove the file; "
            f"the other {batch_size - len(samples)} samples of its batch were not delivered, the next batch can be."
        )

    def __reduce__(self) -> tuple[type[SampleError], tuple[list[BadSample], int]]:
        return type(self), (self.samples, self.batch_size)
