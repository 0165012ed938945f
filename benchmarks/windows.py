"""Windows per second: gpuload beside other ways to cut a series, in one run, on the same series, with the same work.

    python -m benchmarks.windows                          on the CPU: 36 cases, about a quarter of an hour
    python -m benchmarks.windows --lengths 96 --channels 7
    python -m benchmarks.windows --device cuda            on a GPU: float32 and bfloat16, and batches of 128 MiB

How it is measured: for each case, all contenders are opened and deliver two batches. Then come the rounds. In each, one
contender after another, in an order that rotates, delivers batches for about `--seconds`; those in its queues stand
for less than a hundredth of them. Windows are counted, across epochs, and an epoch's new order is part of the time.
What a batch before holds in memory is held until the next one is there, as in any loop over batches.

`gpuload is` compares round by round: the median of gpuload.torch's speed divided by the contender's in the same round.
`of a copy` is what gpuload.torch reads and writes in a second, each byte of a batch counted twice, as a share of what
one large copy in the same memory reads and writes; in caches it can pass 100 %.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.jobs import synchronize
from benchmarks.report import environment, rounds, save, spread
from benchmarks.window_contenders import CONTENDERS, Job

NEAR_ROWS = 17_420
"""Of the series that lies in a cache: as many as the hours of the ETT data sets, on which forecasters are compared."""
FAR_BYTES = 2**28
"""Of the series that does not."""
LARGE_BATCH_BYTES = 2**27
"""Of the batches that a GPU is given beside those of `--batches`."""


def copied_bytes_per_second(device: str) -> float:
    """Bytes read plus bytes written by one large copy."""
    if device == "cpu":
        source: Any = np.ones(FAR_BYTES // 4, np.float32)
        target: Any = np.empty_like(source)

        def copy() -> None:
            np.copyto(target, source)
    else:
        import torch

        source = torch.ones(2**28, device=device)
        target = torch.empty_like(source)

        def copy() -> None:
            target.copy_(source)
            synchronize()

    copy()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 0.5:
        copy()
        count += 1
    return 2.0 * count * int(source.nbytes) / (time.perf_counter() - start)


def speed(batches: Iterator[Any], seconds: float, device: str) -> float:
    """Windows per second, over that many seconds or a few more."""
    start, count = time.perf_counter(), 0
    while (now := time.perf_counter()) - start < seconds:
        for _ in range(4):
            batch = next(batches)
            count += len(batch[0])
    if device != "cpu":
        synchronize()
        now = time.perf_counter()
    return count / (now - start)


def measure(job: Job, names: list[str], number: int, seconds: float) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row for each contender in one case, and why others have none."""
    running: dict[str, Iterator[Any]] = {}
    skipped = {}
    for name in names:
        batches = CONTENDERS[name](job)
        try:
            next(batches), next(batches)
        except ImportError as error:
            skipped[name] = str(error)
            continue
        running[name] = batches
    tasks = {name: lambda it=it: speed(it, seconds, job.device) for name, it in running.items()}
    speeds = rounds(number, tasks)
    for batches in running.values():
        batches.close()
    rows: list[dict[str, Any]] = []
    for name, list_ in speeds.items():
        row: dict[str, Any] = {"contender": name, "windows_per_second": spread(list_)}
        if "gpuload.torch" in speeds:
            row["ratio"] = spread(ours / its for ours, its in zip(speeds["gpuload.torch"], list_, strict=True))
        rows.append(row)
    return rows, skipped


