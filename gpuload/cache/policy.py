"""Where decoded images are kept, and how many."""

from __future__ import annotations

import os
from dataclasses import dataclass

from gpuload.core.checks import checked_int, checked_size

SHARE = 0.25
"""Of the free memory that a cache takes at most, where nobody says."""
PLACES = ("auto", "device", "host")

Cache = str | os.PathLike[str] | None
Limit = int | float | None


@dataclass(frozen=True, kw_only=True)
class CachePolicy:
    """Where decoded images are kept, and how many.

    >>> CachePolicy(cache_limit=2.0)
    Traceback (most recent call last):
    ValueError: cache_limit as a float is a share of what is free, above 0 and at most 1, not 2.0: pass a whole number \
for bytes
    """

    cache: Cache = "auto"
    """`auto`: on a GPU its memory, then the host's; else the host's; as much as fits. None: nowhere. Else `device`,
    `host`, or the path of a file."""
    cache_limit: Limit = None
    """Bytes, or as a float a share of the memory, or of the disk, that is free. None: a quarter of the memory; of a
    disk, what it needs."""

    cache_size: tuple[int, int] | None = None
    """With `RandomResizedCrop`: (height, width) that images are kept at, before the crop is cut out of them."""

    def __post_init__(self) -> None:
        if self.cache is not None and (not isinstance(self.cache, str | os.PathLike) or not os.fspath(self.cache)):
            raise ValueError(f"cache must be 'auto', 'device', 'host', None or the path of a file, not {self.cache!r}")
        limit = self.cache_limit
        if isinstance(limit, float):
            if not 0 < limit <= 1:
                raise ValueError(
                    f"cache_limit as a float is a share of what is free, above 0 and at most 1, not {limit!r}: pass a "
                    "whole number for bytes"
                )
        elif limit is not None:
            checked_int("cache_limit", limit, 1)
        for name in ("cache_limit", "cache_size"):
            if self.cache is None and getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)!r} is for a cache, but cache is None: leave it out")
        if self.cache_size is not None:
            object.__setattr__(self, "cache_size", checked_size("cache_size", self.cache_size))

    @property
    def path(self) -> str | None:
        """The file, where it is one."""
        if self.cache is None or self.cache in PLACES:
            return None
        return os.fspath(self.cache)
