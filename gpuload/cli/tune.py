"""Which number of threads, and of batches ahead, decodes the most images on this machine: tried, not guessed."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuload.core.available import available_cpus
from gpuload.core.checks import checked_int
from gpuload.images.augment import Augment
from gpuload.loader import Loader
from gpuload.sources import ImageFolder, ImageSource


@dataclass(frozen=True)
class Setting:
    """What may be set."""

    threads: int
    prefetch: int


@dataclass(frozen=True)
class Result:
    """How fast it was with a setting."""

    setting: Setting
    images_per_second: float
    """Median of the rounds."""
    least: float
    greatest: float


def settings(cpus: int) -> list[Setting]:
    """Those that are tried; first the one that `gpuload.Loader` takes where nothing is said.

    >>> settings(2)
    [Setting(threads=2, prefetch=2), Setting(threads=2, prefetch=1), Setting(threads=2, prefetch=4), \
Setting(threads=1, prefetch=2), Setting(threads=3, prefetch=2)]
    """
    others = dict.fromkeys((max(1, cpus // 2), cpus + max(1, cpus // 2)))
    found = [Setting(cpus, prefetch) for prefetch in (2, 1, 4)]
    return found + [Setting(threads, 2) for threads in others if threads != cpus]


def tune(
    source: ImageSource,
    transform: Augment,
    *,
    batch_size: int = 64,
    device: str = "auto",
    rounds: int = 3,
    seconds: float = 1.0,
    tell: Callable[[str], None] = lambda words: None,
) -> list[Result]:
    """Time each of `settings` for so many seconds in each of the rounds, interleaved; the fastest comes first.

    Images are read and decoded each time: what a cache brings is not part of it.

    Args:
        tell: Called with what is about to be done.

    Raises what `gpuload.Loader` raises.
    """
    checked_int("rounds", rounds, 1)
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, not {seconds!r}")
    speeds: dict[Setting, list[float]] = {}
    tried = settings(available_cpus())
    for number, setting in itertools.product(range(rounds), tried):
        tell(f"round {number + 1} of {rounds}: {setting.threads} threads, {setting.prefetch} batches ahead")
        options: dict[str, Any] = {"threads": setting.threads, "prefetch": setting.prefetch, "cache": None}
        with Loader(source, transform, batch_size=batch_size, device=device, shuffle=True, **options) as loader:
            speeds.setdefault(setting, []).append(_speed(loader, seconds))
    results = [Result(setting, statistics.median(found), min(found), max(found)) for setting, found in speeds.items()]
    return sorted(results, key=lambda result: -result.images_per_second)


def _speed(loader: Loader, seconds: float) -> float:
    """Images a second, after as many batches as are made ahead."""
    batches = _endless(loader)
    for _ in range(loader.arguments["prefetch"] + 2):
        next(batches)
    start, images = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds or not images:
        images += _count(next(batches))
    return images / elapsed


def _endless(loader: Loader) -> Iterator[Any]:
    while True:
        yield from loader


def _count(batch: Any) -> int:
    return len(batch[0] if isinstance(batch, tuple) else batch)


def show(folder: Path, *, size: int, **options: Any) -> None:
    """Tune for a folder of images, and print what was found."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    transform = Augment(size=(size, size), hflip=0.5, rescale=1 / 255)
    with console.status("") as status:
        results = tune(ImageFolder(folder), transform, tell=status.update, **options)
    table = Table(title=f"images per second, read and decoded to {size} x {size}")
    for heading in ("threads", "prefetch", "median", "least", "greatest"):
        table.add_column(heading, justify="right")
    for result in results:
        setting, figures = result.setting, (result.images_per_second, result.least, result.greatest)
        table.add_row(str(setting.threads), str(setting.prefetch), *(f"{figure:,.0f}" for figure in figures))
    console.print(table)
    default, best = settings(available_cpus())[0], results[0]
    (usual,) = (result for result in results if result.setting == default)
    if usual.greatest >= best.least:
        print("The default is as good as any, within what the rounds differ: leave threads and prefetch out.")
    else:
        print(f"gpuload.Loader(..., threads={best.setting.threads}, prefetch={best.setting.prefetch})")
