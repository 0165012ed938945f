"""The random draws of Keras' ImageDataGenerator, in Keras' order, and generators that remember their seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.images.affine import affine, flipped

Parameters = dict[str, Any]
"""Keras' dictionary of one transform."""
Columns = dict[str, NDArray[np.float64]]
"""The same for [B] images; parameters that are not drawn are missing."""

_BLOCK = 624
"""Number of 32-bit words in a block of the Mersenne Twister; its state is a block and a position in it."""


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """The ranges of an ImageDataGenerator, under Keras' names."""

    rotation: float = 0
    height_shift: Any = 0.0
    width_shift: Any = 0.0
    shear: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    horizontal_flip: bool = False
    vertical_flip: bool = False
    channel_shift: float = 0.0
    brightness: tuple[float, float] | None = None

    def draw(self, rng: Any, count: int, height: int, width: int) -> Columns:
        """Return the draws of `count` images of that size. `rng` is a `RandomState`, or `numpy.random` itself.

        The order is that of Keras 3.15: rotation, height shift, width shift, shear, zoom (x, then y), each only if its
        range is set; then one number for each flip, always; then channel shift and brightness, if they are set.
        """
        lengths = {"tx": (self.height_shift, height), "ty": (self.width_shift, width)}
        shifts = {name: shift for name, shift in lengths.items() if np.any(shift[0])}
        spans: dict[str, tuple[float, float] | None] = {}
        if self.rotation:
            spans["theta"] = -self.rotation, self.rotation
        for name, (extent, _) in shifts.items():
            spans[name] = None if _is_choice(extent) else (-extent, extent)
        if self.shear:
            spans["shear"] = -self.shear, self.shear
        if self.zoom != (1, 1):
            spans |= dict.fromkeys(("zx", "zy"), self.zoom)
        spans |= dict.fromkeys(("flip_horizontal", "flip_vertical"), (0.0, 1.0))
        if self.channel_shift != 0:
            spans["channel_shift_intensity"] = -self.channel_shift, self.channel_shift
        if self.brightness is not None:
            spans["brightness"] = self.brightness
        if None not in spans.values():
            # NumPy's uniform(low, high) is low + (high - low) * random_sample(), so many can be drawn at once.
            numbers = rng.random_sample((count, len(spans)))
        else:
            numbers = np.array(
                [[_chosen(rng, shifts[n][0]) if s is None else rng.random_sample() for n, s in spans.items()]
                 for _ in range(count)]
            )  # fmt: skip
        drawn = {
            name: column if span is None else span[0] + (span[1] - span[0]) * column
            for (name, span), column in zip(spans.items(), numbers.T, strict=True)
        }
        for name, (extent, length) in shifts.items():
            if np.max(extent) < 1:
                drawn[name] = drawn[name] * length
        for name, wanted in (("flip_horizontal", self.horizontal_flip), ("flip_vertical", self.vertical_flip)):
            drawn[name] = (drawn[name] < 0.5) * float(wanted)
        return drawn

    def fields(self, height: int, width: int) -> dict[str, Any]:
        """Return the ranges as fields of an `Augment` for images of that size."""
        low, high = sorted(self.zoom)
        # Keras moves x by the height's shift, and turns about (height / 2, width / 2) in (x, y).
        return {
            "rotation": abs(self.rotation),
            "width_shift": _bound(self.height_shift, height) / width,
            "height_shift": _bound(self.width_shift, width) / height,
            "shear": abs(self.shear),
            "zoom": (max(low, 1e-6), max(high, 1e-6)),
            "center": (height / 2, width / 2),
            "hflip": 0.5 * bool(self.horizontal_flip),
            "vflip": 0.5 * bool(self.vertical_flip),
            "channel_shift": abs(self.channel_shift),
            "brightness": None if self.brightness is None else (0.0, max(0.0, *self.brightness)),
        }


