"""Options that belong together: where decoded images are kept, and what happens to bad samples."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from gpuload.core.checks import answers_unknown, checked_bytes, checked_int, checked_size, choice, number

OnError = Literal["raise", "skip", "replace"]
Limit = int | float | None
Place = str | os.PathLike[str] | None

MAX_PIXELS = 178_956_970
"""Pillow's own limit for one image: twice its `Image.MAX_IMAGE_PIXELS`."""

MAX_BYTES = 2**30
"""Limit for one encoded image, 1 GiB: far above any photograph, and what a machine can well hold."""


@answers_unknown(errors_log="pass log=PATH", ignore_errors="pass on_error='skip'")
@dataclass(frozen=True, kw_only=True)
class Errors:
    """The definition of a bad sample, and its treatment.

    A sample is bad if its file cannot be read or decoded. `Loader(on_error="skip")` is short for
    `Loader(errors=Errors(on_error="skip"))`.

    Args:
        on_error: "raise" raises SampleError for the batch. "skip" leaves the sample out, so that its batch is shorter;
            a batch without any sample left is left out too. "replace" puts another sample in its place, which the seed
            determines, so that shapes stay the same. The other samples of the batch do not change.
        max_errors: Number of different bad samples that are allowed before TooManyErrors is raised. A float below 1 is
            a share of the whole data set. Each rank counts the samples that it met itself. None: any number.
        log: Path of a file. One line of JSON is added to it for each bad sample.
        max_pixels: An image whose header claims more pixels (height x width) is bad and is not decoded. None: only the
            decoder's own limit.
        max_bytes: A file of more bytes is bad and is not read. A text such as "500MB" is read too. None: no limit.
        timeout: Seconds for which a file may block while it is opened or read. One that blocks longer is bad. None: no
            limit.

    Raises:
        ValueError: a value that is not allowed.

    >>> Errors(on_error="ignore")
    Traceback (most recent call last):
    ValueError: on_error must be one of raise, skip, replace, not 'ignore'
    """

    on_error: OnError = "raise"
    max_errors: int | float | None = None
    log: str | os.PathLike[str] | None = None
    max_pixels: int | None = MAX_PIXELS
    max_bytes: int | str | None = MAX_BYTES
    timeout: float | None = None

    def __post_init__(self) -> None:
        choice("on_error", self.on_error, OnError)
        limit = self.max_errors
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or limit < 0):
            raise ValueError(f"max_errors must be a number of samples, or a share below 1, not {limit!r}")
        if isinstance(limit, float) and not limit < 1:
            advice = "pass a whole number to count samples"
            raise ValueError(f"max_errors as a float is a share of the data set, below 1, not {limit!r}: {advice}")
        if self.max_pixels is not None:
            checked_int("max_pixels", self.max_pixels, 1)
        if self.max_bytes is not None:
            object.__setattr__(self, "max_bytes", checked_bytes("max_bytes", self.max_bytes))
        if self.timeout is not None and not number(self.timeout) > 0:
            raise ValueError(f"timeout must be seconds above 0, or None, not {self.timeout!r}")

    @property
    def largest(self) -> int | None:
        """`max_bytes` as a number."""
        assert not isinstance(self.max_bytes, str)
        return self.max_bytes

    @classmethod
    def of(cls, errors: Errors | None, on_error: OnError | None) -> Errors:
        """Return the options that `errors` and its short form `on_error` ask for together."""
        if errors is None:
            return cls() if on_error is None else cls(on_error=on_error)
        if not isinstance(errors, Errors):
            raise ValueError(f"errors must be gpuload.Errors(...), not {errors!r}: for a policy alone, pass on_error=")
        if on_error not in (None, errors.on_error):
            raise ValueError(f"on_error={on_error!r} contradicts errors={errors!r}: pass one of them")
        return errors


PLACES = ("auto", "device", "host")


@answers_unknown(cache_limit="pass limit=SIZE", cache_size="pass size=(height, width)", path="pass place=PATH")
@dataclass(frozen=True, kw_only=True)
class Cache:
    """Where decoded and resized images are kept for later epochs, which then neither read nor decode them.

    Batches are the same with and without a cache. A place alone is short for `Cache(place=...)`:
    `Loader(cache="host")`, `Loader(cache="pixels.cache")`, `Loader(cache=None)`.

    Args:
        place: "auto" keeps as many images as fit: in the GPU's memory and then the host's, without a GPU in the host's.
            "device" and "host" name one of them. A path names a file, which later runs and all processes of a machine
            share; it is made if it does not exist, and an image whose file has changed is decoded again. None: no
            cache.
        limit: Size of the cache: bytes as an int, a text such as "2GB", or as a float a share of the free memory (or
            disk). None: a quarter of the free memory; a file takes what it needs.
        size: (height, width) in pixels, for `RandomResizedCrop` only: images are kept at this size, and each crop is
            cut out of the kept image. On the CPU only. None: images are kept at the size of the transform.

    Raises:
        ValueError: a value that is not allowed.

    >>> Cache(limit=2.0)
    Traceback (most recent call last):
    ValueError: limit as a float is a share of what is free, above 0 and at most 1, not 2.0: pass a whole number for
        bytes
    """

    place: Place = "auto"
    limit: int | float | str | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.place is not None and (not isinstance(self.place, str | os.PathLike) or not os.fspath(self.place)):
            raise ValueError(f"cache must be 'auto', 'device', 'host', None or the path of a file, not {self.place!r}")
        limit = self.limit
        if isinstance(limit, float):
            if not 0 < limit <= 1:
                rule = "a share of what is free, above 0 and at most 1"
                raise ValueError(f"limit as a float is {rule}, not {limit!r}: pass a whole number for bytes")
        elif limit is not None:
            object.__setattr__(self, "limit", checked_bytes("limit", limit))
        for name in ("limit", "size"):
            if self.place is None and getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)!r} is for a cache, but place is None: leave it out")
        if self.size is not None:
            object.__setattr__(self, "size", checked_size("size", self.size))

    @classmethod
    def of(cls, cache: Cache | Place) -> Cache:
        """Return the options themselves, or those that a short form stands for."""
        return cache if isinstance(cache, Cache) else cls(place=cache)

    @property
    def path(self) -> str | None:
        """Path of the file; None for a cache in memory, or no cache."""
        return None if self.place is None or self.place in PLACES else os.fspath(self.place)

    @property
    def allowed(self) -> int | float | None:
        """The limit in bytes, or as a share of what is free."""
        assert not isinstance(self.limit, str)
        return self.limit
