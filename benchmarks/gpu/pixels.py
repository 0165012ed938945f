"""Pixels of every format, decoded on the device: beside those of the CPU, and the same files again in other batches."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import gpuload
from benchmarks.gpu.effort import Effort
from benchmarks.photos import photos

SIDE = 224
LONGEST = 15.0
"""Seconds of repetitions, at most."""
WIDTHS = (1, 2, 7, 8, 9, 15, 16, 17, 33, 4096)
JPEGS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"subsampling": 2, "progressive": True},
    "restart markers": {"subsampling": 2, "restart_marker_blocks": 8},
}
"""Kinds of JPEG, and Pillow's options for each."""
OTHERS = {
    "grey": ("jpg", "L"),
    "CMYK": ("jpg", "CMYK"),
    "PNG": ("png", "RGB"),
    "PNG, transparent": ("png", "RGBA"),
    "PNG, palette": ("png", "P"),
    "PNG, 16 bits": ("png", "I;16"),
    "BMP": ("bmp", "RGB"),
    "GIF": ("gif", "P"),
    "TIFF": ("tiff", "RGB"),
    "WebP": ("webp", "RGB"),
    "PNM": ("ppm", "RGB"),
}
"""Other formats: suffix, and Pillow's mode."""


def files(folder: Path, photographs: list[Path]) -> list[tuple[str, Path]]:
    """Write pictures of every format and return them, with the photographs, by kind."""
    found = [("photograph", path) for path in photographs]

    def add(kind: str, image: Image.Image, suffix: str, **options: Any) -> None:
        path = folder / f"{len(found):04}.{suffix}"
        image.save(path, **options)
        found.append((kind, path))

    for number, path in enumerate(photographs[:16]):
        image = Image.open(path).convert("RGB").crop((0, 0, 300 + 7 * number, 200 + 5 * number))
        for kind, options in JPEGS.items():
            add(kind, image, "jpg", quality=90, **options)
        for kind, (suffix, mode) in OTHERS.items():
            deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257) if mode == "I;16" else None
            add(kind, deep or image.convert(mode), suffix)
    for width in WIDTHS:
        add("odd widths", image.resize((width, max(1, width // 3))), "jpg", quality=92)
    return found


def run(effort: Effort, device: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each kind of file: greatest and mean difference, and how many numbers ever changed."""
    with tempfile.TemporaryDirectory() as temporary:
        photographs = sorted(photos(effort.photographs).rglob("*.jpg"))[:: max(1, effort.photographs // 48)]
        found = files(Path(temporary), photographs)
        # Pillow decodes the others, on the host: a few times are enough.
        others = [(kind, path) for kind, path in found if kind in OTHERS]
        yield from compared([pair for pair in found if pair not in others], effort.repetitions, device)
        yield from compared(others, -(-effort.repetitions // 10), device)


def compared(pairs: list[tuple[str, Path]], repetitions: int, device: str) -> Iterator[dict[str, Any]]:
    """Yield rows for files, given with their kinds, which are decoded so many times, or fewer where time is up."""
    import torch

    kinds, paths = zip(*pairs, strict=True)
    source = gpuload.ImageList(list(paths), np.arange(len(paths)))
    augment = gpuload.Augment(size=(SIDE, SIDE), dtype="uint8", layout="HWC")

    def epochs(device: str, **options: Any) -> Iterator[Any]:
        """All images, ordered by number, epoch after epoch."""
        common = {"device": device, "framework": "torch", "cache": None, "seed": 0}
        with gpuload.Loader(source, augment, **common, **options) as loader:
            while True:
                batches = list(loader)
                images, labels = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
                yield images[labels.argsort()]

    whole = {"batch_size": len(paths)}
    by_cpu = next(epochs("cpu", **whole)).int()
    first = next(epochs(device, **whole))
    apart = (first.int().cpu() - by_cpu).abs().double()
    changed = torch.zeros(len(paths), dtype=torch.int64, device=first.device)
    again = epochs(device, batch_size=max(2, len(paths) // 5), shuffle=True)
    done, until = 0, time.perf_counter() + LONGEST
    while done < repetitions and time.perf_counter() < until:
        changed += (next(again) != first).flatten(1).sum(1)
        done += 1
    again.close()
    for kind in dict.fromkeys(kinds):
        rows = [number for number, other in enumerate(kinds) if other == kind]
        part = apart[rows]
        yield {
            "kind": kind,
            "files": len(rows),
            "most": float(part.max()),
            "mean": float(part.mean()),
            "above_2": float((part > 2).double().mean()),
            "repetitions": done,
            "changed": int(changed[rows].sum()),
        }
