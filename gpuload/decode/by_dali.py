"""Images that DALI decodes, a step at a time. On the CPU compiled code resizes them."""

from __future__ import annotations

import contextlib
import itertools
import threading
from concurrent.futures import Executor, wait
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.device import Device
from gpuload.decode.choice import Jpeg, dali_takes
from gpuload.decode.levels import put_levels
from gpuload.decode.pillow import placed
from gpuload.decode.spec import Decoding
from gpuload.decode.work import Run, Work

if TYPE_CHECKING:
    from gpuload.decode.dali import DaliRuns

DECODED_AT_ONCE = 2**28
"""Bytes of pictures that DALI decodes or holds on the CPU from which on the next step waits until they are resized."""


class ByDali:
    """Decodes the plain JPEGs of steps. DALI is imported with the first of them.

    Args:
        decoding: The levels wanted.
        device: Where DALI decodes.
        batch_size: Greatest number of images in a step.
        threads: Number of DALI's threads, and of parts in which a step is resized.
        resizes: Whether DALI resizes too, as on a GPU.
        pool: Threads that resize.
    """

    def __init__(
        self, decoding: Decoding, device: Device, *, batch_size: int, threads: int, resizes: bool, pool: Executor
    ):
        self._decoding, self._device, self.resizes = decoding, device, resizes
        self._batch_size, self._threads, self._pool = batch_size, threads, pool
        self._held, self._freed = 0, threading.Condition()
        self._runs: DaliRuns | None = None
        self._single: DaliRuns | None = None

    def feed(self, work: Work, files: list[Any], jpegs: dict[int, Jpeg]) -> list[int]:
        """Begin to decode images of a step; return the rows of those that DALI does not take.

        Args:
            work: The step.
            files: Bytes by row.
            jpegs: Sizes of the plain JPEGs by row.
        """
        from gpuload.decode.dali import DaliRuns, regions_of

        decoding, rows = self._decoding, np.fromiter(jpegs, np.int64, len(jpegs))
        sizes = np.array(list(jpegs.values()), np.int64).reshape(-1, 2)
        boxes = None
        if decoding.crop is not None and len(rows):
            drawn = None if work.step.crops is None else work.step.crops[rows]
            boxes = decoding.crop.boxes(sizes[:, 0], sizes[:, 1], decoding.size, drawn)
        left = rows[:0]
        if decoding.decode == "scaled":
            each = zip(jpegs.values(), [None] * len(rows) if boxes is None else boxes, strict=True)
            takes = np.fromiter((dali_takes(jpeg, decoding, box) for jpeg, box in each), bool, len(rows))
            left, rows, sizes, boxes = rows[~takes], rows[takes], sizes[takes], None if boxes is None else boxes[takes]
        if len(rows):
            if self._runs is None:
                options: dict[str, Any] = {"batch_size": self._batch_size, "threads": self._threads}
                self._runs = DaliRuns(decoding, self._device, resizes=self.resizes, **options)
            regions = regions_of(decoding, self._device, sizes, boxes, self.resizes)
            run = Run(rows, [files[row] for row in rows.tolist()], sizes, boxes, regions)
            self._await_room(run)
            work.run = run
            run.number = self._runs.feed(run.files, sizes, boxes, regions)
        return [int(row) for row in left]

    def taken(self, run: Run, stream: int | None) -> Any:
        """Return a run's pictures or levels, see `DaliRuns.take`."""
        assert self._runs is not None
        return self._runs.take(run.number, stream)

    def alone(self, run: Run, number: int) -> NDArray[Any] | None:
        """Return the levels [H, W, C] of one image of a run, decoded by itself, or None if DALI refuses it."""
        from gpuload.decode.dali import DaliRuns

        one = run.one(number)
        try:
            if self._single is None:
                self._single = DaliRuns(self._decoding, self._device, resizes=self.resizes, batch_size=1, threads=1)
            found = self._single.take(self._single.feed(one.files, one.sizes, one.boxes, one.regions))
        except RuntimeError:
            return None
        made: NDArray[Any] = np.empty(self._decoding.shape, self._decoding.dtype)
        if self.resizes:
            made[...] = np.asarray((found.as_cpu() if hasattr(found, "as_cpu") else found)[0])
        else:
            self._put(one, found, range(1), made[np.newaxis])
        return made

    def drop(self, run: Run) -> None:
        """Wait for a run that nobody wants: DALI frees only what is taken."""
        with contextlib.suppress(RuntimeError):
            self.taken(run, None)

    def free(self, run: Run) -> None:
        """Count the pictures of a run no longer as held."""
        if not self.resizes:
            with self._freed:
                self._held -= 3 * run.pixels
                self._freed.notify()

    def put(self, run: Run, pictures: Any, made: NDArray[Any]) -> None:
        """Resize a run's pictures into their rows of the batch `made` [B, H, W, C]."""
        count = len(run.rows)
        bounds = np.linspace(0, count, min(self._threads, count) + 1).astype(int).tolist()
        some = itertools.starmap(range, itertools.pairwise(bounds))
        parts = [self._pool.submit(self._put, run, pictures, part, made) for part in some]
        wait(parts)
        for part in parts:
            part.result()

    def close(self) -> None:
        """Free threads and memory. No other thread may be at work."""
        for runs in (self._runs, self._single):
            if runs is not None:
                runs.close()

    def abandon(self) -> None:
        """Leave the pipeline behind, in a fork."""
        for runs in (self._runs, self._single):
            if runs is not None:
                runs.abandon()

    def is_in_trouble(self, run: Run) -> bool:
        """Whether DALI fails at a picture that is certainly fine, as large as the largest of a run."""
        from gpuload.decode.dali import decodes_a_sound_picture

        return not decodes_a_sound_picture(self._device, int(run.sizes.prod(axis=1).max()))

    def _put(self, run: Run, pictures: Any, some: range, made: NDArray[Any]) -> None:
        for number in some:
            box = None if run.boxes is None else run.boxes[number]
            region = None if run.regions is None else run.regions[number]
            place, part = placed(run.sizes[number], box, region, self._decoding)
            put_levels(np.asarray(pictures[number]), self._decoding, place, part, made[run.rows[number]])

    def _await_room(self, run: Run) -> None:
        """On the CPU, wait until there is room for the pictures of a run, or no others are held."""
        if self.resizes:
            return
        size = 3 * run.pixels
        with self._freed:
            self._freed.wait_for(lambda: not self._held or self._held + size <= DECODED_AT_ONCE)
            self._held += size
