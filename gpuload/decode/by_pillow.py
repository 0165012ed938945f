"""Images that Pillow decodes, one by one, in threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gpuload.decode import pillow
from gpuload.decode.levels import levels_of
from gpuload.decode.reasons import reason
from gpuload.decode.spec import Decoding
from gpuload.decode.work import Work
from gpuload.reading.files import Bytes


class Undecodable(Exception):
    """An image cannot be decoded. The message is the reason for `BadSample`."""


class ByPillow:
    """Decodes images in the threads of a pool; Pillow releases the interpreter's lock."""

    def __init__(self, decoding: Decoding, max_pixels: int | None, pool: Executor, *, compiled: bool):
        """Take the pool, and whether compiled code resizes, with the same result as Pillow's."""
        self._decoding, self._max_pixels, self._pool, self._compiled = decoding, max_pixels, pool, compiled
        self._counting = threading.Lock()
        self.seconds = 0.0
        """Seconds that threads have spent."""

    def submit(self, work: Work, row: int, data: Bytes) -> None:
        """Begin to decode an image of a step."""
        work.by_pillow[row] = self._pool.submit(self._levels, data, work.drawn(row))

    def gathered(self, work: Work) -> list[NDArray[Any]]:
        """Return the levels in the order of `work.by_pillow`. The reasons of bad images go to `work.bad`."""
        levels = []
        for row, image in work.by_pillow.items():
            try:
                levels.append(image.result())
            except Undecodable as error:
                work.bad[row] = str(error)
        return levels

    def _levels(self, data: Bytes, drawn: NDArray[np.float64] | None) -> NDArray[Any]:
        start = time.perf_counter()
        try:
            image, box = self._picture(data, drawn)
            if self._compiled and image.mode in ("RGB", "L"):
                return levels_of(image, self._decoding, box)
            return pillow.cut_and_resized(image, self._decoding, box)
        finally:
            with self._counting:
                self.seconds += time.perf_counter() - start

    def _picture(
        self, data: Bytes, drawn: NDArray[np.float64] | None
    ) -> tuple[Image.Image, NDArray[np.float64] | None]:
        try:
            return pillow.picture(data, self._decoding, drawn, self._max_pixels)
        except MemoryError:  # The machine is to blame, not the file.
            raise
        except Exception as error:  # Pillow's plugins raise far more than OSError for a broken file.
            raise Undecodable(reason(data, error)) from error
