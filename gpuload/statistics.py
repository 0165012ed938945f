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
from gpuload.sources import ImageArray, ImageSource, Series
from gpuload.windows.statistics import fit_window
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
"""Arguments of an Augment without randomness."""


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
        return fit_window(source, transform)
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


def _whitening(
    batches: Iterator[Doubles], channels_first: bool, epsilon: float
) -> tuple[tuple[float, ...], NDArray[np.float32]]:
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
