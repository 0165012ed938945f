"""`gpuload demo --series`: a PyTorch network for each of two time series forecasts its held-out end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import gpuload
from gpuload.core.checks import checked_int
from gpuload.demo.records import Finding, Forecasts, Record, records
from gpuload.demo.series_picture import draw
from gpuload.demo.training import Moment, Watch, first_weights, fit, one_thread, progress, torch_device


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """Findings of one run of the demo."""

    findings: list[Finding]
    """One finding per series."""
    picture: Path
    """PNG of the forecasts and the measured values."""


def run(
    out: Path,
    *,
    epochs: int,
    batch_size: int,
    device: str,
    engine: str,
    seed: int,
    watch: Callable[[str, Moment], None] = lambda name, moment: None,
) -> Result:
    """Train and test a network on each series, and draw the forecasts into the folder `out`.

    `watch` is called after each batch, with the name of the series. Raises ValueError if `epochs` is below 1,
    RuntimeError if PyTorch cannot use the loader's device, and the errors of `gpuload.Loader`.
    """
    checked_int("epochs", epochs, 1)
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "device": device, "engine": engine}
    findings = [learn(record, epochs=epochs, watch=partial(watch, record.name), **options) for record in records()]
    out.mkdir(parents=True, exist_ok=True)
    return Result(findings=findings, picture=draw(findings, out / "forecast.png"))


def learn(record: Record, *, epochs: int, seed: int, watch: Watch = lambda moment: None, **options: Any) -> Finding:
    """Train a network on the series without its held-out end, and forecast that end."""
    series = gpuload.Series(record.values)
    options |= {"seed": seed, "framework": "torch"}
    with (
        one_thread(),
        gpuload.Loader(series, record.train_window, shuffle=True, **options) as training,
        gpuload.Loader(series, record.test_window, **options) as testing,
    ):
        with first_weights(seed):
            network = Forecaster(record.length, record.horizon).to(torch_device(training))

        def loss(inputs: torch.Tensor, targets: torch.Tensor, extras: dict[str, torch.Tensor]) -> torch.Tensor:
            # `missing` does not fill targets: a target that is NaN is left out of the loss.
            known = ~targets.isnan()
            return nn.functional.l1_loss(network(inputs)[known], targets[known])

        clock = fit(network, training, epochs=epochs, rate=1e-2, loss=loss, watch=watch)
        return Finding(
            record=record,
            windows=clock.samples // epochs,
            forecasts=forecast(network, testing, record),
            windows_per_second=clock.samples_per_second,
            waiting=clock.waiting,
            start_up=clock.start_up,
            device=training.device,
            engine=training.engine,
        )


class Forecaster(nn.Module):
    """The last value, plus a linear layer and a small network on the differences from it."""

    def __init__(self, length: int, horizon: int, hidden: int = 32):
        super().__init__()
        self.linear = nn.Linear(length, horizon)
        self.bend = nn.Sequential(nn.Linear(length, hidden), nn.ReLU(), nn.Linear(hidden, horizon))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Forecast [B, H] from windows [B, L]."""
        last = inputs[:, -1:]
        forecasts: torch.Tensor = last + self.linear(inputs - last) + self.bend(inputs - last)
        return forecasts


def forecast(network: nn.Module, loader: gpuload.Loader, record: Record) -> Forecasts:
    """Return the forecasts of the network and the naive ones for each window, in the series' unit."""
    rows, found = [], []
    begin = record.length - record.season
    network.eval()
    with torch.inference_mode():
        for inputs, _, extras in loader:
            naive = inputs[:, -1:].expand(-1, record.horizon), inputs[:, begin : begin + record.horizon]
            normalized = torch.stack([network(inputs), *naive]).double()
            mean, scale = extras["mean"][:, None], extras["scale"][:, None]
            found.append((normalized * scale + mean).cpu().numpy())
            rows.append(extras["start"].cpu().numpy() + record.length)
    first = np.concatenate(rows)
    by_network, last_value, season_before = np.concatenate(found, axis=1)
    return Forecasts(
        rows=first,
        truth=record.values[first[:, np.newaxis] + np.arange(record.horizon)],
        network=by_network,
        last_value=last_value,
        season_before=season_before,
    )


def show(out: Path, *, epochs: int, **options: Any) -> None:
    """Run the demo and print its progress and a table of the findings."""
    console = Console(highlight=False)
    with progress(console, epochs=epochs, samples="windows") as report:
        result = run(out, epochs=epochs, watch=lambda name, moment: report(moment, title=f"{name}: "), **options)
    console.print(table(result.findings))
    console.out(f"Picture  {result.picture}", highlight=False)


def table(findings: list[Finding]) -> Table:
    """Return the findings as a table, one column per series."""
    rows = Table()
    rows.add_column(style="bold")
    for finding in findings:
        rows.add_column(f"{finding.record.name}, {finding.record.step}ly")

    def row(title: str, cell: Callable[[Finding], str]) -> None:
        rows.add_row(title, *map(cell, findings))

    row("trained on", lambda found: f"{found.windows:,} windows, {found.record.length} {found.record.step}s")
    row(
        "tested on", lambda found: f"{len(found.forecasts.rows)} forecasts, {found.record.horizon} {found.record.step}s"
    )
    row("mean absolute error", lambda found: found.error("network"))
    row("  of the last value", lambda found: found.error("last_value"))
    row("  of a season before", lambda found: found.error("season_before"))
    row("speed", lambda found: f"{found.windows_per_second:,.0f} windows a second")
    row("waiting for data", lambda found: f"{found.waiting:.1%} of training time")
    row("first batch", lambda found: f"after {found.start_up:.2f} s")
    row("device", lambda found: found.device)
    row("engine", lambda found: found.engine)
    return rows
