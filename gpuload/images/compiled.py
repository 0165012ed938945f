"""Code that numba compiles for `host`: a batch, image by image and row by row."""

# mypy: disable-error-code="no-untyped-def"

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuload.core.codes import BORDERS, PER_SAMPLE
from gpuload.core.compiling import cached, compiled
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
    """[W * C] for a row of an image, or [0] for none; so is `std`."""
    std: NDArray[np.float32]
    whole: bool
    """Whether levels are rounded and clipped to 0..255."""
    planes: tuple[int, ...]
    """0, 1, ..., one for each channel, so that the compiler knows their number. Empty: any number."""
    planar: bool
    """Whether channels come first."""


class Drawn(NamedTuple):
    """Numbers drawn for a batch: [B] each, or [0]."""

    matrices: NDArray[np.float64]
    """[B, 2, 3]"""
    channel_shift: NDArray[np.float32]
    brightness: NDArray[np.float32]

    def part(self, rows: slice) -> "Drawn":
        return Drawn(self.matrices[rows], self.channel_shift[rows], self.brightness[rows])


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
def blend_rows(levels, above, below, share, blend):
    """Blend two rows of an image, given as all its levels and where the rows begin."""
    # Unsigned numbers, which cannot count from the end, let the compiler make vectors.
    first, second = np.uint64(above), np.uint64(below)
    for i in range(np.uint64(blend.size)):
        level = np.float32(levels[first + i])
        blend[i] = level + (np.float32(levels[second + i]) - level) * share


@compiled
def read_row(levels, height, width, channels, matrix, y, job, blend, line):
    """Write row y of the warped image into `line` [W * C]. `blend` [W * C] is working memory."""
    mode, order, channels = job.fill_mode, job.order, count(job.planes, channels)
    # The order of SciPy's sums.
    x0 = matrix[0, 0] * 0.5 + matrix[0, 1] * 0.5 + matrix[0, 2] - 0.5
    y0 = matrix[1, 0] * 0.5 + matrix[1, 1] * 0.5 + matrix[1, 2] - 0.5
    x_of_row, y_of_row = matrix[0, 1] * y, matrix[1, 1] * y
    stride = width * channels
    i = np.uint64(0)
    if matrix[1, 0] == 0.0:
        # The whole row lies between two rows of the image: they are blended first.
        p = y_of_row + y0
        if mode == CONSTANT and (p < 0.0 or p > height - 1.0):
            line.fill(job.fill_value)
            return
        above, below, share = neighbours(folded(p, height, mode), height, order)
        blend_rows(levels, above * stride, below * stride, share, blend)
        for x in range(width):
            p = x_of_row + matrix[0, 0] * x + x0
            if mode == CONSTANT and (p < 0.0 or p > width - 1.0):
                for _ in range(channels):
                    line[i] = job.fill_value
                    i += np.uint64(1)
                continue
            left, right, share = neighbours(folded(p, width, mode), width, order)
            a, b = np.uint64(left * channels), np.uint64(right * channels)
            for c in range(np.uint64(channels)):
                line[i] = blend[a + c] + (blend[b + c] - blend[a + c]) * share
                i += np.uint64(1)
        return
    for x in range(width):
        px, py = x_of_row + matrix[0, 0] * x + x0, y_of_row + matrix[1, 0] * x + y0
        if mode == CONSTANT and (px < 0.0 or px > width - 1.0 or py < 0.0 or py > height - 1.0):
            for _ in range(channels):
                line[i] = job.fill_value
                i += np.uint64(1)
            continue
        left, right, share_x = neighbours(folded(px, width, mode), width, order)
        above, below, share_y = neighbours(folded(py, height, mode), height, order)
        a, b = np.uint64(above * stride + left * channels), np.uint64(below * stride + left * channels)
        after = np.uint64((right - left) * channels)
        for c in range(np.uint64(channels)):
            level = np.float32(levels[a + c])
            first = level + (np.float32(levels[b + c]) - level) * share_y
            level = np.float32(levels[a + after + c])
            second = level + (np.float32(levels[b + after + c]) - level) * share_y
            line[i] = first + (second - first) * share_x
            i += np.uint64(1)


@compiled
def mirrored(matrix, axis, length):
    """Return 1 if the matrix leaves an axis of the image as it is, -1 if it flips it, 0 if it does anything else."""
    if matrix[axis, 1 - axis] != 0.0:
        return 0
    if matrix[axis, axis] == 1.0 and matrix[axis, 2] == 0.0:
        return 1
    return -1 if matrix[axis, axis] == -1.0 and matrix[axis, 2] == length else 0


