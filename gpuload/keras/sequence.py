"""A loader that many programs have as a `keras.utils.Sequence`: it reads, decodes, resizes and divides by 255."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from gpuload.core.checks import checked_int
from gpuload.core.device import Device
from gpuload.delivery import Framework
from gpuload.images.augment import Augment
from gpuload.images.choose import settle
from gpuload.images.pool import ImagePool
from gpuload.images.step import Step
from gpuload.keras.prefetch import PrefetchedDataset
from gpuload.options import Cache, Errors, OnError
from gpuload.run import checkpoint
from gpuload.sources import ImageList
from gpuload.sources.fingerprint import fingerprint


class ImageSequence(PrefetchedDataset):
    """Batches of image files in the order given; whole batches only.

    `self[i]` is (images, labels): images [batch_size, height, width, 3] float32 from 0 to 1, as `tf.image.resize` makes
    them (bilinear, pixel centres at 0.5, no antialiasing), and `labels[i * batch_size : (i + 1) * batch_size]`.
    `state_dict()` tells how far `fit` or an iteration has come in an epoch, and `load_state_dict` goes on there.

    Args:
        image_paths: Paths of the files.
        labels: One entry for each path, of any shape: an array or a tensor, which is sliced; a list becomes an array.
        batch_size: Images in a batch. The rest at the end is left out.
        target_size: (height, width) in pixels.
        device, engine, decoder, threads, cache: As of `gpuload.Loader`. Pixels are kept as float32, since this resize
            does not round them.
        errors, on_error: As of `gpuload.Loader`; the attribute `errors` lists the bad samples. A batch is asked for by
            number, so if "skip" leaves nothing of it, RuntimeError is raised.
        kwargs: Arguments of `keras.utils.PyDataset`. `workers` and `use_multiprocessing` have no effect.

    Raises:
        ValueError: arguments that make no sense.
        SampleError: for the batch concerned: a file cannot be read.
    """

    def __init__(
        self,
        image_paths: Sequence[str | os.PathLike[str]],
        labels: Any,
        batch_size: int,
        target_size: tuple[int, int] = (64, 64),
        *,
        device: Any = "auto",
        engine: str = "auto",
        decoder: str = "auto",
        threads: int | None = None,
        cache: Cache | str | os.PathLike[str] | None = "auto",
        errors: Errors | None = None,
        on_error: OnError | None = None,
        **kwargs: Any,
    ):
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
        self._choice: dict[str, Any] = {"device": device, "engine": engine, "decoder": decoder}
        kept = {"cache": Cache.of(cache), "errors": Errors.of(errors, on_error)}
        self._options: dict[str, Any] = {"threads": threads, **kept}
        if len(self) == 0:
            raise ValueError(
                f"batch_size must be at most the number of image_paths, {len(self.source)}, not {batch_size!r}: "
                "only whole batches are delivered"
            )

    def __len__(self) -> int:
        return len(self.source) // self.batch_size

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        return {
            "samples": len(self.source),
            "batch_size": self.batch_size,
            "source": fingerprint(self.source),
            "transform": checkpoint.in_words(checkpoint.describe(self.transform)),
        }

    def _open(self, framework: Callable[[Device], Framework]) -> ImagePool:
        job = settle(self.source, self.transform, cache=self._options["cache"], **self._choice)
        return ImagePool(job, framework(job.device), batch_size=self.batch_size, **self._options)

    def _visits(self, numbers: Sequence[int]) -> Iterator[Step]:
        for number in numbers:
            first = number * self.batch_size
            rows = np.arange(first, first + self.batch_size)
            yield Step(indices=rows, positions=rows)

    def _deliver(self, pool: ImagePool, visit: Step, made: Any) -> Any:
        rows, labels = visit.indices, self.labels
        if (np.diff(rows) == 1).all():
            labels = labels[int(rows[0]) : int(rows[-1]) + 1]
        elif keras.ops.is_tensor(labels):
            labels = keras.ops.take(labels, rows, axis=0)
        else:
            labels = (labels if type(labels).__module__.partition(".")[0] == "cupy" else np.asarray(labels))[rows]
        # A backend shares the memory that it gets, and these labels are the user's.
        return pool.convert(made), labels.copy() if isinstance(labels, np.ndarray) else labels
