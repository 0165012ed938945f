"""Code that numba compiles for `host`: a batch, image by image and row by row."""

# mypy: disable-error-code="no-untyped-def"

import functools
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from gpuload.core.codes import BORDERS, PER_SAMPLE
from gpuload.decode.lanes import frozen
from gpuload.decode.resize import resize_into

# To numba, globals are constants.
NEAREST, CONSTANT, REFLECT = (BORDERS[name] for name in ("nearest", "constant", "reflect"))
STANDARDIZE = PER_SAMPLE["standardize"]


class Constants(NamedTuple):
    """Values that are the same for all images of a job."""

    fill_mode: int
    order: int
    fill_value: np.float32
    rescale: np.float32
    per_sample: int
    epsilon: np.float32
    mean: NDArray[np.float32]
    """[C], or [0] for none."""
    std: NDArray[np.float32]
    whole: bool
    """Whether levels are rounded and clipped to 0..255."""
    planes: tuple[int, ...]
    """0, 1, ..., one for each channel, so that the compiler knows their number. Empty: any number."""


class Drawn(NamedTuple):
    """Numbers drawn for a batch: [B] each, or [0]."""

    matrices: NDArray[np.float64]
    """[B, 2, 3]"""
    channel_shift: NDArray[np.float32]
    brightness: NDArray[np.float32]

    def part(self, rows: slice) -> "Drawn":
        return Drawn(self.matrices[rows], self.channel_shift[rows], self.brightness[rows])


# Without fastmath, each sum and product is rounded as in SciPy and NumPy.
compiled = functools.partial(numba.njit, nogil=True, error_model="numpy")


@compiled(inline="always")
def folded(p, n, mode):
    """Return the position inside the image, by SciPy's arithmetic. The caller handles `constant` before."""
    if mode in (NEAREST, CONSTANT):
        return min(max(p, 0.0), n - 1.0)
    if n == 1:
        return 0.0
    if mode == REFLECT:
        if p < 0:
            if p < -2.0 * n:
                p += 2.0 * n * int(-p / (2.0 * n))
            p = p + 2.0 * n if p < -n else -p - 1.0
        elif p > n - 1.0:
            p -= 2.0 * n * int(p / (2.0 * n))
            if p >= n:
                p = 2.0 * n - p - 1.0
        return p
    if p < 0:
        p += (n - 1.0) * (int(-p / (n - 1.0)) + 1)
    elif p > n - 1.0:
        p -= (n - 1.0) * int(p / (n - 1.0))
    return p


@compiled(inline="always")
def neighbours(p, n, order):
    """Return the pixel before a position, the pixel after it, and the share of the latter."""
    if order == 0:
        i = min(max(int(np.floor(p + 0.5)), 0), n - 1)
        return i, i, np.float32(0)
    floor = np.floor(p)
    i = int(floor)
    return min(max(i, 0), n - 1), min(max(i + 1, 0), n - 1), np.float32(p - floor)


@compiled(inline="always")
def count(planes, channels):
    """Return the number of channels, as a constant if the compiler knows it."""
    return len(planes) if len(planes) else channels


@compiled
def read_row(image, matrix, y, job, blend, line):
    """Write row y of the warped image into `line` [W, C]. `blend` [W, C] is working memory."""
    height, width, channels = image.shape[0], image.shape[1], count(job.planes, image.shape[2])
    mode, order = job.fill_mode, job.order
    # The order of SciPy's sums.
    x0 = matrix[0, 0] * 0.5 + matrix[0, 1] * 0.5 + matrix[0, 2] - 0.5
    y0 = matrix[1, 0] * 0.5 + matrix[1, 1] * 0.5 + matrix[1, 2] - 0.5
    x_of_row, y_of_row = matrix[0, 1] * y, matrix[1, 1] * y
    if matrix[1, 0] == 0.0:
        # The whole row lies between two rows of the image: they are blended first.
        p = y_of_row + y0
        if mode == CONSTANT and (p < 0.0 or p > height - 1.0):
            line.fill(job.fill_value)
            return
        above, below, share = neighbours(folded(p, height, mode), height, order)
        for x in range(width):
            for c in range(channels):
                level = np.float32(image[above, x, c])
                blend[x, c] = level + (np.float32(image[below, x, c]) - level) * share
        for x in range(width):
            p = x_of_row + matrix[0, 0] * x + x0
            if mode == CONSTANT and (p < 0.0 or p > width - 1.0):
                for c in range(channels):
                    line[x, c] = job.fill_value
                continue
            left, right, share = neighbours(folded(p, width, mode), width, order)
            for c in range(channels):
                line[x, c] = blend[left, c] + (blend[right, c] - blend[left, c]) * share
        return
    for x in range(width):
        px, py = x_of_row + matrix[0, 0] * x + x0, y_of_row + matrix[1, 0] * x + y0
        if mode == CONSTANT and (px < 0.0 or px > width - 1.0 or py < 0.0 or py > height - 1.0):
            for c in range(channels):
                line[x, c] = job.fill_value
            continue
        left, right, share_x = neighbours(folded(px, width, mode), width, order)
        above, below, share_y = neighbours(folded(py, height, mode), height, order)
        for c in range(channels):
            level = np.float32(image[above, left, c])
            first = level + (np.float32(image[below, left, c]) - level) * share_y
            level = np.float32(image[above, right, c])
            second = level + (np.float32(image[below, right, c]) - level) * share_y
            line[x, c] = first + (second - first) * share_x


