"""What gpuload raises beyond Python's own errors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from gpuload.core.checks import checked_int, choice, number

OnError = Literal["raise", "skip", "replace"]

MAX_PIXELS = 178_956_970
"""Of an image; above, Pillow refuses to open it (twice its `Image.MAX_IMAGE_PIXELS`)."""


@dataclass(frozen=True, kw_only=True)
class ErrorPolicy:
    """What counts as a bad sample, and what becomes of it.

    >>> ErrorPolicy(on_error="ignore")
    Traceback (most recent call last):
    ValueError: on_error must be one of raise, skip, replace, not 'ignore'
    """

    on_error: OnError = "raise"
    """`raise` SampleError; `skip` the sample, which makes its batch shorter; `replace` it with another one."""
    max_errors: int | float | None = None
    """How many different samples may be bad: a number, or as a float below 1 a share of the whole data set. None: any.

    Each process counts those that it has met: of several ranks, each may meet so many in its own part."""
    errors_log: str | os.PathLike[str] | None = None
    """A file to which a line of JSON is added for each bad sample."""
    max_pixels: int | None = MAX_PIXELS
    """An image whose header claims more is bad, before memory is taken for it. None: no limit but the decoder's own."""
    timeout: float | None = None
    """Seconds that the files of a batch may take to be read before those that block are bad. None: any time."""

    def __post_init__(self) -> None:
        choice("on_error", self.on_error, OnError)
        limit = self.max_errors
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or limit < 0):
            raise ValueError(f"max_errors must be a number of samples, or a share below 1, not {limit!r}")
        if isinstance(limit, float) and not limit < 1:
            raise ValueError(
                f"max_errors as a float is a share of the data set, below 1, not {limit!r}: pass a whole number to "
                "count samples"
            )
        if self.max_pixels is not None:
            checked_int("max_pixels", self.max_pixels, 1)
        if self.timeout is not None and not number(self.timeout) > 0:
            raise ValueError(f"timeout must be seconds above 0, or None, not {self.timeout!r}")


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


class TooManyErrors(RuntimeError):
    """More samples are bad than `max_errors` allows, or none is left to take a bad one's place."""
