"""Resize on the CPU that numba compiles, with the same bits as Pillow's."""

# mypy: disable-error-code="no-untyped-def"

import math
from typing import Any, get_args

import numpy as np
import PIL
from numpy.typing import NDArray

from gpuload.core.compiling import cached, compiled
from gpuload.decode.lanes import BITS, LOW, READ, add, copy, frozen, nothing, write
from gpuload.decode.spec import Interpolation

# To numba, globals are constants.
NAMES = get_args(Interpolation)
NEAREST, BILINEAR, BICUBIC, LANCZOS, BOX, HAMMING = range(len(NAMES))
SUPPORT = (0.0, 1.0, 2.0, 3.0, 0.5, 1.0)  # Half the width of each filter.
FLAT, ROUND = float(np.float32(0.54)), float(np.float32(0.46))  # Of Hamming's window, as precise as in Pillow.
TALL = 8
ROWS, BLOCK = 4, 16  # Rows that are resized at once, and levels of a row that are blended at once.

CODES = {name: code + TALL * (int(PIL.__version__.split(".")[0]) >= 13) for code, name in enumerate(NAMES)}
"""Numbers of the filters; with `TALL` if this Pillow resizes tall images vertically first, as it does since 13.

They have to be arguments: a constant would stay in compiled code on disk that outlives this Pillow.
"""

# Functions that only compiled functions call: to call one from Python is a crash.
inner = compiled(no_cpython_wrapper=True, no_cfunc_wrapper=True)


@inner
def sinc(x):
    return 1.0 if x == 0.0 else math.sin(x * math.pi) / (x * math.pi)


@inner
def weight(x, kind):
    """Return the value of a filter at x, with Pillow's order of operations."""
    if kind == BOX:
        return 1.0 if -0.5 < x <= 0.5 else 0.0
    if kind == LANCZOS:
        return sinc(x) * sinc(x / 3.0) if -3.0 <= x < 3.0 else 0.0
    x = abs(x)
    if kind == BILINEAR:
        return max(1.0 - x, 0.0)
    if kind == HAMMING:
        return sinc(x) * (FLAT + ROUND * math.cos(x * math.pi)) if x < 1.0 else 0.0
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0


