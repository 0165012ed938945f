"""Parts that all benchmarks share: options, rounds, processes of their own, and the report at the end."""

import argparse
import ctypes
import importlib.util
import json
import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import psutil
from rich.console import Console
from rich.table import Table

import gpuload
from benchmarks import tables

RESULTS = Path(__file__).parent / "results"
PACKAGES = ["numpy", "numba", "scipy", "pillow", "keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "torchvision"]
PACKAGES += ["nvidia-dali-cuda120", "nvidia-dali-cuda130", "nvidia-nvimgcodec-cu12", "nvidia-nvimgcodec-cu13"]
PACKAGES += ["cupy-cuda12x", "cupy-cuda13x", "spdl", "grain"]
LOAD_AT_START = os.getloadavg()[0]  # Read on import, because later the benchmark itself is part of the load.

Report = tables.Report
Result = TypeVar("Result")
HELP = {
    "data": "a folder of class folders, or a number of photographs to make",
    "rounds": "number of rounds, in each of which every contender runs once",
    "seconds": "approximate time of each measurement",
    "sizes": "side lengths in pixels, separated by commas",
    "only": "names to measure, separated by commas; where names hold commas, by semicolons",
    "out": "the JSON file to write; by default in benchmarks/results/",
    "most": "largest number of files",
    "where": "a folder for the names; by default the system's temporary one",
}


def options(words: str | None, arguments: Sequence[str], **defaults: Any) -> argparse.Namespace:
    """Parse a command line, or that of this process where there are no arguments, and set Keras and TensorFlow up.

    Each default is an option of its type; an option that is None by default is a path. `words` is the help.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if importlib.util.find_spec("tensorflow") is None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        kind, choices = Path if default is None else type(default), ("cpu", "cuda") if name == "device" else None
        help_ = HELP.get(name, "") + ("" if default is None else f" (default: {default})")
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, choices=choices, help=help_)
    found = parser.parse_args(arguments or None)
    for name, value in vars(found).items():
        if isinstance(value, int) and value < (name != "seed"):
            parser.error(f"argument --{name}: {value}, but it must be at least {int(name != 'seed')}")
    return found


def chosen(names: str, known: Iterable[str], option: str, separator: str = ",") -> list[str]:
    """Return the names in an option, where "all" stands for all known ones; end the program if one is unknown."""
    known = list(known)
    found = known if names == "all" else names.split(separator)
    if unknown := [name for name in found if name not in known]:
        sys.exit(f"{option}: {', '.join(unknown)}: not among {f'{separator} '.join(known)}")
    return found


def words(contenders: dict[str, Any], names: Iterable[str]) -> dict[str, str]:
    """First line of each contender's docstring, for the tables."""
    return {name: (contenders[name].__doc__ or "").split("\n")[0].rstrip(".") for name in names}


def rounds(count: int, tasks: dict[str, Callable[[], Result]], *, settles: bool = True) -> dict[str, list[Result]]:
    """Return the results of `count` rounds. In each, every task runs once, and another one goes first.

    A noisy machine then disturbs all of them alike, and the results of one round can be compared. `settles`: whether to
    wait for other threads before each task.
    """
    results: dict[str, list[Result]] = {name: [] for name in tasks}
    names = list(tasks)
    for number in range(count):
        first = number % max(1, len(names))
        for name in names[first:] + names[:first]:
            if settles:
                settle()
            results[name].append(tasks[name]())
    return results


def cpu_time() -> float:
    """Seconds that all CPUs together have spent on this process, its threads and its worker processes."""
    workers = psutil.Process().children(recursive=True)
    return time.process_time() + sum(sum(process.cpu_times()[:2]) for process in workers)


def settle(longest: float = 3.0) -> None:
    """Wait until threads and worker processes have filled their queues and stopped."""
    pause, before = 0.1, cpu_time()
    for _ in range(int(longest / pause)):
        time.sleep(pause)
        before, last = cpu_time(), before
        if before - last < 0.1 * pause:
            return


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Median, least and greatest of the rounds, and the rounds."""
    values = list(values)
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values), "rounds": values}


def spreads(results: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Spread of each figure over the rounds."""
    return {name: spread(result[name] for result in results) for name in results[0]}


def ratio(above: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    """Spread of the quotients of two figures, each computed within one round."""
    return spread(one / other for one, other in zip(above["rounds"], below["rounds"], strict=True))


def relative(rows: list[Report], ours: str, figure: str) -> list[Report]:
    """Add to each row its time relative to the row of `ours`, by a figure: "seconds", or a speed."""
    base = next((row[figure] for row in rows if ours in row.values()), None)
    if base is None:
        return rows
    pairs = ((row[figure], base) if figure == "seconds" else (base, row[figure]) for row in rows)
    return [row | {"ratio": ratio(*pair)} for row, pair in zip(rows, pairs, strict=True)]


def in_processes(function: Callable[..., Result], *calls: tuple[Any, ...]) -> list[Result]:
    """Return the results of calls that run side by side, each in a new process."""
    with ProcessPoolExecutor(len(calls), mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(function, *arguments) for arguments in calls]
        return [job.result() for job in jobs]


def child(function: Callable[..., Any], *arguments: Any, errors: Path, method: str) -> Any:
    """Start and return a process that calls a function; its stderr goes to the file `errors`."""
    process = multiprocessing.get_context(method).Process(target=_quietly, args=(errors, function, *arguments))
    process.start()
    return process


def _quietly(errors: Path, function: Callable[..., Any], *arguments: Any) -> None:
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    function(*arguments)


def timed(task: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = task()
    return time.perf_counter() - start, result


def peak_bytes() -> int:
    """Largest resident memory that this process ever had."""
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


def environment(device: str = "cpu") -> dict[str, Any]:
    """The machine and the versions of the packages."""
    installed = {(found.name or "").lower(): found.version for found in metadata.distributions()}
    versions = {name: installed[name] for name in PACKAGES if name in installed}
    cpus = len(os.sched_getaffinity(0))
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "device": device,
        "device_name": _gpu_name() if device != "cpu" else f"CPU, {cpus} cores",
        "cpu": cpu[1] if cpu else platform.processor(),
        "cpus": cpus,
        "load_average": LOAD_AT_START,
        "system": platform.platform(),
        "versions": {"gpuload": gpuload.__version__, "python": platform.python_version(), **versions},
    }


def _gpu_name() -> str:
    driver, name = ctypes.CDLL("libcuda.so.1"), ctypes.create_string_buffer(100)
    driver.cuInit(0)
    driver.cuDeviceGetName(name, len(name), 0)
    return name.value.decode()


def finish(asked: argparse.Namespace, benchmark: str, **facts: Any) -> None:
    """Print and write the report of a benchmark: its options without paths, and `facts`, `rows` among them."""
    known = {name: value for name, value in vars(asked).items() if name not in ("data", "device", "out", "where")}
    report = {"benchmark": benchmark, "environment": environment(getattr(asked, "device", "cpu")), **known, **facts}
    table = Table(title=f"{benchmark}, {report['environment']['device_name']}")
    for heading, name in tables.columns(report).items():
        table.add_column(heading, justify="left" if name else "right", no_wrap=name)
    for cells in tables.cells(report, spreads=1):
        table.add_row(*cells)
    console = Console()
    console.print(table)
    for name, reason in report.get("skipped", {}).items():
        console.print(f"{name} was left out: {reason}")
    print(f"written to {save(report, asked.out)}")


def save(report: Report, out: Path | None) -> Path:
    """Write the report as JSON and return the path."""
    if out is None:
        slug = re.sub(r"[^a-z0-9]+", "-", report["environment"]["device_name"].lower()).strip("-")
        out = RESULTS / f"{report['benchmark']}-{slug}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    return out
