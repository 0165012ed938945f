"""The tables of the README, in Markdown, each from what one benchmark wrote on one machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import deep, scale


def machine(report: dict[str, Any]) -> str:
    """Where it was measured, and when."""
    found = report["environment"]
    return f"**{found['device_name']}** ({found['cpu']}, {found['cpus']} CPUs; {found['date'][:10]})"


def _table(report: dict[str, Any], unit: str, ours: str, cases: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """A line for each contender and two columns for each case, whose rows stand under the contenders, in Markdown."""
    lines = [
        machine(report),
        "",
        f"| {unit} per second | " + " | ".join(f"{heading} | gpuload is" for heading in cases) + " |",
        "| --- |" + " ---: | ---: |" * len(cases),
    ]
    for name, words in report["contenders"].items():
        cells = []
        for rows in cases.values():
            speed, ratio = rows[name][f"{unit}_per_second"], rows[name].get("ratio", {}).get("median")
            cells.append(f"{speed['median']:,.0f} ({speed['least']:,.0f} to {speed['greatest']:,.0f})")
            cells.append("" if name == ours or ratio is None else f"{ratio:.2f} ×" if ratio < 10 else f"{ratio:.0f} ×")
        lines.append(f"| `{name}`: {words} | " + " | ".join(cells) + " |")
    return lines


def versions(report: dict[str, Any]) -> str:
    """Of everything that was there."""
    return ", ".join(f"{name} {version}" for name, version in report["environment"]["versions"].items())


def images_table(report: dict[str, Any]) -> str:
    """A report of `benchmarks.images` or `benchmarks.warm` in Markdown."""
    data = report["data"]
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    for row in report["rows"]:
        cases.setdefault(f"{row['size']} × {row['size']}", {})[row["contender"]] = row
    lines = _table(report, "images", "gpuload", cases)
    lines += [
        "",
        f"Median of {report['rounds']} interleaved rounds (least to greatest); {data['files']} files of "
        f"{data['mean_bytes'] / 1000:.0f} kB on average, batches of {report['batch_size']}. {versions(report)}.",
    ]
    return "\n".join(lines)


def windows_table(report: dict[str, Any]) -> str:
    """A report of `benchmarks.windows` in Markdown: the windows that everybody measures, in a series in a cache."""
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    for row in report["rows"]:
        if (row["series"], row["length"], row["channels"], row["dtype"]) == ("near", 96, 7, "float32"):
            cases.setdefault(f"batches of {row['batch_size']:,}", {})[row["contender"]] = row
    lines = _table(report, "windows", "gpuload.torch", cases)
    ratios = [row["ratio"]["median"] for row in report["rows"] if row["contender"] == "DataLoader" and "ratio" in row]
    lines += [
        "",
        f"Windows of 96 × 7 float32, shuffled; median of {report['rounds']} interleaved rounds (least to greatest). In "
        f"the {len(ratios)} cases that were measured, other lengths and widths and a series far larger than the caches "
        f"among them, gpuload is {min(ratios):,.0f} to {max(ratios):,.0f} times the DataLoader. {versions(report)}.",
    ]
    return "\n".join(lines)


def delivery_table(report: dict[str, Any]) -> str:
    """A report of `benchmarks.delivery` in Markdown: a line for each framework, a column for each job."""
    cells: dict[str, list[str]] = {}
    for row in report["rows"]:
        cold = row["cold"]["median"]
        cells.setdefault(row["framework"], []).append(f"{row['in_a_row']['median']:.0f} ({cold:.0f})")
    jobs = dict.fromkeys(row["job"] for row in report["rows"])
    lines = [machine(report), "", f"| µs a batch of {report['batch_size']} | " + " | ".join(jobs) + " |"]
    lines += ["| --- |" + " ---: |" * len(jobs)]
    lines += [f"| `{name}` | " + " | ".join(values) + " |" for name, values in cells.items()]
    lines += [
        "",
        "Batches delivered one after another (each right after threads have filled the caches with another batch). "
        f"Median of {report['rounds']} interleaved rounds. {versions(report)}.",
    ]
    return "\n".join(lines)


def fit_table(report: dict[str, Any]) -> str:
    """A report of `benchmarks.fit` in Markdown."""
    lines = [machine(report), "", "| Keras' backend | loop, ms a batch | `fit`, ms a batch | `fit` takes |"]
    lines += ["| --- | ---: | ---: | ---: |"]
    for row in report["rows"]:
        loop, fit = (1000 * row["seconds"][name]["median"] / row["batches"] for name in ("loop", "fit"))
        ratio = row["ratio"]
        spread_ = f"{ratio['median']:.2f} × ({ratio['least']:.2f} to {ratio['greatest']:.2f})"
        lines.append(f"| {row['backend']} | {loop:.1f} | {fit:.1f} | {spread_} |")
    lines += [
        "",
        f"A small convolutional network on photographs of 64 × 64, batches of {report['batch_size']}; median of "
        f"{report['rounds']} interleaved rounds (least to greatest). {versions(report)}.",
    ]
    return "\n".join(lines)


def resume_table(report: dict[str, Any]) -> str:
    """A report of `benchmarks.resume` in Markdown."""
    lines = ["| killed and resumed | kills | samples | lost | twice | with other pixels |", "| --- |" + " ---: |" * 5]
    for row in report["rows"]:
        figures = (f"{row[name]:,}" for name in ("kills", "samples", "lost", "twice", "differing"))
        lines.append(f"| {row['job']} | " + " | ".join(figures) + " |")
    return "\n".join([machine(report), "", *lines])


def memory_table(report: dict[str, Any]) -> str:
    """A report of `benchmarks.memory` in Markdown."""
    lines = ["| a long run | samples | resident MB | spread | threads | descriptors |", "| --- |" + " ---: |" * 5]
    for row in report["rows"]:
        least, most = (pick(row["resident_bytes"]) / 1e6 for pick in (min, max))
        constant = ("{} to {}".format(*row[name]) for name in ("threads", "descriptors"))
        lines.append(
            f"| {row['job']} | {row['samples']:,} | {least:.1f} to {most:.1f} | {row['spread_percent']:.2f} % | "
            + " | ".join(constant)
            + " |"
        )
    return "\n".join([machine(report), "", *lines])


def overhead_table(report: dict[str, Any]) -> str:
    """A report of `benchmarks.overhead` in Markdown."""
    lines = ["| samples per second | plain | careful | costs |", "| --- |" + " ---: |" * 3]
    for row in report["rows"]:
        costs = row["costs_percent"]
        lines.append(
            f"| {row['job']} | {row['plain']['median']:,.0f} | {row['careful']['median']:,.0f} | "
            f"{costs['median']:+.1f} % ({costs['least']:+.1f} to {costs['greatest']:+.1f}) |"
        )
    return "\n".join([machine(report), "", *lines])


def epochs_table(report: dict[str, Any]) -> str:
    """A report of `benchmarks.epochs` in Markdown."""
    sizes = list(dict.fromkeys(row["size"] for row in report["rows"]))
    rows = {(row["size"], row["program"]): row for row in report["rows"]}
    headings = "".join(f" {size} × {size}, s | of these the first epoch | gpuload is |" for size in sizes)
    lines = [machine(report), "", f"| {report['epochs']} epochs |{headings}", "| --- |" + " ---: |" * 3 * len(sizes)]
    for name, words in report["contenders"].items():
        cells = []
        for size in sizes:
            row = rows[size, name]
            seconds, ratio = row["seconds"], row.get("ratio", {}).get("median")
            cells.append(f"{seconds['median']:.1f} ({seconds['least']:.1f} to {seconds['greatest']:.1f})")
            cells.append(f"{row['first_seconds']['median']:.1f}")
            cells.append("" if name == "gpuload.keras" or ratio is None else f"{ratio:.1f} ×")
        lines.append(f"| `{name}`: {words} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"{report['data']['files']} files, batches of {report['batch_size']}, the start of the program included; "
        f"median of {report['rounds']} interleaved rounds (least to greatest). {versions(report)}.",
    ]
    return "\n".join(lines)


def startup_table(report: dict[str, Any]) -> str:
    """A report of `benchmarks.startup` in Markdown."""
    lines = [machine(report), "", f"| {report['files']:,} files | ms | of the walk |", "| --- | ---: | ---: |"]
    for row in report["rows"]:
        seconds = row["seconds"]
        figure = " ({:,.0f} to {:,.0f})".format(*(1000 * seconds[key] for key in ("least", "greatest")))
        ratio = f"{row['ratio']['median']:.2f} ×" if "ratio" in row else ""
        lines.append(f"| {row['step']} | {1000 * seconds['median']:,.0f}{figure} | {ratio} |")
    lines += ["", f"Median of {report['rounds']} rounds (least to greatest), each a new process. {versions(report)}."]
    return "\n".join(lines)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
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
"""Of each benchmark that has a table in the README."""

PAGE_TABLES: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "goals": (("images", "warm", "epochs", "startup"), deep.goals_table),
    "limits": (("images", "warm"), deep.limits_table),
    "growth": (("growth",), deep.growth_table),
    "decoding": (("growth",), deep.decoding_table),
    "scale": (("images", "warm", "growth", "startup"), scale.scale_table),
}
"""Of each part of benchmarks/README.md that is made: the benchmarks that it is made from, and what makes it."""