@inner
def taps(length, start, stop, count, kind):
    """Return the first input of each output, and weights [count, pairs, 2] of it and those after it.

    The weights of two inputs are in one int32 for their low parts, and in one for their high parts.
    """
    scale = np.float64(stop - start) / count
    stretch = max(scale, 1.0)
    support, shrink = SUPPORT[kind] * stretch, 1.0 / stretch
    first, size = np.empty(count, np.int64), np.empty(count, np.int64)
    most = 1
    for i in range(count):
        center = start + (i + 0.5) * scale
        first[i] = min(max(int(center - support + 0.5), 0), length)
        size[i] = max(min(int(center + support + 0.5), length) - first[i], 0)
        most = max(most, size[i])
    weights = np.zeros((count, (most + 1) // 2, 2), np.int32)
    shares = np.empty(most)
    for i in range(count):
        center, total = start + (i + 0.5) * scale, 0.0
        for t in range(size[i]):
            shares[t] = weight((t + first[i] - center + 0.5) * shrink, kind)
            total += shares[t]
        for t in range(size[i]):
            share = (shares[t] / total if total != 0.0 else shares[t]) * (1 << BITS)
            whole = int(share - 0.5 if share < 0.0 else share + 0.5)
            place = 16 * (t % 2)
            weights[i, t // 2, 0] |= (whole & ((1 << LOW) - 1)) << place
            weights[i, t // 2, 1] |= ((whole >> LOW) & 0xFFFF) << place
    return first, weights


@inner
def resize_rows(source, at, stride, first, weights, lines, to, step, planes):
    """Resize the four rows at `at` horizontally, into lines at `to`."""
    channels = len(planes)
    for x in range(len(first)):
        a = at + first[x] * channels
        low, high, low_after, high_after = nothing(), nothing(), nothing(), nothing()
        for k in range(weights.shape[1]):
            b, c, d = a + stride, a + 2 * stride, a + 3 * stride
            low = add(low, source, a, b, weights[x, k, 0], planes)
            high = add(high, source, a, b, weights[x, k, 1], planes)
            low_after = add(low_after, source, c, d, weights[x, k, 0], planes)
            high_after = add(high_after, source, c, d, weights[x, k, 1], planes)
            a += 2 * channels
        # Each pixel has room for four channels, until the next one is written.
        p = to + x * channels
        write(low, high, lines, p, p + step)
        write(low_after, high_after, lines, p + 2 * step, p + 3 * step)


@inner
def blend_rows(source, places, weights, size, lines, to):
    """Blend the rows at `places` into a line at `to`."""
    for x in range(0, size, BLOCK):
        low, high, low_after, high_after = nothing(), nothing(), nothing(), nothing()
        for k in range(len(weights)):
            a, b = places[2 * k] + x, places[2 * k + 1] + x
            low = add(low, source, a, b, weights[k, 0], ())
            high = add(high, source, a, b, weights[k, 1], ())
            low_after = add(low_after, source, a + 8, b + 8, weights[k, 0], ())
            high_after = add(high_after, source, a + 8, b + 8, weights[k, 1], ())
        write(low, high, lines, to + x, to + x + 4)
        write(low_after, high_after, lines, to + x + 8, to + x + 12)


@inner
def padded(size):
    """Return the room for a line that is written in blocks, and read beyond its end."""
    return (size + BLOCK - 1) // BLOCK * BLOCK + READ


@inner
def across_first(flat, stride, columns, across, rows, along, out, planes):
    """Resize rows, and then blend them. `flat` are all bytes of the image; `out` those of the result."""
    channels = len(planes)
    height, size = len(flat) // stride, len(columns) * channels
    # Rows that were resized, in turn in as many places as are needed at once, and a blended one.
    reach, step = 2 * along.shape[1], padded(size)
    room = (reach + 2 * ROWS - 2) // ROWS * ROWS
    lines, places = np.empty((room + 1) * step, np.uint8), np.empty(reach, np.int64)
    # Reads go beyond the end of a row. Where that is beyond the image too, a copy of the rows is read.
    extent = columns[-1] * channels + (across.shape[1] - 1) * 2 * channels + READ
    spare, done = max(extent, stride), rows[0]
    copies = np.empty(ROWS * spare, np.uint8)
    for y in range(len(rows)):
        while done < min(rows[y] + reach, height):
            source, at, apart = flat, done * stride, stride
            if (done + ROWS - 1) * stride + extent > len(flat):
                for i in range(ROWS):
                    copy(flat, min(done + i, height - 1) * stride, stride, copies, i * spare)
                source, at, apart = frozen(copies), 0, spare
            resize_rows(source, at, apart, columns, across, lines, (done - rows[0]) % room * step, step, planes)
            done += ROWS
        for k in range(reach):
            places[k] = (rows[y] - rows[0] + k) % room * step
        blend_rows(frozen(lines), places, along[y], size, lines, room * step)
        copy(lines, room * step, size, out, y * size)


@inner
def along_first(flat, stride, columns, across, rows, along, out, planes):
    """Blend rows, and then resize them, see `across_first`."""
    channels = len(planes)
    height, size = len(flat) // stride, len(columns) * channels
    begin = columns[0] * channels
    extent = (columns[-1] - columns[0] + (across.shape[1] - 1) * 2) * channels + READ
    span = min(extent, stride - begin)
    reach, step, apart = 2 * along.shape[1], padded(extent), padded(size)
    # Blended rows, and the same rows resized.
    lines, results = np.empty(ROWS * (step + apart), np.uint8), ROWS * step
    copies, places = np.empty(reach * step, np.uint8), np.empty(reach, np.int64)
    for start in range(0, len(rows), ROWS):
        for y in range(start, min(start + ROWS, len(rows))):
            source = flat
            for k in range(reach):
                places[k] = min(rows[y] + k, height - 1) * stride + begin
            if places[-1] + padded(span) > len(flat):
                for k in range(reach):
                    copy(flat, places[k], span, copies, k * step)
                    places[k] = k * step
                source = frozen(copies)
            blend_rows(source, places, along[y], span, lines, (y - start) * step)
        resize_rows(frozen(lines), -begin, step, columns, across, lines, results, apart, planes)
        for y in range(start, min(start + ROWS, len(rows))):
            copy(lines, results + (y - start) * apart, size, out, y * size)


@inner
def steps(length, start, stop, count):
    """Return the nearest input of each output. The position is a sum of steps, as in Pillow: that decides ties."""
    step = np.float64(stop - start) / count
    position, nearest = start + step * 0.5, np.empty(count, np.int64)
    for i in range(count):
        nearest[i] = min(max(int(position), 0), length - 1)
        position += step
    return nearest


@cached
def resize_into(image, place, box, out, code, planes):
    """Resize a box (left, top, right, bottom) of a picture into `out` [H, W, C].

    `image` [h, w, C] holds the picture, or the part of it that the filter reads; both are uint8 without gaps. `place`
    is the picture's (top, left, height, width) in `image`, in whole numbers: a picture may be a part of `image`, and
    with a negative top and left `image` is a part of the picture. The box is in pixels of the picture and lies inside
    of it. `code` is one of `CODES`. `planes` is 0, 1, ..., C - 1, so that the compiler knows their number, at most 4.
    """
    height, width, channels = place[2], place[3], len(planes)
    flat, result = frozen(image.ravel()), out.ravel()
    # Pillow's own precision of a box.
    left, top, right, bottom = np.float32(box[0]), np.float32(box[1]), np.float32(box[2]), np.float32(box[3])
    kind, stride = code % TALL, image.shape[1] * channels
    if kind == NEAREST:
        columns = steps(width, left, right, out.shape[1]) + place[1]
        rows = steps(height, top, bottom, out.shape[0]) + place[0]
        i = 0
        for y in range(len(rows)):
            for x in range(len(columns)):
                p = rows[y] * stride + columns[x] * channels
                # One move of four bytes is quicker. The next pixel overwrites those that are too much.
                if p + 4 <= len(flat) and i + 4 <= len(result):
                    copy(flat, p, 4, result, i)
                else:
                    copy(flat, p, channels, result, i)
                i += channels
        return
    columns, across = taps(width, left, right, out.shape[1], kind)
    rows, along = taps(height, top, bottom, out.shape[0], kind)
    columns += place[1]
    rows += place[0]
    if code >= TALL and height - out.shape[0] > 2 * max(width - out.shape[1], 0):
        along_first(flat, stride, columns, across, rows, along, result, planes)
    else:
        across_first(flat, stride, columns, across, rows, along, result, planes)


@inner
def neighbours(length, start, stop, count, shift):
    """Return the input before each output, that after it, both moved by `shift`, and the share of the latter."""
    before, after, share = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.float32)
    for i in range(count):
        position = min(max(start + (i + 0.5) * ((stop - start) / count) - 0.5, 0.0), length - 1.0)
        whole = int(position)
        before[i], after[i] = whole + shift, min(whole + 1, length - 1) + shift
        share[i] = np.float32(position - whole)
    return before, after, share


@cached
def blend_into(image, place, box, out, planes):
    """Write each pixel from its four neighbours, bilinear without antialiasing; `out` is float32, see `resize_into`."""
    channels, flat, result = len(planes), frozen(image.ravel()), out.ravel()
    left, right, share = neighbours(place[3], box[0], box[2], out.shape[1], place[1])
    above, below, share_below = neighbours(place[2], box[1], box[3], out.shape[0], place[0])
    line = np.empty(image.shape[1] * channels, np.float32)
    i = np.uint64(0)
    for y in range(len(above)):
        a, b, part = np.uint64(above[y] * line.size), np.uint64(below[y] * line.size), share_below[y]
        for k in range(np.uint64(left[0] * channels), np.uint64((right[-1] + 1) * channels)):
            level = np.float32(flat[a + k])
            line[k] = level + (np.float32(flat[b + k]) - level) * part
        for x in range(len(left)):
            p, q, part = np.uint64(left[x] * channels), np.uint64(right[x] * channels), share[x]
            for c in range(channels):
                level = line[p + np.uint64(c)]
                result[i] = level + (line[q + np.uint64(c)] - level) * part
                i += np.uint64(1)


@cached
def grey_of(image):
    """Return the grey [h, w, 1] of an image [h, w, 3], with the weights that Pillow has: ITU-R 601-2, in 16 bits."""
    grey = np.empty((*image.shape[:2], 1), np.uint8)
    levels, result = image.ravel(), grey.ravel()
    for i in range(result.size):
        red, green, blue = np.uint32(levels[3 * i]), np.uint32(levels[3 * i + 1]), np.uint32(levels[3 * i + 2])
        result[i] = np.uint8((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16)
    return grey


def resize(
    image: NDArray[np.uint8],
    size: tuple[int, int],
    interpolation: Interpolation = "bilinear",
    box: tuple[float, float, float, float] | None = None,
    antialias: bool = True,
) -> NDArray[Any]:
    """Return the box (left, top, right, bottom) of an image [h, w, C] at `size` (height, width).

    The channels are resized one by one. Pillow does so too, except with RGBA, which it multiplies by alpha first.
    """
    height, width, channels = image.shape
    left, top, right, bottom = box or (0, 0, width, height)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height and min(size) >= 1 and 1 <= channels <= 4):
        raise ValueError(f"cannot resize {box} of an image {image.shape} to {size}")
    image = np.ascontiguousarray(image).view()
    image.flags.writeable = False  # Only this kind of array is compiled.
    place, corners = (0, 0, height, width), (float(left), float(top), float(right), float(bottom))
    planes = tuple(range(channels))
    if interpolation == "bilinear" and not antialias:
        blend_into(image, place, corners, soft := np.empty((*size, channels), np.float32), planes)
        return soft
    levels = np.empty((*size, channels), np.uint8)
    resize_into(image, place, corners, levels, CODES[interpolation], planes)
    return levels
