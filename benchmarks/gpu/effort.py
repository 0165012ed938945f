"""The size of the jobs of all stages."""

from __future__ import annotations

from typing import NamedTuple


class WindowCase(NamedTuple):
    """Windows of `length` steps from a series [rows, channels], in batches of `batch`."""

    rows: int
    channels: int
    length: int
    batch: int


class Effort(NamedTuple):
    """Numbers that decide how long the stages take."""

    copied: int
    """Bytes of a large copy."""
    photographs: int
    """Files that are decoded."""
    epoch: int
    """Names of files in an epoch of a cold run: as in a large data set, an epoch is much longer than what is ahead."""
    batch: int
    """Images in a batch."""
    sides: dict[int, tuple[int, int]]
    """Of warm images: pixels a side, to images that are kept, and images in a batch."""
    windows: tuple[WindowCase, ...]
    repetitions: int
    """Epochs in which the same files are decoded, in other batches each time."""
    rounds: int
    seconds: float
    """Of one measurement."""
    steps: int
    """Steps of training."""
    batches: int
    """Batches over which memory is watched."""
    tests: tuple[str, ...]
    """Arguments of pytest."""


NEAR, FAR = 17_420, 2**20
FULL = Effort(
    copied=2**31,
    photographs=1024,
    epoch=2**14,
    batch=256,
    sides={64: (16_384, 1024), 224: (4096, 256)},
    windows=(
        WindowCase(NEAR, 7, 20, 64),
        WindowCase(NEAR, 7, 96, 64),
        WindowCase(NEAR, 7, 96, 256),
        WindowCase(NEAR, 7, 96, 4096),
        WindowCase(NEAR, 7, 96, 16_384),
        WindowCase(FAR, 64, 96, 4096),
        WindowCase(FAR, 64, 512, 1024),
        WindowCase(2**22, 16, 512, 4096),
    ),
    repetitions=200,
    rounds=3,
    seconds=0.2,
    steps=30,
    batches=1000,
    tests=("-m", "gpu and not slow", "tests"),
)
TINY = Effort(
    copied=2**16,
    photographs=16,
    epoch=32,
    batch=8,
    sides={16: (16, 8)},
    windows=(WindowCase(200, 3, 20, 16),),
    repetitions=2,
    rounds=1,
    seconds=0.001,
    steps=2,
    batches=10,
    tests=("tests/test_meter.py",),
)
EFFORTS = {"full": FULL, "tiny": TINY}
