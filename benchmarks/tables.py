"""The tables of the README, in Markdown, each from the report of one benchmark on one machine."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

Report = dict[str, Any]
RELATIVE = "time relative to gpuload"
IMAGES = {"size": "size", "contender": "loader", "images_per_second": "images per second", "ratio": RELATIVE}
COLUMNS = {
    "images": {**IMAGES, "busy": "busy", "cpu_ms": "CPU ms"},
    "warm": {**IMAGES, "busy": "busy", "cpu_ms": "CPU ms"},
    "recipes": {"recipe": "recipe", "contender": "loader", "images_per_second": "images per second",
                "ratio": RELATIVE, "cpu_ms": "CPU ms"},
    "epochs": {"size": "size", "program": "program", "seconds": "s", "first_seconds": "first epoch, s",
               "ratio": RELATIVE, "peak_bytes": "peak, MB"},
    "windows": {"series": "series", "length": "window", "channels": "channels", "batch_size": "batch", "dtype": "dtype",
                "contender": "loader", "windows_per_second": "windows per second", "ratio": RELATIVE,
                "share_of_copy": "share of a copy"},
    "startup": {"step": "step", "seconds": "s", "ratio": "time relative to os.scandir"},
    "growth": {"axis": "", "value": "value", "cold": "cold, images/s", "warm": "warm, images/s",
               "index_seconds": "index, s", "index_bytes": "index, MB", "cold_bytes": "process cold, MB",
               "warm_bytes": "process warm, MB"},
    "delivery": {"job": "job", "framework": "framework", "in_a_row": "µs, in a row", "cold": "µs, cold"},
    "fit": {"backend": "Keras' backend", "batches": "batches", "seconds.loop": "loop, s", "seconds.fit": "`fit`, s",
            "ratio": "time of `fit` relative to the loop"},
    "resume": {"job": "killed and resumed", "kills": "kills", "samples": "samples", "lost": "lost",
               "twice": "delivered twice", "differing": "with other pixels"},
    "memory": {"job": "a long run", "samples": "samples", "resident_bytes": "resident MB",
               "spread_percent": "spread of the memory, %", "threads": "threads", "descriptors": "file descriptors"},
    "overhead": {"job": "samples per second", "without": "without error handling", "with": "with error handling",
                 "extra_time_percent": "extra time, %", "extra_cpu_percent": "extra CPU time, %"},
    "mutated": {"engine": "engine", "files": "files", "on_error": "on_error", "ended": "ended", "seconds": "s",
                "reported": "reported", "delivered": "delivered", "lost": "lost", "odd": "odd", "refused": "refused",
                "lenient": "lenient", "strict": "strict", "peak_bytes": "peak, MB"},
}  # fmt: skip
"""Headings of the figures of each benchmark, by their keys; "a.b" is the key b of the dict a."""
USUAL = {"series": "near", "length": 96, "channels": 7, "dtype": "float32"}.items()
"""Windows that everybody measures, of a series in a cache."""
CASES: dict[str, tuple[str, str, Callable[[Report], str], dict[str, str]]] = {
    "images": ("images per second", "contender", lambda row: "{size} × {size}".format(**row),
               {"images_per_second": "{}", "ratio": RELATIVE}),
    "epochs": ("seconds", "program", lambda row: "{size} × {size}".format(**row),
               {"seconds": "{}", "first_seconds": "first epoch", "ratio": RELATIVE}),
    "windows": ("windows per second", "contender",
                lambda row: "batches of {batch_size:,}".format(**row) * (row.items() >= USUAL),
                {"windows_per_second": "{}", "ratio": RELATIVE}),
    "delivery": ("µs a batch", "framework", lambda row: str(row["job"]), {"in_a_row": "{}", "cold": "cold"}),
}  # fmt: skip
"""Of tables with a line for each contender: their heading, the key of the contender's name, the case that a row belongs
to, and the headings of the figures in each case, by their keys."""
ROUNDS = "Median of {rounds} interleaved rounds (least to greatest)"
NOTES = {
    "images": ROUNDS + "; {data[files]} files of {data[mean_bytes]:,.0f} bytes on average, batches of {batch_size}.",
    "recipes": ROUNDS + "; 224 × 224, batches of {batch_size}, of `camera` {camera_batch_size}.",
    "epochs": ROUNDS
    + "; {data[files]} files, batches of {batch_size}; {epochs} epochs, with the start of the program.",
    "windows": ROUNDS + "; windows of 96 × 7 float32, shuffled. In the {cases} cases that were measured, other lengths "
    "and widths and a series far larger than the caches among them, gpuload is {least:,.0f} to {most:,.0f} times as "
    "fast as the DataLoader.",
    "delivery": ROUNDS + "; batches of {batch_size}, delivered one after another or, cold, each right after threads "
    "have filled the caches with another batch.",
    "startup": "{files:,} files; median of {rounds} rounds (least to greatest), each a new process.",
    "fit": ROUNDS + "; a small convolutional network on photographs of 64 × 64, batches of {batch_size}.",
}
CASES["warm"], NOTES["warm"] = CASES["images"], NOTES["images"]


def columns(report: Report) -> dict[str, bool]:
    """Headings of a report's rows, and whether a column holds names."""
    rows, found = report["rows"], COLUMNS[report["benchmark"]]
    return {head: any(isinstance(row.get(key), str) and row[key] for row in rows) for key, head in found.items()}


