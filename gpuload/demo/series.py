"""`gpuload demo --series`: two time series, a `Loader` of their windows, a PyTorch network that forecasts each.

`run` does the work and prints nothing; `show` runs it and prints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from statsmodels.datasets import co2, sunspots
from torch import nn

import gpuload
from gpuload.core.checks import checked_int
from gpuload.demo.series_picture import draw
from gpuload.demo.training import Moment, Watch, first_weights, fit, one_thread, progress, torch_device


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """A time series, and what is forecast of it."""

    name: str
    """Of what was measured."""
    title: str
    """The same for the picture, at more length."""
    unit: str
    """Of its values; empty where they are pure numbers."""
    step: str
    """From one value to the next."""
    season: int
    """Steps after which it more or less repeats itself."""
    season_name: str
    length: int
    """Steps that the network sees."""
    horizon: int
    """Steps that it forecasts; at most a season, so that the season before the forecast has a value for each."""
    held_out: int
    """Steps at its end that no training window touches."""
    times: NDArray[np.datetime64]
    """[rows] days."""
    values: NDArray[np.float64]
    """[rows], NaN where one is missing."""

    def amount(self, value: float) -> str:
        """A value with its unit."""
        return f"{value:.{1 if value >= 10 else 2}f} {self.unit}".rstrip()

    @property
    def window(self) -> gpuload.Window:
        """Scaled by the mean and the standard deviation of what it shows, which is known when a forecast is made."""
        return gpuload.Window(
            self.length,
            horizon=self.horizon,
            per_sample="standardize",
            missing="forward",
            dtype="float32",
            extras=("mean", "scale", "start"),
        )

    @property
    def train_window(self) -> gpuload.Window:
        """Windows that end, targets included, before the held-out part."""
        return self.window.replace(end_index=-self.held_out)

    @property
    def test_window(self) -> gpuload.Window:
        """Windows whose targets lie in the held-out part, from its first step on; what they show may lie before it."""
        return self.window.replace(start_index=-self.held_out - self.length)


def records() -> list[Record]:
    """The series, which come with statsmodels.

    Lengths, and the network's settings below, were chosen by forecasts of the stretch before the held-out one.
    """
    weekly, yearly = co2.load_pandas().data["co2"], sunspots.load_pandas().data
    return [
        Record(
            name="CO2",
            title="CO₂ in the air at Mauna Loa",
            unit="ppm",
            step="week",
            season=52,
            season_name="year",
            length=104,
            horizon=52,
            held_out=9 * 52,
            times=weekly.index.to_numpy().astype("datetime64[D]"),
            values=weekly.to_numpy(np.float64),
        ),
        Record(
            name="sunspot number",
            title="Sunspot number",
            unit="",
            step="year",
            season=11,
            season_name="cycle",
            length=22,
            horizon=11,
            held_out=6 * 11,
            times=(yearly["YEAR"].to_numpy().astype(int) - 1970).astype("datetime64[Y]").astype("datetime64[D]"),
            values=yearly["SUNACTIVITY"].to_numpy(np.float64),
        ),
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecasts:
    """Forecasts of the held-out part, one from each step from which a whole horizon lies in it, in the series' unit."""

    rows: NDArray[np.int64]
    """[N] at which row of the series each begins."""
    truth: NDArray[np.float64]
    """[N, H] NaN where the value is missing."""
    network: NDArray[np.float64]
    """[N, H]"""
    last_value: NDArray[np.float64]
    """[N, H] the last value before the forecast, for every step of it."""
    season_before: NDArray[np.float64]
    """[N, H] the value one season before each step."""

    def error(self, forecast: NDArray[np.float64]) -> float:
        """Mean absolute error of one of them, where there is a truth."""
        return float(np.nanmean(np.abs(forecast - self.truth)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """How the network did on one series."""

    record: Record
    windows: int
    """That the network was trained on, in each epoch."""
    forecasts: Forecasts
    error: float
    """Mean absolute error of the network's forecasts of the held-out part, in the series' unit."""
    error_of_last_value: float
    """The same of a forecast that repeats the last value."""
    error_of_season_before: float
    """The same of a forecast that repeats the season before."""
    windows_per_second: float
    """That the network was trained on, from the first batch on."""
    waiting: float
    """Share of the training time, from the first batch on, that was spent waiting for the next batch."""
    start_up: float
    """Seconds until the first batch was there, which neither of the two above counts."""
    device: str
    """Where batches were made and the network trained."""
    engine: str
    """What made the batches."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What one run of the demo found."""

    findings: list[Finding]
    """One for each series."""
    picture: Path
    """PNG of forecasts over the truth."""


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
    """Train and test a network on each series, and draw into the folder `out`.

    `watch` is called after each batch, with the name of the series. Raises what `gpuload.Loader` raises, ValueError for
    less than one epoch, and RuntimeError where PyTorch cannot use the device that the loader took.
    """
    checked_int("epochs", epochs, 1)
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "device": device, "engine": engine}
    findings = [learn(record, epochs=epochs, watch=partial(watch, record.name), **options) for record in records()]
    out.mkdir(parents=True, exist_ok=True)
    return Result(findings=findings, picture=draw(findings, out / "forecast.png"))


def learn(record: Record, *, epochs: int, seed: int, watch: Watch = lambda moment: None, **options: Any) -> Finding:
    """Train a network on the series but for its held-out end, and let it forecast that."""
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
            # missing= is for what a window shows: a target may be NaN, and has no part in the loss then.
            known = ~targets.isnan()
            return nn.functional.l1_loss(network(inputs)[known], targets[known])

        clock = fit(network, training, epochs=epochs, rate=1e-2, loss=loss, watch=watch)
        forecasts = forecast(network, testing, record)
        return Finding(
            record=record,
            windows=clock.samples // epochs,
            forecasts=forecasts,
            error=forecasts.error(forecasts.network),
            error_of_last_value=forecasts.error(forecasts.last_value),
            error_of_season_before=forecasts.error(forecasts.season_before),
            windows_per_second=clock.samples_per_second,
            waiting=clock.waiting,
            start_up=clock.start_up,
            device=training.device,
            engine=training.engine,
        )


class Forecaster(nn.Module):
    """The last value, and what a linear layer and a small network make of how the others differ from it."""

    def __init__(self, length: int, horizon: int, hidden: int = 32):
        super().__init__()
        self.linear = nn.Linear(length, horizon)
        self.bend = nn.Sequential(nn.Linear(length, hidden), nn.ReLU(), nn.Linear(hidden, horizon))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[B, H] of [B, L]."""
        last = inputs[:, -1:]
        forecasts: torch.Tensor = last + self.linear(inputs - last) + self.bend(inputs - last)
        return forecasts


def forecast(network: nn.Module, loader: gpuload.Loader, record: Record) -> Forecasts:
    """The network's forecasts and the naive ones for each window, turned back into the series' unit."""
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
    of_network, last_value, season_before = np.concatenate(found, axis=1)
    return Forecasts(
        rows=first,
        truth=record.values[first[:, np.newaxis] + np.arange(record.horizon)],
        network=of_network,
        last_value=last_value,
        season_before=season_before,
    )


# What is printed


def show(out: Path, *, epochs: int, **options: Any) -> None:
    """Run the demo: a progress bar where there is a terminal, a line for each epoch, and a table of what was found."""
    console = Console(highlight=False)
    with progress(console, epochs=epochs, samples="windows") as told:
        result = run(out, epochs=epochs, watch=lambda name, moment: told(moment, title=f"{name}: "), **options)
    console.print(table(result.findings))
    console.out(f"Picture  {result.picture}", highlight=False)


def table(findings: list[Finding]) -> Table:
    """A column for each series."""
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
    row("mean absolute error", lambda found: found.record.amount(found.error))
    row("  of the last value", lambda found: found.record.amount(found.error_of_last_value))
    row("  of a season before", lambda found: found.record.amount(found.error_of_season_before))
    row("speed", lambda found: f"{found.windows_per_second:,.0f} windows a second")
    row("waiting for data", lambda found: f"{found.waiting:.1%} of training time")
    row("first batch", lambda found: f"after {found.start_up:.2f} s")
    row("device", lambda found: found.device)
    row("engine", lambda found: found.engine)
    return rows
