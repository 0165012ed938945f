"""`gpuload demo`: JPEG files, a `Loader`, a PyTorch network, and how well and how fast that learnt.

`run` does the work and prints nothing; `show` runs it and prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import gpuload
from gpuload.core.checks import checked_int
from gpuload.demo.images_picture import draw
from gpuload.demo.training import Watch, first_weights, fit, one_thread, progress, torch_device

SIDE = 32
"""Height and width of the images, in pixels."""
HELD_OUT = 360
"""How many of the 1797 images are for the test."""

PLAIN = gpuload.Augment(size=(SIDE, SIDE), color="grayscale", rescale=1 / 255)
AUGMENTED = PLAIN.replace(shear=10, zoom=(0.9, 1.1))


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one run of the demo found."""

    accuracy: float
    """Share of the held-out images whose digit was recognised."""
    held_out: int
    """How many images those are."""
    images_per_second: float
    """That the network was trained on, from the first batch on."""
    waiting: float
    """Share of the training time, from the first batch on, that was spent waiting for the next batch."""
    start_up: float
    """Seconds until the first batch was there, which neither of the two above counts."""
    device: str
    """Where batches were made and the network trained."""
    engine: str
    """What made the batches."""
    files: Path
    """Folder of the JPEG files."""
    picture: Path
    """PNG that shows what the augmentation does."""


def run(
    out: Path,
    *,
    epochs: int,
    batch_size: int,
    device: str,
    engine: str,
    seed: int,
    watch: Watch = lambda moment: None,
) -> Result:
    """Write the files, train, test and draw, all in the folder `out`; `watch` is called after each batch.

    Raises what `gpuload.Loader` raises, ValueError for less than one epoch, and RuntimeError where PyTorch cannot use
    the device that the loader took.
    """
    checked_int("epochs", epochs, 1)
    files = write_digits(out)
    train, test = gpuload.ImageFolder(files / "train"), gpuload.ImageFolder(files / "test")
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "device": device, "engine": engine}

    with (
        one_thread(),
        gpuload.Loader(train, AUGMENTED, shuffle=True, framework="torch", **options) as training,
        gpuload.Loader(test, PLAIN, framework="torch", **options) as testing,
    ):
        network = new_network(seed).to(torch_device(training))

        def loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(network(images), labels)

        clock = fit(network, training, epochs=epochs, rate=3e-3, loss=loss, watch=watch)
        return Result(
            accuracy=accuracy(network, testing),
            held_out=len(test),
            images_per_second=clock.samples_per_second,
            waiting=clock.waiting,
            start_up=clock.start_up,
            device=training.device,
            engine=training.engine,
            files=files,
            picture=draw(train, PLAIN, AUGMENTED, options, out / "augmented.png"),
        )


# The files


def write_digits(out: Path) -> Path:
    """The folder train/ and test/ of JPEG files, by class, which is made only where there is none.

    It comes into being whole, by a change of name, so that an interrupted run leaves nothing that looks complete.
    """
    folder = out / "digits"
    if folder.exists():
        return folder
    out.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    levels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    levels = np.pad(levels, ((0, 0), (1, 1), (1, 1)))  # digits fill their 8 x 8 pixels: room for shear and zoom
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


# The network


def new_network(seed: int) -> nn.Module:
    """Three convolutions and a linear layer, for [B, 1, 32, 32]."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
        # An epoch has few batches: the running mean and variance must follow quickly.
        return [convolution, nn.BatchNorm2d(outputs, momentum=0.3), nn.ReLU(), nn.MaxPool2d(2)]

    with first_weights(seed):
        features = 48 * (SIDE // 8) ** 2
        return nn.Sequential(*block(1, 12), *block(12, 24), *block(24, 48), nn.Flatten(), nn.Linear(features, 10))


def accuracy(network: nn.Module, loader: gpuload.Loader) -> float:
    """Share of the loader's images that the network puts into the right class."""
    network.eval()
    with torch.inference_mode():
        right = sum(int((network(images).argmax(dim=1) == labels).sum()) for images, labels in loader)
    return right / len(loader.source)


# What is printed


def show(out: Path, *, epochs: int, **options: Any) -> None:
    """Run the demo: a progress bar where there is a terminal, a line for each epoch, and a table of what was found."""
    console = Console(highlight=False)
    with progress(console, epochs=epochs, samples="images") as told:
        result = run(out, epochs=epochs, watch=told, **options)
    console.print(table(result))
    console.out(f"JPEG files  {result.files}\nPicture     {result.picture}", highlight=False)


def table(result: Result) -> Table:
    """The result as a table of two columns."""
    rows = Table(show_header=False)
    rows.add_column(style="bold")
    rows.add_column()
    rows.add_row("accuracy", f"{result.accuracy:.1%} of {result.held_out} held-out images")
    rows.add_row("speed", f"{result.images_per_second:,.0f} images a second")
    rows.add_row("waiting for data", f"{result.waiting:.1%} of the training time")
    rows.add_row("first batch", f"after {result.start_up:.2f} s")
    rows.add_row("device", result.device)
    rows.add_row("engine", result.engine)
    return rows
