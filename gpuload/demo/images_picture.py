"""The picture of the image demo."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from numpy.typing import NDArray

import gpuload

VARIANTS = 7
"""Number of augmented images of each digit."""


def draw(
    train: gpuload.ImageFolder, plain: gpuload.Augment, augment: gpuload.Augment, options: dict[str, Any], path: Path
) -> Path:
    """Draw a PNG with a row for each class: one original image and its augmentations."""
    originals = train.take(np.unique(train.labels, return_index=True)[1])
    repeated = originals.take(np.repeat(np.arange(len(originals)), VARIANTS))
    with (
        gpuload.Loader(originals, plain, framework="numpy", **options) as unchanged,
        gpuload.Loader(repeated, augment, framework="numpy", **options) as augmented,
    ):
        before = np.concatenate([images for images, _ in unchanged])
        after = np.concatenate([images for images, _ in augmented])
        matrices = np.concatenate([step.matrices for step in augmented.steps(epoch=0)])

    figure = Figure(figsize=(9.2, 12.6), dpi=110, facecolor="white")
    axes = figure.subplots(
        len(before),
        2 + VARIANTS,
        # The narrow second column stays empty: it sets the originals apart.
        gridspec_kw={"width_ratios": [1, 0.12] + [1] * VARIANTS, "wspace": 0.08, "hspace": 0.3}
        | {"left": 0.06, "right": 0.985, "top": 0.905, "bottom": 0.025},
    )
    for row, columns in enumerate(axes):
        label = columns[0].set_ylabel(str(train.classes[row]), rotation=0, fontsize=16, fontweight="bold")
        label.set(horizontalalignment="right", verticalalignment="center")
        draw_image(columns[0], before[row], np.eye(2, 3))
        columns[1].set_axis_off()
        for column in range(VARIANTS):
            number = row * VARIANTS + column
            draw_image(columns[2 + column], after[number], matrices[number])
            columns[2 + column].set_xlabel(caption(matrices[number]), fontsize=7.5, labelpad=2)
    axes[0, 0].set_title("original", fontsize=12)
    axes[0, 2 + VARIANTS // 2].set_title("augmented", fontsize=12)
    figure.suptitle(f"shear={augment.shear}, zoom={augment.zoom}", fontsize=15, y=0.98)
    explanation = (
        "The orange square moves with the image. Below: shear, zoom in x × zoom in y (above 1, things get smaller)."
    )
    figure.text(0.5, 0.942, explanation, ha="center", fontsize=10, color="0.35")
    figure.savefig(path)
    return path


def draw_image(axes: Axes, image: NDArray[np.float32], matrix: NDArray[np.float64]) -> None:
    """Draw a square image [H, W, 1] and a square moved by `matrix` [2, 3], which maps output to input pixels."""
    side = len(image)
    axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1, extent=(0, side, side, 0), interpolation="nearest")
    near, far = side * 0.125, side * 0.875
    square = np.array([[near, near], [far, near], [far, far], [near, far]])
    corners = (square - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    axes.add_patch(Polygon(corners, fill=False, edgecolor="#ff8c1a", linewidth=1.4))
    axes.set(xlim=(0, side), ylim=(side, 0), xticks=[], yticks=[])


def caption(matrix: NDArray[np.float64]) -> str:
    """Return shear and zoom of a matrix [2, 3] without rotation."""
    (zoom_x, x), (_, y) = matrix[:, :2]
    shear = round(math.degrees(math.atan2(-x, y)))
    return f"{shear:+}°, {zoom_x:.2f} × {math.hypot(x, y):.2f}"
