"""The picture of the time-series demo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpuload.demo.records import Finding


def draw(findings: list[Finding], path: Path) -> Path:
    """Draw a PNG of the held-out part of each series: measured values, forecasts end to end, and the season before."""
    figure = Figure(figsize=(10, 3.6 * len(findings) + 0.6), dpi=100, facecolor="white", layout="constrained")
    for axes, finding in zip(figure.subplots(len(findings), squeeze=False)[:, 0], findings, strict=True):
        draw_finding(axes, finding)
    figure.suptitle(
        "Years that no training window touches. From each grey line, a forecast up to the next one.\n"
        "Off by: mean absolute error of the forecasts from every step; the picture shows some of them.",
        fontsize=11,
        color="0.35",
    )
    figure.savefig(path, pil_kwargs={"optimize": True})
    return path


def draw_finding(axes: Axes, finding: Finding) -> None:
    """Draw one series."""
    record, rows = finding.record, finding.rows
    shown = slice(None, None, record.horizon)  # Forecasts that begin where the one before ends.
    begin = rows[0] - record.horizon  # Some measured values before the first forecast.
    times = record.times[rows[shown, np.newaxis] + np.arange(record.horizon)]
    for start in times[:, 0]:
        axes.axvline(start, color="0.85", linewidth=0.8)
    axes.plot(record.times[begin:], record.values[begin:], color="0.25", linewidth=1.1, label="measured")
    gap = np.full((len(times), 1), np.nan)  # A line is broken after each forecast.
    for forecast, color, width, title in (
        ("season_before", "#1c7ed6", 0.9, f"a {record.season_name} before"),
        ("network", "#e8590c", 2.0, "network"),
    ):
        values = np.hstack([getattr(finding, forecast)[shown], gap]).ravel()
        label = f"{title}, off by {finding.error_text(forecast)}"
        axes.plot(np.hstack([times, times[:, -1:]]).ravel(), values, color=color, linewidth=width, label=label)
    axes.set_title(f"{record.title}, {record.horizon} {record.step}s ahead", fontsize=13, loc="left", pad=26)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.2, borderpad=0)
    axes.set_ylabel(record.unit or record.name)
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
