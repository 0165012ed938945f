"""The pool for windows of a series."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from gpuload import delivery
from gpuload.core.available import available_cpus
from gpuload.core.device import CPU, Device
from gpuload.delivery import Framework
from gpuload.plan.order import Order
from gpuload.run.engine import Engine
from gpuload.run.pool import EnginePool
from gpuload.sources import Series
from gpuload.windows.choose import choose_for_windows
from gpuload.windows.index import Windows
from gpuload.windows.job import Cut, WindowJob, complete
from gpuload.windows.step import WindowStep
from gpuload.windows.window import Window

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger("gpuload")

PIECE_BYTES = 2**21
"""Bytes of a step, about. Small batches are cut together, since a call costs time; each keeps the memory of all."""


class WindowPool(EnginePool):
    """Engines for windows. A step of small windows holds several batches."""

    def __init__(
        self,
        job: WindowJob,
        framework: Framework,
        *,
        device: Device,
        engine: str,
        batch_size: int,
        residency: str = "auto",
        prefetch: int = 2,
        threads: int | None = None,
        windows: Windows | None = None,
        shuffled: bool = False,
    ):
        """
        Args:
            device, engine: As `choose_for_windows` returned them.
            residency: Where a GPU's engine keeps the series: "auto", "device" or "host".
            windows: The windows of the job, if they are known already.
            shuffled: Whether windows are asked for in another order than that of their rows.
        """
        super().__init__(device=device, framework=framework, batch_size=batch_size, prefetch=prefetch, threads=threads)
        self.engine, self.residency = engine, residency
        self.source, self.transform, self.job = job.series, job.window, job
        self.windows = windows_of(job) if windows is None else windows
        if shuffled and self.source.mapped and (device == CPU or residency == "host"):
            self.job = WindowJob(self.source.for_random_reads(), self.transform)
        # On a GPU the engine makes the framework's own arrays, if the framework has an allocator.
        self._converts = device == CPU or framework.allocator is None
        self._check_dtypes()
        # A batch in LBC is not contiguous inside a larger one.
        several = PIECE_BYTES // max(1, job.bytes_of_window * self.batch_size)
        self.together = 1 if job.window.layout == "LBC" else max(1, several)
        """Number of batches in a step."""

    @classmethod
    def of(
        cls,
        series: Series,
        window: Window,
        *,
        device: Any = "auto",
        engine: str = "auto",
        framework: Callable[[Device], Framework],
        residency: str = "auto",
        **options: Any,
    ) -> Self:
        """Return a pool with the device and engine of these names, as of `gpuload.Loader`.

        `framework` takes the chosen device and returns the framework; `options` are further arguments of the pool.
        """
        job = WindowJob(series, window)
        place, engine = choose_for_windows(series, device, engine, residency)
        return cls(job, framework(place), device=place, engine=engine, residency=residency, **options)

    def __len__(self) -> int:
        return len(self.windows)

    def _check_dtypes(self) -> None:
        """Raise ValueError if the framework has no arrays of some dtype."""
        check = self.framework.check_dtype
        check("values", self.job.out_dtype, "pass Window(dtype='float32')")
        if self.job.target_source == "targets":
            instead = "targets.astype('float32'), or 'int32'"
            if self.job.targets.dtype.kind not in "biufc":
                instead = "number them with np.unique(targets, return_inverse=True)[1]"
            check("targets", self.job.target_dtype, instead)
        if self.job.wants("start") and len(self.source.values) >= 2**31:
            check("starts of windows", "int64", "leave the extra 'start' out")

    def open_engine(self) -> Engine:
        threads = self.threads or available_cpus()
        if self.device == CPU:
            from gpuload.windows.reference import WindowNumpyEngine

            return WindowNumpyEngine(self.job, threads=threads)
        from gpuload.windows.device import WindowCupyEngine

        allocator = self.framework.allocator or delivery.CUPY_ALLOCATOR
        return WindowCupyEngine(
            self.job, device=self.device, allocator=allocator, residency=self.residency, threads=threads
        )

    def delivered(self, cut: Cut, batch_size: int | None = None) -> list[Any]:
        """Return the batches of a cut, of `batch_size` windows or the pool's number.

        A batch is inputs, or a tuple of inputs, targets and a dict of extras, as far as they exist.
        """
        size = batch_size or self.batch_size
        parts = [self._pieces(cut.inputs, size, self.job.out_dtype)]
        if cut.targets is not None:
            of_values = self.job.target_source == "values"
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
        """Yield the steps; small batches are several in a step."""
        together = self.together if numbers is None else 1
        for first, indices in order.batches(epoch, start, together, numbers):
            yield self.windows.step(indices, seed=seed, epoch=epoch, first=first)

    def batches(self, step: WindowStep, made: Cut) -> list[Any]:
        return self.delivered(made)


def windows_of(job: WindowJob) -> Windows:
    """Return the windows of a job. Warn if some series are too short for a window."""
    series, window = job.series, job.window
    windows = Windows(window, series.segments, bounds=series.bounds, has_targets=job.has_targets)
    if windows.too_short:
        found = windows.too_short, len(series.segments), windows.extent
        log.warning(
            "%d of %d series or segments are shorter than the %d rows that a window takes, and have no window", *found
        )
    if window.missing == "omit":
        windows.keep(complete(job, windows))
    return windows
