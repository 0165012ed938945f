"""Demands of many GPUs on storage and network, on paper: arithmetic over figures that one machine gave.

Nothing here was run on many machines. The assumptions are the fields of `Scale` that have a default.
"""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.program import Report
from benchmarks.tables import markdown

GPUS = (1, 10, 100, 1000)


@dataclass(frozen=True)
class Scale:
    """Measured figures, and assumptions."""

    file_bytes: float
    decode_seconds: float  # Time of one CPU for an image, decoding alone.
    cold_seconds: float  # Time of one CPU for an image of a first epoch.
    warm_seconds: float  # Time of one CPU for an image out of a cache.
    name_bytes: float  # Memory for a file's name and label.
    index_seconds: float  # Time to list a file in a folder.
    images_per_gpu: int = 2500  # Images that one GPU trains on in a second.
    gpus_per_machine: int = 8
    files: int = 1_281_167  # Files of the data set: as many as ImageNet's.
    size: int = 224

    @property
    def image_bytes(self) -> int:
        """Bytes of an image's levels."""
        return 3 * self.size**2


def measured(images: Report, warm: Report, growth: Report, startup: Report) -> Scale:
    """Take the figures from the reports; raise StopIteration or ValueError without one of the rows."""

    def cpu_seconds(report: Report, contender: str) -> float:
        names = (Scale.size, contender)
        row = next(row for row in report["rows"] if (row["size"], row["contender"]) == names)
        return float(row["cpu_ms"]["median"]) / 1000

    indexed = (row for row in growth["rows"] if row["axis"] == "files" and "index_bytes" in row)
    names = max(indexed, key=lambda row: row["files"])
    index = next(row for row in startup["rows"] if row["step"] == "gpuload.ImageFolder")
    return Scale(
        file_bytes=images["data"]["mean_bytes"],
        decode_seconds=cpu_seconds(images, "decoder"),
        cold_seconds=cpu_seconds(images, "gpuload"),
        warm_seconds=cpu_seconds(warm, "gpuload"),
        name_bytes=names["index_bytes"]["median"] / names["files"],
        index_seconds=index["seconds"]["median"] / startup["files"],
    )


DEMANDS: dict[str, tuple[str, str, Callable[[int, Scale], float]]] = {
    "machines": ("machines, ⌈G / {gpus_per_machine}⌉", "", lambda g, s: -(-g // s.gpus_per_machine)),
    "rate": ("images, G × r", "/s", lambda g, s: g * s.images_per_gpu),
    "first_seconds": ("first epoch, N / (G × r)", "s", lambda g, s: s.files / (g * s.images_per_gpu)),
    "cold_bytes": ("read from the store without a cache, and in the first epoch: G × r × b", "B/s",
                   lambda g, s: g * s.images_per_gpu * s.file_bytes),
    "opens": ("files opened then: G × r", "/s", lambda g, s: g * s.images_per_gpu),
    "cold_cpus": ("CPUs that decode then: G × r × t", "CPUs", lambda g, s: g * s.images_per_gpu * s.cold_seconds),
    "warm_bytes": ("later, read from a cache of its own on each machine: G × r × p", "B/s",
                   lambda g, s: g * s.images_per_gpu * s.image_bytes),
    "warm_cpus": ("later, CPUs that warp, where GPUs do not: G × r × w", "CPUs",
                  lambda g, s: g * s.images_per_gpu * s.warm_seconds),
    "filled_bytes": ("cache in all machines: machines × N × p", "B",
                     lambda g, s: -(-g // s.gpus_per_machine) * s.files * s.image_bytes),
    "listed": ("names listed at the start, each rank for itself: G × N", "", lambda g, s: g * s.files),
    "names_bytes": ("memory for names, of all ranks", "B", lambda g, s: g * s.files * s.name_bytes),
}  # fmt: skip
"""Demands of g GPUs: words, unit and formula."""


def demands(gpus: int, scale: Scale) -> dict[str, float]:
    """Demands of so many GPUs, by the keys of `DEMANDS`."""
    return {key: formula(gpus, scale) for key, (_, _, formula) in DEMANDS.items()}


def scaled(value: float, unit: str = "") -> str:
    """A value with a prefix and three digits."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            digits = f"{value / factor:.3g}" if value < 1000 * factor else f"{value / factor:,.0f}"
            return f"{digits} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def scale_table(*reports: Report) -> str:
    """The arithmetic, a column for each number of GPUs; the reports are those of `measured`."""
    scale = measured(*reports)
    rows = []
    for words, unit, formula in DEMANDS.values():
        rows.append([words.format(**vars(scale)), *(scaled(formula(gpus, scale), unit) for gpus in GPUS)])
    pixels, rate = scale.image_bytes, scale.images_per_gpu
    return (
        f"Assumed, not measured: a GPU trains on r = {rate:,} images/s, a machine has {scale.gpus_per_machine} GPUs, "
        f"the data set N = {scale.files:,} files, images are {scale.size} × {scale.size}.\n\n"
        f"Measured on the machine of the tables above: a file is b = {scale.file_bytes / 1000:.1f} kB; of one of its "
        f"CPUs, an image takes t = {1000 * scale.cold_seconds:.2f} ms in a first epoch (reading and decoding alone "
        f"{1000 * scale.decode_seconds:.2f}), w = {1000 * scale.warm_seconds:.3f} ms out of a cache; a name takes "
        f"{scale.name_bytes:.0f} bytes of memory and {1e6 * scale.index_seconds:.2f} µs to list. "
        f"Computed: an image's levels are p = 3 × {scale.size}² = {pixels / 1000:.1f} kB.\n\n"
        + markdown(["G GPUs", *(f"{gpus:,}" for gpus in GPUS)], rows)
    )
