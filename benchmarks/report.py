"""What the benchmarks share: rounds, the record of the machine, JSON; and the tables of the pages, made from that JSON.

python -m benchmarks.report        renews what stands between the markers in README.md and benchmarks/README.md
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
PAGE = Path(__file__).parent / "README.md"
PACKAGES = (
    "numpy",
    "numba",
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
    "jax",
    "torch",
    "torchvision",
    "spdl",
    "grain",
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


def renew(text: str, name: str, content: str) -> str:
    """The text with other content between its markers `<!-- benchmark:name -->` and `<!-- /benchmark:name -->`."""
    begin, end = f"<!-- benchmark:{name} -->", f"<!-- /benchmark:{name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the README must hold {begin} and, after it, {end}: add both where the table belongs")
    return f"{before}{begin}\n{content}\n{end}{after}"


def load(name: str, results: Path = RESULTS) -> list[dict[str, Any]]:
    """What a benchmark wrote, on each machine."""
    reports = [json.loads(file.read_text()) for file in sorted(results.glob(f"{name}-*.json"))]
    if not reports:
        raise FileNotFoundError(f"{results} holds no {name}-*.json: run python -m benchmarks.{name} first")
    return reports


def main(
    readme: Annotated[Path, typer.Option(help="the file that holds the markers of the tables")] = README,
    page: Annotated[Path, typer.Option(help="the file that holds the markers of those that go deeper")] = PAGE,
    results: Annotated[Path, typer.Option(help="the folder of JSON files")] = RESULTS,
) -> None:
    """Renew the tables from the JSON of the benchmarks."""
    from benchmarks.tables import PAGE_TABLES, TABLES

    text = readme.read_text()
    for name, table in TABLES.items():
        reports = load(name, results)
        text = renew(text, name, "\n\n".join(table(report) for report in reports))
        print(f"{readme}: {name}, {len(reports)} machines")
    readme.write_text(text)
    text = page.read_text()
    for name, (sources, several) in PAGE_TABLES.items():
        reports = [load(source, results)[0] for source in sources]
        text = renew(text, name, several(*reports))
        print(f"{page}: {name}")
    page.write_text(text)


if __name__ == "__main__":
    typer.run(main)
