"""Geometry as matrices.

A matrix maps a position in the output to a position in the input, in (x, y), in pixels, with pixel centres at +0.5: the
top left pixel is centred at (0.5, 0.5), and the image covers [0, width] x [0, height].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gpuload.images.step import Doubles


def affine(
    *,
    rotation: ArrayLike = 0.0,
    shift: tuple[ArrayLike, ArrayLike] = (0.0, 0.0),
    shear: ArrayLike = 0.0,
    zoom: tuple[ArrayLike, ArrayLike] = (1.0, 1.0),
    center: tuple[float, float],
) -> Doubles:
    """Return matrices [..., 2, 3], output to input in (x, y): rotation · shift · shear · zoom about `center`.

    The order, and a shear that tilts the y axis without lengthening it, are those of Keras' `apply_affine_transform`.

    Args:
        rotation, shear: Angles in degrees.
        shift: (x, y) in pixels.
        zoom: (x, y) factors.
        center: (x, y) of the fixed point, in pixels. All other arguments broadcast against each other.

    >>> affine(zoom=(2.0, 1.0), center=(4.0, 4.0)).astype(int)
    array([[ 2,  0, -4],
           [ 0,  1,  0]])
    """
    theta, tilt = np.deg2rad(rotation), np.deg2rad(shear)
    zoom_x, zoom_y = (np.asarray(z, float) for z in zoom)
    shift_x, shift_y = (np.asarray(s, float) for s in shift)
    cos, sin = np.cos(theta), np.sin(theta)
    # Columns of rotation · shear · zoom, with the shear's second column (-sin, cos) of the tilt.
    columns = np.broadcast_arrays(
        cos * zoom_x,
        (-cos * np.sin(tilt) - sin * np.cos(tilt)) * zoom_y,
        cos * shift_x - sin * shift_y,
        sin * zoom_x,
        (-sin * np.sin(tilt) + cos * np.cos(tilt)) * zoom_y,
        sin * shift_x + cos * shift_y,
    )
    matrices: Doubles = np.stack(columns, axis=-1).reshape(*columns[0].shape, 2, 3)
    pivot = np.asarray(center, float)
    matrices[..., 2] += pivot - matrices[..., :2] @ pivot
    return matrices


def flipped(matrices: Doubles, horizontal: ArrayLike, vertical: ArrayLike, size: tuple[int, int]) -> Doubles:
    """Return the matrices with the output, of `size` (height, width), flipped afterwards."""
    result: Doubles = matrices.copy()
    for axis, flips, length in ((0, horizontal, size[1]), (1, vertical, size[0])):
        column = result[..., axis]
        chosen = np.asarray(flips, bool)[..., None]
        result[..., 2] += np.where(chosen, column * length, 0.0)
        result[..., axis] = np.where(chosen, -column, column)
    return result
