"""Progress of an epoch in a terminal: a bar while it lasts, a line at its end."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from gpuload.run.meter import Meter

RECENT = 100
"""Number of steps that a bar's figures cover: the first steps of training are often slow."""


def check(progress: object) -> None:
    """Raise ValueError for a value that `progress=` does not have, ImportError if rich is missing."""
    if not (isinstance(progress, bool) or progress == "summary"):
        raise ValueError(f"progress must be True, False or 'summary', not {progress!r}")
    if progress is True:
        try:
            import rich.live  # noqa: F401
        except ImportError as error:  # The cause shows whether rich is missing or broken.
            message = "progress=True needs rich, which is not installed: pip install 'gpuload[progress]'"
            raise ImportError(message) from error


class Progress:
    """Shows one epoch on stderr: a line at its end, and with `bar` a bar, in a terminal that shows no other bar."""

    def __init__(self, epoch: int, total: int, meter: Meter, errors: Callable[[], int], *, bar: bool):
        """Begin an epoch of `total` batches, which `meter` counts. `errors` returns the number of bad samples."""
        self._epoch = _Epoch(epoch, total, meter, errors)
        # Nothing keeps this object of an epoch that is left early, not even the bar's thread. The bar and the thread
        # end with it, and the terminal is as it was.
        self._stop = weakref.finalize(self, _show(self._epoch) if bar else lambda: None)

    def advance(self, batches: int) -> None:
        """Note that batches were delivered. The bar's thread looks four times a second."""
        self._epoch.done += batches

    def stop(self) -> None:
        """Take the bar away; the epoch will not end."""
        self._stop()

    def close(self) -> None:
        """Take the bar away, and print the line of the finished epoch, once."""
        if self._stop.alive:
            self._stop()
            print(self._epoch.line(), file=sys.stderr, flush=True)


class _Epoch:
    """The figures of an epoch, as text and as a bar."""

    def __init__(self, epoch: int, total: int, meter: Meter, errors: Callable[[], int]):
        self.epoch, self.total, self.done = epoch, total, 0
        self._meter, self._errors = meter, errors
        self._start, self._errors_before = meter.begin(), errors()

    def _bad(self) -> list[str]:
        """Return the number of bad samples found in this epoch, in words."""
        errors = self._errors() - self._errors_before
        return [_counted(errors, "bad sample")] if errors else []

    def line(self) -> str:
        """Return the epoch in a line."""
        stats = self._meter.since(self._start).stats()
        took = f"{stats['seconds']:.1f} s" if stats["seconds"] < 100 else _clock(stats["seconds"])
        made = f"{_counted(stats['batches'], 'batch', 'es')}, {stats['samples']:,} samples in {took}"
        waited = f"waited {stats['wait_share']:.0%} of the time"
        return ", ".join([f"epoch {self.epoch}: {made} ({_rate(stats['samples_per_second'])})", waited, *self._bad()])

    def row(self) -> Any:
        """Return the epoch as a row of rich, with a bar."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        cells = [f"{self.done:,}/{self.total:,}"]
        if steps := self._meter.since(self._start).steps:
            stats = self._meter.stats(min(steps, RECENT))
            cells += [_rate(stats["samples_per_second"]), f"waiting {stats['wait_share']:.0%}", *self._bad()]
            if stats["batches_per_second"]:
                cells.append(f"{_clock((self.total - self.done) / stats['batches_per_second'])} left")
        table = Table.grid(padding=(0, 2, 0, 0))
        for number in range(len(cells) + 2):
            table.add_column(no_wrap=number != 1, max_width=40 if number == 1 else None)
        table.add_row(f"epoch {self.epoch}", ProgressBar(total=max(1, self.total), completed=self.done), *cells)
        return table


def _show(epoch: _Epoch) -> Callable[[], None]:
    """Show a bar if the terminal allows it. Return a function that takes it away."""
    from rich.console import Console
    from rich.file_proxy import FileProxy
    from rich.live import Live

    console = Console(stderr=True)
    # While rich shows something, it replaces these streams. Two bars would write over each other.
    busy = isinstance(sys.stdout, FileProxy) or isinstance(sys.stderr, FileProxy)
    # Under FORCE_COLOR, which is often set for tests, rich would write bars to a file too.
    if busy or not (console.is_jupyter or (console.is_interactive and _is_terminal(sys.stderr))):
        return lambda: None
    # Rich writes the output of the program above the bar, to stderr. So it must not take a stdout that is a file.
    live = Live(console=console, transient=True, redirect_stdout=_is_terminal(sys.stdout), get_renderable=epoch.row)
    live.start(refresh=True)
    process = os.getpid()

    def stop() -> None:
        if process == os.getpid():  # A fork has the terminal, but neither the bar nor its thread.
            live.stop()

    return stop


def _is_terminal(stream: Any) -> bool:
    """Whether a stream, which may be None or any object that writes, is a terminal."""
    return bool(hasattr(stream, "isatty") and stream.isatty())


def _counted(number: float, noun: str, plural: str = "s") -> str:
    """
    >>> _counted(1, "batch", "es"), _counted(2000, "batch", "es")
    ('1 batch', '2,000 batches')
    """
    return f"{number:,} {noun}{'' if number == 1 else plural}"


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
