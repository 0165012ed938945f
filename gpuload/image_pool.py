"""The pool for images: a source of images, a transform, DALI or NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload import delivery, engines
from gpuload.plan import Augment, Order, Step
from gpuload.pool import EnginePool
from gpuload.sources import ImageArray, ImageSource

SAMPLES_DRAWN_AT_ONCE = 1024


class ImagePool(EnginePool):
    """Engines for images; delivers [B, H, W, C] or [B, C, H, W], without their labels."""

    def __init__(
        self,
        source: ImageSource,
        transform: Augment,
        *,
        batch_size: int,
        device: str = "auto",
        engine: str = "auto",
        framework: str | None = None,
        prefetch: int = 2,
        threads: int | None = None,
        channels_last: bool = False,
    ):
        """
        Args:
            channels_last: PyTorch's memory format: images [B, C, H, W] whose channels lie side by side.
        """
        super().__init__(batch_size=batch_size, prefetch=prefetch, threads=threads)
        transform = sized(source, transform)
        self.source = source
        self.device, self.engine = engines.choose(source, transform, device, engine)
        self.framework = delivery.choose(framework, self.device)
        if channels_last and (self.framework.name != "torch" or transform.layout == "HWC"):
            raise ValueError(
                "channels_last=True is a memory format of PyTorch for images [B, C, H, W], not for "
                f"framework={self.framework.name!r} with layout={transform.layout!r}: leave it out"
            )
        self.channels_last = channels_last
        layout = "HWC" if channels_last else transform.layout or self.framework.layout
        self.transform = transform if transform.layout == layout else transform.replace(layout=layout)
        self.framework.check_dtype("dtype of the transform", self.transform.dtype, "pass another dtype")
        self._label_dtype = None if source.labels is None else _label_dtype(source.labels, self.framework)

    def __len__(self) -> int:
        return len(self.source)

    def open_engine(self) -> engines.Engine:
        return engines.open_engine(
            self.source,
            self.transform,
            batch_size=self.batch_size,
            device=self.device,
            engine=self.engine,
            threads=self.threads,
        )

    def deliver(self, engine: engines.Engine) -> Any:
        images = self.framework.convert(engine.result(self.stream), self.device, self.transform.dtype)
        return images.permute(0, 3, 1, 2) if self.channels_last else images

    def plan(self, order: Order, seed: int, epoch: int, numbers: Iterable[int] | None = None) -> Iterator[Step]:
        """The steps of one epoch, or of its batches of these numbers, a batch each."""
        if numbers is not None:
            for first, indices in order.batches(epoch, numbers=numbers):
                yield self.transform.step(indices, seed=seed, epoch=epoch, first=first)
            return
        # NumPy's cost is by the call: several batches are drawn in one.
        several = max(1, SAMPLES_DRAWN_AT_ONCE // order.batch_size)
        for first, indices in order.batches(epoch, together=several):
            yield from self.transform.step(indices, seed=seed, epoch=epoch, first=first).split(order.batch_size)

    def batches(self, step: Step, images: Any) -> list[Any]:
        """The batches of a delivered step: one, with its labels if the source has any."""
        if self.source.labels is None:
            return [images]
        labels = self.source.labels[step.indices]
        if self._label_dtype is not None:
            labels = labels.astype(self._label_dtype, copy=False)
        return [(images, self.framework.convert(labels, self.device, None))]


def _label_dtype(labels: NDArray[Any], framework: delivery.Framework) -> str | None:
    """What labels are converted to: whole numbers to what the framework asks for, or has."""
    name = labels.dtype.name
    if labels.dtype.kind in "iu":
        if framework.label_dtype is not None:
            return framework.label_dtype
        within = np.iinfo(np.int32)
        if not framework.has(name) and labels.size and within.min <= labels.min() and labels.max() <= within.max:
            return "int32"
    numbers = labels.dtype.kind in "fc"
    instead = "labels.astype('float32')" if numbers else "number them with np.unique(labels, return_inverse=True)[1]"
    framework.check_dtype("labels", name, instead)
    return None


def sized(source: ImageSource, transform: Augment) -> Augment:
    """The transform with the size that the source settles; raises ValueError where the two do not agree."""
    if not isinstance(source, ImageArray):
        if transform.size is None:
            raise ValueError("size must be given, as (height, width), for images that are read from files")
        return transform
    height, width, channels = source.images.shape[1:]
    if transform.size not in (None, (height, width)) or transform.crop is not None:
        raise ValueError(
            f"size and crop belong to images that are read from files; those in memory are {height} x {width}: "
            "leave both out"
        )
    for name in ("mean", "std"):
        if np.size(getattr(transform, name)) not in (1, channels):
            raise ValueError(f"{name} must be one number, or one for each of the images' {channels} channels")
    return transform.replace(size=(height, width))