@compiled
def copy_row(levels, at, channels, flipped, job, line):
    """Write the row of an image that begins at `at`, perhaps flipped from left to right, into `line` [W * C]."""
    start, size = np.uint64(at), np.uint64(line.size)
    if not flipped:
        for i in range(size):
            line[i] = np.float32(levels[start + i])
        return
    pixel = np.uint64(count(job.planes, channels))
    for x in range(size // pixel):
        i = x * pixel
        for c in range(pixel):
            line[i + c] = np.float32(levels[start + size - i - pixel + c])


@compiled
def colour_row(levels, job, shift, low, high, brightness):
    """Recolour a row in place. The shift is clipped to `low` and `high`; a brightness below 0 is none."""
    size = np.uint64(levels.size)
    if shift != 0:
        for i in range(size):
            levels[i] = min(max(levels[i] + shift, low), high)
    if brightness >= 0:
        for i in range(size):
            levels[i] = np.floor(min(max(np.trunc(levels[i]) * brightness, np.float32(0)), np.float32(255)))
    if job.rescale != 1:
        for i in range(size):
            levels[i] *= job.rescale


@compiled
def finish_row(levels, spare, job, channels, center, spread, out, n, y):
    """Normalize row y of image n and write it. `center` and `spread` are the image's; a spread of 0 is none.

    `spare` [W * C] is working memory: the compiler makes no vectors of a loop whose arrays are the same.
    """
    size = np.uint64(levels.size)
    if center != 0:
        for i in range(size):
            levels[i] -= center
    if spread != 0:
        for i in range(size):
            levels[i] /= spread
    row = spare if job.planar else out[n, y].ravel()  # A view.
    if len(job.mean) and len(job.std):
        for i in range(size):
            row[i] = (levels[i] - job.mean[i]) / job.std[i]
    elif len(job.mean):
        for i in range(size):
            row[i] = levels[i] - job.mean[i]
    elif len(job.std):
        for i in range(size):
            row[i] = levels[i] / job.std[i]
    else:
        for i in range(size):
            row[i] = levels[i]
    if job.whole:
        for i in range(size):
            row[i] = min(max(np.rint(row[i]), np.float32(0)), np.float32(255))
    if job.planar:
        pixel = np.uint64(channels)
        for c in range(pixel):
            plane = out[n, c, y]
            for x in range(np.uint64(plane.size)):
                plane[x] = row[x * pixel + c]


@compiled
def augment_image(image, n, drawn, job, out):
    """Augment image n of a batch: [H, W, C] to [H, W, C], or to [C, H, W] for `planar`."""
    height, width, channels = image.shape[0], image.shape[1], count(job.planes, image.shape[2])
    levels, size = image.ravel(), width * channels
    shift = drawn.channel_shift[n] if len(drawn.channel_shift) else np.float32(0)
    brightness = drawn.brightness[n] if len(drawn.brightness) else np.float32(-1)
    low, high = np.float32(np.inf), np.float32(-np.inf)
    center, spread = np.float32(0), np.float32(0)
    at_once = shift == 0 and job.per_sample == 0
    # With a shift or statistics, all rows are needed before the first is finished.
    lines = np.empty((1 if at_once else height, size), np.float32)
    blend = np.empty(size, np.float32)
    down = right = 1
    if len(drawn.matrices):
        down, right = mirrored(drawn.matrices[n], 1, height), mirrored(drawn.matrices[n], 0, width)
    for y in range(height):
        line = lines[0] if at_once else lines[y]
        if down and right:
            copy_row(levels, (y if down > 0 else height - 1 - y) * size, channels, right < 0, job, line)
        else:
            read_row(levels, height, width, channels, drawn.matrices[n], y, job, blend, line)
        if at_once:
            colour_row(line, job, shift, low, high, brightness)
            finish_row(line, blend, job, channels, center, spread, out, n, y)
    if at_once:
        return
    everything = lines.ravel()
    if shift != 0:
        for i in range(everything.size):
            low, high = min(low, everything[i]), max(high, everything[i])
    for y in range(height):
        colour_row(lines[y], job, shift, low, high, brightness)
    if job.per_sample:
        total = 0.0
        for i in range(everything.size):
            total += everything[i]
        center = np.float32(total / everything.size)
    if job.per_sample == STANDARDIZE:
        squares = 0.0
        for i in range(everything.size):
            squares += (np.float64(everything[i]) - center) ** 2
        spread = np.float32(np.sqrt(squares / everything.size)) + job.epsilon
    for y in range(height):
        finish_row(lines[y], blend, job, channels, center, spread, out, n, y)


def augment(store: Any, fresh: Any, rows: Any, drawn: Drawn, job: Constants, out: Any) -> None:
    """Augment a batch, see `Augmenter.start`. `store` and `fresh` have one type.

    `out` is float32 [B, H, W, C], or [B, C, H, W] for `planar`.
    """
    for n in range(len(rows)):
        image = store[rows[n]] if rows[n] >= 0 else fresh[~rows[n]]
        augment_image(image, n, drawn, job, out)


def cut_and_augment(
    store: Any, fresh: Any, rows: Any, boxes: Any, size: Any, code: int, drawn: Drawn, job: Constants, out: Any
) -> None:
    """Augment a batch of crops: boxes [B, 4] (top, left, height, width) are cut out of the images and resized.

    `size` is (height, width) of the output; `code` is that of `resize_into`, the rest that of `augment`.
    """
    planes = job.planes
    cut = np.empty((*size, len(planes)), np.uint8)
    for n in range(len(rows)):
        image = store[rows[n]] if rows[n] >= 0 else fresh[~rows[n]]
        top, left, high, wide = boxes[n, 0], boxes[n, 1], boxes[n, 2], boxes[n, 3]
        resize_into(image, (top, left, high, wide), (0.0, 0.0, np.float64(wide), np.float64(high)), cut, code, planes)
        augment_image(frozen(cut), n, drawn, job, out)


kernel = cached(augment)
crops_kernel = cached(cut_and_augment)