NEUTRAL: Parameters = (
    dict.fromkeys(("theta", "tx", "ty", "shear"), 0)
    | dict.fromkeys(("zx", "zy"), 1)
    | dict.fromkeys(("flip_horizontal", "flip_vertical"), False)
    | dict.fromkeys(("channel_shift_intensity", "brightness"))
)
"""Keras' dictionary without any draw."""


def _is_choice(extent: Any) -> bool:
    """Return whether Keras chooses from pixels: whole numbers and lists. Floats below 1 are shares, others pixels."""
    return np.ndim(extent) == 1 or np.asarray(extent).dtype.kind in "biu"


def _chosen(rng: Any, extent: Any) -> float:
    return float(rng.choice(extent) * rng.choice([-1, 1]))


def _bound(extent: Any, length: int) -> float:
    if not np.any(extent):
        return 0.0
    return float(np.max(np.abs(extent))) * (length if np.max(extent) < 1 else 1)


def matrices(drawn: Columns, count: int, height: int, width: int) -> NDArray[np.float64]:
    """Return the matrices [count, 2, 3] of the draws, for images of that size."""
    zeros, ones = np.zeros(count), np.ones(count)
    moved = affine(
        rotation=drawn.get("theta", zeros),
        shift=(drawn.get("tx", zeros), drawn.get("ty", zeros)),
        shear=drawn.get("shear", zeros),
        zoom=(drawn.get("zx", ones), drawn.get("zy", ones)),
        center=(height / 2, width / 2),
    )
    return flipped(moved, drawn.get("flip_horizontal", zeros), drawn.get("flip_vertical", zeros), (height, width))


def is_range(value: Any) -> bool:
    """Return whether `value` is two finite numbers."""
    pair = isinstance(value, tuple | list) and len(value) == 2
    return pair and all(isinstance(v, float | int) and math.isfinite(v) for v in value)


class Shared:
    """The one random generator that all of Keras' iterators share. Each batch of a flow with a seed replaces it."""

    generator: Any = np.random


class Seeded(np.random.RandomState):
    """A `RandomState(value)` that remembers `value`.

    >>> Seeded(7).permutation(4).tolist() == np.random.RandomState(7).permutation(4).tolist()
    True
    """

    def __init__(self, value: int):
        super().__init__(value)
        self.value = value


class Origin:
    """The origin of an order: a generator that was seeded with `value` and has given out a number of 32-bit words.

    These two numbers determine an order of any size, in every version of NumPy, which keeps `RandomState` as it is
    (NEP 19).

    >>> generator = Seeded(7)
    >>> numbers = generator.random_sample(1000)
    >>> origin = Origin.of(generator)
    >>> origin.value, origin.words
    (7, 2000)
    >>> order = generator.permutation(5)
    >>> Origin(7, 2000).draw(5).tolist() == order.tolist()
    True
    """

    def __init__(self, value: int, words: int | None = None, state: Any = None):
        self.value, self._words, self._state = value, words, state

    @classmethod
    def of(cls, generator: Any) -> Origin | None:
        """Return the present origin of a generator's draws, if it remembers its seed."""
        if not isinstance(generator, Seeded):
            return None
        return cls(generator.value, state=generator.get_state(legacy=False)["state"])

    @property
    def words(self) -> int:
        """Number of words given out. Counted by drawing them again: 100 ms for a million."""
        if self._words is None:
            bits, _ = _seeded(self.value)
            block = -1  # A fresh generator is at the end of a block before the first.
            while not np.array_equal(bits.state["state"]["key"], self._state["key"]):
                bits.random_raw(_BLOCK, output=False)
                block += 1
            self._words = block * _BLOCK + int(self._state["pos"])
        return self._words

    def draw(self, size: int) -> NDArray[np.int64]:
        """Return the order [size] that was drawn from here."""
        bits, generator = _seeded(self.value)
        bits.random_raw(self.words, output=False)
        return generator.permutation(size)


def _seeded(value: int) -> tuple[np.random.MT19937, np.random.RandomState]:
    """Return the bit generator of `RandomState(value)`, and the latter."""
    bits = np.random.MT19937()
    generator = np.random.RandomState(bits)
    generator.seed(value)
    return bits, generator
