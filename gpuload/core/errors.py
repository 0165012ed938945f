"""Exceptions for samples that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be read.

    Args:
        index: Its number in the source.
        path: Its file.
        reason: The message of the decoder or the file system.
    """

    index: int
    path: str
    reason: str


class SampleError(RuntimeError):
    """A batch could not be made because some of its files cannot be read. The next batch can be.

    Args:
        samples: The bad samples, in the order of the batch; also an attribute.
        batch_size: Number of samples in the batch, good ones included; also an attribute.

    >>> error = SampleError([BadSample(7, "train/cat/7.jpg", "image file is truncated")], batch_size=32)
    >>> print(error)
    cannot read 'train/cat/7.jpg' (sample 7): image file is truncated. Repair or remove the file; \
the other 31 samples of its batch were not delivered, the next batch can be.
    """

    def __init__(self, samples: list[BadSample], batch_size: int):
        self.samples = samples
        self.batch_size = batch_size
        first, more = samples[0], len(samples) - 1
        others = f" (and {more} more: see .samples)" if more else ""
        super().__init__(
            f"cannot read {first.path!r} (sample {first.index}): {first.reason}{others}. Repair or remove the file; "
            f"the other {batch_size - len(samples)} samples of its batch were not delivered, the next batch can be."
        )

    def __reduce__(self) -> tuple[type[SampleError], tuple[list[BadSample], int]]:
        return type(self), (self.samples, self.batch_size)


class TooManyErrors(RuntimeError):
    """More samples are bad than `max_errors` allows, or no good sample is left."""
