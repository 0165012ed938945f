"""The tables of benchmarks/README.md, in Markdown: goals, limits, growth, and the arithmetic for many GPUs."""

import operator
from collections.abc import Callable
from typing import Any

from benchmarks.gpu.tables import gpu_page
from benchmarks.program import Report
from benchmarks.scale import scale_table
from benchmarks.tables import cell, cells, columns, markdown

AXES = {"files": "files", "scale": "megapixels of a photograph", "size": "pixels a side of an image"}
AXES |= {"batch": "images in a batch", "threads": "threads", "kept": "share of the images that the cache holds"}
AXES |= {"ranks": "processes that share the threads and the samples"}


def by(report: Report, *keys: str) -> dict[Any, Report]:
    """Rows of a report by the values of one key, or of several as a tuple."""
    return {operator.itemgetter(*keys)(row): row for row in report["rows"]}


def goals_table(images: Report, warm: Report, epochs: Report, startup: Report) -> str:
    """Goals and measured figures: of ratios the median of those within a round."""
    cold_rows, warm_rows = by(images, "size", "contender"), by(warm, "size", "contender")
    programs, steps = by(epochs, "size", "program"), by(startup, "step")
    rows = []
    for size, cold, cached, ten in ((64, 1, 30, 10), (224, 1, 12, 5)):
        for kind, whom, aim, row in (
            ("cold", "bare DALI", cold, cold_rows.get((size, "dali"))),
            ("warm", "Keras' generator", cached, warm_rows.get((size, "keras"))),
            ("warm", "tf.data's cache and Keras' layers", 3, warm_rows.get((size, "tf.data layers"))),
            (f"{epochs['epochs']} epochs", "Keras' generator", ten, programs.get((size, "keras"))),
        ):
            what, measured = f"{kind}, {size} × {size}: speed relative to {whom}", row and row.get("ratio")
            rows.append(_goal(what, f"at least {aim} ×", measured, " ×", aim, 1e9))
    index, first, again = (steps[step] for step in ("gpuload.ImageFolder", "first batch", "first batch, again"))
    files = f"{startup['files']:,} files"
    rows += [
        _goal(f"index of {files}: time relative to os.scandir", "at most 1.5 ×", index["ratio"], " ×", 0, 1.5),
        _goal("first batch after that, in a new process", "below 1 s", first["seconds"], " s", 0, 1),
        _goal("first batch of a second loader", "below 1 s", again["seconds"], " s", 0, 1),
    ]
    resumed = [1000 * row["seconds"]["median"] for step, row in steps.items() if step.startswith("resume")]
    times = f"{min(resumed):,.0f} to {max(resumed):,.0f} ms"
    note = f"Resumed at {len(resumed)} places of an epoch, a loader takes {times} to its first batch."
    return f"{markdown(['', 'goal', 'measured', 'reached'], rows)}\n\n{note}"


def _goal(what: str, aim: str, found: dict[str, Any] | None, unit: str, least: float, most: float) -> list[str]:
    if found is None:
        return [what, aim, "not measured", ""]
    reached = least <= found["median"] <= most
    return [what, aim, cell(found, with_spread=True) + unit, "yes" if reached else "**no**"]


def limits_table(images: Report, warm: Report) -> str:
    """Speed of gpuload beside the limits that were measured in the same rounds."""
    rows = []
    cold = (images, "cold", "decoder", "reading and decoding alone")
    cached = (warm, "warm", "cast", "reading levels and writing float32 alone")
    for report, kind, limit, words in (cold, cached):
        found = by(report, "size", "contender")
        for size in dict.fromkeys(row["size"] for row in report["rows"]):
            if {(size, "gpuload"), (size, limit)} <= found.keys():
                both = found[size, "gpuload"], found[size, limit]
                speeds = [row["images_per_second"]["median"] for row in both]
                cpu = [f"{1000 * row['cpu_ms']['median']:,.0f}" for row in both]
                moved = [f"{speed * 5 * 3 * size**2 / 1e9:.2f}" if kind == "warm" else "" for speed in speeds]
                ours, its = zip((f"{speed:,.0f}" for speed in speeds), cpu, moved, strict=True)
                rows.append([f"{kind}, {size} × {size}", *ours, words, *its, f"{both[1]['ratio']['median']:.0%}"])
    figures = ["images/s", "CPU µs an image", "GB/s"]
    return markdown(["", *figures, "limit", *figures, "gpuload's share of the limit"], rows)


def growth_table(report: Report) -> str:
    """Speed and memory for each value of each axis of `benchmarks.growth`."""
    lines = [[AXES[axis], f"{row['megapixels']:.2f}" if axis == "scale" else value, *rest]
             for row, (axis, value, *rest) in zip(report["rows"], cells(report, spreads=0), strict=True)]  # fmt: skip
    table = markdown(list(columns(report)), lines)
    return f"{table}\n\nMedian of {report['rounds']} rounds, each a process of its own; of ranks the sum."


def decoding_table(report: Report) -> str:
    """Cost of decoding by the size of the photograph."""
    rows = []
    for row in report["rows"]:
        if row["axis"] == "scale":
            speed, size, pixels = row["cold"]["median"], row["mean_bytes"], row["megapixels"]
            cells = (size / 1000, speed, speed * pixels, speed * size / 1e6)
            rows.append([f"{pixels:.2f}", *(f"{cell:,.0f}" for cell in cells)])
    return markdown(["photograph, megapixels", "kB", "images/s", "megapixels/s", "MB/s of files"], rows, left=0)


PAGE_TABLES: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "goals": (("images", "warm", "epochs", "startup"), goals_table),
    "limits": (("images", "warm"), limits_table),
    "growth": (("growth",), growth_table),
    "decoding": (("growth",), decoding_table),
    "scale": (("images", "warm", "growth", "startup"), scale_table),
    "measured": (("measured",), gpu_page),
}
"""Tables of benchmarks/README.md, each with the benchmarks that it is made from and the function that makes it."""
