"""The tables of the README, in Markdown, each from the report of one benchmark on one machine."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.program import Report

RELATIVE = "time relative to gpuload"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """Return a table in Markdown; its first `left` columns are aligned left."""
    lines = [headings, ["---"] * left + ["---:"] * (len(headings) - left), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def figure(found: dict[str, Any], digits: int = 0, factor: float = 1.0, sign: str = "") -> str:
    """Median (least to greatest) of a figure, times a factor."""
    median, least, greatest = (f"{factor * found[key]:{sign},.{digits}f}" for key in ("median", "least", "greatest"))
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


def startup_table(report: Report) -> str:
    """Table of `benchmarks.startup`."""
    rows = ([row["step"], figure(row["seconds"], factor=1000), times(row)] for row in report["rows"])
    note = f"Median of {report['rounds']} rounds (least to greatest), each a new process."
    return page(report, markdown([f"{report['files']:,} files", "ms", "time relative to os.scandir"], rows), note)


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


def fit_table(report: Report) -> str:
    """Table of `benchmarks.fit`."""
    rows = []
    for row in report["rows"]:
        each = (f"{1000 * row['seconds'][name]['median'] / row['batches']:.1f}" for name in ("loop", "fit"))
        rows.append([row["backend"], *each, figure(row["ratio"], 2)])
    note = (
        f"A small convolutional network on photographs of 64 × 64, batches of {report['batch_size']}; median of "
        f"{report['rounds']} interleaved rounds (least to greatest)."
    )
    headings = ["Keras' backend", "loop, ms a batch", "`fit`, ms a batch", "time of `fit` relative to the loop"]
    return page(report, markdown(headings, rows), note)


def resume_table(report: Report) -> str:
    """Table of `benchmarks.resume`."""
    keys = ("kills", "samples", "lost", "twice", "differing")
    rows = ([row["job"], *(f"{row[key]:,}" for key in keys)] for row in report["rows"])
    headings = ["killed and resumed", "kills", "samples", "lost", "delivered twice", "with other pixels"]
    return page(report, markdown(headings, rows))


def memory_table(report: Report) -> str:
    """Table of `benchmarks.memory`."""
    rows = []
    for row in report["rows"]:
        least, most = (pick(row["resident_bytes"]) / 1e6 for pick in (min, max))
        counts = ("{} to {}".format(*row[name]) for name in ("threads", "descriptors"))
        resident = f"{least:.1f} to {most:.1f}"
        rows.append([row["job"], f"{row['samples']:,}", resident, f"{row['spread_percent']:.2f} %", *counts])
    headings = ["a long run", "samples", "resident MB", "spread of the memory", "threads", "file descriptors"]
    return page(report, markdown(headings, rows))


def overhead_table(report: Report) -> str:
    """Table of `benchmarks.overhead`."""
    rows = []
    for row in report["rows"]:
        speeds = (f"{row[kind]['median']:,.0f}" for kind in ("without", "with"))
        rows.append([row["job"], *speeds, figure(row["extra_time_percent"], 1, sign="+")])
    headings = ["samples per second", "without error handling", "with error handling", "extra time, %"]
    return page(report, markdown(headings, rows))


TABLES: dict[str, Callable[[Report], str]] = {
    "images": images_table,
    "warm": images_table,
    "epochs": epochs_table,
    "startup": startup_table,
    "windows": windows_table,
    "delivery": delivery_table,
    "fit": fit_table,
    "resume": resume_table,
    "memory": memory_table,
    "overhead": overhead_table,
}
"""Tables of README.md by the benchmark that each is made from."""
