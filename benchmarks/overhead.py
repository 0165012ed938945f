"""What it costs to be careful: a loader that survives bad files, tells its state and its figures after every batch.

    python -m benchmarks.overhead

The same loader twice, in rounds, as in `benchmarks.images`: plain; and with `on_error="replace"`, of which there is
nothing to do, and `state_dict()` and `stats()` called after each batch. `costs` is how much slower it is, round by
round. Windows are not read from files: for them there is no `on_error`, and a batch takes so little time that two calls
in Python show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import gpuload
from benchmarks.contenders import gpuload_loader
from benchmarks.images import Stopwatch
from benchmarks.jobs import Batches, Job
from benchmarks.photos import photos
from benchmarks.report import environment, rounds, save, spread


def plain(loader: gpuload.Loader) -> Batches:
    """Epoch after epoch."""
    while True:
        yield from loader


def careful(loader: gpuload.Loader) -> Batches:
    """The same, with a look at state and figures after each batch."""
    while True:
        for batch in loader:
            loader.state_dict()
            loader.stats()
            yield batch


def jobs(folder: Path, device: str) -> dict[str, gpuload.Loader]:
    """Loaders by what they load."""
    values = np.random.default_rng(0).normal(size=(17420, 7)).astype(np.float32)
    series = gpuload.Series(values, targets=values[:, 0])
    found = {f"images {size} x {size}": gpuload_loader(Job(folder, size, 32, device), cache=None) for size in (64, 224)}
    for size in (64, 256):
        found[f"windows 96 x 7, batches of {size}"] = gpuload.Loader(
            series, gpuload.Window(96), batch_size=size, shuffle=True, device=device
        )
    return found


def main(
    number: Annotated[int, typer.Option("--rounds", min=1)] = 9,
    seconds: Annotated[float, typer.Option(help="that a loader is timed for in a round")] = 2.0,
    data: Annotated[Path | None, typer.Option(help="a folder of class folders; default: benchmarks.photos")] = None,
    count: Annotated[int, typer.Option(help="photographs to make where there is no --data")] = 1000,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="the JSON file; default: benchmarks/results/")] = None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON."""
    rows = []
    for name, loader in jobs(data or photos(count), device).items():
        options = {"on_error": "replace"} if name.startswith("images") else {}
        pair = {"plain": plain(loader), "careful": careful(loader.replace(**options))}
        watches = {kind: Stopwatch(batches, seconds, device) for kind, batches in pair.items()}
        slices = rounds(number, {kind: watch.slice for kind, watch in watches.items()})
        speeds = {kind: [each["images_per_second"] for each in found] for kind, found in slices.items()}
        costs = [100 * (1 - ours / its) for ours, its in zip(speeds["careful"], speeds["plain"], strict=True)]
        cpu = {kind: [each["cpu_ms"] for each in found] for kind, found in slices.items()}
        more = [100 * (ours / its - 1) for ours, its in zip(cpu["careful"], cpu["plain"], strict=True)]
        rows.append(
            {
                "job": name,
                **{kind: spread(found) for kind, found in speeds.items()},
                "costs_percent": spread(costs),
                "cpu_percent": spread(more),
            }
        )
    report = {"benchmark": "overhead", "environment": environment(device), "rows": rows}
    table = Table(title=f"samples per second, {report['environment']['device_name']}")
    for heading in ("", "plain", "careful", "costs", "of CPU time"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        spreads = (row["costs_percent"], row["cpu_percent"])
        table.add_row(
            row["job"],
            *(f"{row[kind]['median']:,.0f}" for kind in ("plain", "careful")),
            *(f"{each['median']:+.1f} % ({each['least']:+.1f} to {each['greatest']:+.1f})" for each in spreads),
        )
    Console().print(table)
    print(f"written to {save(report, out)}")
    return report


if __name__ == "__main__":
    typer.run(main)
