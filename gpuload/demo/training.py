"""Training of a network on a loader's batches: timing, progress, and a table of the findings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table
from torch import nn

import gpuload


class Moment(NamedTuple):
    """State of a training after a batch. Epochs and batches are counted from 1."""

    title: str
    """Name of the epoch, for the user."""
    epoch: int
    batch: int
    batches: int
    """Batches per epoch."""
    loss: float
    """Mean loss of this epoch's batches so far."""
    samples_per_second: float
    """Images or windows per second since the first batch."""


Watch = Callable[[Moment], object]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Speed of a training."""

    samples: int
    """Images or windows in all epochs."""
    samples_per_second: float
    """Images or windows per second, from the first batch on."""
    waiting: float
    """Share of the training time, from the first batch on, that was spent waiting for batches."""
    start_up: float
    """Seconds until the first batch."""
    loader: gpuload.Loader

    def rows(self, samples: str) -> dict[str, str]:
        """Return the rows of the table; `samples` is the word for the samples, e.g. "images"."""
        decoder = {"decoder": self.loader.decoder} if self.loader.decoder else {}
        return {
            "speed": f"{self.samples_per_second:,.0f} {samples} a second",
            "waiting for data": f"{self.waiting:.1%} of training time",
            "first batch": f"after {self.start_up:.2f} s",
            "device": self.loader.device,
            **decoder,
            "engine": self.loader.engine,
        }


def fit(
    network: nn.Module,
    loader: gpuload.Loader,
    *,
    epochs: int,
    rate: float,
    loss: Callable[..., torch.Tensor],
    watch: Watch = lambda moment: None,
    title: str = "",
) -> Training:
    """Train a network and return how fast it went.

    `Loader.stats` would not do: it counts the wait for the first batch, and the loader cuts a short series at once.

    Args:
        network: Network to train, in place.
        loader: Loader of the training batches.
        epochs: Passes over the training data.
        rate: Initial learning rate.
        loss: Loss of a batch; called with the parts of the batch.
        watch: Function that is called after each batch.
        title: Beginning of the title of each moment.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))
    network.train()
    samples, busy, begin = 0, 0.0, time.perf_counter()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for number, batch in enumerate(loader, start=1):
            came = time.perf_counter()
            if not samples:
                start_up, begin = came - begin, came
            samples += len(batch[0])
            value = loss(*batch)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += value.item()  # Waits for the GPU, so that its work does not count as waiting for data.
            pace = samples / (time.perf_counter() - begin)
            watch(Moment(f"{title}epoch {epoch}/{epochs}", epoch, number, len(loader), total / number, pace))
            busy += time.perf_counter() - came
    seconds = time.perf_counter() - begin
    return Training(
        samples=samples,
        samples_per_second=samples / seconds,
        waiting=1 - busy / seconds,
        start_up=start_up,
        loader=loader,
    )


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Seed PyTorch, and run its CPU operators in one thread; restore both at the end.

    More threads would slow these small networks and the loader.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def progress(console: Console, samples: str) -> Iterator[Watch]:
    """Yield a function to call after each batch; `samples` is the word for the samples, e.g. "images".

    It moves a progress bar, if there is a terminal, and prints a line after each epoch.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing", total=None, pace="")

        def report(moment: Moment) -> None:
            pace = f"loss {moment.loss:.3f}   {moment.samples_per_second:,.0f} {samples}/s"
            bar.update(task, description=moment.title, completed=moment.batch, total=moment.batches, pace=pace)
            if moment.batch == moment.batches:
                console.print(f"{moment.title}   {pace}")

        yield report


def table(columns: dict[str, dict[str, str]]) -> Table:
    """Return a table of columns with the same rows, each column with its heading."""
    found = Table(Column(style="bold"), *columns, show_header=any(columns))
    for title in next(iter(columns.values())):
        found.add_row(title, *(rows[title] for rows in columns.values()))
    return found
