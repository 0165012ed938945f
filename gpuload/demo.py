"""`gpuload demo`: JPEG files, a `Loader`, a PyTorch network, and how well and how fast that learnt.

`run` does the work and prints nothing; `show` runs it and prints.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import gpuload
from gpuload.plan.checks import checked_int

SIDE = 32
"""Height and width of the images, in pixels."""
HELD_OUT = 360
"""How many of the 1797 images are for the test."""
VARIANTS = 7
"""Augmentations of each digit in the picture."""

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


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where the training stands after a batch."""

    epoch: int
    """From 1."""
    batch: int
    """Of this epoch, from 1."""
    batches: int
    """In an epoch."""
    loss: float
    """Mean over this epoch's batches so far."""
    images_per_second: float
    """Since the first batch."""


def run(
    out: Path,
    *,
    epochs: int,
    batch_size: int,
    device: str,
    engine: str,
    seed: int,
    watch: Callable[[Moment], None] = lambda moment: None,
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
        clock = fit(network, training, epochs, watch)
        return Result(
            accuracy=accuracy(network, testing),
            held_out=len(test),
            images_per_second=clock.images_per_second,
            waiting=clock.waited / clock.seconds,
            start_up=clock.start_up,
            device=training.device,
            engine=training.engine,
            files=files,
            picture=draw(train, options, out / "augmented.png"),
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


# The training


class Clock:
    """Tells the time that a training loop waits for batches from the time that it uses them."""

    def __init__(self) -> None:
        self.images = 0
        """Images in the batches that came."""
        self.start_up = 0.0
        """Seconds until the first batch was there."""
        self.waited = 0.0
        """Seconds of waiting for all others."""
        self._first = self._last = 0.0

    def batches(self, loader: gpuload.Loader) -> Iterator[Any]:
        """One epoch's batches, timed."""
        asked = time.perf_counter()
        for batch in loader:
            came = time.perf_counter()
            if self.images:
                self.waited += came - asked
            else:
                self._first, self.start_up = came, came - asked
            self.images += len(batch[0])
            yield batch
            asked = self.used()
        self.waited += time.perf_counter() - asked

    def used(self) -> float:
        """Take the time: all batches that came have been used."""
        self._last = time.perf_counter()
        return self._last

    @property
    def seconds(self) -> float:
        """From the first batch until the last one was used."""
        return self._last - self._first

    @property
    def images_per_second(self) -> float:
        """Over those seconds."""
        return self.images / self.seconds


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep PyTorch's CPU operators to one thread.

    The network is so small that more would mostly wait for each other, on cores where the loader has work to do.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def torch_device(loader: gpuload.Loader) -> torch.device:
    """The loader's device; raises RuntimeError where this PyTorch cannot use it."""
    device = torch.device(loader.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"device={loader.device!r} needs a PyTorch with CUDA, this one ({torch.__version__}) has none: "
            "install one from https://pytorch.org/get-started, or pass device='cpu'"
        )
    return device


def new_network(seed: int) -> nn.Module:
    """Three convolutions and a linear layer, for [B, 1, 32, 32]; leaves PyTorch's global random state as it was."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
        # An epoch has few batches: the running mean and variance must follow quickly.
        return [convolution, nn.BatchNorm2d(outputs, momentum=0.3), nn.ReLU(), nn.MaxPool2d(2)]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features = 48 * (SIDE // 8) ** 2
        return nn.Sequential(*block(1, 12), *block(12, 24), *block(24, 48), nn.Flatten(), nn.Linear(features, 10))


def fit(network: nn.Module, loader: gpuload.Loader, epochs: int, watch: Callable[[Moment], None]) -> Clock:
    """Train the network, and tell how long that took."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))
    clock = Clock()
    network.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for batch, (images, labels) in enumerate(clock.batches(loader), start=1):
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item()  # waits for the GPU, so that the clock does not take its work for waiting for data
            clock.used()
            pace = clock.images_per_second
            watch(Moment(epoch=epoch, batch=batch, batches=len(loader), loss=total / batch, images_per_second=pace))
    return clock


def accuracy(network: nn.Module, loader: gpuload.Loader) -> float:
    """Share of the loader's images that the network puts into the right class."""
    network.eval()
    with torch.inference_mode():
        right = sum(int((network(images).argmax(dim=1) == labels).sum()) for images, labels in loader)
    return right / len(loader.source)


# The picture


def draw(train: gpuload.ImageFolder, options: dict[str, Any], path: Path) -> Path:
    """A PNG with one image of each class in a row of its own: the original, then what the augmentation makes of it."""
    originals = train.take(np.unique(train.labels, return_index=True)[1])
    repeated = originals.take(np.repeat(np.arange(len(originals)), VARIANTS))
    with (
        gpuload.Loader(originals, PLAIN, framework="numpy", **options) as plain,
        gpuload.Loader(repeated, AUGMENTED, framework="numpy", **options) as augmented,
    ):
        before = np.concatenate([images for images, _ in plain])
        after = np.concatenate([images for images, _ in augmented])
        matrices = np.concatenate([step.matrices for step in augmented.steps(epoch=0)])

    figure = Figure(figsize=(9.2, 12.6), dpi=110, facecolor="white")
    axes = figure.subplots(
        len(before),
        2 + VARIANTS,
        # The narrow second column stays empty: it sets the originals apart.
        gridspec_kw={"width_ratios": [1, 0.12] + [1] * VARIANTS, "wspace": 0.08, "hspace": 0.3}
        | {"left": 0.06, "right": 0.985, "top": 0.905, "bottom": 0.025},
    )
    for row, columns in enumerate(axes):
        label = columns[0].set_ylabel(str(train.classes[row]), rotation=0, fontsize=16, fontweight="bold")
        label.set(horizontalalignment="right", verticalalignment="center")
        draw_image(columns[0], before[row], np.eye(2, 3))
        columns[1].set_axis_off()
        for column in range(VARIANTS):
            number = row * VARIANTS + column
            draw_image(columns[2 + column], after[number], matrices[number])
            columns[2 + column].set_xlabel(caption(matrices[number]), fontsize=7.5, labelpad=2)
    axes[0, 0].set_title("original", fontsize=12)
    axes[0, 2 + VARIANTS // 2].set_title("augmented", fontsize=12)
    figure.suptitle(f"shear={AUGMENTED.shear}, zoom={AUGMENTED.zoom}", fontsize=15, y=0.98)
    explanation = (
        "The orange square moves with the image. Below: shear, zoom in x × zoom in y (above 1, things get smaller)."
    )
    figure.text(0.5, 0.942, explanation, ha="center", fontsize=10, color="0.35")
    figure.savefig(path)
    return path


def draw_image(axes: Axes, image: NDArray[np.float32], matrix: NDArray[np.float64]) -> None:
    """One image [H, W, 1], and the square that `matrix` [2, 3], output to input, has moved."""
    axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1, extent=(0, SIDE, SIDE, 0), interpolation="nearest")
    near, far = SIDE * 0.125, SIDE * 0.875
    square = np.array([[near, near], [far, near], [far, far], [near, far]])
    corners = (square - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    axes.add_patch(Polygon(corners, fill=False, edgecolor="#ff8c1a", linewidth=1.4))
    axes.set(xlim=(0, SIDE), ylim=(SIDE, 0), xticks=[], yticks=[])


def caption(matrix: NDArray[np.float64]) -> str:
    """The shear and the zoom that a matrix [2, 3] without rotation is made of."""
    (zoom_x, x), (_, y) = matrix[:, :2]
    shear = round(math.degrees(math.atan2(-x, y)))
    return f"{shear:+}°, {zoom_x:.2f} × {math.hypot(x, y):.2f}"


# What is printed


def show(out: Path, *, epochs: int, **options: Any) -> None:
    """Run the demo: a progress bar where there is a terminal, a line for each epoch, and a table of what was found."""
    console = Console(highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing", total=None, pace="")

        def watch(moment: Moment) -> None:
            name = f"epoch {moment.epoch}/{epochs}"
            pace = f"loss {moment.loss:.3f}   {moment.images_per_second:,.0f} images/s"
            bar.update(task, description=name, completed=moment.batch, total=moment.batches, pace=pace)
            if moment.batch == moment.batches:
                console.print(f"{name}   {pace}")

        result = run(out, epochs=epochs, watch=watch, **options)
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
