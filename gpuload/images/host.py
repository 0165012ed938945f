"""The augmenter on the CPU: one compiled pass over an image, in threads, without the interpreter's lock.

Warp, colours, statistics and layout are computed with SciPy's positions and borders. `reference` is tested against it;
`kernels/warp.cu` does the same on a GPU.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.codes import BORDERS, EPSILON, PER_SAMPLE
from gpuload.decode.pillow import recut
from gpuload.decode.resize import CODES
from gpuload.decode.spec import Indices
from gpuload.images.compiled import Constants, Drawn, crops_kernel, kernel
from gpuload.images.engine import Augmenter, Augmenting
from gpuload.images.job import ImageJob
from gpuload.images.step import Step


class NumbaAugmenter(Augmenter):
    """Augments batches with compiled code. Each thread makes a part of a batch."""

    def __init__(self, job: ImageJob, threads: int):
        super().__init__(job, threads)
        transform, channels = job.transform, job.shape[2]
        self._threads = threads
        self._constants = Constants(
            fill_mode=BORDERS[transform.fill_mode],
            order=transform.warp_order if transform.warps else 1,
            fill_value=np.float32(transform.fill_value),
            rescale=np.float32(transform.rescale or 1.0),
            per_sample=PER_SAMPLE[transform.per_sample],
            epsilon=np.float32(EPSILON),
            mean=_of_row(transform.mean, channels, job.shape[1]),
            std=_of_row(transform.std, channels, job.shape[1]),
            whole=transform.dtype == "uint8",
            planes=tuple(range(channels)) if channels in (1, 3) else (),
            planar=job.planar,
        )

    def start(self, store: Any, fresh: Any, rows: Indices, step: Step) -> Augmenting:
        threads = self._threads
        if fresh is not None:
            # The decoder's threads work on the batches that follow: more threads would only take turns with them.
            threads = max(1, threads // 2)
        store, fresh, rows = _readable(store, fresh, rows)
        out = self._empty(len(rows))
        matrices = np.empty((0, 2, 3)) if step.matrices is None else np.ascontiguousarray(step.matrices, np.float64)
        drawn = Drawn(matrices, _floats(step.channel_shift), _floats(step.brightness))
        crops = np.empty((len(rows), 0)) if step.crops is None else step.crops
        bounds = np.linspace(0, len(rows), min(threads, len(rows)) + 1).astype(int)
        parts = [
            self._pool.submit(self._part, store, fresh, rows[part], drawn.part(part), crops[part], out[part])
            for part in map(slice, bounds, bounds[1:])
        ]
        return Augmenting(parts, out)

    def _part(
        self, store: Any, fresh: Any, rows: Indices, drawn: Drawn, crops: NDArray[Any], out: NDArray[Any]
    ) -> None:
        start = time.perf_counter()
        # The compiled code writes float32 only; NumPy casts it to other dtypes.
        written = out if out.dtype == np.float32 else np.empty(out.shape, np.float32)
        if self._job.recuts and store.dtype == np.uint8 and self._constants.planes:
            decoding, sides = self._job.transform.decoding, store.shape[1:3]
            heights, widths = (np.full(len(rows), side) for side in sides)
            assert decoding.crop is not None
            boxes = decoding.crop.boxes(heights, widths, decoding.size, crops).astype(np.int64)
            code = CODES[decoding.interpolation]
            crops_kernel(store, fresh, rows, boxes, decoding.size, code, drawn, self._constants, written)
        else:
            if self._job.recuts:  # Pillow weighs colours by alpha, and has greys of more than 8 bits.
                store, fresh, rows = self._recut(store, fresh, rows, crops)
            kernel(store, fresh, rows, drawn, self._constants, written)
        if written is not out:
            np.copyto(out, written, casting="unsafe")
        self._count(start, len(rows))

    def _recut(self, store: Any, fresh: Any, rows: Indices, crops: NDArray[Any]) -> tuple[Any, Any, Indices]:
        """Have Pillow cut the crops out of the images."""
        decoding = self._job.transform.decoding
        found = [store[row] if row >= 0 else fresh[~row] for row in rows.tolist()]
        cut = _read_only(np.stack([recut(image, decoding, drawn) for image, drawn in zip(found, crops, strict=True)]))
        return cut[:0], cut, ~np.arange(len(rows))


def _readable(store: Any, fresh: Any, rows: Indices) -> tuple[Any, Any, Indices]:
    """Return store and fresh as compiled code reads them: uint8 or float32, contiguous, both of one dtype."""
    arrays = [array for array in (store, fresh) if array is not None]
    fine = all(a.dtype in (np.uint8, np.float32) and a.dtype.isnative and a.flags.c_contiguous for a in arrays)
    if not fine or len({array.dtype for array in arrays}) > 1:
        dtype = np.uint8 if all(array.dtype == np.uint8 for array in arrays) else np.float32
        if fresh is None:
            fresh = np.ascontiguousarray(store[rows], dtype)
        else:
            fresh = np.stack([store[row] if row >= 0 else fresh[~row] for row in rows.tolist()], dtype=dtype)
        store, rows = None, ~np.arange(len(rows))
    store, fresh = (fresh[:0] if store is None else store), (store[:0] if fresh is None else fresh)
    # To numba a writeable array has another type, for which it would compile anew.
    return _read_only(store), _read_only(fresh), rows


def _of_row(value: Any, channels: int, width: int) -> NDArray[np.float32]:
    """Return a number for each channel of each pixel of a row, [W * C], or [0] for None."""
    if value is None:
        return np.empty(0, np.float32)
    return np.tile(np.resize(np.asarray(value, np.float32), channels), width)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view: NDArray[Any] = array.view()
    view.flags.writeable = False
    return view


def _floats(array: Any) -> NDArray[np.float32]:
    return np.empty(0, np.float32) if array is None else np.ascontiguousarray(array, np.float32)
