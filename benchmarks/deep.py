"""The tables of benchmarks/README.md, in Markdown: what was aimed at, the limits, and how cost grows."""

from __future__ import annotations

from typing import Any

Report = dict[str, Any]

VALUES = {"files": "files", "scale": "photograph, megapixels", "size": "image, pixels a side", "batch": "batch"}
VALUES |= {"threads": "threads", "ranks": "ranks side by side", "kept": "share of the images that the cache holds"}


def rows_of(report: Report) -> dict[tuple[int, str], dict[str, Any]]:
    """Rows of `benchmarks.images` or `benchmarks.warm` by size and contender."""
    return {(row["size"], row["contender"]): row for row in report["rows"]}


def steps_of(report: Report) -> dict[str, dict[str, Any]]:
    """Rows of `benchmarks.startup` by their step."""
    return {row["step"]: row for row in report["rows"]}


def last(report: Report, axis: str, figure: str) -> dict[str, Any] | None:
    """The row of `benchmarks.growth` with the greatest value of an axis that has such a figure."""
    found = [row for row in report["rows"] if row["axis"] == axis and figure in row]
    return max(found, key=lambda row: row["value"]) if found else None


def _goal(what: str, aim: str, figure: dict[str, Any] | None, unit: str, reached: bool | None) -> str:
    if figure is None:
        return f"| {what} | {aim} | not measured | |"
    digits = 2 if figure["median"] < 10 else 1
    spread_ = f"{figure['median']:.{digits}f} ({figure['least']:.{digits}f} to {figure['greatest']:.{digits}f}) {unit}"
    return f"| {what} | {aim} | {spread_} | {'yes' if reached else '**no**'} |"


def goals_table(images: Report, warm: Report, epochs: Report, startup: Report) -> str:
    """What was aimed at, and what was measured: medians of ratios within a round."""
    cold_rows, warm_rows = rows_of(images), rows_of(warm)
    jobs = {(row["size"], row["program"]): row for row in epochs["rows"]}
    steps = steps_of(startup)
    wanted: list[tuple[str, float, dict[str, Any] | None]] = []
    for size in (64, 224):
        wanted.append((f"cold, {size} × {size}, of bare DALI", 1, cold_rows.get((size, "dali"))))
    for size, times in ((64, 30), (224, 12)):
        wanted.append((f"warm, {size} × {size}, of Keras' generator", times, warm_rows.get((size, "keras"))))
    for size in (64, 224):
        wanted.append((f"warm, {size} × {size}, of tf.data's cache and Keras' layers", 3,
                       warm_rows.get((size, "tf.data layers"))))  # fmt: skip
    for size, times in ((64, 10), (224, 5)):
        wanted.append((f"{epochs['epochs']} epochs, {size} × {size}, of Keras' generator", times,
                       jobs.get((size, "keras"))))  # fmt: skip
    lines = ["| | aim | measured | reached |", "| --- | ---: | ---: | --- |"]
    for what, least, row in wanted:
        ratio = None if row is None else row.get("ratio")
        lines.append(_goal(what, f"at least {least} ×", ratio, "×", ratio is not None and ratio["median"] >= least))
    walk = steps["gpuload.ImageFolder"]["ratio"]
    files = f"{startup['files']:,} files"
    lines.append(_goal(f"index of {files}, of a walk", "at most 1.5 ×", walk, "×", walk["median"] <= 1.5))
    for step, words in (("first batch", "first batch after that, in a new process"), ("first batch, again", "another")):
        seconds = steps[step]["seconds"]
        lines.append(_goal(words, "below 1 s", seconds, "s", seconds["median"] < 1))
    resumed = [row["seconds"]["median"] for step, row in steps.items() if step.startswith("resume")]
    lines += [
        "",
        f"Going on at {len(resumed)} places of an epoch takes {1000 * min(resumed):,.0f} to {1000 * max(resumed):,.0f} "
        "ms to the first batch.",
    ]
    return "\n".join(lines)


