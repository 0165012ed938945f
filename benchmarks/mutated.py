"""Damaged files among good ones: no crash, no hang, no good sample lost, memory bounded, no invented pixels.

    python -m benchmarks.mutated --count 10000
    python -m benchmarks.mutated --count 3000 --kinds "twelve bits;arithmetic code;damaged JPEG 2000"

As many good files as damaged ones, mixed. The damaged ones are small JPEGs with `DAMAGE`, files of other formats, and
folders and broken links in a file's place. Each engine delivers them all, once with `on_error="replace"` and once with
"skip", in a process of its own that has a time limit. Each good sample must be delivered as Pillow decodes it; each
damaged one too, or be reported in `loader.errors`. The peak of memory may exceed that of a process with good files
alone by two batches of the largest images that `max_pixels` lets through: one being made and one being made again.
Ends with exit code 1 where anything of this fails.

Failures are samples that are `lost`: neither delivered nor reported, or good and reported; `odd`: delivered with other
pixels than Pillow's; `refused`: delivered though Pillow raises. Only counted are `lenient`: Pillow raises, but has the
same pixels with `ImageFile.LOAD_TRUNCATED_IMAGES`; and `strict`: reported though Pillow decodes it.
"""

import functools
import io
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image, ImageFile

import gpuload
from benchmarks.photos import crop, originals
from benchmarks.program import Report, child, chosen, finish, options, peak_bytes

SEEDS = 48  # Number of small JPEGs, from which all files are made.
SIDE, BATCH = 64, 32
"""Height and width of delivered images, and samples in a batch. All engines resize to powers of two with the same
nearest pixels, so that only decoders can differ."""
LEVELS, SHARE = 2, 0.995
"""Pixels are Pillow's where this share of all values is no more than so many levels off; see tests/test_engines.py."""

Random = np.random.Generator
Pixels = np.typing.NDArray[np.uint8]


def jpegs(count: int) -> list[bytes]:
    """Small photographs: colours whole, halved and quartered, progressive, grey, CMYK, with restart markers."""
    found, pictures, rng = [], list(originals().values()), np.random.default_rng(0)
    for number in range(count):
        width, height = rng.integers((96, 64), (161, 121)).tolist()
        image = crop(pictures[number % len(pictures)], (width, height), rng)
        image = image.convert({5: "L", 6: "CMYK"}.get(number % 8, "RGB"))
        options = {"progressive": number % 4 == 3, "restart_marker_blocks": 4 * (number % 5 == 0)}
        options |= {"subsampling": number % 3} if image.mode == "RGB" else {}
        found.append(encoded(image, "JPEG", quality=(75, 90)[number % 2], **options))
    return found


