"""The fast engine of images: DALI decodes and resizes, a cache keeps what it made, compiled code does the rest."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuload.core.errors import SampleError
from gpuload.decode.dali_graph import breaks_ties
from gpuload.images.augment import Augment
from gpuload.images.step import Step
from gpuload.sources import ImageArray, ImageSource

if TYPE_CHECKING:
    from gpuload.cache.device import HostImages
    from gpuload.images.host import Augmenting

Indices = NDArray[np.int64]


def unsupported(source: ImageSource, transform: Augment) -> str | None:
    """The first thing that the fast engine cannot do for this job, in words, or None. Needs no DALI."""
    if transform.color == "rgba":
        return "color='rgba'"
    if transform.interpolation in ("box", "hamming") and not isinstance(source, ImageArray):
        return f"interpolation={transform.interpolation!r}"
    if not isinstance(source, ImageArray) and transform.crop is not None and breaks_ties(transform):
        return "interpolation='nearest' with a crop, but for sizes that are powers of two"
    if transform.warps and transform.warp_order > 1:
        return f"warp_order={transform.warp_order}"
    if transform.function is not None:
        return "function, which runs in Python"
    if transform.zca is not None:
        return "zca"
    if transform.brightness is not None:
        if isinstance(source, ImageArray) and (source.images.dtype != np.uint8 or source.images.shape[3] not in (1, 3)):
            return f"brightness of {source.images.dtype} images of {source.images.shape[3]} channels"
        if transform.warps and transform.fill_mode == "constant" and not 0 <= transform.fill_value <= 255:
            return f"brightness with fill_value={transform.fill_value!r}, which is no level from 0 to 255"
    return None


class Decoder(Protocol):
    """Reads, decodes and resizes the files of a step: an `Engine` whose result is levels [B, H, W, C]."""

    bytes_read: int

    @property
    def alive(self) -> bool: ...

    def submit(self, step: Step) -> None: ...

    def result(self, stream: int | None = None) -> Any: ...

    def discard(self) -> None: ...

    def close(self) -> None: ...


class ImageEngine:
    """What the engines of both devices have in common: steps under way, and a decoder for what no cache has."""

    def __init__(self, decoder: Callable[[], Decoder]):
        """`decoder`: makes one, when something is to be decoded."""
        self._open_decoder = decoder
        self._decoder: Decoder | None = None
        self._steps: deque[Any] = deque()

    @property
    def pending(self) -> int:
        return len(self._steps)

    @property
    def alive(self) -> bool:
        return self._decoder is None or self._decoder.alive

    @property
    def bytes_read(self) -> int:
        return 0 if self._decoder is None else self._decoder.bytes_read

    def _decode(self, step: Step, rows: Indices) -> None:
        """Have these images of a step decoded: [M] numbers within the batch."""
        if self._decoder is None:
            self._decoder = self._open_decoder()
        self._decoder.submit(step if len(rows) == step.batch_size else step.take(rows))

    def _decoded(self, step: Step, stream: int | None = None) -> Any:
        """What was made of the oldest step of which something had to be decoded, which is `step`."""
        assert self._decoder is not None
        try:
            return self._decoder.result(stream)
        except SampleError as error:
            raise SampleError(error.samples, step.batch_size) from error

    def discard(self) -> None:
        self._steps.clear()
        if self._decoder is not None:
            self._decoder.discard()

    def close(self) -> None:
        self.discard()
        if self._decoder is not None:
            self._decoder.close()


@dataclasses.dataclass
class _Pending:
    """A step under way."""

    step: Step
    rows: Indices
    """[B] of each image its number in `store`, or ~ its number among those that are to be decoded."""
    store: Any
    work: Augmenting | None
    """None: the decoder has a part of it."""


class HostImageEngine(ImageEngine):
    """Makes batches in the host's memory.

    Images that the cache has, or that are in memory anyway, are augmented as soon as their step is submitted; of other
    steps the decoder makes what is missing, which goes into the cache on its way.
    """

    def __init__(
        self,
        source: ImageSource,
        transform: Augment,
        *,
        decoder: Callable[[], Decoder],
        cache: HostImages | None,
        threads: int,
        recuts: bool = False,
    ):
        """
        Args:
            decoder: Makes one, when something is to be decoded.
            recuts: Whether what is decoded is of another size, and the transform's crop is yet to be cut out of it.
        """
        from gpuload.images.host import NumbaAugmenter

        super().__init__(decoder)
        self._source = source
        self._cache = cache
        self._recuts = recuts
        assert transform.size is not None
        channels = source.images.shape[3] if isinstance(source, ImageArray) else transform.channels
        self._augmenter = NumbaAugmenter(transform, (*transform.size, channels), threads, recuts=recuts)

    @property
    def augmented(self) -> tuple[float, int]:
        """Seconds that threads have spent on augmenting, and for how many samples."""
        return self._augmenter.seconds, self._augmenter.samples

    def submit(self, step: Step) -> None:
        if isinstance(self._source, ImageArray):
            store, fresh, rows = _in_memory(self._source.images, step.indices)
            self._steps.append(_Pending(step, rows, store, self._augmenter.start(store, fresh, rows, step)))
            return
        rows, store = np.full(step.batch_size, -1), None
        if self._cache is not None:
            rows, store = self._cache.rows(step.indices), self._cache.images
        missing = np.flatnonzero(rows < 0)
        if not len(missing):
            self._steps.append(_Pending(step, rows, store, self._augmenter.start(store, None, rows, step)))
            return
        rows[missing] = ~np.arange(len(missing))
        self._decode(dataclasses.replace(step, crops=None) if self._recuts else step, missing)
        self._steps.append(_Pending(step, rows, store, None))

    def result(self, stream: int | None = None) -> NDArray[Any]:
        found: _Pending = self._steps.popleft()
        if found.work is None:
            fresh = np.asarray(self._decoded(found.step))
            found.work = self._augmenter.start(found.store, fresh, found.rows, found.step)
            if self._cache is not None:
                missing = found.rows < 0
                self._cache.put(found.step.indices[missing], fresh)
        return found.work.result()

    def discard(self) -> None:
        for found in self._steps:
            if found.work is not None:
                found.work.wait()
        super().discard()

    def close(self) -> None:
        super().close()
        self._augmenter.close()


def _in_memory(images: NDArray[Any], indices: Indices) -> tuple[Any, Any, Indices]:
    """Where the images are: in their own array, or, where compiled code cannot read that, in a copy of these."""
    if images.dtype in (np.uint8, np.float32) and images.flags.c_contiguous and images.dtype.isnative:
        return images, None, indices
    fresh = np.ascontiguousarray(images[indices], np.uint8 if images.dtype == np.uint8 else np.float32)
    return None, fresh, ~np.arange(len(indices))
