"""Images per second: gpuload beside other loaders, in one run, on the same files, with the same work.

    python -m benchmarks.images                            photographs made by benchmarks.photos, on the CPU
    python -m benchmarks.images --device cuda --data DIR   a folder of class folders, on the GPU

Every image is read and decoded, as in a first epoch; `benchmarks.warm` is the same for the epochs after it.

How it is measured: all contenders of a size are opened and run until they are warm. Then come the rounds. In each, one
contender after another, in an order that rotates, delivers as many batches as it makes in about `--seconds`. Right
before that it delivers others, untimed, until its queues are empty, for a full queue would be a head start; meanwhile
the rest stand still, and the next one waits until this one has filled its queues. Images are counted, across epochs.

`gpuload is` compares round by round: the median of gpuload's speed divided by the contender's in the same round.
`busy` is the CPU time that the consuming thread itself took (`time.thread_time`), as a share of the time that passed.
Waiting takes none: for gpuload it is all of its Python (plan, feeding, delivery) and what DALI does inside those calls.
`CPU ms` is what an image takes of all CPUs, threads and worker processes included; other programs on the machine move
it less than the speed.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import CONTENDERS
from benchmarks.jobs import Batches, Job, synchronize
from benchmarks.photos import photos
from benchmarks.report import cpu_time, environment, rounds, save, spread

BATCH_SIZE = 32
Contenders = dict[str, Callable[[Job], Batches]]


class Stopwatch:
    """One contender, warm."""

    def __init__(self, batches: Batches, seconds: float, device: str):
        self.batches = batches
        self.seconds = seconds
        self.device = device
        next(batches)
        for _ in range(2):  # The first time counts what starting up takes.
            self.count, start = 0, time.perf_counter()
            while time.perf_counter() - start < seconds:
                self.take(1)
                self.count += 1

    def take(self, batches: int) -> int:
        """Consume batches; returns the number of images in them."""
        images = sum(len(next(self.batches)[0]) for _ in range(batches))
        if self.device != "cpu":
            synchronize()
        return images

    def slice(self) -> dict[str, float]:
        """Speed over `count` batches, out of an even flow."""
        until = time.perf_counter() + self.seconds / 3
        self.take(2)
        while time.perf_counter() < until:
            self.take(1)
        cpu = cpu_time()
        start, busy = time.perf_counter(), time.thread_time()
        images = self.take(self.count)
        wall, busy = time.perf_counter() - start, time.thread_time() - busy
        return {"images_per_second": images / wall, "busy": busy / wall, "cpu_ms": 1000 * (cpu_time() - cpu) / images}


def measure(
    job: Job, contenders: Contenders, count: int, seconds: float
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row for each contender at one size, and why others have none."""
    console = Console(stderr=True)
    watches, skipped = {}, {}
    for name, contender in contenders.items():
        console.print(f"{job.size} x {job.size}: warming up {name}")
        try:
            watches[name] = Stopwatch(contender(job), seconds, job.device)
        except ImportError as error:
            skipped[name] = str(error)
            console.print(f"{name} is left out: {error}")
    slices = rounds(count, {name: watch.slice for name, watch in watches.items()})
    for watch in watches.values():
        watch.batches.close()
    speeds = {name: [each["images_per_second"] for each in list_] for name, list_ in slices.items()}
    rows: list[dict[str, Any]] = []
    for name, list_ in slices.items():
        row = {"size": job.size, "contender": name, "images_per_second": spread(speeds[name])}
        for figure in ("busy", "cpu_ms"):
            row[figure] = spread(each[figure] for each in list_)
        if "gpuload" in speeds:
            row["ratio"] = spread(ours / its for ours, its in zip(speeds["gpuload"], speeds[name], strict=True))
        rows.append(row)
    return rows, skipped


def show(report: dict[str, Any]) -> None:
    """Print the table."""
    result = Table(title=f"{report['benchmark']}: images per second, {report['environment']['device_name']}")
    result.add_column("size")
    result.add_column("loader", no_wrap=True)
    for heading in ("median", "least", "most", "gpuload is", "busy", "CPU ms"):
        result.add_column(heading, justify="right")
    for row in report["rows"]:
        speed = row["images_per_second"]
        result.add_row(
            str(row["size"]),
            row["contender"],
            *(f"{speed[key]:,.0f}" for key in ("median", "least", "greatest")),
            f"{row['ratio']['median']:.2f} ×" if "ratio" in row else "",
            f"{row['busy']['median']:.1%}",
            f"{row['cpu_ms']['median']:.2f}",
        )
    console = Console()
    console.print(result)
    for name, reason in report["skipped"].items():
        console.print(f"{name} was left out: {reason}")


def compare(
    benchmark: str,
    contenders: Contenders,
    sizes: str,
    number: int,
    seconds: float,
    data: Path | None,
    count: int,
    device: str,
    only: str | None,
    out: Path | None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON: the arguments are `main`'s."""
    names = list(contenders) if only is None else only.split(",")
    if unknown := set(names) - set(contenders):
        raise typer.BadParameter(f"{', '.join(unknown)}: not among {', '.join(contenders)}", param_hint="--only")
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{device}: it must be cpu or cuda", param_hint="--device")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if importlib.util.find_spec("tensorflow") is None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    folder = data or photos(count)
    files = [path for path, _ in Job(folder, 1, BATCH_SIZE, device).files]
    if len(files) < BATCH_SIZE:
        raise typer.BadParameter(f"{len(files)} files, but a batch is {BATCH_SIZE}", param_hint="--data or --count")
    report: dict[str, Any] = {
        "benchmark": benchmark,
        "environment": environment(device),
        "data": {"files": len(files), "mean_bytes": sum(map(os.path.getsize, files)) / len(files)},
        "batch_size": BATCH_SIZE,
        "rounds": number,
        "seconds": seconds,
        "rows": [],
        "skipped": {},
    }
    chosen = {name: contenders[name] for name in names}
    for size in map(int, sizes.split(",")):
        rows, skipped = measure(Job(folder, size, BATCH_SIZE, device), chosen, number, seconds)
        report["rows"] += rows
        report["skipped"] |= skipped
    measured = [name for name in names if name not in report["skipped"]]
    report["contenders"] = {name: (contenders[name].__doc__ or "").split("\n")[0].rstrip(".") for name in measured}
    show(report)
    print(f"written to {save(report, out)}")
    return report


def main(
    sizes: Annotated[str, typer.Option(help="side lengths, in pixels")] = "64,224",
    number: Annotated[int, typer.Option("--rounds", min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="of each measurement, about")] = 1.0,
    data: Annotated[Path | None, typer.Option(help="a folder of class folders; default: benchmarks.photos")] = None,
    count: Annotated[int, typer.Option(help="photographs to make where there is no --data")] = 1000,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    only: Annotated[str | None, typer.Option(help=f"of {', '.join(CONTENDERS)}; default: all")] = None,
    out: Annotated[Path | None, typer.Option(help="the JSON file; default: benchmarks/results/")] = None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON."""
    return compare("images", CONTENDERS, sizes, number, seconds, data, count, device, only, out)


if __name__ == "__main__":
    typer.run(main)
