"""Statistics of a data set: mean, standard deviation, whitening matrix."""

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
from gpuload.sources import ImageArray, ImageSource, Series, as_source
from gpuload.windows.index import Windows
from gpuload.windows.window import Window

UNRANDOM: dict[str, Any] = dict.fromkeys(
    ("rotation", "width_shift", "height_shift", "shear", "zoom", "hflip", "vflip", "channel_shift"), 0.0
) | {"brightness": None}
"""Arguments of an Augment without randomness."""
NUMBERS_READ_AT_ONCE = 2**20


@overload
def fit(source: ImageSource, transform: Augment, *, zca_epsilon: float | None = None, **options: Any) -> Augment: ...


@overload
def fit(source: Series, transform: Window) -> Window: ...


def fit(
    source: ImageSource | Series, transform: Augment | Window, *, zca_epsilon: float | None = None, **options: Any
) -> Augment | Window:
    """Compute the statistics of a data set that its transform normalizes by.

    Of images, reads each once, without random augmentation; a RandomResizedCrop is replaced by the center crop. Counts
    levels after `rescale`, in float64.

    Of a series, reads the rows that windows may use, each once: its segments, between the `start_index` and `end_index`
    of the window. An `end_index` before the validation rows keeps them out of the statistics. NaN does not count.

    Args:
        source: Images (ImageFolder, ImageList, ImageFrame, ImageArray) or a Series.
        transform: An Augment for images, a Window for a Series. Its own `mean`, `std`, `zca` and `dtype` are ignored.
        zca_epsilon: For images, at least 0. Computes a ZCA whitening matrix in place of `std`:
            U diag(√N / (s + zca_epsilon)) Uᵀ, with the singular values s and the left singular vectors U of the N
            centered images as columns. An image of D numbers needs a matrix of D², so images should be small.
            Default None: no matrix.
        options: For images, arguments of the `Loader` that reads them: `device`, `engine`, `threads`, `batch_size`
            (default 64).

    Returns:
        A copy of the transform with `mean` and `std`, one number for each channel; or, with `zca_epsilon`, with `mean`
        and `zca`. Such a matrix holds for one layout: None becomes "HWC".

    Raises:
        ValueError: the transform or an option does not fit the kind of source; a standard deviation is 0; a channel of
            a series holds no number, or an infinite one; a Window has `per_sample`.
        TypeError: an option is none of the `Loader`'s arguments.

    >>> import gpuload
    >>> images = np.tile(np.array([0, 4], np.uint8).reshape(2, 1, 1, 1), (1, 8, 8, 3))
    >>> fit(gpuload.ImageArray(images), gpuload.Augment(hflip=0.5), device="cpu")
    Augment(hflip=0.5, mean=(2.0, 2.0, 2.0), std=(2.0, 2.0, 2.0))
    >>> fit(gpuload.Series(np.array([0.0, 2.0, np.nan, 100.0])), gpuload.Window(2, end_index=-1))
    Window(2, end_index=-1, mean=(1.0,), std=(1.0,))
    """
    if isinstance(source, Series):
        if not isinstance(transform, Window):
            raise ValueError(f"transform must be a gpuload.Window for a Series, not {transform!r}")
        if zca_epsilon is not None:
            options["zca_epsilon"] = zca_epsilon
        if options:
            raise ValueError(f"{', '.join(options)}: for images, not for a Series; leave it out")
        return _fit_window(source, transform)
    if not isinstance(transform, Augment):
        raise ValueError(f"transform must be a gpuload.Augment for images, not {transform!r}")
    if zca_epsilon is not None and not zca_epsilon >= 0:
        raise ValueError(f"zca_epsilon must be at least 0, not {zca_epsilon!r}")
    source = as_source(source)
    assert not isinstance(source, Series)
    if isinstance(source, ImageArray):
        colors = {channels: color for color, channels in CHANNELS.items()}
        transform = transform.replace(color=colors.get(source.images.shape[3], transform.color))
    crop = CenterCrop() if transform.draws_crop else transform.crop
    layout = transform.layout or "HWC"
    plain = transform.replace(**UNRANDOM, crop=crop, mean=None, std=None, zca=None, dtype="float32", layout=layout)
    loader = Loader(source, plain, framework="numpy", **{"batch_size": 64, **options})
    batches = ((batch if source.labels is None else batch[0]).astype(np.float64) for batch in loader)
    with loader:
        if zca_epsilon is not None:
            mean, matrix = _whitening(batches, layout == "CHW", zca_epsilon)
            return transform.replace(mean=mean, std=None, zca=matrix, layout=layout)
        mean, std = _mean_and_std(batches, layout == "CHW")
    if not all(std):
        raise ValueError(
            f"std must be above 0 in every channel, but that of {source!r} is {std}: choose mean and std yourself"
        )
    return transform.replace(mean=mean, std=std, zca=None)


