"""`gpuload demo --series`: a PyTorch network for each of two time series forecasts its held-out end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

import gpuload
from gpuload.core.checks import checked_int
from gpuload.demo.records import Finding, Record, records
from gpuload.demo.series_picture import draw
from gpuload.demo.training import Watch, fit, progress, repeatable, table


def run(out: Path, *, epochs: int, watch: Watch = lambda moment: None, **options: Any) -> tuple[list[Finding], Path]:
    """Train and test a network on each series, and draw the forecasts into the folder `out`.

    `watch` is called after each batch; `options` are further arguments of `gpuload.Loader`. Returns a finding for each
    series, and the picture. Raises ValueError if `epochs` is below 1, and the errors of `gpuload.Loader`.
    """
    checked_int("epochs", epochs, 1)
    findings = [learn(record, epochs=epochs, watch=watch, **options) for record in records()]
    out.mkdir(parents=True, exist_ok=True)
    return findings, draw(findings, out / "forecast.png")


def learn(record: Record, *, epochs: int, seed: int, watch: Watch = lambda moment: None, **options: Any) -> Finding:
    """Train a network on the series without its held-out end, and forecast that end."""
    series = gpuload.Series(record.values)
    # The mean and the standard deviation of a window are known when a forecast is made.
    window = gpuload.Window(
        record.length,
        horizon=record.horizon,
        per_sample="standardize",
        missing="forward",
        dtype="float32",
        extras=("mean", "scale", "start"),
    )
    # All steps of a training window, with its targets, are before the held-out part; all targets of a test are in it.
    train, test = (
        window.replace(end_index=-record.held_out),
        window.replace(start_index=-record.held_out - record.length),
    )
    options |= {"seed": seed, "framework": "torch"}
    with (
        repeatable(seed),
        gpuload.Loader(series, train, shuffle=True, **options) as training,
        gpuload.Loader(series, test, **options) as testing,
    ):
        network = Forecaster(record.length, record.horizon).to(training.device)

        def loss(inputs: torch.Tensor, targets: torch.Tensor, extras: dict[str, torch.Tensor]) -> torch.Tensor:
            # `missing` does not fill targets: a target that is NaN is left out of the loss.
            known = ~targets.isnan()
            return nn.functional.l1_loss(network(inputs)[known], targets[known])

        trained = fit(network, training, epochs=epochs, rate=1e-2, loss=loss, watch=watch, title=f"{record.name}: ")
        rows, forecasts = forecast(network, testing, record)
    truth = record.values[rows[:, np.newaxis] + np.arange(record.horizon)]
    return Finding(record, trained, rows, truth, *forecasts)


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


def forecast(network: nn.Module, loader: gpuload.Loader, record: Record) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return [N] rows at which forecasts begin, and [3, N, H] forecasts in the series' unit.

    The three are those of the network, the last value, and the values one season before.
    """
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
    return np.concatenate(rows), np.concatenate(found, axis=1)


def show(out: Path, *, epochs: int, **options: Any) -> None:
    """Run the demo and print its progress and its findings, a column for each series."""
    console = Console(highlight=False)
    with progress(console, "windows") as report:
        findings, picture = run(out, epochs=epochs, watch=report, **options)
    columns = {}
    for found in findings:
        record = found.record
        columns[f"{record.name}, {record.step}ly"] = {
            "trained on": f"{found.training.samples // epochs:,} windows, {record.length} {record.step}s",
            "tested on": f"{len(found.rows)} forecasts, {record.horizon} {record.step}s",
            "mean absolute error": found.error_text("network"),
            "  of the last value": found.error_text("last_value"),
            "  of a season before": found.error_text("season_before"),
            **found.training.rows("windows"),
        }
    console.print(table(columns))
    console.out(f"Picture  {picture}", highlight=False)
