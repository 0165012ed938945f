"""`gpuload tune`: times numbers of threads and of prefetched batches, and names the fastest."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gpuload.core.available import available_cpus
from gpuload.core.checks import checked_int
from gpuload.images.augment import Augment
from gpuload.loader import Loader
from gpuload.sources import ImageFolder, ImageSource


@dataclass(frozen=True)
class Setting:
    """Arguments of `gpuload.Loader` that are tuned."""

    threads: int
    prefetch: int


@dataclass(frozen=True)
class Result:
    """Speed with one setting."""

    setting: Setting
    images_per_second: float
    """Median of the rounds."""
    least: float
    greatest: float


def settings(cpus: int) -> list[Setting]:
    """Return the settings to time; the first is the loader's default.

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
    report: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Time each of `settings`, without a cache, and return the results, the fastest first.

    Args:
        source: Images to read and decode.
        transform: Augmentation of the images.
        batch_size: Images per batch.
        device: "auto", "cpu", "cuda" or "cuda:N".
        rounds: Number of timings of each setting, at least 1. All settings take turns.
        seconds: Length of each timing, above 0.
        report: Function that is called with a line of text before each timing.

    Raises:
        ValueError: rounds or seconds is too small. An error of `gpuload.Loader` passes through.
    """
    checked_int("rounds", rounds, 1)
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, not {seconds!r}")
    speeds: dict[Setting, list[float]] = {setting: [] for setting in settings(available_cpus())}
    for number, setting in itertools.product(range(rounds), speeds):
        report(f"round {number + 1} of {rounds}: {setting.threads} threads, prefetch={setting.prefetch}")
        options: dict[str, Any] = {"threads": setting.threads, "prefetch": setting.prefetch, "cache": None}
        with Loader(source, transform, batch_size=batch_size, device=device, shuffle=True, **options) as loader:
            speeds[setting].append(_speed(loader, seconds, warm_up=setting.prefetch + 2))
    results = [Result(setting, statistics.median(found), min(found), max(found)) for setting, found in speeds.items()]
    return sorted(results, key=lambda result: -result.images_per_second)


def _speed(loader: Loader, seconds: float, warm_up: int) -> float:
    """Return images per second, over epoch after epoch, after the first `warm_up` batches."""
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for _ in range(warm_up):
        next(batches)
    start, images = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds or not images:
        batch = next(batches)
        images += len(batch[0] if isinstance(batch, tuple) else batch)
    return images / elapsed


def show(folder: Path, *, size: int, **options: Any) -> None:
    """Tune for a folder of images and print the results."""
    console = Console()
    transform = Augment(size=(size, size), hflip=0.5, rescale=1 / 255)
    with console.status("") as status:
        results = tune(ImageFolder(folder), transform, report=status.update, **options)
    table = Table(title=f"images per second, read and decoded to {size} x {size}")
    for heading in ("threads", "prefetch", "median", "least", "greatest"):
        table.add_column(heading, justify="right")
    for result in results:
        setting, figures = result.setting, (result.images_per_second, result.least, result.greatest)
        table.add_row(str(setting.threads), str(setting.prefetch), *(f"{figure:,.0f}" for figure in figures))
    console.print(table)
    best = results[0]
    default = next(result for result in results if result.setting == settings(available_cpus())[0])
    if default.greatest >= best.least:
        print("No setting is clearly faster than the default: leave threads and prefetch out.")
    else:
        print(f"gpuload.Loader(..., threads={best.setting.threads}, prefetch={best.setting.prefetch})")
