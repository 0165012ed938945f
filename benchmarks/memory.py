"""Memory over many epochs: what a process that loops over gpuload.Loader holds, epoch by epoch.

    python -m benchmarks.memory --epochs 50

For each epoch it notes the resident memory, as the mean of a look after each batch, the threads and the open
descriptors. Growth is counted from the first half of the epochs to the second: batches that are being made ahead, about
20 MB of decoded images each, are in the memory or not as it happens, which a mean over many epochs evens out. In the
warm-up DALI's memory grows to the largest batch it has seen, and the allocator's to its widest scatter.
"""

from __future__ import annotations

import gc
import statistics
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import Job, gpuload_loader
from benchmarks.photos import photos
from benchmarks.report import environment, save

WARM_UP = 30
"""Epochs before those that count."""


def main(
    epochs: Annotated[int, typer.Option(min=1, help="to count, after the warm-up")] = 50,
    data: Annotated[Path | None, typer.Option(help="a folder of class folders; default: benchmarks.photos")] = None,
    count: Annotated[int, typer.Option(help="photographs to make where there is no --data")] = 256,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="the JSON file; default: benchmarks/results/")] = None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON."""
    process = psutil.Process()
    loader = gpuload_loader(Job(data or photos(count), 64, 32, device))
    rows = []
    for epoch in range(-WARM_UP, epochs):
        images, resident = 0, []
        for _, labels in loader:
            images += len(labels)
            resident.append(process.memory_info().rss)
        gc.collect()
        if epoch >= 0:
            rows.append(
                {
                    "epoch": epoch,
                    "images": images,
                    "resident_bytes": statistics.fmean(resident),
                    "threads": process.num_threads(),
                    "descriptors": process.num_fds(),
                }
            )
    half = -(-epochs // 2)
    first, last = (statistics.fmean(row["resident_bytes"] for row in part) for part in (rows[:half], rows[-half:]))
    report = {
        "benchmark": "memory",
        "environment": environment(device),
        "warm_up": WARM_UP,
        "rows": rows,
        "growth_percent": 100 * (last / first - 1),
    }
    table = Table(title=f"gpuload.Loader, {epochs} epochs of {rows[0]['images']} images")
    for heading in ("epoch", "resident MB", "threads", "descriptors"):
        table.add_column(heading, justify="right")
    for row in rows[:: max(1, epochs // 10)] + ([rows[-1]] if (epochs - 1) % max(1, epochs // 10) else []):
        table.add_row(
            str(row["epoch"]), f"{row['resident_bytes'] / 1e6:.1f}", str(row["threads"]), str(row["descriptors"])
        )
    Console().print(table)
    print(
        f"growth: {report['growth_percent']:+.2f} % of resident memory from the first half of the epochs to the second"
    )
    print(f"written to {save(report, out)}")
    return report


if __name__ == "__main__":
    typer.run(main)
