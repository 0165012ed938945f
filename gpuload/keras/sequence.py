"""The loader that many write by hand as a `keras.utils.Sequence`: read, decode, resize, divide by 255."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpuload.image_pool import ImagePool
from gpuload.keras.prefetch import PrefetchedDataset
from gpuload.plan import Augment, Step
from gpuload.plan.checks import checked_int
from gpuload.sources import ImageList


class ImageSequence(PrefetchedDataset):
    """Batches of image files in the order given; whole batches only.

    `self[i]` is (images, labels): images [batch_size, height, width, 3] float32 from 0 to 1, as `tf.image.resize` makes
    them (bilinear, pixel centres at the half, no antialiasing), and `labels[i * batch_size : (i + 1) * batch_size]`.

    Raises ValueError for arguments that make no sense, SampleError for a batch with a file that cannot be read.
    """

    def __init__(
        self,
        image_paths: Sequence[str | os.PathLike[str]],
        labels: Any,
        batch_size: int,
        target_size: tuple[int, int] = (64, 64),
        *,
        device: str = "auto",
        engine: str = "auto",
        threads: int | None = None,
        **kwargs: Any,
    ):
        """
        Args:
            image_paths: The files.
            labels: As many, of any shape: an array or a tensor, sliced as it stands; a list becomes an array.
            batch_size: Images in a batch; what is left at the end is left out.
            target_size: (height, width).
            device, engine, threads: As in `gpuload.Loader`.
            kwargs: Of `keras.utils.PyDataset`; `workers` and `use_multiprocessing` have no effect.
        """
        super().__init__(**kwargs)
        self.source = ImageList(image_paths)
        if labels is None or len(labels) != len(self.source):
            count = "None" if labels is None else f"{len(labels)} labels"
            raise ValueError(f"labels must be as many as image_paths, {len(self.source)}, not {count}")
        self.image_paths = image_paths
        self.labels = np.asarray(labels) if isinstance(labels, list | tuple) else labels
        self.batch_size = checked_int("batch_size", batch_size, 1)
        self.transform = Augment(size=target_size, antialias=False, fast_idct=True, rescale=1 / 255, layout="HWC")
        self.target_size = target_size
        self._options: dict[str, Any] = {"device": device, "engine": engine, "threads": threads}
        if len(self) == 0:
            raise ValueError(
                f"batch_size must be at most the number of image_paths, {len(self.source)}, not {batch_size!r}: "
                "only whole batches are delivered"
            )

    def __len__(self) -> int:
        return len(self.source) // self.batch_size

    def _open(self) -> ImagePool:
        return ImagePool(self.source, self.transform, batch_size=self.batch_size, framework="numpy", **self._options)

    def _visits(self, numbers: Sequence[int]) -> Iterator[Step]:
        for number in numbers:
            first = number * self.batch_size
            yield Step(indices=np.arange(first, first + self.batch_size))

    def _deliver(self, visit: Step, delivered: Any) -> Any:
        first = int(visit.indices[0])
        labels = self.labels[first : first + self.batch_size]
        # What a backend is handed shares its memory, and these are the user's.
        return delivered, labels.copy() if isinstance(labels, np.ndarray) else labels
