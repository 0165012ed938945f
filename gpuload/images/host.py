"""The second half of an image's way on the CPU, compiled: levels of one size to the batch that is delivered.

SciPy's positions and borders, warp, colours, statistics and layout in one pass over an image, in threads, without the
interpreter's lock. `image_numpy` is the reference that it is tested against; `kernels/warp.cu` is the same on a GPU.
"""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.codes import BORDERS, EPSILON, PER_SAMPLE
from gpuload.core.memory import empty
from gpuload.decode.pillow import recut
from gpuload.images.augment import Augment
from gpuload.images.compiled import Constants, Drawn, kernel
from gpuload.images.step import Step


class NumbaAugmenter:
    """Augments batches in threads of its own."""

    def __init__(self, transform: Augment, shape: tuple[int, int, int], threads: int, *, recuts: bool = False):
        """
        Args:
            shape: [H, W, C] of what is delivered of an image.
            recuts: Whether what comes is larger, or smaller, and the transform's crop is to be cut out of it.
        """
        self._transform = transform
        self._recuts = recuts
        height, width, channels = shape
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gpuload-augment")
        self._counting = threading.Lock()
        self.seconds = 0.0
        """That threads have spent so far."""
        self.samples = 0
        self._channels_first = transform.layout == "CHW"
        self._shape = (channels, height, width) if self._channels_first else shape
        # bfloat16 is for delivery to make: NumPy has none.
        self._dtype = np.dtype({"float16": "float16", "uint8": "uint8"}.get(transform.dtype, "float32"))
        self._constants = Constants(
            fill_mode=BORDERS[transform.fill_mode],
            order=transform.warp_order if transform.warps else 1,
            fill_value=np.float32(transform.fill_value),
            rescale=np.float32(transform.rescale or 1.0),
            per_sample=PER_SAMPLE[transform.per_sample],
            epsilon=np.float32(EPSILON),
            mean=_of_channels(transform.mean, channels),
            std=_of_channels(transform.std, channels),
            whole=transform.dtype == "uint8",
            planes=tuple(range(channels)) if channels in (1, 3) else (),
        )

    def start(self, store: Any, fresh: Any, rows: NDArray[np.int64], step: Step) -> Augmenting:
        """Begin with a batch.

        Args:
            store: [K, H, W, C] uint8 or float32, in one piece; None: all images are fresh.
            fresh: [M, H, W, C] of the same dtype; None: all are in the store. Both must stay as they are meanwhile.
            rows: [B] of each image its number in `store`, or ~ its number in `fresh`.
            step: What was drawn, [B] each.
        """
        threads = self._threads
        if fresh is not None:
            # The decoder's threads are at work on the batches that follow: more would only take turns with them.
            threads = max(1, threads // 2)
        out = empty((len(rows), *self._shape), self._dtype)
        seen = out.transpose(0, 2, 3, 1) if self._channels_first else out
        store, fresh = (fresh[:0] if store is None else store), (store[:0] if fresh is None else fresh)
        # An array that may be written to is to numba of another type, for which it would compile anew.
        store, fresh = _read_only(store), _read_only(fresh)
        matrices = np.empty((0, 2, 3)) if step.matrices is None else np.ascontiguousarray(step.matrices, np.float64)
        drawn = Drawn(matrices, _floats(step.channel_shift), _floats(step.brightness))
        crops = np.empty((len(rows), 0)) if step.crops is None else step.crops
        bounds = np.linspace(0, len(rows), min(threads, len(rows)) + 1).astype(int)
        parts = [
            self._pool.submit(self._part, store, fresh, rows[a:b], drawn.part(a, b), crops[a:b], seen[a:b])
            for a, b in itertools.pairwise(bounds)
        ]
        return Augmenting(parts, out)

    def _part(
        self, store: Any, fresh: Any, rows: NDArray[np.int64], drawn: Drawn, crops: NDArray[Any], out: NDArray[Any]
    ) -> None:
        start = time.perf_counter()
        if self._recuts:
            found = [store[row] if row >= 0 else fresh[~row] for row in rows.tolist()]
            cut = [recut(image, self._transform, draws) for image, draws in zip(found, crops, strict=True)]
            fresh, rows = _read_only(np.stack(cut)), ~np.arange(len(rows))
            store = fresh[:0]
        # The compiled code writes float32 alone; NumPy casts that as it casts elsewhere.
        written = out if out.dtype == np.float32 else np.empty(out.shape, np.float32)
        kernel(store, fresh, rows, drawn, self._constants, written)
        if written is not out:
            np.copyto(out, written, casting="unsafe")
        with self._counting:
            self.seconds += time.perf_counter() - start
            self.samples += len(rows)

    def close(self) -> None:
        """Free the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Augmenting:
    """A batch under way."""

    def __init__(self, parts: list[Future[None]], out: NDArray[Any]):
        self._parts = parts
        self._out = out

    def result(self) -> NDArray[Any]:
        """The batch, when it is done: [B, H, W, C] or [B, C, H, W]."""
        for part in self._parts:
            part.result()
        return self._out

    def wait(self) -> None:
        """Return when nothing is read any more of what it was begun with."""
        for part in self._parts:
            part.cancel()
        wait(self._parts)


def _of_channels(value: Any, channels: int) -> NDArray[np.float32]:
    """[C], or [0] for none."""
    if value is None:
        return np.empty(0, np.float32)
    found: NDArray[np.float32] = np.broadcast_to(np.asarray(value, np.float32).ravel(), (channels,)).copy()
    return found


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view: NDArray[Any] = array.view()
    view.flags.writeable = False
    return view


def _floats(array: Any) -> NDArray[np.float32]:
    return np.empty(0, np.float32) if array is None else np.ascontiguousarray(array, np.float32)
