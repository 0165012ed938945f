"""Statistics of a data set, for transforms that normalize by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from gpuload.decode.crop import CenterCrop
from gpuload.decode.spec import CHANNELS
from gpuload.images.augment import Augment
from gpuload.images.step import Doubles
from gpuload.loader import Loader
from gpuload.sources import ImageArray, ImageSource, Series
from gpuload.windows.index import Windows
from gpuload.windows.window import Window

UNRANDOM = {
    "rotation": 0.0,
    "width_shift": 0.0,
    "height_shift": 0.0,
    "shear": 0.0,
    "zoom": 0.0,
    "hflip": 0.0,
    "vflip": 0.0,
    "channel_shift": 0.0,
    "brightness": None,
}


NUMBERS_READ_AT_ONCE = 2**20


@overload
def fit(source: ImageSource, transform: Augment, *, zca_epsilon: float | None = None, **options: Any) -> Augment: ...


@overload
def fit(source: Series, transform: Window) -> Window: ...


def fit(
    source: ImageSource | Series, transform: Augment | Window, *, zca_epsilon: float | None = None, **options: Any
) -> Augment | Window:
    """The transform with `mean` and `std` of the source, one a channel; for images also with `mean` and `zca`.

    Reads every image once, without what `transform` draws at random (of a RandomResizedCrop, the middle of the image).
    The statistics are those of the levels after `rescale`, in float64.

    Of a series it reads the rows that windows may use: its stretches, between `start_index` and `end_index`, each row
    once. So a window whose `end_index` stands before the rows for validation is fitted without them. NaN does not
    count.

    Args:
        source: The images, or the series.
        transform: What is done to them; `mean`, `std`, `zca` and `dtype` do not matter.
        zca_epsilon: Fits a whitening matrix in place of `std`: U diag(√N / (s + zca_epsilon)) Uᵀ, with s the singular
            values and U the left singular vectors of the N centred images as columns. It has D² numbers for images of
            D, so images should be small.
        options: `device`, `engine`, `threads`, `batch_size` of the `Loader` that reads images.

    Returns:
        A new transform. With `zca` its `layout` is settled too, as HWC where it was None: the matrix is for one order
        of the numbers.

    >>> import gpuload
    >>> images = np.tile(np.array([0, 4], np.uint8).reshape(2, 1, 1, 1), (1, 8, 8, 3))
    >>> fit(gpuload.ImageArray(images), gpuload.Augment(hflip=0.5), device="cpu")
    Augment(hflip=0.5, mean=(2.0, 2.0, 2.0), std=(2.0, 2.0, 2.0))
    >>> fit(gpuload.Series(np.array([0.0, 2.0, np.nan, 100.0])), gpuload.Window(2, end_index=-1))
    Window(2, end_index=-1, mean=(1.0,), std=(1.0,))

    Raises:
        ValueError: a standard deviation is 0; a channel of a series holds no number, or one that is not finite; an
            option that is not for this kind of source.
    """
    if isinstance(source, Series):
        if not isinstance(transform, Window):
            raise ValueError(f"transform must be a gpuload.Window for a Series, not {transform!r}")
        if zca_epsilon is not None:
            options["zca_epsilon"] = zca_epsilon
        if options:
            raise ValueError(f"{', '.join(options)}: for images, not for a Series: leave it out")
        return _fit_series(source, transform)
    if not isinstance(transform, Augment):
        raise ValueError(f"transform must be a gpuload.Augment for images, not {transform!r}")
    if zca_epsilon is not None and not zca_epsilon >= 0:
        raise ValueError(f"zca_epsilon must be at least 0, not {zca_epsilon!r}")
    if isinstance(source, ImageArray):
        colors = {channels: color for color, channels in CHANNELS.items()}
        transform = transform.replace(color=colors.get(source.images.shape[3], transform.color))
    crop = CenterCrop() if transform.draws_crop else transform.crop
    plain = transform.replace(
        **UNRANDOM, crop=crop, mean=None, std=None, zca=None, dtype="float32", layout=transform.layout or "HWC"
    )
    loader = Loader(source, plain, framework="numpy", **{"batch_size": 64, **options})
    batches = ((batch if source.labels is None else batch[0]).astype(np.float64) for batch in loader)
    with loader:
        if zca_epsilon is not None:
            mean, matrix = _whitening(batches, plain.layout == "CHW", zca_epsilon)
            return transform.replace(mean=mean, std=None, zca=matrix, layout=plain.layout)
        mean, std = _mean_and_std(batches, plain.layout == "CHW")
    if not all(std):
        raise ValueError(f"std must be above 0 in every channel, but that of {source!r} is {std}: leave std out")
    return transform.replace(mean=mean, std=std, zca=None)


def _fit_series(series: Series, window: Window) -> Window:
    if window.per_sample is not None:
        raise ValueError(
            f"per_sample={window.per_sample!r} takes no mean and std of the series: leave per_sample out to fit them"
        )
    # Each row is a window of one step.
    span = Window(1, start_index=window.start_index, end_index=window.end_index)
    every = Windows(span, series.segments, bounds=series.bounds)
    counts, means, squares = (np.zeros(series.channels) for _ in range(3))
    together = max(1, NUMBERS_READ_AT_ONCE // series.channels)
    for first in range(0, len(every), together):
        rows = every.rows(np.arange(first, min(first + together, len(every))))
        part = _rows(series, rows)
        present = ~np.isnan(part)
        more = present.sum(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):
            about = np.where(present, part, 0).sum(axis=0) / np.maximum(more, 1)
            apart = (np.where(present, part - about, 0) ** 2).sum(axis=0)
            # Two sets joined: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979.
            share = more / np.maximum(counts + more, 1)
            squares += apart + (about - means) ** 2 * counts * share
            means += (about - means) * share
        counts += more
    if not (counts.all() and np.isfinite(means).all()):
        channel = int(np.argmin((counts > 0) & np.isfinite(means)))
        found = "no number" if not counts[channel] else f"a mean of {means[channel]}"
        raise ValueError(
            f"values must be finite in every channel, and some not missing, but channel {channel} of {series!r} has "
            f"{found}: leave it out, or fill it in"
        )
    std = tuple(np.sqrt(squares / counts).tolist())
    if not all(std):
        raise ValueError(f"std must be above 0 in every channel, but that of {series!r} is {std}: leave std out")
    return window.replace(mean=tuple(means.tolist()), std=std)


def _rows(series: Series, rows: NDArray[np.int64]) -> Doubles:
    """[B, C] those rows of the values."""
    series.check_files()
    values: Any = series.values
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == len(rows):
        part = values[first : last + 1]
    elif series.gpu is None:
        part = values[rows]
    else:
        part = values.take(rows, axis=0)
    part = part.get() if hasattr(part, "get") else part
    with np.errstate(invalid="ignore"):  # Some kinds of NaN are told when they are cast.
        return np.asarray(part).reshape(len(rows), -1).astype(np.float64)


def _mean_and_std(batches: Iterator[Doubles], channels_first: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    count = 0
    about = sums = squares = np.zeros(1)
    for images in batches:
        pixels = np.moveaxis(images, 1, -1) if channels_first else images
        pixels = pixels.reshape(-1, pixels.shape[-1])
        if not count:
            about = pixels.mean(axis=0)  # Squares about a point near the mean keep their digits.
        count += len(pixels)
        sums = sums + (pixels - about).sum(axis=0)
        squares = squares + ((pixels - about) ** 2).sum(axis=0)
    std = np.sqrt(np.maximum(squares / count - (sums / count) ** 2, 0.0))
    return tuple((about + sums / count).tolist()), tuple(std.tolist())


def _whitening(
    batches: Iterator[Doubles], channels_first: bool, epsilon: float
) -> tuple[tuple[float, ...], NDArray[np.float32]]:
    count = 0
    sums = products = np.zeros(1)
    shape: tuple[int, ...] = ()
    for images in batches:
        shape, rows = images.shape[1:], images.reshape(len(images), -1)
        count += len(rows)
        sums = sums + rows.sum(axis=0)
        products = products + rows.T @ rows
    mean = (sums / count).reshape(shape).mean(axis=(1, 2) if channels_first else (0, 1), keepdims=True)
    center = np.broadcast_to(mean, shape).ravel()
    crossed = np.outer(sums, center)
    values, vectors = np.linalg.eigh(products - crossed - crossed.T + count * np.outer(center, center))
    singular = np.sqrt(np.maximum(values, 0.0))
    # No more directions than images, as a thin decomposition has.
    kept = np.argsort(singular)[::-1][:count]
    matrix = (vectors[:, kept] * (np.sqrt(count) / (singular[kept] + epsilon))) @ vectors[:, kept].T
    return tuple(mean.ravel().tolist()), matrix.astype(np.float32)
