"""The tables of the README, in Markdown, each from the report of one benchmark on one machine."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

Report = dict[str, Any]
RELATIVE = "time relative to gpuload"
IMAGES = {"size": "size", "contender": "loader", "images_per_second": "images per second", "ratio": RELATIVE}
COLUMNS = {
    "images": {**IMAGES, "busy": "busy", "cpu_ms": "CPU ms"},
    "warm": {**IMAGES, "busy": "busy", "cpu_ms": "CPU ms"},
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
NOTES = {
    "startup": "{files:,} files; median of {rounds} rounds (least to greatest), each a new process.",
    "fit": "A small convolutional network on photographs of 64 × 64, batches of {batch_size}; median of {rounds} "
    "interleaved rounds (least to greatest).",
}


def columns(report: Report) -> dict[str, bool]:
    """Headings of a report's rows, and whether a column holds names."""
    found = COLUMNS[report["benchmark"]]
    return {
        heading: any(isinstance(row.get(key), str) and row[key] for row in report["rows"])
        for key, heading in found.items()
    }


def cells(report: Report, spreads: int = 100) -> Iterator[list[str]]:
    """Cells of each row of a report; only the first `spreads` figures of a row are shown with their spread."""
    for row in report["rows"]:
        line: list[str] = []
        shown = 0
        for key in COLUMNS[report["benchmark"]]:
            value: Any = row
            for part in key.split("."):
                value = value.get(part, "")
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
        return f"{value * unit:,.0f}" if abs(value * unit) >= 1000 else f"{value * unit:.3g}"
    return f"{value:,}"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """Return a table in Markdown; its first `left` columns are aligned left."""
    lines = [headings, ["---"] * left + ["---:"] * (len(headings) - left), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def figure(found: dict[str, Any], digits: int = 0) -> str:
    """Median (least to greatest) of a figure."""
    median, least, greatest = (f"{found[key]:,.{digits}f}" for key in ("median", "least", "greatest"))
    return f"{median} ({least} to {greatest})"


def times(row: Report) -> str:
    """Median of a row's ratio, or "" where it has none."""
    median = row["ratio"]["median"] if "ratio" in row else None
    return "" if median is None else f"{median:.{2 if median < 10 else 1 if median < 100 else 0}f} ×"


def page(report: Report, table: str, note: str = "") -> str:
    """Return the machine, a table and, if there is a note, the note and the versions of the packages."""
    found = report["environment"]
    machine = f"**{found['device_name']}** ({found['cpu']}, {found['cpus']} CPUs; {found['date'][:10]})"
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{machine}\n\n{table}" + (f"\n\n{note} {versions}." if note else "")


def compared(report: Report, head: str, columns: Sequence[str], cases: dict[str, dict[str, list[str]]]) -> str:
    """Return a table with a line for each contender and, for each case, the contender's cells.

    Args:
        report: Its `contenders` are the lines.
        head: Heading of the contenders.
        columns: Headings of the cells of one case; "{}" stands for the name of the case.
        cases: Cells by case and contender.
    """
    headings = [column.format(case) for case in cases for column in columns]
    rows = (
        [f"`{name}`: {words}", *(cell for cells in cases.values() for cell in cells[name])]
        for name, words in report["contenders"].items()
    )
    return markdown([head, *headings], rows)


def images_table(report: Report) -> str:
    """Table of `benchmarks.images` or `benchmarks.warm`."""
    cases: dict[str, dict[str, list[str]]] = {}
    for row in report["rows"]:
        cells = [figure(row["images_per_second"]), times(row)]
        cases.setdefault(f"{row['size']} × {row['size']}", {})[row["contender"]] = cells
    note = (
        f"Median of {report['rounds']} interleaved rounds (least to greatest); {report['data']['files']} files of "
        f"{report['data']['mean_bytes'] / 1000:.0f} kB on average, batches of {report['batch_size']}."
    )
    return page(report, compared(report, "images per second", ["{}", RELATIVE], cases), note)


def windows_table(report: Report) -> str:
    """Table of `benchmarks.windows`: the windows that everybody measures, of a series in a cache."""
    cases: dict[str, dict[str, list[str]]] = {}
    for row in report["rows"]:
        if (row["series"], row["length"], row["channels"], row["dtype"]) == ("near", 96, 7, "float32"):
            cells = [figure(row["windows_per_second"]), times(row)]
            cases.setdefault(f"batches of {row['batch_size']:,}", {})[row["contender"]] = cells
    ratios = [row["ratio"]["median"] for row in report["rows"] if row["contender"] == "DataLoader" and "ratio" in row]
    note = (
        f"Windows of 96 × 7 float32, shuffled; median of {report['rounds']} interleaved rounds (least to greatest). In "
        f"the {len(ratios)} cases that were measured, other lengths and widths and a series far larger than the caches "
        f"among them, gpuload is {min(ratios):,.0f} to {max(ratios):,.0f} times as fast as the DataLoader."
    )
    return page(report, compared(report, "windows per second", ["{}", RELATIVE], cases), note)


def epochs_table(report: Report) -> str:
    """Table of `benchmarks.epochs`."""
    cases: dict[str, dict[str, list[str]]] = {}
    for row in report["rows"]:
        cells = [figure(row["seconds"], 1), f"{row['first_seconds']['median']:.1f}", times(row)]
        cases.setdefault(f"{row['size']} × {row['size']}", {})[row["program"]] = cells
    note = (
        f"{report['data']['files']} files, batches of {report['batch_size']}, the start of the program included; "
        f"median of {report['rounds']} interleaved rounds (least to greatest)."
    )
    columns = ["{}, s", "first epoch, s", RELATIVE]
    return page(report, compared(report, f"{report['epochs']} epochs", columns, cases), note)


def delivery_table(report: Report) -> str:
    """Table of `benchmarks.delivery`: a line for each framework, a column for each job."""
    cells: dict[str, list[str]] = {}
    for row in report["rows"]:
        microseconds = f"{row['in_a_row']['median']:.0f} ({row['cold']['median']:.0f})"
        cells.setdefault(row["framework"], []).append(microseconds)
    jobs = dict.fromkeys(row["job"] for row in report["rows"])
    rows = ([f"`{name}`", *found] for name, found in cells.items())
    note = (
        "Batches delivered one after another (each right after threads have filled the caches with another batch). "
        f"Median of {report['rounds']} interleaved rounds."
    )
    return page(report, markdown([f"µs a batch of {report['batch_size']}", *jobs], rows), note)


def rows_table(report: Report) -> str:
    """Table of the figures in `COLUMNS`, a line for each row."""
    return page(
        report, markdown(list(columns(report)), cells(report)), NOTES.get(report["benchmark"], "").format(**report)
    )


TABLES: dict[str, Callable[[Report], str]] = {"images": images_table, "warm": images_table, "epochs": epochs_table}
TABLES |= {"windows": windows_table, "delivery": delivery_table}
TABLES |= dict.fromkeys(("startup", "fit", "resume", "memory", "overhead"), rows_table)
"""Tables of README.md by the benchmark that each is made from."""
