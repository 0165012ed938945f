"""Every format in which Pillow writes pictures: the default engine gives the pixels of engine="numpy", and of Keras."""

import io
import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpuload import Augment, CenterCrop, ImageBytes, Loader, RandomResizedCrop
from tests.conftest import THREADS, Place

pytestmark = pytest.mark.usefixtures("compiled_resize")

FORMATS: dict[str, list[dict[str, Any]]] = {
    "JPEG": [
        {},
        {"quality": 40, "subsampling": 0},
        {"subsampling": 1},
        {"progressive": True},
        {"restart_marker_blocks": 1},
        {"keep_rgb": True},
    ],
    "PNG": [{}, {"bits": 2}],
    "BMP": [{}],
    "GIF": [{}, {"interlace": 0}],
    "TIFF": [{}, *({"compression": each} for each in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "group4", "jpeg"))],
    "WEBP": [{}, {"lossless": True}],
    "PPM": [{}],
    "JPEG2000": [{}],
    "AVIF": [{}],
    "ICO": [{}, {"bitmap_format": "bmp"}],
    "TGA": [{}, {"compression": "tga_rle"}],
    "PCX": [{}],
    "SGI": [{}],
    "DDS": [{}],
    "MSP": [{}],
    "XBM": [{}],
    "IM": [{}],
    "SPIDER": [{}],
    "MPO": [{}],
}
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B", "F"]
ONLY = {"group4": ["1"], "jpeg": ["L", "RGB"]}
"""Modes of the compressions of TIFF about whose other modes its library complains."""
SIZES = [(1, 1), (37, 23), (16, 40)]
"""(width, height)"""


def picture(mode: str, size: tuple[int, int]) -> Image.Image:
    """A picture with smooth colours and a sharp edge."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    channels = [(x * 7 + y * 3) % 256, (255 - x * 5) % 256, np.where(x > y, 220, 30), (x * y) % 256]
    if mode in ("I", "I;16", "I;16B", "F"):
        values = (x * 1700 + y * 900) % 65536
        kind = {"I": np.int32, "I;16": np.uint16, "I;16B": np.uint16, "F": np.float32}[mode]
        image = Image.fromarray(values.astype(kind))
        return image if image.mode == mode else image.convert(mode)
    rgba = Image.fromarray(np.stack(channels, -1).astype(np.uint8), "RGBA")
    if mode == "P":
        return rgba.convert("RGB").quantize(60)
    return (rgba if mode in ("RGBA", "LA", "PA") else rgba.convert("RGB")).convert(mode)


def encoded(name: str) -> dict[str, bytes]:
    """Every picture that Pillow writes in a format, by its mode, options and size."""
    found = {}
    for mode, options, size in itertools.product(MODES, FORMATS[name], SIZES):
        if mode not in ONLY.get(options.get("compression"), MODES):
            continue
        file = io.BytesIO()
        try:
            picture(mode, size).save(file, name, **options)
            for wanted in ("RGB", "RGBA", "L"):
                Image.open(file).convert(wanted)
        except Exception:  # This format has no such mode, size or option, or Pillow cannot read what it wrote.
            continue
        found[f"{mode} {options} {size}"] = file.getvalue()
    return found


def delivered(pictures: dict[str, bytes], transform: Augment, **place: Any) -> np.ndarray:
    source = ImageBytes(list(pictures.values()), names=list(pictures))
    options = {"cache": None, "shuffle": False, "seed": 0, "threads": THREADS, "framework": "numpy", **place}
    with Loader(source, transform, batch_size=5, **options) as loader:
        return np.concatenate(list(loader))


TRANSFORMS = {
    "whole": Augment(size=(23, 37), layout="HWC"),
    "nearest": Augment(size=(12, 15), interpolation="nearest", layout="HWC"),
    "grey": Augment(size=(12, 15), color="grayscale", layout="HWC"),
    "rgba": Augment(size=(12, 15), color="rgba", layout="HWC"),
    "floating": Augment(size=(12, 15), antialias=False, layout="HWC"),
    "cut": Augment(size=(12, 15), crop=RandomResizedCrop(), layout="HWC"),
    "middle": Augment(size=(12, 15), crop=CenterCrop(resize=20), interpolation="bicubic", layout="HWC"),
    "scaled": Augment(size=(8, 8), decode="scaled", layout="HWC"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_pixels_are_those_of_the_reference(dali: Place, name: str) -> None:
    pictures = encoded(name)
    if not pictures:
        pytest.skip(f"this Pillow writes no {name}")
    for kind, transform in TRANSFORMS.items():
        if dali.device != "cpu" and kind == "grey":
            continue  # A GPU keeps no greys of more than 8 bits, and says so.
        expected = delivered(pictures, transform, engine="numpy", device="cpu")
        found = delivered(pictures, transform, **dali._asdict())
        off = np.abs(found - expected)
        # A GPU decodes JPEGs on its own, and DALI's resize there repeats the pixels of the border: edges as sharp as
        # those of a dithered picture differ by more than a few levels, and still it is the same picture.
        alike = name in ("JPEG", "MPO") and dali.device != "cpu"
        most = off.mean(axis=(1, 2, 3)) / 6 if alike else off.max(axis=(1, 2, 3))
        wrong = [each for each, difference in zip(pictures, most, strict=True) if difference > (1 if alike else 0)]
        assert not wrong, (kind, wrong)
        assert not alike or (off <= 4).mean() >= 0.9, kind


@pytest.mark.parametrize("name", ["JPEG", "PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP"])
@pytest.mark.parametrize("color", ["rgb", "grayscale", "rgba"])
def test_pixels_are_those_of_keras(dali: Place, name: str, color: str) -> None:
    if dali.device != "cpu":
        pytest.skip("GPUs have decoders of their own")
    utils, pictures = pytest.importorskip("keras").utils, encoded(name)
    found = delivered(
        pictures, Augment(size=(9, 14), interpolation="nearest", color=color, layout="HWC"), **dali._asdict()
    )
    for (each, data), levels in zip(pictures.items(), found, strict=True):
        image = utils.load_img(io.BytesIO(data), color_mode=color, target_size=(9, 14))
        np.testing.assert_array_equal(levels, utils.img_to_array(image, "channels_last"), err_msg=each)


REGIONS = """
    import sys
    import numpy as np, gpuload
    transform = gpuload.Augment(size=(48, 64), crop=gpuload.RandomResizedCrop(), layout="HWC")
    options = {"engine": sys.argv[1], "device": sys.argv[2], "framework": "numpy", "cache": None, "seed": 5}
    with gpuload.Loader(gpuload.ImageFolder(sys.argv[3]), transform, batch_size=8, shuffle=False, **options) as loader:
        np.save(sys.argv[4], np.concatenate([images for epoch in range(20) for images, _ in loader]))
"""


def test_regions_are_decoded_as_whole_pictures_are(dali: Place, photos: Path, tmp_path: Path) -> None:
    """On a GPU by request, in a process of its own: nvImageCodec 0.9.0 was reported to crash there."""
    found = []
    for regions in ("0", "1"):
        out, environment = tmp_path / f"{regions}.npy", {**os.environ, "GPULOAD_GPU_REGIONS": regions}
        command = [sys.executable, "-c", textwrap.dedent(REGIONS), *dali, str(photos), str(out)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        found.append(np.load(out))
    assert (np.abs(found[0] - found[1]) <= (0 if dali.device == "cpu" else 2)).mean() >= 0.999
