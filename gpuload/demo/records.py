"""The time series of the demo, and what a run finds out about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from statsmodels.datasets import co2, sunspots

from gpuload.demo.training import Training


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


@dataclass(frozen=True, eq=False)
class Finding:
    """Training of the network on one series, and its test.

    The test has a forecast from every step of the held-out part that has a whole horizon after it. N forecasts of H
    values are in the series' unit.
    """

    record: Record
    training: Training
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

    def error(self, forecast: str) -> float:
        """Return the mean absolute error of "network", "last_value" or "season_before", without missing values."""
        return float(np.nanmean(np.abs(getattr(self, forecast) - self.truth)))

    def error_text(self, forecast: str) -> str:
        """Return the error with its unit."""
        error = self.error(forecast)
        return f"{error:.{1 if error >= 10 else 2}f} {self.record.unit}".rstrip()