def encoded(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def segments(data: bytes) -> list[int]:
    """Offsets of the segments of a JPEG's header, that of the frame (SOF) first, the start of the scan last."""
    at, found = 2, []
    while data[at + 1] != 0xDA:
        found.append(at)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return [*sorted(found, key=lambda at: data[at + 1] not in (0xC0, 0xC1, 0xC2)), at]


def flipped(data: bytes, rng: Random, stop: int | None = None) -> bytes:
    """Flip one to sixteen bits before `stop`."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 17)):
        changed[rng.integers(stop or len(data))] ^= 1 << rng.integers(8)
    return bytes(changed)


def forged(data: bytes, rng: Random) -> bytes:
    """Give a segment another marker or length, or the file the beginning of another format."""
    at = int(rng.choice(segments(data)))
    beginnings = (b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"II*\0", b"RIFF\x10\0\0\0WEBP", b"%PDF", b"\0" * 8)
    beginning = beginnings[rng.integers(len(beginnings))]
    place, instead = ((at + 1, rng.bytes(1)), (at + 2, rng.bytes(2)), (0, beginning))[rng.integers(3)]
    return data[:place] + instead + data[place + len(instead) :]


def sized(data: bytes, rng: Random, low: float, high: float) -> bytes:
    """Write another height and width into the header."""
    height, width = np.exp(rng.uniform(np.log(low), np.log(high), 2)).astype(int).tolist()
    at = segments(data)[0] + 5
    return data[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 4 :]


def blotted(data: bytes, rng: Random) -> bytes:
    """Make a stretch zeros, or noise, or remove or repeat it."""
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 200))
    stretch = data[start : start + length]
    instead = (bytes(len(stretch)), rng.bytes(len(stretch)), b"", stretch + stretch)[rng.integers(4)]
    return data[:start] + instead + data[start + length :]


def marked(data: bytes, frame: int | None = None, bits: int | None = None) -> bytes:
    """Have the header claim another kind of frame, or other bits a colour."""
    changed, at = bytearray(data), segments(data)[0]
    changed[at + 1], changed[at + 4] = frame or changed[at + 1], bits or changed[at + 4]
    return bytes(changed)


def absurd(data: bytes, rng: Random) -> bytes:
    """Encode the picture in BMP or TIFF, and write extreme numbers into its header, or at a TIFF's end."""
    changed = bytearray(converted(data, rng, ("BMP", "TIFF")))
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(2, 54)) if rng.random() < 0.5 else len(changed) - int(rng.integers(4, 160))
        number = int(rng.choice([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
        changed[place : place + 4] = number.to_bytes(4, "little")
    return bytes(changed)


FORMATS = ("PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")


def converted(data: bytes, rng: Random, formats: tuple[str, ...] = FORMATS) -> bytes:
    """Encode the picture in another format."""
    name = formats[rng.integers(len(formats))]
    return encoded(Image.open(io.BytesIO(data)).convert("RGB"), name)


DAMAGE: dict[str, Callable[[bytes, Random], bytes]] = {
    "cut off": lambda data, rng: data[: rng.integers(1, len(data))],
    "bits flipped": flipped,
    "bits of the header": lambda data, rng: flipped(data, rng, segments(data)[-1]),
    "forged header": forged,
    "claims to be huge": lambda data, rng: sized(data, rng, 200, 65_536),
    "claims another size": lambda data, rng: sized(data, rng, 1, 300),
    "a stretch destroyed": blotted,
    "something behind it": lambda data, rng: data + rng.bytes(100),
    "noise": lambda data, rng: rng.bytes(len(data)),
    "empty": lambda data, rng: b"",
    "other format": converted,
    "other format, cut off": lambda data, rng: DAMAGE["cut off"](converted(data, rng), rng),
    "twelve bits": lambda data, rng: marked(data, bits=12),
    "arithmetic code": lambda data, rng: marked(data, frame=0xC9),
    "lossless": lambda data, rng: marked(data, frame=0xC3),
    "damaged JPEG 2000": lambda data, rng: flipped(converted(data, rng, ("JPEG2000",)), rng),
    "absurd header": absurd,
    "other format, bits flipped": lambda data, rng: flipped(converted(data, rng), rng),
}
"""Kinds of damage to a JPEG."""
PLACES = ("folder", "broken link", "link to itself", "nothing")  # Kinds of things in a file's place.


def write(folder: Path, count: int, seed: int, damage: list[str]) -> list[str]:
    """Make `count` good files, and as many damaged ones among them if kinds of damage are given; return all kinds."""
    folder.mkdir()
    seeds = jpegs(SEEDS)
    kinds = ["good"] * count + [damage[number % len(damage)] for number in range(count * bool(damage))]
    np.random.default_rng(seed).shuffle(kinds)
    for number, kind in enumerate(kinds):
        path, rng = at(folder, number), np.random.default_rng([seed, number])
        data = seeds[rng.integers(SEEDS)]
        if kind == "folder":
            path.mkdir()
        elif "link" in kind:
            path.symlink_to("nowhere" if kind == "broken link" else path.name)
        elif kind != "nothing":
            path.write_bytes(DAMAGE[kind](data, rng) if kind in DAMAGE else data)
    return kinds


def at(folder: Path, number: int) -> Path:
    return folder / f"{number:06}.jpg"


def deliver(folder: Path, count: int, engine: str, on_error: str, max_pixels: int, out: Path) -> None:
    """In a process of its own: write what a loader delivers into files under `out`."""
    source = gpuload.ImageList([at(folder, number) for number in range(count)], labels=np.arange(count))
    transform = gpuload.Augment(size=(SIDE, SIDE), interpolation="nearest", dtype="uint8", layout="HWC")
    errors = gpuload.Errors(on_error=on_error, max_pixels=max_pixels)
    options = {"seed": 0, "device": "cpu", "engine": engine, "framework": "numpy", "errors": errors}
    options["cache"] = None  # It takes memory for each sample, and is not compared here.
    with (
        gpuload.Loader(source, transform, batch_size=BATCH, **options) as loader,
        open(out / "images", "wb") as images,
        open(out / "labels", "wb") as labels,
    ):
        for some, theirs in loader:
            images.write(some.tobytes())
            labels.write(theirs.astype(np.int64).tobytes())
        told = {"errors": [sample.index for sample in loader.errors], "peak_bytes": peak_bytes()}
    (out / "told").write_text(json.dumps(told))


def run(out: Path, limit: float, *arguments: Any) -> str:
    """Call `deliver` in a new process; return how it ended: "" where it ended well."""
    out.mkdir()
    process = child(deliver, *arguments, out, errors=out / "stderr", method="spawn")
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
        return f"hung: more than {limit:.0f} s"
    lines = (out / "stderr").read_text(errors="replace").splitlines()
    return "" if process.exitcode == 0 else f"exit code {process.exitcode}: {lines[-1:]}"


@functools.cache
def pillow(data: bytes, max_pixels: int, lenient: bool = False) -> Pixels | str:
    """Pixels [SIDE, SIDE, 3] as Pillow decodes and resizes a file, or the reason why it does not."""
    with warnings.catch_warnings(), mock.patch.object(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient):
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > max_pixels:
                    return "too many pixels"
                return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST))
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def agree(image: Pixels, expected: Pixels | str) -> bool:
    """Whether an image is as Pillow decodes it."""
    return not isinstance(expected, str) and bool((abs(image.astype(int) - expected) <= LEVELS).mean() >= SHARE)


def check(folder: Path, kinds: list[str], on_error: str, max_pixels: int, out: Path) -> Report:
    """Counts of samples by result and kind."""
    told = json.loads((out / "told").read_text())
    labels = np.fromfile(out / "labels", np.int64).tolist()
    images = np.fromfile(out / "images", np.uint8).reshape(len(labels), SIDE, SIDE, 3)
    places = list(range(len(kinds))) if on_error == "replace" else labels
    reported, lost = set(told["errors"]), set(range(len(kinds)))
    wrong = {"odd": {}, "refused": {}, "lenient": {}}

    def expected(number: int, lenient: bool = False) -> Pixels | str:
        path = at(folder, number)
        return pillow(path.read_bytes(), max_pixels, lenient) if path.is_file() else "no file"

    for place, label, image in zip(places, labels, images, strict=True):
        pixels = expected(label)
        if isinstance(pixels, str):
            wrong["lenient" if agree(image, expected(label, lenient=True)) else "refused"][label] = pixels
        elif not agree(image, pixels):
            wrong["odd"][label] = f"{abs(image.astype(int) - pixels).mean():.1f} levels off"
        # Each place has its own sample or, if that is bad, a good one.
        if label not in reported and (label == place or place in reported):
            lost.discard(place)
    if on_error == "skip":
        lost -= reported
        if labels != sorted(labels):
            raise RuntimeError("the samples that were not skipped came in another order")
    lost |= {number for number in reported if kinds[number] == "good"}
    strict = [number for number in reported if not isinstance(expected(number), str)]
    results = {**wrong, "lost": lost, "strict": strict}
    counts = {name: dict(Counter(kinds[number] for number in numbers)) for name, numbers in results.items()}
    row = {"reported": len(reported), "delivered": len(kinds) - len(reported | lost), **counts}
    return row | {"peak_bytes": told["peak_bytes"], "words": wrong}


def failures(rows: list[Report], allowed: int) -> Iterator[str]:
    """Failures, in words."""
    peaks = {row["engine"]: row["peak_bytes"] for row in rows if row["files"] == "good" and not row["ended"]}
    for row in rows:
        name = f"{row['engine']}, {row['files']}, {row['on_error']}"
        if row["ended"]:
            yield f"{name}: {row['ended']}"
            continue
        yield from (f"{name}: {what} {row[what]}" for what in ("lost", "odd", "refused") if row[what])
        above = row["peak_bytes"] - peaks.get(row["engine"], 0)
        if above > allowed:
            yield f"{name}: {above / 1e6:.0f} MB more at the peak than with good files, above {allowed / 1e6:.0f}"


def main(*arguments: str) -> None:
    defaults = {
        "count": 10_000,
        "seed": 0,
        "kinds": "all",
        "engines": "numba,numpy",
        "max_pixels": 2**20,
        "limit": 900.0,
    }
    asked = options(__doc__, arguments, **defaults, out=None)
    damage = chosen(asked.kinds, [*DAMAGE, *PLACES], "--kinds", separator=";")
    allowed, rows = 2 * 3 * asked.max_pixels * BATCH, []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = {"good": [], "mixed": damage}
        kinds = {name: write(folder / name, asked.count, asked.seed, some) for name, some in made.items()}
        for engine in asked.engines.split(","):
            for name, on_error in (("good", "replace"), ("mixed", "replace"), ("mixed", "skip")):
                began, place = time.perf_counter(), folder / f"{engine}-{name}-{on_error}"
                ended = run(place, asked.limit, folder / name, len(kinds[name]), engine, on_error, asked.max_pixels)
                row = {"engine": engine, "files": name, "on_error": on_error, "samples": len(kinds[name])}
                row |= {"ended": ended, "seconds": time.perf_counter() - began}
                row |= {} if ended else check(folder / name, kinds[name], on_error, asked.max_pixels, place)
                rows.append(row)
    finish(asked, "mutated", allowed_bytes=allowed, rows=rows)
    failed = list(failures(rows, allowed))
    print(*failed, sep="\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
