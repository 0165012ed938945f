"""The tables of kernels/*.md: variants of the kernels that were tried on a GPU, from results/variants-*.json."""

from __future__ import annotations

import itertools
from typing import Any

from benchmarks.tables import Report, markdown

BATCHES = {
    "224": "224 × 224, batches of 256",
    "224flip": "224 × 224, batches of 256, flips alone",
    "224wild": "224 × 224, batches of 256, turned by any angle",
    "224stat": "224 × 224, batches of 256, standardized",
    "64": "64 × 64, batches of 1,024",
    "64stat": "64 × 64, batches of 1,024, standardized",
    "96x7": "96 × 7 of 17,420 rows, batches of 16,384",
    "96x64": "96 × 64 of 1,048,576 rows, batches of 4,096",
    "512x64": "512 × 64 of 1,048,576 rows, batches of 1,024",
}
"""Words for the cases."""


def variants_table(report: Report, kernel: str) -> str:
    """Return a table for each case of a kernel, the fastest variant first; images in one type and layout each."""
    found = report["environment"]
    copied = report["copy_bytes_per_second"] * 1e-9
    parts = [f"{found['device_name']} ({found['date'][:10]}); a copy there reads and writes {copied:,.0f} GB/s."]
    rows = [row for row in report["rows"] if row["kernel"] == kernel]
    for (case, group), some in itertools.groupby(rows, lambda row: (row["case"], row.get("group"))):
        head = BATCHES[case] + (f", {group.removeprefix('stat ')}" if group else "")
        columns = [head, "µs", "share of a copy", "registers", "largest error, levels"]
        lines = [line(row) for row in sorted(some, key=lambda row: float(row["us"]))]
        if not any(words[-1] for words in lines):
            columns, lines = columns[:-1], [words[:-1] for words in lines]
        parts.append(markdown(columns, lines))
    return "\n\n".join(parts)


def line(row: dict[str, Any]) -> list[str]:
    """Return the cells of a variant."""
    error = "" if row["error_levels"] is None else f"{row['error_levels']:.0e}"
    return [f"`{row['name']}`", f"{row['us']:.1f}", f"{100 * row['share']:.0f}%", str(row["registers"]), error]


KERNEL_PAGES = {"warp.md": "warp", "window.md": "window"}
"""Pages in the folder kernels, and the kernel whose table each shows."""
