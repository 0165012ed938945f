"""Photographs of ImageNet's shape, for benchmarks on a machine without a data set.

Random crops of the detailed photographs that scikit-image and scikit-learn ship, so nothing is downloaded: three of
four are 500 x 375 pixels, one is 375 x 500, JPEG with 4:2:0 chroma, one class folder for each original. 1000 of them
are 83 kB each on average, from 48 to 107 (ImageNet: about 110).

Quality is 95 throughout: the originals are hardly larger than the crops, so a pixel holds less detail than in a
camera's picture scaled down, and with qualities from 75 to 95 and all the originals the mean was 42 kB. For the same
reason the smooth ones (retina, rocket, flower) are left out; colour wheels and the like are no photographs.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

RECIPE = 1  # Part of the folder's name; a change to how photographs are made needs a new number.
SKIMAGE = "astronaut.png chelsea.png coffee.png hubble_deep_field.jpg ihc.png motorcycle_left.png motorcycle_right.png"


def originals() -> dict[str, Image.Image]:
    """The photographs to crop, by the name of their class."""
    import skimage
    from sklearn.datasets import load_sample_image

    shipped = Path(skimage.__file__).parent / "data"
    images = {Path(name).stem: Image.open(shipped / name).convert("RGB") for name in SKIMAGE.split()}
    return images | {"china": Image.fromarray(load_sample_image("china.jpg"))}


def crop(image: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A random part of the image, of the aspect ratio of `size` (width, height), scaled to it and perhaps mirrored.

    The part is larger than `size` where the original allows it, and otherwise 85 to 100 % of the original.
    """
    most = min(image.width / size[0], image.height / size[1])
    scale = rng.uniform(min(1.0, 0.85 * most), most)
    width, height = (int(side * scale) for side in size)
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    part = image.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def blurs(folder: Path, count: int, sides: tuple[int, ...]) -> list[Path]:
    """Write small JPEGs, each of random colours and as high and wide as the next of `sides`; return their paths."""
    rng, paths = np.random.default_rng(0), [folder / f"{number:05}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        side, coarse = sides[number % len(sides)], rng.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)
    return paths


def photos(count: int = 1000, seed: int = 0, cache: Path | None = None) -> Path:
    """Return the folder of the photographs, which is made first if it is not there, and then whole or not at all."""
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpuload-benchmarks"
    folder = cache / f"photos-{RECIPE}-{count}-{seed}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        made, sources = Path(scratch, folder.name), list(originals().items())
        for number in range(count):
            rng, (name, image) = np.random.default_rng([seed, number]), sources[number % len(sources)]
            size = (375, 500) if rng.random() < 0.25 else (500, 375)
            (made / name).mkdir(parents=True, exist_ok=True)
            crop(image, size, rng).save(made / name / f"{number:06}.jpg", quality=95, subsampling="4:2:0")
        try:
            made.rename(folder)
        except OSError:  # Another process was faster; its photographs are the same.
            if not folder.is_dir():
                raise
    return folder


def large(count: int = 24, cache: Path | None = None) -> Path:
    """Return the folder of photographs of 4000 x 3000 pixels: those of `photos`, enlarged, with a sensor's noise."""
    folder = photos(count, seed=1, cache=cache)
    made = folder.with_name(f"{folder.name}-large")
    if made.is_dir():
        return made
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
            target = Path(scratch, made.name, path.parent.name, path.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(number)
            with Image.open(path) as image:
                levels = np.asarray(image.resize((4000, 3000), Image.Resampling.BICUBIC), np.float32)
            levels += rng.normal(0, 4, levels.shape).astype(np.float32)
            Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(target, quality=90, subsampling="4:2:0")
        try:
            Path(scratch, made.name).rename(made)
        except OSError:  # Another process was faster; its photographs are the same.
            if not made.is_dir():
                raise
    return made


def data_folder(data: str) -> Path:
    """Return the folder of an option `--data`: a path, or a number of photographs, which are made."""
    return photos(int(data)) if data.isdigit() else Path(data)
