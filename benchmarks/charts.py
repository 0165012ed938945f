"""The charts of benchmarks/README.md, drawn from the JSON in benchmarks/results/.

    python -m benchmarks.charts        writes docs/speed.png, epochs.png, startup.png, growth.png and scale.png

Of each benchmark the first machine's JSON is drawn; medians, with thin lines from the least to the greatest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from PIL import Image

from benchmarks import scale
from benchmarks.deep import Report
from benchmarks.growth import MEGAPIXELS, Case
from benchmarks.report import RESULTS, load

DOCS = Path(__file__).parent.parent / "docs"
OURS, THEIRS, LIMIT = "#d1600f", "#7f93a8", "#c9ced4"
COLD, WARM = "#3b6ea5", OURS
LINES = {"gpuload.keras": OURS, "keras": "#3b6ea5", "tf.data": "#7a9a4b", "tf.data layers": "#8a6bb0"}
SHORT = {
    "files": "files",
    "scale": "megapixels of a photograph",
    "size": "pixels a side of what is delivered",
    "batch": "images in a batch",
    "threads": "threads",
    "ranks": "processes that share the threads and the samples",
    "kept": "share of the images that the cache holds",
}


def short(value: float, _: object = None) -> str:
    """As it stands at an axis: 0.01, 500, 2 k, 1.5 M."""
    for factor, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:g}{prefix}"
    return f"{value:g}"


def decades(axis: Axis) -> None:
    """1, 2, 5, 10 along a logarithmic axis whose limits are settled; of many decades the tens alone."""
    least, most = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if most < 500 * least else (1,), numticks=20))
    axis.set_major_formatter(FuncFormatter(short))
    axis.set_minor_locator(NullLocator())


def plain(axes: Axes, grid: str = "y") -> None:
    """No more lines than are read."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def where(report: Report) -> str:
    """The machine, in a caption."""
    machine = report["environment"]
    return f"{machine['device_name']} ({machine['cpu']}), {machine['date'][:10]}"


def whiskers(figure: dict[str, Any]) -> list[list[float]]:
    """From the median to the least and the greatest, as matplotlib wants it."""
    return [[figure["median"] - figure["least"]], [figure["greatest"] - figure["median"]]]


