"""What an epoch looks like in a terminal: a bar while it lasts, a line when it is over."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from gpuload.run.meter import Meter

RECENT = 100
"""Steps of which a bar tells. The first ones of a training are often slow, and would spoil the figures for long."""


def check(progress: object) -> None:
    """Raise ValueError for what `progress=` does not know, ImportError where it needs what is not installed."""
    if not (isinstance(progress, bool) or progress == "summary"):
        raise ValueError(f"progress must be True, False or 'summary', not {progress!r}")
    if progress is True:
        try:
            import rich.live  # noqa: F401
        except ImportError as error:  # Of a rich that is there and broken, the cause tells.
            raise ImportError(
                "progress=True needs rich, which is not installed: pip install 'gpuload[progress]'"
            ) from error


class Progress:
    """Shows one epoch on stderr: with `bar` a bar, in a terminal that shows no other; in any case a line at the end."""

    def __init__(self, epoch: int, total: int, meter: Meter, errors: Callable[[], int], *, bar: bool):
        """
        Args:
            epoch: Its number.
            total: Batches that it has, or still has.
            meter: What counts them; its `begin` is called here.
            errors: Tells how many bad samples there are.
        """
        self._epoch = _Epoch(epoch, total, meter, errors)
        # Of an epoch that is left in the middle nobody keeps this object, not even the bar's thread: with it go the bar
        # and the thread, at the end of the program at the latest, and the terminal is as it was.
        self._stop = weakref.finalize(self, _show(self._epoch) if bar else _nothing)

    def advance(self, batches: int) -> None:
        """So many more batches were delivered. The bar's thread looks, four times a second."""
        self._epoch.done += batches

    def stop(self) -> None:
        """The epoch will not be over: take the bar away."""
        self._stop()

    def close(self) -> None:
        """The epoch is over: take the bar away, and print its line, once."""
        if self._stop.alive:
            self._stop()
            print(self._epoch.line(), file=sys.stderr, flush=True)


class _Epoch:
    """What there is to be told of an epoch."""

    def __init__(self, epoch: int, total: int, meter: Meter, errors: Callable[[], int]):
        self.epoch, self.total, self.done = epoch, total, 0
        self._meter, self._errors = meter, errors
        self._start, self._errors_before = meter.begin(), errors()

    def _bad(self) -> list[str]:
        """Those that were found in this epoch."""
        errors = self._errors() - self._errors_before
        return [_counted(errors, "bad sample", "bad samples")] if errors else []

    def line(self) -> str:
        """The epoch in a line."""
        stats = self._meter.since(self._start).stats()
        batches = _counted(stats["batches"], "batch", "batches")
        took = f"{stats['seconds']:.1f} s" if stats["seconds"] < 100 else _clock(stats["seconds"])
        parts = [
            f"{batches}, {stats['samples']:,} samples in {took} ({_rate(stats['samples_per_second'])})",
            f"waited {stats['wait_share']:.0%} of the time",
            *self._bad(),
        ]
        return f"epoch {self.epoch}: {', '.join(parts)}"

    def row(self) -> Any:
        """The epoch as a bar of rich's."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        cells = [f"{self.done:,}/{self.total:,}"]
        if steps := self._meter.since(self._start).steps:
            stats = self._meter.stats(min(steps, RECENT))
            cells += [_rate(stats["samples_per_second"]), f"waiting {stats['wait_share']:.0%}", *self._bad()]
            if stats["batches_per_second"]:
                cells.append(f"{_clock((self.total - self.done) / stats['batches_per_second'])} left")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(max_width=40)
        for _ in cells:
            table.add_column(no_wrap=True)
        table.add_row(f"epoch {self.epoch}", ProgressBar(total=max(1, self.total), completed=self.done), *cells)
        return table


def _nothing() -> None:
    """There is no bar to be taken away."""


def _show(epoch: _Epoch) -> Callable[[], None]:
    """Show a bar, where it can be. Returns what takes it away."""
    from rich.console import Console
    from rich.file_proxy import FileProxy
    from rich.live import Live

    console = Console(stderr=True)
    # While rich shows something it stands in for these streams. Two bars would write over each other.
    busy = isinstance(sys.stdout, FileProxy) or isinstance(sys.stderr, FileProxy)
    # Rich would write bars to a file too, if FORCE_COLOR is set, as it often is where tests run.
    if busy or not (console.is_jupyter or (console.is_interactive and _is_terminal(sys.stderr))):
        return _nothing
    # Rich takes what the program prints and writes it above the bar, to stderr: a stdout that is a file is left alone.
    live = Live(console=console, transient=True, redirect_stdout=_is_terminal(sys.stdout), get_renderable=epoch.row)
    live.start(refresh=True)
    process = os.getpid()

    def stop() -> None:
        if process == os.getpid():  # A fork has the terminal, but neither the bar nor its thread.
            live.stop()

    return stop


def _is_terminal(stream: Any) -> bool:
    """Whether a stream of the program, which may be None or anything that writes, is one."""
    return bool(hasattr(stream, "isatty") and stream.isatty())


def _counted(number: float, one: str, several: str) -> str:
    """
    >>> _counted(1, "batch", "batches"), _counted(2000, "batch", "batches")
    ('1 batch', '2,000 batches')
    """
    return f"{number:,} {one if number == 1 else several}"


def _rate(rate: float) -> str:
    """
    >>> _rate(1234.5), _rate(2.345), _rate(0.0)
    ('1,234/s', '2.3/s', '0/s')
    """
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def _clock(seconds: float) -> str:
    """
    >>> _clock(3723.4)
    '1:02:03'
    """
    return str(timedelta(seconds=round(seconds)))
