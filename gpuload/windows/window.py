"""What a window of a time series is, what it carries, and the random numbers it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from gpuload.core.checks import Range, checked_int, choice, interval, number, numbers, probability
from gpuload.core.codes import PerSample

Target = Literal["start", "end", "after"]
Missing = Literal["keep", "zero", "forward", "omit"]
Dtype = Literal["float32", "float16", "bfloat16"]
Layout = Literal["BLC", "BCL", "LBC"]
Extra = Literal["mask", "mean", "scale", "start"]


@dataclass(frozen=True, eq=False)
class Window:
    """Which windows of a series there are, and what is done to each: read, normalized, augmented, cast, in this order.

    A window is `length` rows, `dilation` apart; the next one begins `stride` rows later. The default changes no number
    and keeps the dtype of the series.

    >>> Window(96, stride=24, horizon=24, per_sample="standardize")
    Window(96, stride=24, horizon=24, per_sample='standardize')
    >>> Window(96, layout="CBL")
    Traceback (most recent call last):
        ...
    ValueError: layout must be one of BLC, BCL, LBC, not 'CBL'

    Rows of a window that begins at row r, with dilation 2, length 4 and horizon 2 (r + 8 is also where the label of
    `target="after"` stands, r + 6 that of "end")::

        row       r   r+1   r+2   r+3   r+4   r+5   r+6   r+7   r+8   r+9   r+10
        inputs    0           1           2           3
        targets                                                   0           1

    To hold out the last 100 rows of each series: `Window(96, horizon=24, end_index=-100)` trains, and
    `Window(96, horizon=24, start_index=-100 - 96)` tests, on targets from the first held-out row on.
    """

    length: int
    """Steps in a window."""
    stride: int = 1
    """Rows from the start of one window to the start of the next."""
    dilation: int = 1
    """Rows from one step to the next: Keras' `sampling_rate`."""
    horizon: int = 0
    """Steps of the future that targets cover, right after the window. 0: one label a window, with no axis of time."""
    target: Target | None = None
    """At which step of the window its label stands: its first ("start"), its last ("end"), or the one after it
    ("after"). None: "end", or with a horizon, "after"."""
    target_channels: Sequence[int] | None = None
    """Targets are these channels of the values, normalized like them, in place of the targets of the series.
    None: the targets of the series; where it has none, all channels for "after" and a horizon, else no targets."""
    start_index: int | None = None
    """Row of each series at which the first window may begin, as in a Python slice: negative counts from the end."""
    end_index: int | None = None
    """Row of each series before which windows and their targets must end, as in a Python slice."""
    mean: float | Sequence[float] | None = None
    """Subtracted; one number, or one a channel. `gpuload.fit` finds those of a series."""
    std: float | Sequence[float] | None = None
    """Divided by after `mean`; one number, or one a channel."""
    per_sample: PerSample | None = None
    """`center` subtracts the window's own mean of each channel, `standardize` also divides by its standard deviation
    + 1e-6. Missing values do not count. Channels as targets are normalized by the same numbers."""
    missing: Missing = "keep"
    """What becomes of NaN in the inputs: `keep` it; `zero` gives 0, after normalization; `forward` repeats the last
    value before it in the window, and gives 0 where there is none; `omit` leaves out windows that hold one, in their
    targets too. Noise is added to what stands there then. But for `omit`, a target that is NaN stays NaN: leave it out
    of the loss."""
    jitter: float = 0.0
    """Standard deviation of normal noise that is added to every value, after normalization."""
    scaling: Range = 0.0
    """Factor for a whole window and for its channels as targets; one number s: (1 - s, 1 + s)."""
    reverse: float = 0.0
    """Probability that a window, not its targets, runs backwards."""
    zoom: Range = 0.0
    """Factor by which a window, not its targets, is stretched about its middle, interpolated linearly: above 1 shows
    more of it, with its first and last step repeated. One number z: (1 - z, 1 + z)."""
    dtype: Dtype | None = None
    """Of the output. None: as the series is, or float32 where something is computed with whole numbers."""
    layout: Layout = "BLC"
    """Axes of inputs and of targets with a horizon: batch, time ("length") and channels."""
    extras: Sequence[Extra] = ()
    """What a batch carries beside, in a dict that comes last: `mask`, shaped as the inputs, true where a value was
    there; `mean` and `scale`, float32 [B, C], or [B] for a series [time], with which x = y * scale + mean turns
    normalized numbers back; `start`, int64 [B], the row of the window's first step."""

    def __post_init__(self) -> None:
        for name, least in (("length", 1), ("stride", 1), ("dilation", 1), ("horizon", 0)):
            # NumPy's own whole numbers overflow.
            object.__setattr__(self, name, checked_int(name, getattr(self, name), least))
        if self.target is not None:
            choice("target", self.target, Target)
        if self.horizon and self.target not in (None, "after"):
            raise ValueError(f"target must be 'after' with horizon={self.horizon}, not {self.target!r}: leave it out")
        if self.target_channels is not None:
            channels = tuple(checked_int("target_channels", channel, 0) for channel in self._row("target_channels"))
            object.__setattr__(self, "target_channels", channels)
        for name in ("start_index", "end_index"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise ValueError(f"{name} must be a whole number or None, not {value!r}")
            object.__setattr__(self, name, int(value))
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is None:
                continue
            given = numbers(value)
            if given.ndim > 1 or not given.size or not np.isfinite(given).all():
                raise ValueError(f"{name} must be one finite number, or one a channel, not {value!r}")
            if name == "std" and not (given > 0).all():
                raise ValueError(f"std must be above 0, not {value!r}")
        if self.per_sample is not None:
            choice("per_sample", self.per_sample, PerSample)
            if self.mean is not None or self.std is not None:
                raise ValueError(
                    f"per_sample={self.per_sample!r} and mean or std exclude each other: a window is normalized by its "
                    "own numbers or by those of the series"
                )
        choice("missing", self.missing, Missing)
        if not 0 <= number(self.jitter) < math.inf:
            raise ValueError(f"jitter must be a finite number of at least 0, not {self.jitter!r}")
        object.__setattr__(self, "jitter", float(self.jitter))
        object.__setattr__(self, "reverse", probability("reverse", self.reverse))
        if self.zoom_range[0] <= 0:
            raise ValueError(f"zoom must stay above 0, not {self.zoom!r}")
        if self.scaling_range[0] <= 0:
            raise ValueError(f"scaling must stay above 0, not {self.scaling!r}")
        if self.dtype is not None:
            choice("dtype", self.dtype, Dtype)
        choice("layout", self.layout, Layout)
        object.__setattr__(self, "extras", self._row("extras"))
        for extra in self.extras:
            choice("extras", extra, Extra)
        if {"mean", "scale"} & set(self.extras) and self.per_sample is None:
            raise ValueError(
                f"extras={self.extras} needs per_sample='center' or 'standardize': without it no window has a "
                "mean and a scale of its own"
            )

    def _row(self, name: str) -> Sequence[Any]:
        value = getattr(self, name)
        if isinstance(value, str) or not np.iterable(value):
            raise ValueError(f"{name} must be a list, not {value!r}")
        return tuple(value)

    def __repr__(self) -> str:
        rest = ((f.name, repr(getattr(self, f.name)), repr(f.default)) for f in fields(self)[1:])
        changed = [f"{name}={value}" for name, value, default in rest if value != default]
        return f"Window({', '.join([repr(self.length), *changed])})"

    def replace(self, **changes: Any) -> Window:
        """The same with some fields changed; checked again."""
        return replace(self, **changes)

    @cached_property
    def scaling_range(self) -> tuple[float, float]:
        """(low, high) of `scaling`."""
        return interval("scaling", self.scaling, 1.0)

    @cached_property
    def zoom_range(self) -> tuple[float, float]:
        """(low, high) of `zoom`."""
        return interval("zoom", self.zoom, 1.0)

    @property
    def target_step(self) -> int:
        """The first step of the targets, counted from the window's first."""
        if self.horizon or self.target == "after":
            return self.length
        return 0 if self.target == "start" else self.length - 1

    @property
    def target_steps(self) -> int:
        """How many steps targets cover."""
        return max(1, self.horizon)

    @property
    def draws_time(self) -> bool:
        """Whether steps are read from other places than their own."""
        return bool(self.reverse) or self.zoom_range != (1.0, 1.0)

    @property
    def draws_scaling(self) -> bool:
        """Whether windows have a factor of their own."""
        return self.scaling_range != (1.0, 1.0)

    @property
    def computes(self) -> bool:
        """Whether numbers are changed, by more than a cast."""
        return (
            self.mean is not None
            or self.std is not None
            or self.per_sample is not None
            or self.missing in ("zero", "forward")
            or bool(self.jitter)
            or self.draws_scaling
            or self.draws_time
        )
