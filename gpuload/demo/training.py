"""Training of a network on a loader's batches, with timing and progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import nn

import gpuload


@dataclass(frozen=True, kw_only=True)
class Moment:
    """State of a training after a batch."""

    epoch: int
    """Number of the epoch, from 1."""
    batch: int
    """Number of the batch in its epoch, from 1."""
    batches: int
    """Batches per epoch."""
    loss: float
    """Mean loss of this epoch's batches so far."""
    samples_per_second: float
    """Images or windows per second since the first batch."""


Watch = Callable[[Moment], None]


class Clock:
    """Measures how long a training loop waits for batches."""

    def __init__(self) -> None:
        self.samples = 0
        """Images or windows received."""
        self.start_up = 0.0
        """Seconds until the first batch."""
        self.waited = 0.0
        """Seconds of waiting for the other batches."""
        self._first = self._last = 0.0

    def batches(self, loader: gpuload.Loader) -> Iterator[Any]:
        """Yield the batches of one epoch and time them."""
        asked = time.perf_counter()
        for batch in loader:
            came = time.perf_counter()
            if self.samples:
                self.waited += came - asked
            else:
                self._first, self.start_up = came, came - asked
            self.samples += len(batch[0])
            yield batch
            asked = self.used()
        self.waited += self.used() - asked  # The wait for the end of the epoch.

    def used(self) -> float:
        """Return the time, after all received batches have been used."""
        self._last = time.perf_counter()
        return self._last

    @property
    def seconds(self) -> float:
        """Seconds from the first batch to the end of the last use or epoch."""
        return self._last - self._first

    @property
    def samples_per_second(self) -> float:
        """Images or windows per second, from the first batch on."""
        return self.samples / self.seconds

    @property
    def waiting(self) -> float:
        """Share of `seconds` that was spent waiting for batches."""
        return self.waited / self.seconds


def fit(
    network: nn.Module,
    loader: gpuload.Loader,
    *,
    epochs: int,
    rate: float,
    loss: Callable[..., torch.Tensor],
    watch: Watch,
) -> Clock:
    """Train a network and return its timing.

    Args:
        network: Network to train, in place.
        loader: Loader of the training batches.
        epochs: Passes over the training data.
        rate: Initial learning rate.
        loss: Loss of a batch; called with the parts of the batch.
        watch: Function that is called after each batch.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))
    clock = Clock()
    network.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for number, batch in enumerate(clock.batches(loader), start=1):
            value = loss(*batch)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += value.item()  # Waits for the GPU, so that its work does not count as waiting for data.
            clock.used()
            pace = clock.samples_per_second
            watch(Moment(epoch=epoch, batch=number, batches=len(loader), loss=total / number, samples_per_second=pace))
    return clock


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch's CPU operators in one thread; more would slow these small networks and the loader."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def first_weights(seed: int) -> Iterator[None]:
    """Seed PyTorch for the layers created inside, and restore its global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def torch_device(loader: gpuload.Loader) -> torch.device:
    """Return the loader's device. Raise RuntimeError if this PyTorch cannot use it."""
    device = torch.device(loader.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"device={loader.device!r} needs a PyTorch with CUDA, this one ({torch.__version__}) has none: "
            "install one from https://pytorch.org/get-started, or pass device='cpu'"
        )
    return device


@contextmanager
def progress(console: Console, *, epochs: int, samples: str) -> Iterator[Callable[..., None]]:
    """Yield a function `report(moment, title="")` to call after each batch.

    It moves a progress bar, if there is a terminal, and prints a line after each epoch. `samples` is the word for the
    samples, e.g. "images".
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing", total=None, pace="")

        def report(moment: Moment, title: str = "") -> None:
            name = f"{title}epoch {moment.epoch}/{epochs}"
            pace = f"loss {moment.loss:.3f}   {moment.samples_per_second:,.0f} {samples}/s"
            bar.update(task, description=name, completed=moment.batch, total=moment.batches, pace=pace)
            if moment.batch == moment.batches:
                console.print(f"{name}   {pace}")

        yield report
