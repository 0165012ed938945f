"""`gpuload demo`: a PyTorch network learns digits from augmented JPEG files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import gpuload
from gpuload.core.checks import checked_int
from gpuload.demo.images_picture import draw
from gpuload.demo.training import Training, Watch, fit, progress, repeatable, table

SIDE = 32
"""Height and width of the images, in pixels."""
HELD_OUT = 360
"""Number of test images, of 1797."""

PLAIN = gpuload.Augment(size=(SIDE, SIDE), color="grayscale", rescale=1 / 255)
AUGMENTED = PLAIN.replace(shear=10, zoom=(0.9, 1.1))


@dataclass(frozen=True, kw_only=True)
class Result:
    """Findings of one run of the demo."""

    accuracy: float
    """Share of the held-out images that were recognised."""
    training: Training
    files: Path
    """Folder of the JPEG files."""
    picture: Path
    """PNG of original and augmented images."""


def run(out: Path, *, epochs: int, seed: int, watch: Watch = lambda moment: None, **options: Any) -> Result:
    """Write the files into the folder `out`, train, test, and draw a picture.

    `watch` is called after each batch; `options` are further arguments of `gpuload.Loader`. Raises ValueError if
    `epochs` is below 1, and the errors of `gpuload.Loader`.
    """
    checked_int("epochs", epochs, 1)
    files = write_digits(out)
    train, test = gpuload.ImageFolder(files / "train"), gpuload.ImageFolder(files / "test")
    options["seed"] = seed
    with (
        repeatable(seed),
        gpuload.Loader(train, AUGMENTED, shuffle=True, framework="torch", **options) as training,
        gpuload.Loader(test, PLAIN, framework="torch", **options) as testing,
    ):
        network = new_network().to(training.device)

        def loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(network(images), labels)

        return Result(
            training=fit(network, training, epochs=epochs, rate=3e-3, loss=loss, watch=watch),
            accuracy=accuracy(network, testing),
            files=files,
            picture=draw(train, PLAIN, AUGMENTED, options, out / "augmented.png"),
        )


def write_digits(out: Path) -> Path:
    """Return the folder digits/ with train/ and test/ JPEG files in one folder per class, written if it does not exist.

    The files are written to a temporary folder that is renamed at the end, so an interrupted run leaves no folder that
    looks complete.
    """
    folder = out / "digits"
    if folder.exists():
        return folder
    out.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    levels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    levels = np.pad(levels, ((0, 0), (1, 1), (1, 1)))  # Digits fill their 8 x 8 pixels: shear and zoom need room.
    parts = train_test_split(np.arange(len(levels)), test_size=HELD_OUT, stratify=digits.target, random_state=0)
    with TemporaryDirectory(prefix=".digits-", dir=out) as temporary:
        unfinished = Path(temporary, "digits")
        for part, numbers in zip(("train", "test"), parts, strict=True):
            for name in range(10):
                (unfinished / part / str(name)).mkdir(parents=True)
            for number in numbers:
                image = Image.fromarray(levels[number]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                image.save(unfinished / part / str(digits.target[number]) / f"{number:04}.jpg", quality=95)
        unfinished.rename(folder)
    return folder


def new_network() -> nn.Module:
    """Return a network of three convolutions and a linear layer for images [B, 1, 32, 32]."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
        # An epoch has few batches, so the running mean and variance must follow quickly.
        return [convolution, nn.BatchNorm2d(outputs, momentum=0.3), nn.ReLU(), nn.MaxPool2d(2)]

    features = 48 * (SIDE // 8) ** 2
    return nn.Sequential(*block(1, 12), *block(12, 24), *block(24, 48), nn.Flatten(), nn.Linear(features, 10))


def accuracy(network: nn.Module, loader: gpuload.Loader) -> float:
    """Return the share of the loader's images that the network classifies correctly."""
    network.eval()
    with torch.inference_mode():
        right = sum(int((network(images).argmax(dim=1) == labels).sum()) for images, labels in loader)
    return right / len(loader.source)


def show(out: Path, **options: Any) -> None:
    """Run the demo and print its progress and its findings."""
    console = Console(highlight=False)
    with progress(console, "images") as report:
        result = run(out, watch=report, **options)
    accuracy = f"{result.accuracy:.1%} of {HELD_OUT} held-out images"
    console.print(table({"": {"accuracy": accuracy, **result.training.rows("images")}}))
    console.out(f"JPEG files  {result.files}\nPicture     {result.picture}", highlight=False)
