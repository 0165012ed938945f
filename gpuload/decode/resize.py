"""Resize on the CPU that numba compiles, with the same bits as Pillow's."""

# mypy: disable-error-code="no-untyped-def"

import functools
import math
from typing import Any, get_args

import numba
import numpy as np
import PIL
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, models, register_model
from numpy.typing import NDArray

from gpuload.decode.spec import Interpolation

# To numba, globals are constants.
NAMES = get_args(Interpolation)
NEAREST, BILINEAR, BICUBIC, LANCZOS, BOX, HAMMING = range(len(NAMES))
SUPPORT = (0.0, 1.0, 2.0, 3.0, 0.5, 1.0)  # Half the width of each filter.
FLAT, ROUND = float(np.float32(0.54)), float(np.float32(0.46))  # Of Hamming's window, as precise as in Pillow.
TALL = 8
BITS, LOW = 22, 11  # Bits of a weight behind the point, and of its low part. Both parts fit into int16.
ROWS, BLOCK = 4, 16  # Rows that are resized at once, and levels of a row that are blended at once.
READ = 16  # Bytes of one read from an image. Those that mean nothing have a weight of 0.

CODES = {name: code + TALL * (int(PIL.__version__.split(".")[0]) >= 13) for code, name in enumerate(NAMES)}
"""Numbers of the filters; with `TALL` if this Pillow resizes tall images vertically first, as it does since 13.

They have to be arguments: a constant would stay in compiled code on disk that outlives this Pillow.
"""

compiled = functools.partial(numba.njit, nogil=True, error_model="numpy")
# Functions that only compiled functions call: to call one from Python is a crash.
inner = compiled(no_cpython_wrapper=True, no_cfunc_wrapper=True)


def cached(function: Any) -> Any:
    """Compile a function. numba keeps the code beside this file or in the user's cache folder, if it can."""
    try:
        return compiled(cache=True)(function)
    except RuntimeError:  # Neither folder can be written to.
        return compiled(function)


BYTE, LANES = ir.IntType(8), ir.VectorType(ir.IntType(32), 8)


class Lanes(types.Type):  # type: ignore[misc]
    """Eight int32 in a register. Not more: 512 bits slow the processor down, and so the code before and after."""


# LLVM has instructions for them, or others in their place, on every processor.
register_model(Lanes)(functools.partial(models.PrimitiveModel, be_type=LANES))


def _constant(values: Any, bits: int = 32) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(bits), len(values)), list(values))


def _at(context: Any, builder: Any, kind: Any, array: Any, offset: Any, element: Any) -> Any:
    """Return the address of an element, or of a vector, in an array of bytes."""
    start = builder.gep(context.make_array(kind)(context, builder, array).data, [offset])
    return builder.bitcast(start, element.as_pointer())


@intrinsic
def alone(typing):
    """Keep LLVM from copying the calling function into others, which would all have to be optimized again."""

    def generate(context, builder, signature, arguments):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.none(), generate


@intrinsic
def frozen(typing, array):
    """Return the array as one that cannot be written, so that functions are compiled for this kind only."""
    result = array.copy(readonly=True)
    return result(array), lambda context, builder, _, arguments: impl_ret_borrowed(context, builder, result, *arguments)


@intrinsic
def copy(typing, source, at, size, target, to):
    """Copy bytes. Slices would do the same, and take seconds to compile."""

    def generate(context, builder, signature, arguments):
        start = _at(context, builder, source, arguments[0], arguments[1], BYTE)
        end = _at(context, builder, target, arguments[3], arguments[4], BYTE)
        cgutils.raw_memcpy(builder, end, start, arguments[2], 1)
        return context.get_dummy_value()

    return types.none(source, types.intp, types.intp, target, types.intp), generate


@intrinsic
def nothing(typing):
    """Return lanes of zeros."""
    return Lanes("Lanes")(), lambda *_: _constant([0] * 8)


@intrinsic
def add(typing, total, source, first, second, weights, planes):
    """Return `total` plus the levels of pairs, times their two weights.

    With planes, half of the lanes are the channels of two neighbouring pixels at `first`, the other half of those at
    `second`. Without, they are eight levels at `first`, and those at `second`. `weights` are two int16 in an int32.
    """
    if planes.count:
        pixel = [(c, c + planes.count) for c in (min(lane, planes.count - 1) for lane in range(4))]
        pairs = pixel + [(one + READ, other + READ) for one, other in pixel]
    else:
        pairs = [(lane, lane + READ) for lane in range(8)]
    # A zero after each byte makes int16 of them.
    order = _constant([place for pair in pairs for byte in pair for place in (byte, 2 * READ)])

    def generate(context, builder, signature, arguments):
        vector = ir.VectorType(BYTE, READ)
        places = [_at(context, builder, source, arguments[1], offset, vector) for offset in arguments[2:4]]
        one, other = (builder.load(place, align=1) for place in places)
        both = builder.shuffle_vector(one, other, _constant(range(2 * READ)))
        levels = builder.shuffle_vector(both, _constant([0] * 2 * READ, 8), order)
        levels = builder.bitcast(levels, ir.VectorType(ir.IntType(16), 16))
        pair = builder.bitcast(arguments[4], ir.VectorType(ir.IntType(16), 2))
        shares = builder.shuffle_vector(pair, pair, _constant([0, 1] * 8))
        # LLVM knows the following as one instruction, such as VPMADDWD.
        wide = ir.VectorType(ir.IntType(32), 16)
        products = builder.mul(builder.zext(levels, wide), builder.sext(shares, wide))
        even = builder.shuffle_vector(products, products, _constant(range(0, 16, 2)))
        odd = builder.shuffle_vector(products, products, _constant(range(1, 16, 2)))
        return builder.add(arguments[0], builder.add(even, odd))

    return total(total, source, types.intp, types.intp, types.int32, planes), generate


