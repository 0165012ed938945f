"""Images per second of recipes that people train with: crops of ImageNet, and photographs of a camera.

    python -m benchmarks.recipes                   photographs made by benchmarks.photos, on the CPU
    python -m benchmarks.recipes --only imagenet

- `imagenet`: a random part of photographs of ImageNet's size, resized to 224 x 224, flipped, normalized, in float32.
- `evaluation`: the shorter side to 256, the middle 224 x 224 of it, normalized.
- `camera`: photographs of 4000 x 3000 pixels, resized to 224 x 224, in uint8.

Measured as in `benchmarks.images`; `ratio` is relative to the first contender of the recipe.
"""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

import gpuload
from benchmarks import program
from benchmarks.contenders import dali_batches, dali_pipeline
from benchmarks.images import measure
from benchmarks.jobs import BATCH_SIZE, Batches, Job, endless
from benchmarks.photos import data_folder, large
from benchmarks.warm import after_first

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CROP, EVALUATION = gpuload.RandomResizedCrop(), gpuload.CenterCrop(resize=256)
AHEAD, CAMERA_BATCH_SIZE = 2, 8


def loader(job: Job, cache: Any = None, **transform: Any) -> gpuload.Loader:
    """Return gpuload's loader of a recipe."""
    augment = gpuload.Augment(**{"size": (job.size, job.size), "layout": "HWC", **transform})
    options: dict[str, Any] = {"shuffle": True, "last_batch": "drop", "device": job.device, "framework": "numpy"}
    return gpuload.Loader(gpuload.ImageFolder(job.folder), augment, batch_size=job.batch_size, cache=cache, **options)


def imagenet_gpuload(job: Job) -> Batches:
    """gpuload: RandomResizedCrop, hflip, mean and std; each epoch decodes."""
    with loader(job, crop=CROP, hflip=0.5, mean=MEAN, std=STD) as batches:
        yield from endless(batches)


def imagenet_kept(job: Job) -> Batches:
    """gpuload with Cache(size=(256, 256)), after its first epoch: crops of kept pictures."""
    kept = gpuload.Cache(size=(256, 256))
    with loader(job, kept, crop=CROP, hflip=0.5, mean=MEAN, std=STD) as batches:
        yield from after_first(batches)


def imagenet_dali(job: Job) -> Batches:
    """A DALI pipeline by hand: image_random_crop, resize, crop_mirror_normalize, two batches ahead."""
    from nvidia.dali import fn

    def graph() -> tuple[Any, Any]:
        files, labels = _dali_files(job)
        area = {"random_area": [0.08, 1.0], "random_aspect_ratio": [3 / 4, 4 / 3]}
        images = fn.decoders.image_random_crop(files, **area, **_exact(job))
        return _dali_normalized(_dali_resized(images, job), fn.random.coin_flip()), labels

    yield from dali_batches(dali_pipeline(job, graph), job)


def evaluation_gpuload(job: Job) -> Batches:
    """gpuload: CenterCrop(resize=256), mean and std; each epoch decodes."""
    with loader(job, crop=EVALUATION, mean=MEAN, std=STD) as batches:
        yield from endless(batches)


def evaluation_dali(job: Job) -> Batches:
    """A DALI pipeline by hand: decode, resize the shorter side, crop_mirror_normalize, two batches ahead."""
    from nvidia.dali import fn, types

    def graph() -> tuple[Any, Any]:
        files, labels = _dali_files(job)
        images = fn.decoders.image(files, **_exact(job))
        images = fn.resize(images, resize_shorter=256, interp_type=types.INTERP_LINEAR, antialias=True)
        return _dali_normalized(images, 0, crop=(job.size, job.size)), labels

    yield from dali_batches(dali_pipeline(job, graph), job)


def camera_gpuload(job: Job) -> Batches:
    """gpuload: decoded as they are."""
    with loader(job, dtype="uint8") as batches:
        yield from endless(batches)


def camera_scaled(job: Job) -> Batches:
    """gpuload with decode="scaled"."""
    with loader(job, dtype="uint8", decode="scaled") as batches:
        yield from endless(batches)


