"""Statistics of a data set, for transforms that normalize by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.loader import Loader
from gpuload.plan import Augment, CenterCrop
from gpuload.plan.augment import CHANNELS
from gpuload.plan.step import Doubles
from gpuload.sources import ImageArray, ImageSource

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


def fit(source: ImageSource, transform: Augment, *, zca_epsilon: float | None = None, **options: Any) -> Augment:
    """The transform with `mean` and `std` of the source's images, one a channel; or with `mean` and `zca`.

    Reads every image once, without what `transform` draws at random (of a RandomResizedCrop, the middle of the image).
    The statistics are those of the levels after `rescale`, in float64.

    Args:
        source: The images.
        transform: What is done to them; `mean`, `std`, `zca` and `dtype` do not matter.
        zca_epsilon: Fits a whitening matrix in place of `std`: U diag(√N / (s + zca_epsilon)) Uᵀ, with s the singular
            values and U the left singular vectors of the N centred images as columns. It has D² numbers for images of
            D, so images should be small.
        options: `device`, `engine`, `threads`, `batch_size` of the `Loader` that reads them.

    Returns:
        A new transform. With `zca` its `layout` is settled too, as HWC where it was None: the matrix is for one order
        of the numbers.

    >>> import gpuload
    >>> images = np.tile(np.array([0, 4], np.uint8).reshape(2, 1, 1, 1), (1, 8, 8, 3))
    >>> fit(gpuload.ImageArray(images), gpuload.Augment(hflip=0.5), device="cpu")
    Augment(hflip=0.5, mean=(2.0, 2.0, 2.0), std=(2.0, 2.0, 2.0))
    """
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
