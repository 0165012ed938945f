"""What the demos share: a network's training on a loader's batches, timed, and how it is told while it runs."""

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
    """Where a training stands after a batch."""

    epoch: int
    """From 1."""
    batch: int
    """Of this epoch, from 1."""
    batches: int
    """In an epoch."""
    loss: float
    """Mean over this epoch's batches so far."""
    samples_per_second: float
    """Since the first batch."""


Watch = Callable[[Moment], None]


class Clock:
    """Tells the time that a training loop waits for batches from the time that it uses them."""

    def __init__(self) -> None:
        self.samples = 0
        """Images or windows in the batches that came."""
        self.start_up = 0.0
        """Seconds until the first batch was there."""
        self.waited = 0.0
        """Seconds of waiting for all others."""
        self._first = self._last = 0.0

    def batches(self, loader: gpuload.Loader) -> Iterator[Any]:
        """One epoch's batches, timed."""
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
        self.waited += self.used() - asked  # The loader said that there are no more.

    def used(self) -> float:
        """Take the time: all batches that came have been used."""
        self._last = time.perf_counter()
        return self._last

    @property
    def seconds(self) -> float:
        """From the first batch until the last one was used, and the end of its epoch seen."""
        return self._last - self._first

    @property
    def samples_per_second(self) -> float:
        """Over those seconds."""
        return self.samples / self.seconds

    @property
    def waiting(self) -> float:
        """Share of those seconds that was spent waiting for the next batch."""
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
    """Train the network, and tell how long that took.

    Args:
        network: Is changed.
        loader: Of the batches.
        epochs: How often to go through them.
        rate: The optimizer's first learning rate.
        loss: Is called with the parts of a batch.
        watch: Is called after each batch.
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
            total += value.item()  # waits for the GPU, so that the clock does not take its work for waiting for data
            clock.used()
            pace = clock.samples_per_second
            watch(Moment(epoch=epoch, batch=number, batches=len(loader), loss=total / number, samples_per_second=pace))
    return clock


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep PyTorch's CPU operators to one thread.

    The networks are so small that more would mostly wait for each other, on cores where the loader has work to do.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def first_weights(seed: int) -> Iterator[None]:
    """Seed PyTorch for the layers that are made inside; its global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def torch_device(loader: gpuload.Loader) -> torch.device:
    """The loader's device; raises RuntimeError where this PyTorch cannot use it."""
    device = torch.device(loader.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"device={loader.device!r} needs a PyTorch with CUDA, this one ({torch.__version__}) has none: "
            "install one from https://pytorch.org/get-started, or pass device='cpu'"
        )
    return device


@contextmanager
def progress(console: Console, *, epochs: int, samples: str) -> Iterator[Callable[..., None]]:
    """Gives what to call after each batch: `told(moment, title="")`.

    It moves a progress bar where there is a terminal, and prints a line after each epoch, which begins with the title.
    `samples` says what the samples are.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing", total=None, pace="")

        def told(moment: Moment, title: str = "") -> None:
            name = f"{title}epoch {moment.epoch}/{epochs}"
            pace = f"loss {moment.loss:.3f}   {moment.samples_per_second:,.0f} {samples}/s"
            bar.update(task, description=name, completed=moment.batch, total=moment.batches, pace=pace)
            if moment.batch == moment.batches:
                console.print(f"{name}   {pace}")

        yield told