@compiled
def colour_row(line, job, shift, low, high, brightness):
    """Recolour a row in place. The shift is clipped to `low` and `high`; a brightness below 0 is none."""
    levels = line.ravel()  # A view: rows are contiguous.
    if shift != 0:
        for i in range(levels.size):
            levels[i] = min(max(levels[i] + shift, low), high)
    if brightness >= 0:
        for i in range(levels.size):
            levels[i] = np.floor(min(max(np.trunc(levels[i]) * brightness, np.float32(0)), np.float32(255)))
    if job.rescale != 1:
        for i in range(levels.size):
            levels[i] *= job.rescale


@compiled
def finish_row(line, job, center, spread, out):
    """Normalize a row and write it. `center` and `spread` are the image's; a spread of 0 is none."""
    width, channels = line.shape[0], count(job.planes, line.shape[1])
    levels = line.ravel()
    if center != 0:
        for i in range(levels.size):
            levels[i] -= center
    if spread != 0:
        for i in range(levels.size):
            levels[i] /= spread
    if len(job.mean):
        for x in range(width):
            for c in range(channels):
                line[x, c] -= job.mean[c]
    if len(job.std):
        for x in range(width):
            for c in range(channels):
                line[x, c] /= job.std[c]
    if job.whole:
        for i in range(levels.size):
            levels[i] = min(max(np.rint(levels[i]), np.float32(0)), np.float32(255))
    for x in range(width):
        for c in range(channels):
            out[x, c] = line[x, c]


@compiled
def augment_image(image, n, drawn, job, out):
    """Augment image n of a batch: [H, W, C] to [H, W, C]."""
    height, width, channels = image.shape[0], image.shape[1], count(job.planes, image.shape[2])
    shift = drawn.channel_shift[n] if len(drawn.channel_shift) else np.float32(0)
    brightness = drawn.brightness[n] if len(drawn.brightness) else np.float32(-1)
    low, high = np.float32(np.inf), np.float32(-np.inf)
    center, spread = np.float32(0), np.float32(0)
    at_once = shift == 0 and job.per_sample == 0
    # With a shift or statistics, all rows are needed before the first is finished.
    lines = np.empty((1 if at_once else height, width, channels), np.float32)
    blend = np.empty((width, channels), np.float32)
    for y in range(height):
        line = lines[0] if at_once else lines[y]
        if len(drawn.matrices):
            read_row(image, drawn.matrices[n], y, job, blend, line)
        else:
            for x in range(width):
                for c in range(channels):
                    line[x, c] = np.float32(image[y, x, c])
        if at_once:
            colour_row(line, job, shift, low, high, brightness)
            finish_row(line, job, center, spread, out[y])
    if at_once:
        return
    levels = lines.ravel()
    if shift != 0:
        for i in range(levels.size):
            low, high = min(low, levels[i]), max(high, levels[i])
    for y in range(height):
        colour_row(lines[y], job, shift, low, high, brightness)
    if job.per_sample:
        total = 0.0
        for i in range(levels.size):
            total += levels[i]
        center = np.float32(total / lines.size)
    if job.per_sample == STANDARDIZE:
        squares = 0.0
        for i in range(levels.size):
            squares += (np.float64(levels[i]) - center) ** 2
        spread = np.float32(np.sqrt(squares / lines.size)) + job.epsilon
    for y in range(height):
        finish_row(lines[y], job, center, spread, out[y])


def augment(store: Any, fresh: Any, rows: Any, drawn: Drawn, job: Constants, out: Any) -> None:
    """Augment a batch, see `Augmenter.start`. `store` and `fresh` have one type; `out` is [B, H, W, C] float32."""
    for n in range(len(rows)):
        image = store[rows[n]] if rows[n] >= 0 else fresh[~rows[n]]
        augment_image(image, n, drawn, job, out[n])


def cut_and_augment(
    store: Any, fresh: Any, rows: Any, boxes: Any, code: int, planes: Any, drawn: Drawn, job: Constants, out: Any
) -> None:
    """Augment a batch of crops: cut boxes [B, 4] (top, left, height, width) out of images of any size, and resize them.

    `code` and `planes` are those of `resize_into`, the rest those of `augment`.
    """
    cut = np.empty(out.shape[1:], np.uint8)
    for n in range(len(rows)):
        image = store[rows[n]] if rows[n] >= 0 else fresh[~rows[n]]
        top, left, high, wide = boxes[n, 0], boxes[n, 1], boxes[n, 2], boxes[n, 3]
        resize_into(image, (top, left, high, wide), (0.0, 0.0, np.float64(wide), np.float64(high)), cut, code, planes)
        augment_image(frozen(cut), n, drawn, job, out[n])


def _cached(function: Any) -> Any:
    try:
        # numba keeps compiled code beside this file, or in the user's cache folder.
        return compiled(cache=True)(function)
    except RuntimeError:  # Neither folder can be written to.
        return compiled(function)


kernel = _cached(augment)
crops_kernel = _cached(cut_and_augment)