def series(channels: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and labels."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, channels), dtype=np.float32), rng.integers(0, 5, rows)


def show(report: dict[str, Any]) -> None:
    """Print the table."""
    result = Table(title=f"windows per second, {report['environment']['device_name']}")
    for heading in ("series", "window", "batch", "loader"):
        result.add_column(heading, no_wrap=heading == "loader")
    for heading in ("median", "gpuload is", "of a copy"):
        result.add_column(heading, justify="right")
    before = None
    for row in report["rows"]:
        case = (row["series"], f"{row['length']} × {row['channels']}", f"{row['batch_size']}")
        if row["dtype"] != "float32":
            case = (*case[:2], f"{case[2]} {row['dtype']}")
        result.add_row(
            *(case if case != before else ("", "", "")),
            row["contender"],
            f"{row['windows_per_second']['median']:,.0f}",
            f"{row['ratio']['median']:.2f} ×" if "ratio" in row else "",
            f"{row['share_of_copy']:.0%}" if "share_of_copy" in row else "",
        )
        before = case
    console = Console()
    console.print(result)
    console.print(f"one large copy reads and writes {report['copy_bytes_per_second'] / 1e9:.1f} GB/s")
    for name, reason in report["skipped"].items():
        console.print(f"{name} was left out: {reason}")


def main(
    lengths: Annotated[str, typer.Option(help="steps in a window")] = "20,96,512",
    channels: Annotated[str, typer.Option(help="numbers in a row")] = "1,7,64",
    batches: Annotated[str, typer.Option(help="windows in a batch")] = "64,256",
    places: Annotated[str, typer.Option(help="near: a series in a cache; far: one out of it")] = "near,far",
    number: Annotated[int, typer.Option("--rounds", min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="of each measurement, about")] = 0.3,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    only: Annotated[str, typer.Option(help="; ".join(CONTENDERS))] = ";".join(CONTENDERS),
    far_bytes: Annotated[int, typer.Option(help="size of the series that is far")] = FAR_BYTES,
    out: Annotated[Path | None, typer.Option(help="the JSON file; default: benchmarks/results/")] = None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON."""
    names = only.split(";")
    if unknown := set(names) - set(CONTENDERS):
        raise typer.BadParameter(f"{', '.join(unknown)}: not among {'; '.join(CONTENDERS)}", param_hint="--only")
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{device}: it must be cpu or cuda", param_hint="--device")
    if unknown := set(places.split(",")) - {"near", "far"}:
        raise typer.BadParameter(f"{', '.join(unknown)}: it must be near or far", param_hint="--places")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    copied = copied_bytes_per_second(device)
    report: dict[str, Any] = {
        "benchmark": "windows",
        "environment": environment(device),
        "copy_bytes_per_second": copied,
        "rounds": number,
        "seconds": seconds,
        "rows": [],
        "skipped": {},
    }
    progress = Console(stderr=True)
    for place in places.split(","):
        for width in map(int, channels.split(",")):
            values, labels = series(width, NEAR_ROWS if place == "near" else far_bytes // (4 * width))
            for length in map(int, lengths.split(",")):
                sizes = [int(size) for size in batches.split(",")]
                if device != "cpu":
                    sizes.append(LARGE_BATCH_BYTES // (4 * width * length))
                for size in sizes:
                    for dtype in ("float32",) if device == "cpu" else ("float32", "bfloat16"):
                        progress.print(f"{place}: {length} x {width}, batches of {size}, {dtype}")
                        job = Job(values, labels, length, size, device, dtype)
                        rows, skipped = measure(job, names, number, seconds)
                        case = {"series": place, "length": length, "channels": width, "batch_size": size}
                        report["rows"] += [{**case, "dtype": dtype, **row} for row in rows]
                        report["skipped"] |= skipped
    for row in report["rows"]:
        if row["contender"] == "gpuload.torch":
            size = row["length"] * row["channels"] * (4 + (4 if row["dtype"] == "float32" else 2))
            row["share_of_copy"] = row["windows_per_second"]["median"] * size / copied
    measured = {row["contender"] for row in report["rows"]}
    report["contenders"] = {
        name: (CONTENDERS[name].__doc__ or "").split("\n")[0].rstrip(".") for name in names if name in measured
    }
    show(report)
    print(f"written to {save(report, out)}")
    return report


if __name__ == "__main__":
    typer.run(main)
