"""The picture of the demo of time series: forecasts over what came."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gpuload.demo.series import Finding

TRUTH, NETWORK, NAIVE = "0.25", "#e8590c", "#1c7ed6"


def draw(findings: list[Finding], path: Path) -> Path:
    """A PNG of each series' held-out part: what came, forecasts end to end, and the season before for comparison."""
    figure = Figure(figsize=(10, 3.6 * len(findings) + 0.6), dpi=100, facecolor="white", layout="constrained")
    for axes, finding in zip(figure.subplots(len(findings), squeeze=False)[:, 0], findings, strict=True):
        draw_finding(axes, finding)
    figure.suptitle(
        "Years that no training window touched. From each grey line, a forecast up to the next one.\n"
        "Off by: mean absolute error of the forecasts from every step, of which these are a few.",
        fontsize=11,
        color="0.35",
    )
    figure.savefig(path, pil_kwargs={"optimize": True})
    return path


def draw_finding(axes: Axes, finding: Finding) -> None:
    """One series."""
    record, forecasts = finding.record, finding.forecasts
    shown = slice(None, None, record.horizon)  # Those that begin where the one before ends.
    begin = forecasts.rows[0] - record.horizon  # What came before, for the eye.
    times = record.times[forecasts.rows[shown, np.newaxis] + np.arange(record.horizon)]
    for start in times[:, 0]:
        axes.axvline(start, color="0.85", linewidth=0.8)
    axes.plot(record.times[begin:], record.values[begin:], color=TRUTH, linewidth=1.1, label="measured")
    for values, error, color, width, name in (
        (forecasts.season_before, finding.error_of_season_before, NAIVE, 0.9, f"a {record.season_name} before"),
        (forecasts.network, finding.error, NETWORK, 2.0, "network"),
    ):
        label = f"{name}, off by {record.amount(error)}"
        axes.plot(*apart(times, values[shown]), color=color, linewidth=width, label=label)
    axes.set_title(f"{record.title}, {record.horizon} {record.step}s ahead", fontsize=13, loc="left", pad=26)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.2, borderpad=0)
    axes.set_ylabel(record.unit or record.name)
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)


def apart(
    times: NDArray[np.datetime64], values: NDArray[np.float64]
) -> tuple[NDArray[np.datetime64], NDArray[np.float64]]:
    """[N, H] of each as one line with a gap after every row."""
    gap = np.full((len(values), 1), np.nan)
    return np.hstack([times, times[:, -1:]]).ravel(), np.hstack([values, gap]).ravel()