def speed(images: Report, warm: Report) -> Figure:
    """Points: images per second of each contender, cold and warm, at each size."""
    sizes = list(dict.fromkeys(row["size"] for row in images["rows"]))
    tall = [max(sum(row["size"] == size for row in report["rows"]) for size in sizes) for report in (images, warm)]
    figure = Figure(figsize=(10.5, 1.6 + 0.3 * sum(tall)), dpi=100, layout="constrained")
    panels = figure.subplots(2, len(sizes), squeeze=False, gridspec_kw={"height_ratios": tall})
    for line, (report, words, limit) in zip(
        panels, ((images, "every image decoded", "decoder"), (warm, "decoded before", "cast")), strict=True
    ):
        for axes, size in zip(line, sizes, strict=True):
            rows = [row for row in report["rows"] if row["size"] == size]
            rows.sort(key=lambda row: row["images_per_second"]["median"])
            for place, row in enumerate(rows):
                name, found = row["contender"], row["images_per_second"]
                color = OURS if name.startswith("gpuload") else LIMIT if name == limit else THEIRS
                axes.errorbar(found["median"], place, xerr=whiskers(found), fmt="o", markersize=8, color=color,
                              ecolor=color, elinewidth=2)  # fmt: skip
                axes.annotate(
                    f"{found['median']:,.0f}",
                    (found["greatest"], place),
                    (8, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                )
            names = [f"{row['contender']} (limit)" if row["contender"] == limit else row["contender"] for row in rows]
            axes.set_yticks(range(len(rows)), names)
            axes.set_xscale("log")
            least = min(row["images_per_second"]["least"] for row in rows)
            axes.set_xlim(least / 1.5, 3 * max(row["images_per_second"]["greatest"] for row in rows))
            axes.set_ylim(-0.6, len(rows) - 0.4)
            decades(axes.xaxis)
            axes.set_title(f"{words}, {size} × {size}", fontsize=11, loc="left")
            axes.set_xlabel("images per second")
            plain(axes, "both")
            axes.tick_params(axis="y", length=0)
    figure.suptitle(f"Shear, zoom, flip and scale, batches of {images['batch_size']}. {where(images)}", fontsize=10)
    return figure


def epochs(report: Report) -> Figure:
    """Lines: seconds from the start of a program to the end of each epoch."""
    sizes = list(dict.fromkeys(row["size"] for row in report["rows"]))
    figure = Figure(figsize=(10.5, 4.2), dpi=100, layout="constrained")
    for axes, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        for row in report["rows"]:
            if row["size"] != size:
                continue
            # The round whose total is the median; of an even number the lower one.
            ends = sorted(row["ends"], key=lambda ends: ends[-1])[(len(row["ends"]) - 1) // 2]
            name = row["program"]
            label = f"{name}: {ends[-1]:.1f} s"
            axes.plot(range(len(ends) + 1), [0, *ends], "o-", color=LINES[name], markersize=3.5, label=label)
        axes.set_xlim(0, report["epochs"] * 1.03)
        axes.set_ylim(0)
        axes.set_xticks(range(0, report["epochs"] + 1, max(1, report["epochs"] // 5)))
        axes.set_xlabel("epochs done")
        axes.set_ylabel("seconds since the start")
        axes.set_title(f"{size} × {size}", fontsize=11, loc="left")
        axes.legend(frameon=False, fontsize=9)
        plain(axes)
    files = f"The data of {report['epochs']} epochs over {report['data']['files']:,} photographs"
    figure.suptitle(f"{files}, cold start included. {where(report)}", fontsize=10)
    return figure


def startup(report: Report) -> Figure:
    """Bars: what a loader takes to begin; and to go on at places of an epoch."""
    figure = Figure(figsize=(10.5, 3.2), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [row for row in report["rows"] if not row["step"].startswith("resume")]
    for place, row in enumerate(reversed(steps)):
        found = {key: row["seconds"][key] for key in ("median", "least", "greatest")}
        color = THEIRS if row["step"] == "os.scandir" else OURS
        left.barh(place, found["median"], 0.65, color=color, xerr=whiskers(found), ecolor="0.35")
        left.text(found["greatest"], place, f"  {found['median']:.2f} s", va="center", fontsize=8)
    names = {"os.scandir": "walk with os.scandir", "gpuload.ImageFolder": "index: gpuload.ImageFolder"}
    left.set_yticks(range(len(steps)), [names.get(row["step"], row["step"]) for row in reversed(steps)])
    left.set_xlim(0, 1.2 * max(row["seconds"]["greatest"] for row in steps))
    left.set_xlabel("seconds")
    left.set_title(f"to begin, {report['files']:,} files", fontsize=11, loc="left")
    plain(left, "x")
    resumed = [row for row in report["rows"] if row["step"].startswith("resume")]
    places = [float(row["step"].split()[-1].rstrip("%")) for row in resumed]
    for place, row in zip(places, resumed, strict=True):
        found = row["seconds"]
        right.errorbar(place, found["median"], whiskers(found), fmt="o", color=OURS, ecolor="0.6", capsize=3)
    right.plot(places, [row["seconds"]["median"] for row in resumed], color=OURS)
    right.set_ylim(0, 1.25 * max(row["seconds"]["greatest"] for row in resumed))
    right.set_xlabel("where in the epoch, %")
    right.set_ylabel("seconds to the first batch")
    right.set_title("to go on from a state", fontsize=11, loc="left")
    plain(right)
    figure.suptitle(where(report), fontsize=10)
    return figure


def growth(report: Report) -> Figure:
    """Lines: speed against each thing that was changed, and memory against the number of files."""
    names = list(dict.fromkeys(row["axis"] for row in report["rows"]))
    figure = Figure(figsize=(10.5, 2.9 * -(-(len(names) + 1) // 2)), dpi=100, layout="constrained")
    panels = list(figure.subplots(-(-(len(names) + 1) // 2), 2, squeeze=False).flat)
    for axes, name in zip(panels, names, strict=False):
        rows = [row for row in report["rows"] if row["axis"] == name]
        for kind, color in (("cold", COLD), ("warm", WARM)):
            points = [(_value(row), row.get(kind, row["cold"] if name == "kept" else None)) for row in rows]
            shown = [(value, found) for value, found in points if found is not None]
            if name == "kept" and kind == "cold":
                continue
            label = {"cold": "every image decoded", "warm": "decoded before"}[kind] if name != "kept" else "any epoch"
            axes.plot([value for value, _ in shown], [found["median"] for _, found in shown], "o-", color=color,
                      markersize=3.5, label=label)  # fmt: skip
            axes.vlines(
                [value for value, _ in shown],
                [found["least"] for _, found in shown],
                [found["greatest"] for _, found in shown],
                color=color,
                linewidth=0.9,
                alpha=0.6,
            )
        _scales(axes, rows)
        axes.set_yscale("log")
        decades(axes.yaxis)
        axes.set_ylabel("images per second")
        axes.legend(frameon=False, fontsize=8)
        plain(axes)
    if "files" in names:
        axes = panels[len(names)]
        rows = [row for row in report["rows"] if row["axis"] == "files"]
        for kind, color, label in (
            ("index_bytes", THEIRS, "names and labels"),
            ("cold_bytes", COLD, "process, every image decoded"),
            ("warm_bytes", WARM, "process, cache in memory"),
        ):
            shown = [(row["value"], row[kind]["median"] / 1e6) for row in rows if kind in row]
            axes.plot(*zip(*shown, strict=True), "o-", color=color, markersize=3.5, label=label)
        _scales(axes, rows)
        axes.set_yscale("log")
        decades(axes.yaxis)
        axes.set_ylabel("MB of memory")
        axes.legend(frameon=False, fontsize=8)
        plain(axes)
    for axes in panels[len(names) + 1 :]:
        axes.set_axis_off()
    case = Case("", 0)
    else_ = (
        f"Else {case.files} files of {MEGAPIXELS:.2f} megapixels to {case.size} × {case.size}, batches of {case.batch}"
    )
    figure.suptitle(f"{else_}. {where(report)}", fontsize=10)
    return figure


def _value(row: dict[str, Any]) -> float:
    return float(row["megapixels"] if row["axis"] == "scale" else row["value"])


def _scales(axes: Axes, rows: list[dict[str, Any]]) -> None:
    name, values = rows[0]["axis"], [_value(row) for row in rows]
    label = SHORT[name]
    if name == "files":
        label += f" (of {rows[0]['megapixels']:.2f} megapixels, to {rows[0]['size']} × {rows[0]['size']})"
    if name != "kept":
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(f"{value:.2g}" if value < 1 else value))))
    axes.set_xlabel(label)


def many(images: Report, warm: Report, growth: Report, startup: Report) -> Figure:
    """Lines: what many GPUs ask for, computed."""
    found = scale.curves(images, warm, growth, startup)
    gpus, demands, assumed = found["gpus"], found["demands"], found["assumed"]
    figure = Figure(figsize=(10.5, 3.8), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, kinds, unit in (
        (
            left,
            (
                ("cold_bytes", COLD, "files, while images are decoded"),
                ("warm_bytes", WARM, "levels, from caches of the machines' own"),
            ),
            "bytes per second, all GPUs",
        ),
        (right, (("cold_cpus", COLD, "decode and warp"), ("warm_cpus", WARM, "warp what the caches hold")), "CPUs"),
    ):
        for key, color, label in kinds:
            axes.plot(gpus, [each[key] for each in demands], "o-", color=color, markersize=3.5, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(short))
        axes.yaxis.set_major_formatter(FuncFormatter(short))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("GPUs")
        axes.set_ylabel(unit)
        axes.legend(frameon=False, fontsize=9)
        plain(axes)
    figure.suptitle(
        f"Computed, not run: GPUs that train on {assumed.images_per_gpu:,} images/s each (assumed), "
        f"{assumed.size} × {assumed.size}; bytes and CPU time of {where(images)}",
        fontsize=10,
    )
    return figure


CHARTS: dict[str, tuple[tuple[str, ...], Callable[..., Figure]]] = {
    "speed": (("images", "warm"), speed),
    "epochs": (("epochs",), epochs),
    "startup": (("startup",), startup),
    "growth": (("growth",), growth),
    "scale": (("images", "warm", "growth", "startup"), many),
}
"""The benchmarks that each is drawn from, and what draws it."""


def main(
    results: Annotated[Path, typer.Option(help="the folder of JSON files")] = RESULTS,
    docs: Annotated[Path, typer.Option(help="the folder of PNG files")] = DOCS,
) -> None:
    """Draw all of them."""
    docs.mkdir(parents=True, exist_ok=True)
    for name, (sources, draw) in CHARTS.items():
        figure = draw(*(load(source, results)[0] for source in sources))
        figure.savefig(docs / f"{name}.png", facecolor="white")
        with Image.open(docs / f"{name}.png") as image:
            few = image.convert("RGB").quantize(96, dither=Image.Dither.NONE)
        few.save(docs / f"{name}.png", optimize=True)
        print(f"{docs / name}.png")


if __name__ == "__main__":
    typer.run(main)
