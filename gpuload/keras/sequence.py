"""The loader that many write by hand as a `keras.utils.Sequence`: read, decode, resize, divide by 255."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from gpuload.cache import CachePolicy
from gpuload.cache.policy import Cache, Limit
from gpuload.core.checks import checked_int
from gpuload.core.errors import MAX_PIXELS, ErrorPolicy, OnError
from gpuload.images.augment import Augment
from gpuload.images.pool import ImagePool
from gpuload.images.step import Step
from gpuload.keras.prefetch import PrefetchedDataset
from gpuload.run import checkpoint
from gpuload.sources import ImageList
from gpuload.sources.fingerprint import fingerprint


class ImageSequence(PrefetchedDataset):
    """Batches of image files in the order given; whole batches only.

    `self[i]` is (images, labels): images [batch_size, height, width, 3] float32 from 0 to 1, as `tf.image.resize` makes
    them (bilinear, pixel centres at the half, no antialiasing), and `labels[i * batch_size : (i + 1) * batch_size]`.
    `state_dict()` tells how far `fit`, or an iteration, has come in an epoch, and `load_state_dict` goes on there.

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
        on_error: OnError = "raise",
        max_errors: int | float | None = None,
        errors_log: str | os.PathLike[str] | None = None,
        max_pixels: int | None = MAX_PIXELS,
        timeout: float | None = None,
        cache: Cache = "auto",
        cache_limit: Limit = None,
        **kwargs: Any,
    ):
        """
        Args:
            image_paths: The files.
            labels: As many, of any shape: an array or a tensor, sliced as it stands; a list becomes an array.
            batch_size: Images in a batch; what is left at the end is left out.
            target_size: (height, width).
            device, engine, threads: As in `gpuload.Loader`.
            on_error, max_errors, errors_log, max_pixels, timeout: As there; `errors` lists the bad samples. A batch of
                which "skip" leaves nothing raises RuntimeError, as who asks by number cannot be given none.
            cache, cache_limit: As there. Pixels are kept as float32 here, since this resize does not round them.
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
        policy = ErrorPolicy(
            on_error=on_error,
            max_errors=max_errors,
            errors_log=errors_log,
            max_pixels=max_pixels,
            timeout=timeout,
        )
        caching = CachePolicy(cache=cache, cache_limit=cache_limit)
        self._options: dict[str, Any] = {"device": device, "engine": engine, "threads": threads}
        self._options |= {"policy": policy, "caching": caching}
        self._own: dict[str, Any] | None = None
        if len(self) == 0:
            raise ValueError(
                f"batch_size must be at most the number of image_paths, {len(self.source)}, not {batch_size!r}: "
                "only whole batches are delivered"
            )

    def __len__(self) -> int:
        return len(self.source) // self.batch_size

    def _identity(self) -> dict[str, Any]:
        if self._own is None:
            self._own = {
                "samples": len(self.source),
                "batch_size": self.batch_size,
                "source": fingerprint(self.source),
                "transform": checkpoint.in_words(checkpoint.describe(self.transform)),
            }
        return self._own

    def _open(self) -> ImagePool:
        return ImagePool(self.source, self.transform, batch_size=self.batch_size, framework="numpy", **self._options)

    def _visits(self, numbers: Sequence[int]) -> Iterator[Step]:
        for number in numbers:
            first = number * self.batch_size
            rows = np.arange(first, first + self.batch_size)
            yield Step(indices=rows, positions=rows)

    def _deliver(self, visit: Step, made: Any) -> Any:
        assert isinstance(self._pool, ImagePool)
        rows, labels = visit.indices, self.labels
        if (np.diff(rows) == 1).all():
            labels = labels[int(rows[0]) : int(rows[-1]) + 1]
        elif keras.ops.is_tensor(labels):
            labels = keras.ops.take(labels, rows, axis=0)
        else:
            labels = np.asarray(labels)[rows]
        # What a backend is handed shares its memory, and these are the user's.
        return self._pool.convert(made), labels.copy() if isinstance(labels, np.ndarray) else labels
