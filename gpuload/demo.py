"""`gpuload demo`: JPEG files, a `Loader`, a PyTorch network, and how well and how fast it learnt.

`run` does the work and says nothing; `show` runs it and prints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gpuload

SIDE = 32
"""Height and width of the images, in pixels."""
HELD_OUT = 360
"""How many of the 1797 images are kept for the test."""

PLAIN = gpuload.Augment(size=(SIDE, SIDE), color="grayscale", rescale=1 / 255)
AUGMENTED = PLAIN.replace(shear=10, zoom=(0.9, 1.1))


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one run of the demo found."""

    accuracy: float
    """Share of the held-out images whose digit was recognised."""
    held_out: int
    """How many those are."""
    images: int
    """Images that the network was trained on, each counted once an epoch."""
    seconds: float
    """That the training took, from the first batch on."""
    waited: float
    """Seconds of these that the training waited for a batch."""
    start_up: float
    """Seconds from asking for the first batch until it was there; not in `seconds`."""
    device: str
    """Where batches were made and the network trained."""
    engine: str
    """What made the batches."""
    picture: Path
    """PNG that shows what the augmentation does."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where the training is after a batch."""

    epoch: int
    """From 1."""
    batch: int
    """Of this epoch, from 1."""
    batches: int
    """In an epoch."""
    loss: float
    """Mean of this epoch's batches so far."""
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
    """Write the files, train, test, and draw the picture, all in the folder `out`; calls `watch` after each batch.

    The same arguments give the same accuracy on the same machine. Raises what `Loader` raises.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, not {epochs}")
    digits = write_digits(out)
    train = gpuload.ImageFolder(digits / "train")
    test = gpuload.ImageFolder(digits / "test")

    def loader(source: gpuload.ImageFolder, transform: gpuload.Augment, **options: Any) -> gpuload.Loader:
        return gpuload.Loader(
            source, transform, batch_size=batch_size, seed=seed, device=device, engine=engine, **options
        )

    with (
        loader(train, AUGMENTED, shuffle=True, framework="torch") as training,
        loader(test, PLAIN, framework="torch") as testing,
    ):
        check_torch_device(training.device)
        network = new_network(seed).to(training.device)
        clock = fit(network, training, epochs, watch)
        accuracy = recognised(network, testing)
        chosen = training.device, training.engine

    # One original of each digit, and a row of its augmentations.
    originals = train.take(np.unique(train.labels, return_index=True)[1])
    columns = 7
    with (
        loader(originals, PLAIN, framework="numpy") as plain,
        loader(
            originals.take(np.repeat(np.arange(len(originals)), columns)), AUGMENTED, framework="numpy"
        ) as augmented,
    ):
        picture = out / "augmented.png"
        draw(images_of(plain), images_of(augmented), matrices_of(augmented), originals.classes, picture)

    return Result(
        accuracy=accuracy,
        held_out=len(test),
        images=clock.images,
        seconds=clock.seconds,
        waited=clock.waited,
        start_up=clock.start_up,
        device=chosen[0],
        engine=chosen[1],
        picture=picture,
    )
