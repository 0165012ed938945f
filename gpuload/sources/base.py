"""The contract of a source of images: how many samples there are, their labels, and for files their paths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy.typing as npt

from gpuload.sources.checks import Array

if TYPE_CHECKING:
    from typing_extensions import Self


@runtime_checkable
class Source(Protocol):
    """Samples by number, with or without labels."""

    @property
    def labels(self) -> Array | None:
        """One entry for each sample, along the first axis; or None."""

    def __len__(self) -> int:
        """Number of samples."""

    def take(self, indices: npt.ArrayLike | slice) -> Self:
        """Return a source with these samples and their labels, in this order.

        Args:
            indices: Integers [K], of which negative ones count from the end; booleans [N]; or a slice.

        Raises:
            IndexError: The indices are of another kind, or out of bounds.
        """


@runtime_checkable
class SourceOfFiles(Source, Protocol):
    """Samples that lie in one file each."""

    def path(self, index: int) -> str:
        """Return the full path of one file."""

    def paths(self, indices: npt.ArrayLike | slice) -> list[bytes]:
        """Return the full paths of some files, encoded for the file system. `indices` are those of `take`."""
