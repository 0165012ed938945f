"""`gpuload tune`: times numbers of threads and of prefetched batches, and names the fastest."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Column, Table

from gpuload.core.available import available_cpus
from gpuload.core.checks import checked_int
from gpuload.images.augment import Augment
from gpuload.loader import Loader
from gpuload.sources import ImageFolder, ImageSource


class Setting(NamedTuple):
    """Arguments of `gpuload.Loader` that are tuned."""

    threads: int
    prefetch: int


class Result(NamedTuple):
    """Speed with one setting: images per second, the median, the least and the greatest of all rounds."""

    setting: Setting
    images_per_second: float
    least: float
    greatest: float


def settings(cpus: int) -> list[Setting]:
    """Return the settings to time; the first is the loader's default.

    >>> settings(2)
    [Setting(threads=2, prefetch=2), Setting(threads=2, prefetch=1), Setting(threads=2, prefetch=4), \
Setting(threads=1, prefetch=2), Setting(threads=3, prefetch=2)]
    """
    half = max(1, cpus // 2)
    pairs = (cpus, 2), (cpus, 1), (cpus, 4), (half, 2), (cpus + half, 2)
    return [Setting(*pair) for pair in dict.fromkeys(pairs)]


def tune(
    source: ImageSource,
    transform: Augment,
    *,
    rounds: int = 3,
    seconds: float = 1.0,
    report: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> list[Result]:
    """Time each of `settings`, without a cache, and return the results, the fastest first.

    The settings take turns, `rounds` times, for some `seconds`. `report` is called with a line of text before each
    timing; `options` are further arguments of `gpuload.Loader`, whose errors pass through. Raises ValueError if there
    would be no round or no time.
    """
    checked_int("rounds", rounds, 1)
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, not {seconds!r}")
    speeds: dict[Setting, list[float]] = {setting: [] for setting in settings(available_cpus())}
    for number, setting in itertools.product(range(rounds), speeds):
        report(f"round {number + 1} of {rounds}: {setting.threads} threads, prefetch={setting.prefetch}")
        options |= {"threads": setting.threads, "prefetch": setting.prefetch}
        with Loader(source, transform, shuffle=True, cache=None, **options) as loader:
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
    headings = (Column(name, justify="right") for name in ("threads", "prefetch", "median", "least", "greatest"))
    table = Table(*headings, title=f"images per second, read and decoded to {size} x {size}")
    for setting, *speeds in results:
        table.add_row(*(f"{number:,.0f}" for number in (*setting, *speeds)))
    console.print(table)
    best = results[0]
    default = next(result for result in results if result.setting == settings(available_cpus())[0])
    if default.greatest >= best.least:
        print("No setting is clearly faster than the default: leave threads and prefetch out.")
    else:
        print(f"gpuload.Loader(..., threads={best.setting.threads}, prefetch={best.setting.prefetch})")
