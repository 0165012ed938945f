"""The charts of benchmarks/README.md, drawn from the JSON in benchmarks/results/.

    python -m benchmarks.charts        writes docs/speed.png, epochs.png, startup.png, growth.png and scale.png

The report of the first machine is drawn: medians, with thin lines from the least to the greatest.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from PIL import Image

from benchmarks.deep import AXES
from benchmarks.growth import MEGAPIXELS, Case
from benchmarks.program import RESULTS, Report, options
from benchmarks.report import load
from benchmarks.scale import demands, measured, scaled

DOCS = Path(__file__).parent.parent / "docs"
OURS, THEIRS, LIMIT, COLD = "#d1600f", "#7f93a8", "#c9ced4", "#3b6ea5"
PROGRAMS = {"gpuload.keras": OURS, "keras": COLD, "tf.data": "#7a9a4b", "tf.data layers": "#8a6bb0"}


def panels(rows: int, columns: int, height: float, title: str, **options: Any) -> tuple[Figure, Any]:
    """Return a figure with a title, and its axes [rows, columns]."""
    figure = Figure(figsize=(10.5, height), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=10)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def dress(axes: Axes, x: str, y: str = "", title: str = "", log: str = "", grid: str = "y") -> None:
    """Label axes whose data and limits are settled; `log` names those that are logarithmic."""
    axes.set(xlabel=x, ylabel=y, axisbelow=True)
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="0.9", linewidth=0.8)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    for name in log:
        axes.set(**{f"{name}scale": "log"})
        axis = getattr(axes, f"{name}axis")
        least, most = axis.get_view_interval()  # Over many decades only the powers of ten are labelled.
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if most < 500 * least else (1,), numticks=20))
        axis.set_major_formatter(FuncFormatter(lambda value, _: scaled(value)))
        axis.set_minor_locator(NullLocator())


def where(report: Report) -> str:
    """The machine, for a caption."""
    machine = report["environment"]
    return f"{machine['device_name']} ({machine['cpu']}), {machine['date'][:10]}"


def whiskers(found: dict[str, Any]) -> list[list[float]]:
    """Distances from the median to the least and the greatest, as matplotlib takes them."""
    return [[found["median"] - found["least"]], [found["greatest"] - found["median"]]]


def curve(axes: Axes, points: Iterable[tuple[float, Report]], color: str, label: str = "", unit: float = 1) -> None:
    """Draw medians in a unit, and thin lines from the least to the greatest."""
    xs, figures = zip(*points, strict=True)
    median, least, greatest = ([found[key] / unit for found in figures] for key in ("median", "least", "greatest"))
    axes.plot(xs, median, "o-", color=color, markersize=3.5, label=label)
    axes.vlines(xs, least, greatest, color=color, linewidth=0.9, alpha=0.6)


def speed(images: Report, warm: Report) -> Figure:
    """Images per second of each contender, cold and warm, at each size."""
    sizes = list(dict.fromkeys(row["size"] for row in images["rows"]))
    kinds = ((images, "every image decoded", "decoder"), (warm, "decoded before", "cast"))
    tall = [max(sum(row["size"] == size for row in report["rows"]) for size in sizes) for report, _, _ in kinds]
    title = f"Shear, zoom, flip and scale, batches of {images['batch_size']}. {where(images)}"
    figure, grid = panels(2, len(sizes), 1.6 + 0.3 * sum(tall), title, height_ratios=tall)
    for line, (report, words, limit) in zip(grid, kinds, strict=True):
        for axes, size in zip(line, sizes, strict=True):
            rows = [row for row in report["rows"] if row["size"] == size]
            rows.sort(key=lambda row: row["images_per_second"]["median"])
            for place, row in enumerate(rows):
                name, found = row["contender"], row["images_per_second"]
                color = OURS if name.startswith("gpuload") else LIMIT if name == limit else THEIRS
                axes.errorbar(found["median"], place, None, whiskers(found), "o", color=color, markersize=8)
                label, there = f"{found['median']:,.0f}", (found["greatest"], place)
                axes.annotate(label, there, (8, 0), textcoords="offset points", va="center", fontsize=8)
            names = [row["contender"] + " (limit)" * (row["contender"] == limit) for row in rows]
            axes.set_yticks(range(len(rows)), names)
            least = min(row["images_per_second"]["least"] for row in rows)
            most = max(row["images_per_second"]["greatest"] for row in rows)
            axes.set(xlim=(least / 1.5, 3 * most), ylim=(-0.6, len(rows) - 0.4))
            dress(axes, "images per second", "", f"{words}, {size} × {size}", log="x", grid="both")
            axes.tick_params(axis="y", length=0)
    return figure


def epochs(report: Report) -> Figure:
    """Seconds from the start of a program to the end of each epoch."""
    sizes = list(dict.fromkeys(row["size"] for row in report["rows"]))
    files = f"The data of {report['epochs']} epochs over {report['data']['files']:,} photographs"
    figure, grid = panels(1, len(sizes), 4.2, f"{files}, cold start included. {where(report)}")
    for axes, size in zip(grid[0], sizes, strict=True):
        for row in report["rows"]:
            if row["size"] == size:
                # The round whose total is the median; of an even number the lower one.
                ends = sorted(row["ends"], key=lambda ends: ends[-1])[(len(row["ends"]) - 1) // 2]
                label, color = f"{row['program']}: {ends[-1]:.1f} s", PROGRAMS[row["program"]]
                axes.plot([0, *ends], "o-", color=color, markersize=3.5, label=label)
        axes.set(xlim=(0, report["epochs"] * 1.03), ylim=(0, None))
        axes.set_xticks(range(0, report["epochs"] + 1, max(1, report["epochs"] // 5)))
        dress(axes, "epochs done", "seconds since the start", f"{size} × {size}")
    return figure


def startup(report: Report) -> Figure:
    """Seconds that a loader takes to begin, and to go on at places of an epoch."""
    figure, ((left, right),) = panels(1, 2, 3.2, where(report))
    steps = [(row["step"], row["seconds"]) for row in report["rows"] if not row["step"].startswith("resume")][::-1]
    for place, (step, found) in enumerate(steps):
        color = THEIRS if step == "os.scandir" else OURS
        left.barh(place, found["median"], 0.65, color=color, xerr=whiskers(found), ecolor="0.35")
        left.text(found["greatest"], place, f"  {found['median']:.2f} s", va="center", fontsize=8)
    names = {"os.scandir": "walk with os.scandir", "gpuload.ImageFolder": "index: gpuload.ImageFolder"}
    left.set_yticks(range(len(steps)), [names.get(step, step) for step, _ in steps])
    left.set_xlim(0, 1.2 * max(found["greatest"] for _, found in steps))
    dress(left, "seconds", "", f"to begin, {report['files']:,} files", grid="x")
    resumed = {row["step"].split()[-1]: row["seconds"] for row in report["rows"] if row["step"].startswith("resume")}
    curve(right, ((float(share.rstrip("%")), found) for share, found in resumed.items()), OURS)
    right.set_ylim(0, 1.25 * max(found["greatest"] for found in resumed.values()))
    dress(right, "where in the epoch, %", "seconds to the first batch", "to go on from a state")
    return figure


def growth(report: Report) -> Figure:
    """Speed against each thing that was changed, and memory against the number of files."""
    kinds = {"cold": (COLD, "every image decoded"), "warm": (OURS, "decoded before")}
    memory = {"index_bytes": (THEIRS, "names and labels"), "cold_bytes": (COLD, "process, every image decoded")}
    memory["warm_bytes"] = (OURS, "process, cache in memory")
    names, case = list(dict.fromkeys(row["axis"] for row in report["rows"])), Case("", 0)
    lines = -(-(len(names) + 1) // 2)
    others = f"Otherwise {case.files} files of {MEGAPIXELS:.2f} megapixels to {case.size} × {case.size}"
    figure, grid = panels(lines, 2, 2.9 * lines, f"{others}, batches of {case.batch}. {where(report)}")
    charts = [(name, kinds, "images per second", 1.0) for name in names]
    charts += [("files", memory, "MB of memory", 1e6)] * ("files" in names)
    for axes, (name, curves, y, unit) in zip(grid.flat, charts, strict=False):
        rows = [row for row in report["rows"] if row["axis"] == name]
        values = [row["megapixels"] if name == "scale" else row["value"] for row in rows]
        if name == "kept":  # Without a cache all epochs are cold.
            rows, curves = [{"warm": row.get("warm", row["cold"])} for row in rows], {"warm": (OURS, "any epoch")}
        for key, (color, label) in curves.items():
            curve(axes, [(x, row[key]) for x, row in zip(values, rows, strict=True) if key in row], color, label, unit)
        shape = rows[0] if name == "files" else {}
        of = f" (of {shape['megapixels']:.2f} megapixels, to {shape['size']} × {shape['size']})" if shape else ""
        dress(axes, AXES[name] + of, y, log="y" if name == "kept" else "xy")
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: scaled(float(f"{x:.2g}") if x < 1 else x)))
    for axes in grid.flat[len(charts) :]:
        axes.set_axis_off()
    return figure


def many(*reports: Report) -> Figure:
    """Demands of many GPUs, computed; the reports are those of `scale.measured`."""
    scale, numbers = measured(*reports), (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    title = (
        f"Computed, not run: GPUs that train on {scale.images_per_gpu:,} images/s each (assumed), "
        f"{scale.size} × {scale.size}; bytes and CPU time of {where(reports[0])}"
    )
    figure, ((left, right),) = panels(1, 2, 3.8, title)
    for axes, y, curves in (
        (left, "bytes per second, all GPUs",
         {"cold_bytes": "files, while images are decoded", "warm_bytes": "levels, from caches of the machines' own"}),
        (right, "CPUs", {"cold_cpus": "decode and warp", "warm_cpus": "warp what the caches hold"}),
    ):  # fmt: skip
        for (key, label), color in zip(curves.items(), (COLD, OURS), strict=True):
            values = [demands(gpus, scale)[key] for gpus in numbers]
            axes.plot(numbers, values, "o-", color=color, markersize=3.5, label=label)
        dress(axes, "GPUs", y, log="xy")
    return figure


CHARTS: dict[str, tuple[tuple[str, ...], Callable[..., Figure]]] = {
    "speed": (("images", "warm"), speed),
    "epochs": (("epochs",), epochs),
    "startup": (("startup",), startup),
    "growth": (("growth",), growth),
    "scale": (("images", "warm", "growth", "startup"), many),
}
"""Charts, each with the benchmarks that it is drawn from and the function that draws it."""


def main(*arguments: str) -> None:
    asked = options(__doc__, arguments, results=RESULTS, docs=DOCS)
    asked.docs.mkdir(parents=True, exist_ok=True)
    for name, (sources, draw) in CHARTS.items():
        path = asked.docs / f"{name}.png"
        draw(*(load(source, asked.results)[0] for source in sources)).savefig(path, facecolor="white")
        with Image.open(path) as image:
            few = image.convert("RGB").quantize(96, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    main()
