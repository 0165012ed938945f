"""The tables of the proof on a GPU, in Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.tables import RELATIVE, Report, cell, markdown, page

Rows = list[dict[str, Any]]
Column = tuple[str, Callable[[dict[str, Any]], str]]


def of(key: str, unit: float = 1) -> Callable[[dict[str, Any]], str]:
    """Return a function from a row to the figure at a key, as it stands in a table."""
    return lambda row: cell(row[key], unit) if row.get(key) is not None else ""


def share(key: str) -> Callable[[dict[str, Any]], str]:
    """Return a function from a row to a percentage."""
    return lambda row: f"{100 * row[key]:.3g}%" if row.get(key) is not None else ""


def range_of(key: str) -> Callable[[dict[str, Any]], str]:
    """Return a function from a row to the least and the greatest of its bytes, in MB."""
    return lambda row: f"{min(row[key]) * 1e-6:,.0f} to {max(row[key]) * 1e-6:,.0f}"


COLUMNS: dict[str, list[Column]] = {
    "ceilings": [
        ("", of("ceiling")),
        ("GB/s", of("bytes_per_second", 1e-9)),
        ("images/s", of("images_per_second")),
    ],
    "launches": [("step, on the host", of("step")), ("µs", of("us"))],
    "pixels": [
        ("files", of("kind")),
        ("number", of("files")),
        ("greatest difference from the CPU, levels", of("most")),
        ("mean", of("mean")),
        ("above 2 levels", share("above_2")),
        ("times decoded", of("repetitions")),
        ("numbers that ever changed", of("changed")),
    ],
    "windows": [
        ("steps", of("length")),
        ("channels", of("channels")),
        ("rows", of("rows")),
        ("batch", of("batch")),
        ("dtype", of("dtype")),
        ("loader", of("contender")),
        ("windows/s", of("windows_per_second")),
        (RELATIVE, of("ratio")),
        ("share of a copy", share("share_of_copy")),
        ("kernel, µs", of("kernel_us")),
        ("its share of a copy", share("kernel_share_of_copy")),
    ],
    "warm": [
        ("size", of("side")),
        ("batch", of("batch")),
        ("", of("variant")),
        ("loader", of("contender")),
        ("images/s", of("images_per_second")),
        (RELATIVE, of("ratio")),
        ("kernel, µs", of("kernel_us")),
        ("its share of a copy", share("kernel_share_of_copy")),
    ],
    "cold": [
        ("loader", of("contender")),
        ("images/s", of("images_per_second")),
        (RELATIVE, of("ratio")),
        ("CPU ms an image", of("cpu_ms")),
        ("left out", of("skipped")),
    ],
    "training": [
        ("batches", of("batches")),
        ("images in a batch", of("batch")),
        ("images/s", of("images_per_second")),
        ("time in `next`", share("in_next")),
        ("waiting", share("wait_share")),
        ("waiting, ms a batch", of("wait_ms")),
    ],
    "memory": [
        ("job", of("job")),
        ("batches", of("batches")),
        ("device, MB", range_of("device_bytes")),
        ("host, MB", range_of("host_bytes")),
    ],
    "sanitizers": [("tool", of("tool")), ("", of("summary"))],
}
"""Headings of each stage's table, and the cells of a row."""
HEADINGS = {
    "ceilings": "Ceilings",
    "launches": "What a batch's steps cost the host",
    "pixels": "Pixels of every format, beside the CPU's",
    "windows": "Windows, shuffled",
    "warm": "Images kept on the device",
    "cold": "Photographs decoded in each epoch, 224 × 224",
    "training": "ResNet-50, bfloat16",
    "memory": "Memory over many batches",
    "tests": "Tests",
    "sanitizers": "compute-sanitizer",
}


def stage_table(name: str, rows: Rows) -> str:
    """Return the table of a stage."""
    if not rows:
        return ""
    if name == "tests":
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(rows[0]["outcomes"].items()))
        return "\n".join([f"{counts}.", *(f"- failed: `{row['test']}`" for row in rows[1:])])
    columns = COLUMNS[name]
    return markdown([heading for heading, _ in columns], [[made(row) for _, made in columns] for row in rows])


def gpu_page(report: Report) -> str:
    """Return all tables of a report."""
    parts = []
    for name, stage in report["stages"].items():
        end = "" if stage["end"] == "whole" else f"\n\nThis stage was not whole: {stage['end']}."
        note = f"\n\n{stage['note']}" if "note" in stage else ""
        parts.append(f"### {HEADINGS[name]}\n\n{stage_table(name, stage['rows'])}{end}{note}")
    return page(report, "\n\n".join(parts))


def gpu_summary(report: Report) -> str:
    """Return the table of README.md: the figures that were measured beside other loaders."""
    found = {name: stage["rows"] for name, stage in report["stages"].items()}
    rows = [
        (f"windows of {row['length']} × {row['channels']}, batches of {row['batch']:,}", "windows_per_second", row)
        for row in found.get("windows", [])
        if (row["length"], row["channels"], row["dtype"]) == (96, 7, "float32") and row["batch"] >= 256
    ]
    rows += [
        (f"kept images, {row['side']} × {row['side']}, batches of {row['batch']:,}", "images_per_second", row)
        for row in found.get("warm", [])
        if row["variant"] == "float32, CHW"
    ]
    rows += [("decoded images, 224 × 224", "images_per_second", row) for row in found.get("cold", [])]
    lines = [[job, row["contender"], cell(row[key]), cell(row["ratio"])] for job, key, row in rows if "ratio" in row]
    return page(report, markdown(["job", "loader", "samples per second", RELATIVE], lines, left=2))


def gpu_seen(report: Report) -> str:
    """Return the sentence of README.md that says where the tests that need a GPU were run."""
    found, stage = report["environment"], report["stages"].get("tests", {"rows": []})
    outcomes = stage["rows"][0]["outcomes"] if stage["rows"] else {}
    if not outcomes:
        return f"Measured on: {found['device_name']}. The tests that need a GPU were not run there."
    counts = {key: outcomes.get(key, 0) for key in ("passed", "failed", "skipped")}
    tests = "{passed:,} tests that need a GPU passed, {failed} failed, {skipped} were skipped".format(**counts)
    left = f", {outcomes['not run']} were not reached" if outcomes.get("not run") else ""
    note = f" {stage['note']}" if "note" in stage else ""
    where = f"**Run on: {found['device_name']}** ({found['date'][:10]})."
    return f"{where} {tests}{left}.{note} `make gpu` repeats it on yours."
