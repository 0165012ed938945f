"""Photographs that are read and decoded on the device in each epoch: gpuload beside DALI by hand and torchvision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gpuload
from benchmarks import contenders
from benchmarks.gpu.effort import Effort
from benchmarks.images import measure
from benchmarks.jobs import Batches, Job, endless
from benchmarks.photos import photos

SIDE = 224
HINT = 1024
"""Pixels a side for which DALI's memory is made beforehand."""


def repeated(job: Job, epoch: int) -> gpuload.ImageList:
    """Return the files, again and again until there are `epoch` of them."""
    names = (job.files * -(-epoch // len(job.files)))[:epoch]
    return gpuload.ImageList(*zip(*names, strict=True))


def of_gpuload(epoch: int) -> Callable[[Job], Batches]:
    """Return gpuload.Loader with cache=None, in epochs of so many names."""

    def batches(job: Job) -> Batches:
        with contenders.gpuload_loader(job, repeated(job, epoch), cache=None, framework="torch") as loader:
            yield from endless(loader)

    return batches


def dali_tuned(job: Job) -> Batches:
    """Return batches of the DALI pipeline by hand, tuned for a large GPU."""
    engine = {"preallocate_width_hint": HINT, "preallocate_height_hint": HINT, "hw_decoder_load": 0.75}
    return contenders.dali_by_hand(job, ahead=3, read_ahead=3, **(engine if job.gpu else {}))


def guarded(contender: Callable[[Job], Batches]) -> Callable[[Job], Batches]:
    """Return a contender that is left out if its first batch fails, as where a library was built for another GPU."""

    def batches(job: Job) -> Batches:
        found = contender(job)
        try:
            first = next(found)
        except RuntimeError as error:
            raise ImportError(str(error).splitlines()[0]) from error
        yield first
        yield from found

    return batches


def run(effort: Effort, device: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each contender."""
    job = Job(photos(effort.photographs), SIDE, effort.batch, device)
    some = {
        "gpuload": of_gpuload(effort.epoch),
        "DALI by hand": contenders.dali,
        "DALI by hand, tuned": dali_tuned,
        "DALI's decoder alone": contenders.decoder,
        "torchvision": contenders.torchvision,
    }
    for name, contender in some.items():  # Pipelines side by side would share the decoder and the memory.
        pair = {"gpuload": some["gpuload"], name: contender if name == "gpuload" else guarded(contender)}
        rows, skipped = measure(job, pair, "gpuload", "images_per_second", effort.rounds, effort.seconds, settles=False)
        yield from (row for row in rows if row["contender"] == name)
        yield from ({"contender": left, "skipped": reason} for left, reason in skipped.items())
