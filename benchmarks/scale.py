"""What many GPUs would ask of storage and network, on paper: arithmetic over what was measured on one machine.

Nothing here was run on so many machines. What is assumed, and not measured, stands in `Assumed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.deep import Report, last, rows_of, steps_of

GPUS = (1, 10, 100, 1000)


@dataclass(frozen=True)
class Assumed:
    """What no benchmark here measures."""

    images_per_gpu: int = 2500
    """Images that one GPU trains on in a second."""
    gpus_per_machine: int = 8
    files: int = 1_281_167
    """Of the data set: as many as ImageNet's."""
    size: int = 224


@dataclass(frozen=True)
class Measured:
    """What is taken from the JSON."""

    file_bytes: float
    decode_seconds: float
    """Of one CPU, for an image, decoding alone."""
    cold_seconds: float
    """Of one CPU, for an image of a first epoch."""
    warm_seconds: float
    """Of one CPU, for an image out of a cache."""
    name_bytes: float
    """Memory that a file's name and label take."""
    index_seconds: float
    """For a file, of listing folders."""


def measured(images: Report, warm: Report, growth: Report, startup: Report, size: int) -> Measured:
    """What the arithmetic needs. Without one of the rows: KeyError."""
    cold_rows, warm_rows = rows_of(images), rows_of(warm)
    names = last(growth, "files", "index_bytes")
    if names is None:
        raise KeyError("the axis 'files' of benchmarks.growth")
    return Measured(
        file_bytes=images["data"]["mean_bytes"],
        decode_seconds=cold_rows[size, "decoder"]["cpu_ms"]["median"] / 1000,
        cold_seconds=cold_rows[size, "gpuload"]["cpu_ms"]["median"] / 1000,
        warm_seconds=warm_rows[size, "gpuload"]["cpu_ms"]["median"] / 1000,
        name_bytes=names["index_bytes"]["median"] / names["files"],
        index_seconds=steps_of(startup)["gpuload.ImageFolder"]["seconds"]["median"] / startup["files"],
    )


def demands(gpus: int, found: Measured, assumed: Assumed) -> dict[str, float]:
    """What so many GPUs ask for."""
    rate = gpus * assumed.images_per_gpu
    machines = -(-gpus // assumed.gpus_per_machine)
    pixels = 3 * assumed.size**2
    return {
        "rate": rate,
        "machines": machines,
        "cold_bytes": rate * found.file_bytes,
        "opens": rate,
        "cold_cpus": rate * found.cold_seconds,
        "warm_bytes": rate * pixels,
        "warm_cpus": rate * found.warm_seconds,
        "first_seconds": assumed.files / rate,
        "filled_bytes": machines * assumed.files * pixels,
        "listed": gpus * assumed.files,
        "names_bytes": gpus * assumed.files * found.name_bytes,
    }


def scaled(value: float, unit: str) -> str:
    """With a prefix, three digits."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return (
                f"{value / factor:.3g} {prefix}{unit}"
                if value < 1000 * factor
                else f"{value / factor:,.0f} {prefix}{unit}"
            )
    return f"{value:.3g} {unit}"


def scale_table(images: Report, warm: Report, growth: Report, startup: Report) -> str:
    """The arithmetic, a column for each number of GPUs."""
    assumed = Assumed()
    found = measured(images, warm, growth, startup, assumed.size)
    pixels = 3 * assumed.size**2
    lines = [
        f"Assumed, not measured: a GPU trains on r = {assumed.images_per_gpu:,} images/s, a machine has "
        f"{assumed.gpus_per_machine} GPUs, the data set N = {assumed.files:,} files, images are {assumed.size} × "
        f"{assumed.size}.",
        "",
        f"Measured on the machine of the tables above: a file is b = {found.file_bytes / 1000:.1f} kB; of one of its "
        f"CPUs, an image takes t = {1000 * found.cold_seconds:.2f} ms in a first epoch (reading and decoding alone "
        f"{1000 * found.decode_seconds:.2f}), w = {1000 * found.warm_seconds:.3f} ms out of a cache; a name takes "
        f"{found.name_bytes:.0f} bytes of memory and {1e6 * found.index_seconds:.2f} µs to list. "
        f"Computed: an image's levels are p = 3 × {assumed.size}² = {pixels / 1000:.1f} kB.",
        "",
        "| G GPUs | " + " | ".join(f"{gpus:,}" for gpus in GPUS) + " |",
        "| --- |" + " ---: |" * len(GPUS),
    ]
    columns = [demands(gpus, found, assumed) for gpus in GPUS]
    shown: tuple[tuple[str, str, str], ...] = (
        ("machines, ⌈G / 8⌉".replace("8", str(assumed.gpus_per_machine)), "machines", ""),
        ("images, G × r", "rate", "/s"),
        ("first epoch, N / (G × r)", "first_seconds", "s"),
        ("first epoch, read from the store: G × r × b", "cold_bytes", "B/s"),
        ("first epoch, files opened: G × r", "opens", "/s"),
        ("first epoch, CPUs that decode: G × r × t", "cold_cpus", "CPUs"),
        ("later, from a cache of its own on each machine: G × r × p", "warm_bytes", "B/s"),
        ("later, from the store without a cache: G × r × b", "cold_bytes", "B/s"),
        ("later, CPUs that warp, where GPUs do not: G × r × w", "warm_cpus", "CPUs"),
        ("cache in all machines: machines × N × p", "filled_bytes", "B"),
        ("names listed at the start, each rank for itself: G × N", "listed", ""),
        ("memory for names, of all ranks", "names_bytes", "B"),
    )
    for words, key, unit in shown:
        cells = (
            f"{column[key]:,.0f}" if key == "machines" else scaled(column[key], unit).strip() for column in columns
        )
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    one = columns[GPUS.index(10)]
    lines += [
        "",
        f"Worked for 10 GPUs: 10 × {assumed.images_per_gpu:,} = {one['rate']:,.0f} images/s; × "
        f"{found.file_bytes / 1000:.1f} kB = {scaled(one['cold_bytes'], 'B/s')}, or "
        f"{8 * one['cold_bytes'] / 1e9:.1f} Gbit/s; × {1000 * found.cold_seconds:.2f} ms = {one['cold_cpus']:.0f} "
        f"CPUs. One machine's cache: {assumed.files:,} × {pixels:,} B = {scaled(assumed.files * pixels, 'B')}; its "
        f"{assumed.gpus_per_machine} GPUs read {assumed.gpus_per_machine} × {assumed.images_per_gpu:,} × "
        f"{pixels / 1000:.1f} kB = {scaled(assumed.gpus_per_machine * assumed.images_per_gpu * pixels, 'B/s')} of it.",
    ]
    return "\n".join(lines)


def curves(images: Report, warm: Report, growth: Report, startup: Report) -> dict[str, Any]:
    """Numbers of GPUs, and what they read and compute, for a chart."""
    assumed = Assumed()
    found = measured(images, warm, growth, startup, assumed.size)
    gpus = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    return {"gpus": gpus, "demands": [demands(number, found, assumed) for number in gpus], "assumed": assumed}