def camera_dali(job: Job) -> Batches:
    """A DALI pipeline by hand: decode and resize, two batches ahead."""
    from nvidia.dali import fn

    def graph() -> tuple[Any, Any]:
        files, labels = _dali_files(job)
        return _dali_resized(fn.decoders.image(files, **_exact(job)), job), labels

    yield from dali_batches(dali_pipeline(job, graph), job)


def camera_pillow(job: Job) -> Batches:
    """Pillow in a thread for each CPU: decode and resize."""
    yield from _pillow(job, draft=False)


def camera_draft(job: Job) -> Batches:
    """Pillow in a thread for each CPU: draft, so that libjpeg decodes at a smaller scale, and resize."""
    yield from _pillow(job, draft=True)


def _dali_files(job: Job) -> tuple[Any, Any]:
    from nvidia.dali import fn

    files, labels = fn.readers.file(file_root=str(job.folder), random_shuffle=True, name="files")
    return files, labels.gpu() if job.gpu else labels


def _exact(job: Job) -> dict[str, Any]:
    device = "mixed" if job.gpu else "cpu"
    return {"device": device, "jpeg_fancy_upsampling": True, "adjust_orientation": False}


def _dali_resized(images: Any, job: Job) -> Any:
    from nvidia.dali import fn, types

    return fn.resize(images, size=(job.size, job.size), interp_type=types.INTERP_LINEAR, antialias=True)


def _dali_normalized(images: Any, mirror: Any, **options: Any) -> Any:
    from nvidia.dali import fn, types

    options = {"mean": list(MEAN), "std": list(STD), "dtype": types.FLOAT, "output_layout": "HWC", **options}
    return fn.crop_mirror_normalize(images, mirror=mirror, **options)


def _pillow(job: Job, draft: bool) -> Batches:
    def load(path: str) -> np.ndarray:
        with Image.open(path) as file:
            if draft:
                file.draft("RGB", (job.size, job.size))
            return np.asarray(file.convert("RGB").resize((job.size, job.size), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor(job.cpus) as pool:
        ahead: list[Any] = []
        for numbers in job.orders():
            ahead.append(([pool.submit(load, job.files[number][0]) for number in numbers], numbers))
            if len(ahead) > AHEAD:
                images, chosen = ahead.pop(0)
                yield np.stack([image.result() for image in images]), np.array([job.files[each][1] for each in chosen])


RECIPES: dict[str, dict[str, Any]] = {
    "imagenet": {"gpuload": imagenet_gpuload, "gpuload kept": imagenet_kept, "dali": imagenet_dali},
    "evaluation": {"gpuload": evaluation_gpuload, "dali": evaluation_dali},
    "camera": {
        "gpuload": camera_gpuload,
        "gpuload scaled": camera_scaled,
        "dali": camera_dali,
        "pillow": camera_pillow,
        "pillow draft": camera_draft,
    },
}


def rows_of(names: Sequence[str], asked: Any) -> Iterator[dict[str, Any]]:
    """Measure recipes: a row for each contender."""
    for name in names:
        camera = name == "camera"
        folder = large(asked.large) if camera else data_folder(asked.data)
        job = Job(folder, asked.size, CAMERA_BATCH_SIZE if camera else BATCH_SIZE, asked.device)
        print(f"{name}: {', '.join(RECIPES[name])}", file=sys.stderr)
        rows, _ = measure(job, RECIPES[name], "gpuload", "images_per_second", asked.rounds, asked.seconds)
        yield from ({"recipe": name, **row} for row in rows)


def main(*arguments: str) -> None:
    defaults = {"size": 224, "rounds": 5, "seconds": 2.0, "data": "1000", "large": 24, "device": "cpu", "only": "all"}
    asked = program.options(__doc__, arguments, **defaults, out=None)
    names = program.chosen(asked.only, RECIPES, "--only")
    rows = list(rows_of(names, asked))
    program.finish(asked, "recipes", rows=rows, batch_size=BATCH_SIZE, camera_batch_size=CAMERA_BATCH_SIZE)


if __name__ == "__main__":
    main()