def limits_table(images: Report, warm: Report) -> str:
    """gpuload beside the bounds that were measured in the same rounds."""
    lines = [
        "| | gpuload, images/s | limit | images/s | gpuload reaches | CPU µs an image | of these the limit's |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for report, kind, limit, words in (
        (images, "cold", "decoder", "reading and decoding alone"),
        (warm, "warm", "cast", "reading levels and writing float32 alone"),
    ):
        rows = rows_of(report)
        for size in dict.fromkeys(row["size"] for row in report["rows"]):
            ours, its = rows.get((size, "gpuload")), rows.get((size, limit))
            if ours is None or its is None:
                continue
            speeds = (row["images_per_second"]["median"] for row in (ours, its))
            cpu = (1000 * row["cpu_ms"]["median"] for row in (ours, its))
            first, second = speeds
            lines.append(
                f"| {kind}, {size} × {size} | {first:,.0f} | {words} | {second:,.0f} | {its['ratio']['median']:.0%} | "
                + " | ".join(f"{value:,.0f}" for value in cpu)
                + " |"
            )
    lines.append("")
    for size in dict.fromkeys(row["size"] for row in warm["rows"]):
        row, cast = (rows_of(warm).get((size, name)) for name in ("gpuload", "cast"))
        if row is None or cast is None:
            continue
        values, moved = 3 * size**2, 5 * 3 * size**2
        speed, most = row["images_per_second"]["median"], cast["images_per_second"]["median"]
        lines.append(
            f"- Warm at {size} × {size}: an image is {values:,} numbers, read as 1 byte and written as 4: "
            f"5 × {values:,} = {moved / 1000:,.0f} kB, at {speed:,.0f} images/s {speed * moved / 1e9:.2f} GB/s; "
            f"casting alone moves {most * moved / 1e9:.2f} GB/s. A number takes "
            f"{1e6 * row['cpu_ms']['median'] / values:.2f} ns of one CPU."
        )
    return "\n".join(lines)


def growth_table(report: Report) -> str:
    """A report of `benchmarks.growth`."""
    lines = [
        "| | | cold, images/s | warm, images/s | index, s | index, MB | process, cold, MB | warm, MB |",
        "| --- | ---: |" + " ---: |" * 6,
    ]
    figures = (("cold", 1, 0), ("warm", 1, 0), ("index_seconds", 1, 3), ("index_bytes", 1e6, 1))
    figures = (*figures, ("cold_bytes", 1e6, 0), ("warm_bytes", 1e6, 0))
    before = None
    for row in report["rows"]:
        value = f"{row['megapixels']:.2f}" if row["axis"] == "scale" else f"{row['value']:,g}"
        if row["axis"] in ("files",):
            value = f"{row['value']:,.0f}"
        cells = [f"{row[name]['median'] / unit:,.{digits}f}" if name in row else "" for name, unit, digits in figures]
        heading = VALUES[row["axis"]] if row["axis"] != before else ""
        lines.append(f"| {heading} | {value} | " + " | ".join(cells) + " |")
        before = row["axis"]
    lines += ["", f"Medians of {report['rounds']} rounds, each a process of its own; of ranks the sums."]
    return "\n".join(lines)


def decoding_table(report: Report) -> str:
    """What decoding costs by the size of the photograph."""
    lines = [
        "| photograph, megapixels | kB | images/s | megapixels/s | MB/s of files |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in report["rows"]:
        if row["axis"] == "scale":
            speed = row["cold"]["median"]
            lines.append(
                f"| {row['megapixels']:.2f} | {row['mean_bytes'] / 1000:,.0f} | {speed:,.0f} | "
                f"{speed * row['megapixels']:,.0f} | {speed * row['mean_bytes'] / 1e6:,.0f} |"
            )
    return "\n".join(lines)
