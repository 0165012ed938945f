"""The cost of error handling: a loader that survives bad files and tells its state and figures after every batch.

    python -m benchmarks.overhead

The same loader twice, in rounds, as in `benchmarks.images`: without error handling; and with `on_error="replace"`,
though no file is bad, and `state_dict()` and `stats()` called after each batch. `extra time` is how much longer a
sample takes, round by round. Windows are not read from files: they have no `on_error`.
"""

from pathlib import Path

import gpuload
from benchmarks.contenders import gpuload_loader
from benchmarks.images import Stopwatch
from benchmarks.jobs import Batches, Job, endless, series
from benchmarks.photos import data_folder
from benchmarks.program import Report, finish, options, ratio, rounds, spread, spreads


def observed(loader: gpuload.Loader) -> Batches:
    """Epoch after epoch, with a look at state and figures after each batch."""
    for batch in endless(loader):
        loader.state_dict()
        loader.stats()
        yield batch


def jobs(folder: Path, device: str) -> dict[str, gpuload.Loader]:
    """Loaders by the samples that they load."""
    found = {f"images {size} x {size}": gpuload_loader(Job(folder, size, 32, device), cache=None) for size in (64, 224)}
    values, _ = series()
    rows, options = gpuload.Series(values, values[:, 0]), {"shuffle": True, "device": device}
    for size in (64, 256):
        loader = gpuload.Loader(rows, gpuload.Window(96), batch_size=size, **options)
        found[f"windows 96 x 7, batches of {size}"] = loader
    return found


def extra(with_: Report, without: Report) -> Report:
    """Percent by which the one figure is above the other, round by round."""
    return spread(100 * (quotient - 1) for quotient in ratio(with_, without)["rounds"])


def main(*arguments: str) -> None:
    asked = options(__doc__, arguments, rounds=9, seconds=2.0, data="1000", device="cpu", out=None)
    rows = []
    for name, loader in jobs(data_folder(asked.data), asked.device).items():
        survive = {"on_error": "replace"} if name.startswith("images") else {}
        pair = {"without": endless(loader), "with": observed(loader.replace(**survive))}
        tasks = {kind: Stopwatch(batches, asked.seconds, asked.device).slice for kind, batches in pair.items()}
        found = {kind: spreads(results) for kind, results in rounds(asked.rounds, tasks).items()}
        speeds = {kind: figures["speed"] for kind, figures in found.items()}
        row = {"job": name, **speeds, "extra_time_percent": extra(speeds["without"], speeds["with"])}
        rows.append(row | {"extra_cpu_percent": extra(found["with"]["cpu_ms"], found["without"]["cpu_ms"])})
    finish(asked, "overhead", rows=rows)


if __name__ == "__main__":
    main()
