"""What the benchmarks share: rounds, the record of the machine, JSON; and the README's tables, made from that JSON.

python -m benchmarks.report        renews what stands between the markers in README.md
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, TypeVar

import psutil
import typer

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
PACKAGES = (
    "numpy",
    "scipy",
    "pillow",
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
    "nvidia-nvimgcodec-cu12",
    "nvidia-nvimgcodec-cu13",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "nvidia-dali-tf-plugin-cuda120",
    "nvidia-dali-tf-plugin-cuda130",
    "jax",
    "torch",
    "torchvision",
)
Result = TypeVar("Result")


def rounds(count: int, tasks: dict[str, Callable[[], Result]]) -> dict[str, list[Result]]:
    """The results of `count` rounds. In each, every task runs once, and another one goes first.

    A noisy machine then disturbs all of them alike, and the results of one round can be compared.
    """
    results: dict[str, list[Result]] = {name: [] for name in tasks}
    names = list(tasks)
    for number in range(count):
        first = number % max(1, len(names))
        for name in names[first:] + names[:first]:
            settle()
            results[name].append(tasks[name]())
    return results


def cpu_time() -> float:
    """Seconds that all CPUs together have spent on this process, its threads and its worker processes."""
    workers = psutil.Process().children(recursive=True)
    return time.process_time() + sum(sum(process.cpu_times()[:2]) for process in workers)


def settle(longest: float = 3.0) -> None:
    """Wait until threads and worker processes have filled their queues and stopped."""
    pause = 0.1
    before = cpu_time()
    for _ in range(int(longest / pause)):
        time.sleep(pause)
        before, last = cpu_time(), before
        if before - last < 0.1 * pause:
            return


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Median, least and greatest of the rounds, and the rounds."""
    values = list(values)
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values), "rounds": values}


def environment(device: str = "cpu") -> dict[str, Any]:
    """The machine and the versions of everything."""
    import gpuload

    versions = {"gpuload": gpuload.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cpus = len(os.sched_getaffinity(0))
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "device": device,
        "device_name": _gpu_name() if device != "cpu" else f"CPU, {cpus} cores",
        "cpu": _cpu_model(),
        "cpus": cpus,
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
        "versions": versions,
    }


def _cpu_model() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor()


def _gpu_name() -> str:
    driver, name = ctypes.CDLL("libcuda.so.1"), ctypes.create_string_buffer(100)
    driver.cuInit(0)
    driver.cuDeviceGetName(name, len(name), 0)
    return name.value.decode()


def save(report: dict[str, Any], out: Path | None) -> Path:
    """Write the report; by default into benchmarks/results, named after the benchmark and the device."""
    if out is None:
        slug = re.sub(r"[^a-z0-9]+", "-", report["environment"]["device_name"].lower()).strip("-")
        out = RESULTS / f"{report['benchmark']}-{slug}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    return out


def _machine(report: dict[str, Any]) -> str:
    machine = report["environment"]
    return f"**{machine['device_name']}** ({machine['cpu']}, {machine['cpus']} CPUs; {machine['date'][:10]})"


