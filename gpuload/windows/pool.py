"""The pool for windows: a series, a window, CuPy or NumPy."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from gpuload.core.available import available_cpus
from gpuload.core.device import CPU
from gpuload.delivery import CUPY_ALLOCATOR
from gpuload.delivery import choose as choose_framework
from gpuload.plan.order import Order
from gpuload.run.engine import Engine
from gpuload.run.pool import EnginePool
from gpuload.sources import Series
from gpuload.windows.choose import choose_for_windows
from gpuload.windows.index import Windows
from gpuload.windows.job import Cut, WindowJob, complete
from gpuload.windows.step import WindowStep
from gpuload.windows.window import Window

log = logging.getLogger("gpuload")

PIECE_BYTES = 2**21
"""Small batches are cut several at once, for what a call costs. A batch that is held keeps the piece that it is of."""


class WindowPool(EnginePool):
    """Engines for windows; delivers a step as a list of batches."""

    def __init__(
        self,
        series: Series,
        window: Window,
        *,
        batch_size: int,
        device: str = "auto",
        engine: str = "auto",
        framework: str | None = None,
        residency: str = "auto",
        prefetch: int = 2,
        threads: int | None = None,
        windows: Windows | None = None,
        shuffled: bool = False,
    ):
        """
        Args:
            windows: Those of the series, where they are known already.
            shuffled: Whether windows will be asked for in another order than that of their rows.
        """
        super().__init__(batch_size=batch_size, prefetch=prefetch, threads=threads)
        self.source, self.transform = series, window
        self.job = WindowJob(series, window)
        self.windows = windows_of(self.job) if windows is None else windows
        self.device, self.engine = choose_for_windows(series, device, engine, residency)
        if shuffled and series.mapped and (self.device == CPU or residency == "host"):
            self.job = WindowJob(series.for_random_reads(), window)
        self.framework = choose_framework(framework, self.device)
        # On a GPU the engine makes the framework's own arrays, where it has an allocator for them.
        self._converts = self.device == CPU or self.framework.allocator is None
        self.residency = residency
        self._check_dtypes()
        # A batch in LBC is not one piece of memory inside a larger one.
        several = PIECE_BYTES // max(1, self.job.bytes_of_window * self.batch_size)
        self.together = 1 if window.layout == "LBC" else max(1, several)
        """Batches in a step."""

    def __len__(self) -> int:
        return len(self.windows)

    def _check_dtypes(self) -> None:
        """Raise ValueError for what the framework has no arrays of."""
        check, targets = self.framework.check_dtype, self.source.targets
        check("values", self.job.out_dtype, "pass Window(dtype='float32')")
        if targets is not None and self.job.target_channels is None:
            numbers = targets.dtype.kind in "biufc"
            instead = (
                "targets.astype('float32'), or 'int32'"
                if numbers
                else "number them with np.unique(targets, return_inverse=True)[1]"
            )
            check("targets", targets.dtype.name, instead)
        if self.job.wants("start") and len(self.source.values) >= 2**31:
            check("starts of windows", "int64", "leave the extra 'start' out")

    def open_engine(self) -> Engine:
        threads = self.threads or available_cpus()
        if self.device == CPU:
            from gpuload.windows.reference import WindowNumpyEngine

            return WindowNumpyEngine(self.job, threads=threads)
        from gpuload.windows.device import WindowCupyEngine

        return WindowCupyEngine(
            self.job,
            device=self.device,
            allocator=self.framework.allocator or CUPY_ALLOCATOR,
            residency=self.residency,
            threads=threads,
        )

    def delivered(self, cut: Cut, batch_size: int | None = None) -> list[Any]:
        """The batches of a cut: inputs; or a tuple of inputs, targets and extras, as far as there are any.

        `batch_size`: where it is another than the pool's.
        """
        size = batch_size or self.batch_size
        parts = [self._pieces(cut.inputs, size, self.job.out_dtype)]
        if cut.targets is not None:
            of_values = self.job.target_channels is not None
            parts.append(self._pieces(cut.targets, size, self.job.out_dtype if of_values else None))
        if names := self.job.window.extras:
            columns = zip(*(self._pieces(getattr(cut, name), size) for name in names), strict=True)
            parts.append([dict(zip(names, column, strict=True)) for column in columns])
        return list(zip(*parts, strict=True)) if len(parts) > 1 else list(parts[0])

    def _pieces(self, array: Any, size: int, dtype: str | None = None) -> Any:
        def convert(part: Any) -> Any:
            return self.framework.convert(part, self.device, dtype) if self._converts else part

        return (convert(array),) if self.together == 1 else self.framework.parts(array, size, convert)

    def plan(
        self, order: Order, seed: int, epoch: int, start: int = 0, numbers: Iterable[int] | None = None
    ) -> Iterator[WindowStep]:
        """As of every pool; several batches a step where they are small."""
        together = self.together if numbers is None else 1
        for first, indices in order.batches(epoch, start, together, numbers):
            yield self.windows.step(indices, seed=seed, epoch=epoch, first=first)

    def batches(self, step: WindowStep, made: Cut) -> list[Any]:
        """The batches of a step."""
        return self.delivered(made)


def windows_of(job: WindowJob) -> Windows:
    """The windows of a job; says once where a series is too short to have any."""
    series, window = job.series, job.window
    windows = Windows(window, series.segments, bounds=series.bounds, has_targets=job.has_targets)
    if windows.too_short:
        log.warning(
            "%d of %d series or stretches are shorter than the %d rows that a window takes, and have none",
            windows.too_short,
            len(series.segments),
            windows.extent,
        )
    if window.missing == "omit":
        windows.keep(complete(job, windows))
    return windows
