"""The time series of the demo, and what a run finds out about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from statsmodels.datasets import co2, sunspots

import gpuload


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """A time series and how it is forecast."""

    name: str
    """Short name for the table."""
    title: str
    """Long name for the picture."""
    unit: str
    """Unit of the values; empty for pure numbers."""
    step: str
    """Time between two values."""
    season: int
    """Period of the series, in steps."""
    season_name: str
    length: int
    """Steps that the network sees."""
    horizon: int
    """Steps that the network forecasts, at most `season`."""
    held_out: int
    """Steps at the end that are kept for the test."""
    times: NDArray[np.datetime64]
    """[rows] days."""
    values: NDArray[np.float64]
    """[rows], NaN where a value is missing."""

    def amount(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{value:.{1 if value >= 10 else 2}f} {self.unit}".rstrip()

    @property
    def window(self) -> gpuload.Window:
        """Windows normalized by their own mean and standard deviation, which are known when a forecast is made."""
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
        """Windows that end, with their targets, before the held-out part."""
        return self.window.replace(end_index=-self.held_out)

    @property
    def test_window(self) -> gpuload.Window:
        """Windows with all targets in the held-out part."""
        return self.window.replace(start_index=-self.held_out - self.length)


def records() -> list[Record]:
    """Load the series, which come with statsmodels.

    Lengths and settings of the network were chosen on the part before the held-out one.
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
    """Forecasts from every step of the held-out part that has a whole horizon after it, in the series' unit."""

    rows: NDArray[np.int64]
    """[N] row of the series at which each forecast begins."""
    truth: NDArray[np.float64]
    """[N, H] measured values, NaN where one is missing."""
    network: NDArray[np.float64]
    """[N, H] forecasts of the network."""
    last_value: NDArray[np.float64]
    """[N, H] naive forecasts: the last value before the forecast, repeated."""
    season_before: NDArray[np.float64]
    """[N, H] naive forecasts: the value one season before each step."""

    def error(self, name: str) -> float:
        """Return the mean absolute error of the forecasts of that name, without missing values."""
        return float(np.nanmean(np.abs(getattr(self, name) - self.truth)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """Training and test of the network on one series."""

    record: Record
    windows: int
    """Training windows per epoch."""
    forecasts: Forecasts
    windows_per_second: float
    """Training windows per second, from the first batch on."""
    waiting: float
    """Share of the training time, from the first batch on, that was spent waiting for batches."""
    start_up: float
    """Seconds until the first batch."""
    device: str
    """Device of the batches and of the network."""
    engine: str
    """Engine that made the batches."""

    def error(self, forecast: str) -> str:
        """Return the mean absolute error of "network", "last_value" or "season_before", with its unit."""
        return self.record.amount(self.forecasts.error(forecast))