def _table(report: dict[str, Any], unit: str, ours: str, cases: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """A line for each contender and two columns for each case, whose rows stand under the contenders, in Markdown."""
    lines = [
        _machine(report),
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


def _versions(report: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in report["environment"]["versions"].items())


def images_table(report: dict[str, Any]) -> str:
    """A report of `benchmarks.images` in Markdown."""
    data = report["data"]
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    for row in report["rows"]:
        cases.setdefault(f"{row['size']} × {row['size']}", {})[row["contender"]] = row
    lines = _table(report, "images", "gpuload", cases)
    lines += [
        "",
        f"Median of {report['rounds']} interleaved rounds (least to greatest); {data['files']} files of "
        f"{data['mean_bytes'] / 1000:.0f} kB on average, batches of {report['batch_size']}. {_versions(report)}.",
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
        f"among them, gpuload is {min(ratios):,.0f} to {max(ratios):,.0f} times the DataLoader. {_versions(report)}.",
    ]
    return "\n".join(lines)


def delivery_table(report: dict[str, Any]) -> str:
    """A report of `benchmarks.delivery` in Markdown: a line for each framework, a column for each job."""
    cells: dict[str, list[str]] = {}
    for row in report["rows"]:
        cold = row["cold"]["median"]
        cells.setdefault(row["framework"], []).append(f"{row['in_a_row']['median']:.0f} ({cold:.0f})")
    jobs = dict.fromkeys(row["job"] for row in report["rows"])
    lines = [_machine(report), "", f"| µs a batch of {report['batch_size']} | " + " | ".join(jobs) + " |"]
    lines += ["| --- |" + " ---: |" * len(jobs)]
    lines += [f"| `{name}` | " + " | ".join(values) + " |" for name, values in cells.items()]
    lines += [
        "",
        "Batches delivered one after another (each right after threads have filled the caches with another batch). "
        f"Median of {report['rounds']} interleaved rounds. {_versions(report)}.",
    ]
    return "\n".join(lines)


def fit_table(report: dict[str, Any]) -> str:
    """A report of `benchmarks.fit` in Markdown."""
    lines = [_machine(report), "", "| Keras' backend | loop, ms a batch | `fit`, ms a batch | `fit` takes |"]
    lines += ["| --- | ---: | ---: | ---: |"]
    for row in report["rows"]:
        loop, fit = (1000 * row["seconds"][name]["median"] / row["batches"] for name in ("loop", "fit"))
        ratio = row["ratio"]
        spread_ = f"{ratio['median']:.2f} × ({ratio['least']:.2f} to {ratio['greatest']:.2f})"
        lines.append(f"| {row['backend']} | {loop:.1f} | {fit:.1f} | {spread_} |")
    lines += [
        "",
        f"A small convolutional network on photographs of 64 × 64, batches of {report['batch_size']}; median of "
        f"{report['rounds']} interleaved rounds (least to greatest). {_versions(report)}.",
    ]
    return "\n".join(lines)


def resume_table(report: dict[str, Any]) -> str:
    """A report of `benchmarks.resume` in Markdown."""
    lines = ["| killed and resumed | kills | samples | lost | twice | with other pixels |", "| --- |" + " ---: |" * 5]
    for row in report["rows"]:
        figures = (f"{row[name]:,}" for name in ("kills", "samples", "lost", "twice", "differing"))
        lines.append(f"| {row['job']} | " + " | ".join(figures) + " |")
    return "\n".join([_machine(report), "", *lines])


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
    return "\n".join([_machine(report), "", *lines])


def overhead_table(report: dict[str, Any]) -> str:
    """A report of `benchmarks.overhead` in Markdown."""
    lines = ["| samples per second | plain | careful | costs |", "| --- |" + " ---: |" * 3]
    for row in report["rows"]:
        costs = row["costs_percent"]
        lines.append(
            f"| {row['job']} | {row['plain']['median']:,.0f} | {row['careful']['median']:,.0f} | "
            f"{costs['median']:+.1f} % ({costs['least']:+.1f} to {costs['greatest']:+.1f}) |"
        )
    return "\n".join([_machine(report), "", *lines])


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "images": images_table,
    "windows": windows_table,
    "delivery": delivery_table,
    "fit": fit_table,
    "resume": resume_table,
    "memory": memory_table,
    "overhead": overhead_table,
}
"""Of each benchmark that has a table in the README."""


def renew(text: str, name: str, content: str) -> str:
    """The text with other content between its markers `<!-- benchmark:name -->` and `<!-- /benchmark:name -->`."""
    begin, end = f"<!-- benchmark:{name} -->", f"<!-- /benchmark:{name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the README must hold {begin} and, after it, {end}: add both where the table belongs")
    return f"{before}{begin}\n{content}\n{end}{after}"


def main(
    readme: Annotated[Path, typer.Option(help="the file that holds the markers")] = README,
    results: Annotated[Path, typer.Option(help="the folder of JSON files")] = RESULTS,
) -> None:
    """Renew the README's tables from the JSON of the benchmarks."""
    text = readme.read_text()
    for name, table in TABLES.items():
        reports = [json.loads(file.read_text()) for file in sorted(results.glob(f"{name}-*.json"))]
        if not reports:
            raise FileNotFoundError(f"{results} holds no {name}-*.json: run python -m benchmarks.{name} first")
        text = renew(text, name, "\n\n".join(table(report) for report in reports))
        print(f"{readme}: {name}, {len(reports)} machines")
    readme.write_text(text)


if __name__ == "__main__":
    typer.run(main)
