"""The public description of windows: length, spacing, targets, normalization and augmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from gpuload.core.checks import Range, answers_unknown, checked_int, choice, interval, number, numbers, probability
from gpuload.core.codes import PerSample

Target = Literal["start", "end", "after"]
Missing = Literal["keep", "zero", "forward", "omit"]
Dtype = Literal["float32", "float16", "bfloat16"]
Layout = Literal["BLC", "BCL", "LBC"]
Extra = Literal["mask", "mean", "scale", "start"]


@answers_unknown(
    sequence_length="pass length=STEPS",
    seq_length="pass length=STEPS",
    window_size="pass length=STEPS",
    sequence_stride="pass stride=ROWS",
    sampling_rate="pass dilation=ROWS",
    prediction_length="pass horizon=STEPS",
    noise="pass jitter=STANDARD_DEVIATION",
    shuffle="pass it to the Loader",
    batch_size="pass it to the Loader",
)
@dataclass(frozen=True, eq=False)
class Window:
    """How windows are cut from a `Series`: length, spacing, targets, normalization, augmentation, dtype and layout.

    A window is `length` rows of the series, `dilation` rows apart. The next window begins `stride` rows later. No
    window or target crosses the end of a series or of a segment.

    The steps run in this order: read, normalize (`mean` and `std`, or `per_sample`), replace missing values, `reverse`
    and `zoom`, `scaling`, `jitter`, cast to `dtype`. With the defaults no number changes and the dtype stays.

    A batch of B windows of a series [time, C] has inputs [B, length, C] in the layout "BLC". Targets are [B, ...], with
    a horizon [B, horizon, ...]. A series [time] gives inputs [B, length]; a series [time, ...] keeps its other axes.
    A loader yields inputs, or a tuple of inputs, targets if there are any, and a dict of `extras` if there are any.

    >>> Window(96, stride=24, horizon=24, per_sample="standardize")
    Window(96, stride=24, horizon=24, per_sample='standardize')
    >>> Window(96, layout="CBL")
    Traceback (most recent call last):
        ...
    ValueError: layout must be one of BLC, BCL, LBC, not 'CBL'

    Rows of a window that begins at row r, with dilation 2, length 4 and horizon 2. Without a horizon, `target="end"`
    takes the label at row r+6, and `target="after"` at row r+8::

        row       r   r+1   r+2   r+3   r+4   r+5   r+6   r+7   r+8   r+9   r+10
        inputs    0           1           2           3
        targets                                                   0           1

    To hold out the last 100 rows of each series, train on `Window(96, horizon=24, end_index=-100)` and test on
    `Window(96, horizon=24, start_index=-100 - 96)`, whose first target is the first held-out row.

    Args:
        length: Steps in a window, at least 1.
        stride: Rows from the start of one window to the start of the next, at least 1. Default 1.
        dilation: Rows from one step of a window to the next, at least 1 (Keras' `sampling_rate`). Default 1.
        horizon: Steps that targets cover, right after the window's last step. Default 0: one label per window, without
            a time axis.
        target: Step whose target is the window's label: its first ("start"), its last ("end"), or the step after its
            last ("after"). With a horizon it can only be "after". Default None: "after" with a horizon, else "end".
        target_channels: Channel numbers, from 0, of the series' values that are the targets, in place of the series'
            own targets. They are normalized, scaled and cast like the inputs; the series' own targets are delivered as
            they are. Default None: the series' own targets. Where it has none, all channels with a horizon or
            `target="after"`, otherwise no targets.
        start_index: First row of each series at which a window may begin. Negative numbers count from the end, as in a
            slice. Default None: the first row.
        end_index: Row of each series before which windows and their targets must end, as in a slice. Default None: the
            end of the series.
        mean: Number that is subtracted, or one for each channel, in the unit of the series. `gpuload.fit` computes it
            from a series. Default None: nothing.
        std: Number to divide by after subtracting `mean`, or one for each channel, above 0. Default None: nothing.
        per_sample: Normalizes each window by its own numbers, per channel: "center" subtracts its mean, "standardize"
            also divides by its standard deviation + 1e-6. NaN does not count. Targets from `target_channels` are
            normalized by the same numbers. Excludes `mean` and `std`. Default None: nothing.
        missing: Treatment of NaN in floating inputs. "keep" (the default) leaves NaN. "zero" writes 0, after
            normalization. "forward" repeats the last value before it in the window, or writes 0 where there is none.
            "omit" leaves out every window with NaN in its inputs or targets. Except with "omit", a target that is NaN
            stays NaN: leave it out of the loss.
        jitter: Standard deviation of normal noise that is added to every input, in units of the normalized values, also
            to replaced missing values. Default 0.
        scaling: Range (low, high), above 0, of a random factor by which a whole window and its targets from
            `target_channels` are multiplied. A number s means (1 - s, 1 + s). Default 0: no scaling.
        reverse: Probability, from 0 to 1, that the inputs of a window run backwards; targets do not. Default 0.
        zoom: Range (low, high), above 0, of a random factor by which the inputs are stretched in time about the middle,
            with linear interpolation; targets are not. Above 1 covers more time: the first and the last step are
            repeated. A number z means (1 - z, 1 + z). Default 0: no zoom.
        dtype: "float32", "float16" or "bfloat16" for inputs and targets from `target_channels`. Default None: the
            series' dtype, or float32 where integers are normalized or augmented.
        layout: Order of the axes batch (B), time (L) and channels (C) of inputs, of the mask, and of targets with a
            horizon: "BLC" (the default), "BCL" or "LBC".
        extras: Names of further arrays, delivered in a dict that comes last in the batch. "mask": bool, shaped like the
            inputs, true where a value was present. "mean" and "scale": float32 [B, C], with `per_sample` only; a
            normalized number y came from y * scale + mean. "start": int64 [B], row of the window's first step.
            Default (): no dict.

    Raises:
        ValueError: an argument is of the wrong kind or out of range, or two arguments exclude each other. `Loader`
            raises it where the window does not fit the series: it is too long for all of them, `mean`, `std` or
            `target_channels` do not fit the channels, or `missing` asks to replace NaN in integers.
    """

    length: int
    stride: int = 1
    dilation: int = 1
    horizon: int = 0
    target: Target | None = None
    target_channels: Sequence[int] | None = None
    start_index: int | None = None
    end_index: int | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    per_sample: PerSample | None = None
    missing: Missing = "keep"
    jitter: float = 0.0
    scaling: Range = 0.0
    reverse: float = 0.0
    zoom: Range = 0.0
    dtype: Dtype | None = None
    layout: Layout = "BLC"
    extras: Sequence[Extra] = ()

    def __post_init__(self) -> None:
        for name, least in (("length", 1), ("stride", 1), ("dilation", 1), ("horizon", 0)):
            # NumPy's integers overflow in the arithmetic on rows, Python's do not.
            object.__setattr__(self, name, checked_int(name, getattr(self, name), least))
        for name, options in (("target", Target), ("per_sample", PerSample), ("dtype", Dtype)):
            if getattr(self, name) is not None:
                choice(name, getattr(self, name), options)
        if self.horizon and self.target not in (None, "after"):
            raise ValueError(f"target must be 'after' with horizon={self.horizon}, not {self.target!r}: leave it out")
        if self.target_channels is not None:
            channels = tuple(checked_int("target_channels", channel, 0) for channel in self._listed("target_channels"))
            object.__setattr__(self, "target_channels", channels)
        for name in ("start_index", "end_index"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer | None):
                raise ValueError(f"{name} must be an integer or None, not {value!r}")
            object.__setattr__(self, name, value if value is None else int(value))
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is None:
                continue
            given = numbers(value)
            if given.ndim > 1 or not given.size or not np.isfinite(given).all():
                raise ValueError(f"{name} must be a finite number, or one for each channel, not {value!r}")
            if name == "std" and not (given > 0).all():
                raise ValueError(f"std must be above 0, not {value!r}")
        if self.per_sample is not None and (self.mean is not None or self.std is not None):
            raise ValueError(
                f"per_sample={self.per_sample!r} and mean or std exclude each other: leave out per_sample to "
                "normalize by the numbers of the series, or mean and std to normalize each window by its own"
            )
        choice("missing", self.missing, Missing)
        if not 0 <= number(self.jitter) < math.inf:
            raise ValueError(f"jitter must be a finite number of at least 0, not {self.jitter!r}")
        object.__setattr__(self, "jitter", float(self.jitter))
        object.__setattr__(self, "reverse", probability("reverse", self.reverse))
        for name, lowest in (("zoom", self.zoom_range[0]), ("scaling", self.scaling_range[0])):
            if lowest <= 0:
                raise ValueError(f"{name} must stay above 0, not {getattr(self, name)!r}")
        choice("layout", self.layout, Layout)
        object.__setattr__(self, "extras", self._listed("extras"))
        for extra in self.extras:
            choice("extras", extra, Extra)
        if {"mean", "scale"} & set(self.extras) and self.per_sample is None:
            raise ValueError(
                f"extras={self.extras} needs per_sample='center' or 'standardize': without it windows have no "
                "mean and scale of their own"
            )

    def _listed(self, name: str) -> Sequence[Any]:
        """Return the argument as a tuple. Raise ValueError if it is no list."""
        value = getattr(self, name)
        if isinstance(value, str) or not np.iterable(value):
            raise ValueError(f"{name} must be a list, not {value!r}")
        return tuple(value)

    def __repr__(self) -> str:
        rest = ((f.name, repr(getattr(self, f.name)), repr(f.default)) for f in fields(self)[1:])
        changed = [f"{name}={value}" for name, value, default in rest if value != default]
        return f"Window({', '.join([repr(self.length), *changed])})"

    def replace(self, **changes: Any) -> Window:
        """Return a copy with these arguments changed, checked like a new window."""
        return replace(self, **changes)

    @cached_property
    def scaling_range(self) -> tuple[float, float]:
        """Lowest and highest factor of `scaling`; (1, 1) without scaling."""
        return interval("scaling", self.scaling, 1.0)

    @cached_property
    def zoom_range(self) -> tuple[float, float]:
        """Lowest and highest factor of `zoom`; (1, 1) without zoom."""
        return interval("zoom", self.zoom, 1.0)

    @property
    def target_step(self) -> int:
        """Step at which the targets begin, counted from the window's first step."""
        if self.horizon or self.target == "after":
            return self.length
        return 0 if self.target == "start" else self.length - 1

    @property
    def target_steps(self) -> int:
        """Number of steps that the targets of a window cover."""
        return max(1, self.horizon)

    @property
    def draws_time(self) -> bool:
        """Whether a window draws a direction or a zoom."""
        return bool(self.reverse) or self.zoom_range != (1.0, 1.0)

    @property
    def draws_scaling(self) -> bool:
        """Whether a window draws a factor for its values."""
        return self.scaling_range != (1.0, 1.0)

    @property
    def computes(self) -> bool:
        """Whether values change by more than a cast."""
        normalizes = any(value is not None for value in (self.mean, self.std, self.per_sample))
        replaces = self.missing in ("zero", "forward")
        return normalizes or replaces or bool(self.jitter) or self.draws_scaling or self.draws_time
