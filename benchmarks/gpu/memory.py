"""Memory of the device and of the host over many batches."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import psutil

import gpuload
from benchmarks.gpu.cold import SIDE, repeated
from benchmarks.gpu.effort import Effort
from benchmarks.jobs import Job, endless, series, synchronize
from benchmarks.photos import photos

LOOKS = 20
LONGEST = 15.0
"""Seconds for a job, at most."""


def used_bytes(device: str) -> int:
    """Return the bytes of the device's memory that are taken, by whomever."""
    if device == "cpu":
        return 0
    import torch

    free, total = torch.cuda.mem_get_info()
    return total - free


def run(effort: Effort, device: str) -> Iterator[dict[str, Any]]:
    """Yield a row for photographs decoded in each epoch, and for windows: looks, evenly spaced."""
    job = Job(photos(effort.photographs), SIDE, effort.batch // 2, device)
    values, labels = series()
    transform = gpuload.Augment(size=(SIDE, SIDE), rotation=10, hflip=0.5, rescale=1 / 255)
    jobs = {
        "photographs": (repeated(job, effort.epoch), transform, {"batch_size": job.batch_size, "cache": None}),
        "windows": (gpuload.Series(values, labels), gpuload.Window(96, per_sample="standardize"), {"batch_size": 256}),
    }
    common: dict[str, Any] = {"shuffle": True, "seed": 0, "device": device, "framework": "torch"}
    process, pace = psutil.Process(), max(1, effort.batches // LOOKS)
    for name, (source, augment, options) in jobs.items():
        looks, count, until = [], 0, time.perf_counter() + LONGEST
        with gpuload.Loader(source, augment, **common, **options) as loader:
            for number, _ in enumerate(itertools.islice(endless(loader), effort.batches), 1):
                if number % pace == 0:
                    synchronize(device)
                    looks.append((used_bytes(device), process.memory_info().rss))
                    count = number
                    if time.perf_counter() > until:
                        break
        on_device, on_host = zip(*looks, strict=True)
        yield {"job": name, "batches": count, "device_bytes": on_device, "host_bytes": on_host}