@intrinsic
def write(typing, low, high, line, first, second):
    """Write the levels of sums with low and high parts of weights: half of them to `first`, half to `second`."""
    zero, most, shift, half, bits = (_constant([value] * 8) for value in (0, 255, LOW, 1 << (BITS - 1), BITS))

    def generate(context, builder, signature, arguments):
        level = builder.add(arguments[0], builder.shl(arguments[1], shift))
        level = builder.ashr(builder.add(level, half), bits)
        level = builder.select(builder.icmp_signed("<", level, zero), zero, level)
        level = builder.select(builder.icmp_signed(">", level, most), most, level)
        level = builder.trunc(level, ir.VectorType(BYTE, 8))
        for offset, part in zip(arguments[3:5], (range(4), range(4, 8)), strict=True):
            levels = builder.shuffle_vector(level, level, _constant(part))
            builder.store(levels, _at(context, builder, line, arguments[2], offset, levels.type), align=1)
        return context.get_dummy_value()

    return types.none(low, high, line, types.intp, types.intp), generate


@inner
def sinc(x):
    return 1.0 if x == 0.0 else math.sin(x * math.pi) / (x * math.pi)


@inner
def weight(x, kind):
    """Return the value of a filter at x, with Pillow's order of operations."""
    alone()
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
    alone()
    scale = np.float64(stop - start) / count
    stretch = max(scale, 1.0)
    support, shrink = SUPPORT[kind] * stretch, 1.0 / stretch
    first, size = np.empty(count, np.int64), np.empty(count, np.int64)
    for i in range(count):
        center = start + (i + 0.5) * scale
        first[i] = min(max(int(center - support + 0.5), 0), length)
        size[i] = max(min(int(center + support + 0.5), length) - first[i], 0)
    most = max(size.max(), 1)
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
    alone()
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
    alone()
    for x in range(0, size, BLOCK):
        low, high, low_after, high_after = nothing(), nothing(), nothing(), nothing()
        for k in range(len(weights)):
            a, b = places[2 * k] + x, places[2 * k + 1] + x
            low = add(low, source, a, b, weights[k, 0], ())
            high = add(high, source, a, b, weights[k, 1], ())
            low_after = add(low_after, source, a + 8, b + 8, weights[k, 0], ())
            high_after = add(high_after, source, a + 8, b + 8, weights[k, 1], ())
        p = to + x
        write(low, high, lines, p, p + 4)
        write(low_after, high_after, lines, p + 8, p + 12)


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
    spare = max(extent, stride)
    copies = np.empty(ROWS * spare, np.uint8)
    done = rows[0]
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
def resize_into(image, box, out, code, planes):
    """Resize a box (left, top, right, bottom) of an image [h, w, C] into `out` [H, W, C].

    Both are uint8 without gaps; the box lies inside the image. `code` is one of `CODES`. `planes` is 0, 1, ..., C - 1,
    so that the compiler knows how many there are: at most 4.
    """
    height, width, channels = image.shape[0], image.shape[1], len(planes)
    flat, result = frozen(image.ravel()), out.ravel()
    # Pillow's own precision of a box.
    left, top, right, bottom = np.float32(box[0]), np.float32(box[1]), np.float32(box[2]), np.float32(box[3])
    kind, stride = code % TALL, width * channels
    if kind == NEAREST:
        columns, rows = steps(width, left, right, out.shape[1]), steps(height, top, bottom, out.shape[0])
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
    if code >= TALL and height - out.shape[0] > 2 * max(width - out.shape[1], 0):
        along_first(flat, stride, columns, across, rows, along, result, planes)
    else:
        across_first(flat, stride, columns, across, rows, along, result, planes)


@inner
def neighbours(length, start, stop, count):
    """Return the input before each output, that after it, and the share of the latter."""
    before, after, share = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.float32)
    for i in range(count):
        position = min(max(start + (i + 0.5) * ((stop - start) / count) - 0.5, 0.0), length - 1.0)
        before[i] = int(position)
        after[i] = min(before[i] + 1, length - 1)
        share[i] = np.float32(position - before[i])
    return before, after, share


@cached
def blend_into(image, box, out, planes):
    """Write each pixel from its four neighbours, bilinear without antialiasing; `out` is float32, see `resize_into`."""
    width, channels, flat, result = image.shape[1], len(planes), frozen(image.ravel()), out.ravel()
    left, right, share = neighbours(width, box[0], box[2], out.shape[1])
    above, below, share_below = neighbours(image.shape[0], box[1], box[3], out.shape[0])
    line = np.empty(width * channels, np.float32)
    i = 0
    for y in range(len(above)):
        a, b = above[y] * line.size, below[y] * line.size
        for k in range(left[0] * channels, (right[-1] + 1) * channels):
            level = np.float32(flat[a + k])
            line[k] = level + (np.float32(flat[b + k]) - level) * share_below[y]
        for x in range(len(left)):
            for c in range(channels):
                level = line[left[x] * channels + c]
                result[i + c] = level + (line[right[x] * channels + c] - level) * share[x]
            i += channels


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
    corners, planes = np.array((left, top, right, bottom), np.float64), tuple(range(channels))
    if interpolation == "bilinear" and not antialias:
        blend_into(image, corners, soft := np.empty((*size, channels), np.float32), planes)
        return soft
    resize_into(image, corners, levels := np.empty((*size, channels), np.uint8), CODES[interpolation], planes)
    return levels