def _mean_and_std(batches: Iterator[Doubles], channels_first: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel."""
    count = 0
    about = sums = squares = np.zeros(1)
    for images in batches:
        pixels = np.moveaxis(images, 1, -1) if channels_first else images
        pixels = pixels.reshape(-1, pixels.shape[-1])
        if not count:
            about = pixels.mean(axis=0)  # Squares around a point near the mean keep their digits.
        count += len(pixels)
        sums = sums + (pixels - about).sum(axis=0)
        squares = squares + ((pixels - about) ** 2).sum(axis=0)
    std = np.sqrt(np.maximum(squares / count - (sums / count) ** 2, 0.0))
    return tuple((about + sums / count).tolist()), tuple(std.tolist())


def _whitening(batches: Iterator[Doubles], channels_first: bool, epsilon: float) -> tuple[tuple[float, ...], Any]:
    """Return the mean of each channel and the ZCA whitening matrix [D, D]."""
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
    # A thin decomposition has no more directions than images.
    kept = np.argsort(singular)[::-1][:count]
    matrix = (vectors[:, kept] * (np.sqrt(count) / (singular[kept] + epsilon))) @ vectors[:, kept].T
    return tuple(mean.ravel().tolist()), matrix.astype(np.float32)


def _fit_window(series: Series, window: Window) -> Window:
    """Return the window with `mean` and `std` of the rows of the series that windows may use, each counted once."""
    if window.per_sample is not None:
        raise ValueError(
            f"per_sample={window.per_sample!r} normalizes each window by its own mean and std: leave per_sample out to "
            "fit those of the series"
        )
    row = Window(1, start_index=window.start_index, end_index=window.end_index)
    try:
        every = Windows(row, series.segments, bounds=series.bounds)
    except ValueError:
        raise ValueError(
            f"start_index={window.start_index} and end_index={window.end_index} leave no row of {series!r} to fit: "
            "choose a wider range"
        ) from None
    counts, means, squares = (np.zeros(series.channels) for _ in range(3))
    together = max(1, NUMBERS_READ_AT_ONCE // series.channels)
    for first in range(0, len(every), together):
        part = _values(series, every.rows(np.arange(first, min(first + together, len(every)))))
        present = ~np.isnan(part)
        more = present.sum(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.where(present, part, 0).sum(axis=0) / np.maximum(more, 1)
            around_mean = (np.where(present, part - mean, 0) ** 2).sum(axis=0)
            # Joins two sets: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979.
            share = more / np.maximum(counts + more, 1)
            squares += around_mean + (mean - means) ** 2 * counts * share
            means += (mean - means) * share
        counts += more
    fine = (counts > 0) & np.isfinite(means)
    if not fine.all():
        channel = int(np.argmin(fine))
        found = f"a mean of {means[channel]}" if counts[channel] else "no number"
        raise ValueError(
            f"every channel must have numbers, all of them finite, to be fitted, but channel {channel} of {series!r} "
            f"has {found}: leave the channel out, or replace those values"
        )
    std = tuple(np.sqrt(squares / counts).tolist())
    if not all(std):
        raise ValueError(
            f"std must be above 0 in every channel, but that of {series!r} is {std}: leave constant channels out, or "
            "choose mean and std yourself"
        )
    return window.replace(mean=tuple(means.tolist()), std=std)


def _values(series: Series, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return these rows of the values as [B, C] in host memory."""
    series.check_files()
    values: Any = series.values
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == len(rows):
        part = values[first : last + 1]
    else:
        part = values[rows] if series.gpu is None else values.take(rows, axis=0)
    with np.errstate(invalid="ignore"):  # A cast of signalling NaN warns.
        return np.asarray(part.get() if hasattr(part, "get") else part).reshape(len(rows), -1).astype(np.float64)