def cells(report: Report, spreads: int = 100) -> Iterator[list[str]]:
    """Cells of each row of a report; only the first `spreads` figures of a row are shown with their spread."""
    for row in report["rows"]:
        line, shown = [], 0
        for key in COLUMNS[report["benchmark"]]:
            value = functools.reduce(lambda value, part: value.get(part, ""), key.split("."), row)
            is_spread = isinstance(value, dict) and "median" in value
            shown += is_spread
            line.append(cell(value, 1e-6 if key.endswith("bytes") else 1, is_spread and shown <= spreads))
        yield line


def cell(value: Any, unit: float = 1, with_spread: bool = False) -> str:
    """A figure, a range, a count by kind, a number or a word, as it stands in a table."""
    if isinstance(value, dict) and "median" in value:
        least, median, greatest = (cell(value[key], unit) for key in ("least", "median", "greatest"))
        return f"{median} ({least} to {greatest})" if with_spread else median
    if isinstance(value, dict):
        return f"{sum(value.values()):,}"
    if isinstance(value, list):
        return f"{cell(min(value), unit)} to {cell(max(value), unit)}"
    if isinstance(value, str):
        return value
    if isinstance(value, float) or unit != 1:
        return f"{value * unit:,.0f}" if abs(value * unit) >= 1000 else f"{value * unit:#.3g}".rstrip(".")
    return f"{value:,}"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """Return a table in Markdown; its first `left` columns are aligned left."""
    lines = [headings, ["---"] * left + ["---:"] * (len(headings) - left), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def page(report: Report, table: str, **figures: Any) -> str:
    """Return the machine, a table and, if there is a note, the note with the versions of the packages."""
    found = report["environment"]
    machine = f"**{found['device_name']}** ({found['cpu']}, {found['cpus']} CPUs; {found['date'][:10]})"
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    note = NOTES.get(report["benchmark"], "").format(**report, **figures)
    return f"{machine}\n\n{table}" + (f"\n\n{note} {versions}." if note else "")


def rows_table(report: Report) -> str:
    """Table with a line for each row."""
    return page(report, markdown(list(columns(report)), cells(report)))


def contenders_table(report: Report) -> str:
    """Table with a line for each contender, and columns for each case."""
    head, name, case, figures = CASES[report["benchmark"]]
    cases: dict[str, dict[str, list[str]]] = {}
    for row in report["rows"]:
        if found := case(row):
            words = [cell(row.get(key, ""), with_spread="{}" in heading) for key, heading in figures.items()]
            cases.setdefault(found, {})[row[name]] = words
    lines = []
    for key in dict.fromkeys(row[name] for row in report["rows"]):
        words = report.get("contenders", {}).get(key)
        figures_of = itertools.chain(*(found[key] for found in cases.values()))
        lines.append([f"`{key}`" + (f": {words}" if words else ""), *figures_of])
    headings = [heading.format(found) for found in cases for heading in figures.values()]
    stock = (row for row in report["rows"] if row.get("contender") == "DataLoader")
    ratios = [row["ratio"]["median"] for row in stock if "ratio" in row]
    compared = {"cases": len(ratios), "least": min(ratios, default=0), "most": max(ratios, default=0)}
    return page(report, markdown([head, *headings], lines), **compared)


TABLES = dict.fromkeys(("images", "warm", "epochs", "windows", "delivery"), contenders_table)
TABLES |= dict.fromkeys(("recipes", "startup", "fit", "resume", "memory", "overhead"), rows_table)
"""Tables of README.md by the benchmark that each is made from."""
