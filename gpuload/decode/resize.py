"""Resize on the CPU that numba compiles, with the same bits as Pillow's."""

# mypy: disable-error-code="no-untyped-def"

import functools
import math
from typing import Any, get_args

import numba
import numpy as np
import PIL
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, models, register_model

from gpuload.decode.spec import Interpolation

# To numba, globals are constants.
NEAREST, BILINEAR, BICUBIC, LANCZOS, BOX, HAMMING = range(6)
TALL = 8
SUPPORT = (0.0, 1.0, 2.0, 3.0, 0.5, 1.0)
"""Half the width of each filter."""
# Single precision, as in Pillow.
FLAT, ROUND = float(np.float32(0.54)), float(np.float32(0.46))
BITS = 22
"""Bits of a weight behind the point."""
LOW = 11
"""Bits of the low part of a weight: both parts fit into int16, for which processors have a quick product of pairs."""
HALF = 1 << (BITS - 1)
ROWS = 4
"""Rows that are resized at once."""
BLOCK = 32
"""Levels of a row that are blended at once."""
READ = 16
"""Bytes of one read from an image. Some of the bytes have no meaning and a weight of 0."""

CODES = {
    name: code + TALL * (int(PIL.__version__.split(".")[0]) >= 13) for code, name in enumerate(get_args(Interpolation))
}
PLANES = {channels: tuple(range(channels)) for channels in (1, 2, 3, 4)}

compiled = functools.partial(
    numba.njit, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
)


class Lanes(types.Type):  # type: ignore[misc]
    """Eight int32 in a register. Not more: 512 bits slow the processor down, and so the code before and after."""

    count = 8

    def __init__(self) -> None:
        super().__init__(name="Lanes")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    """Representation of lanes for LLVM, which knows their instructions on every processor."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.IntType(32), kind.count))


def _constant(values: Any, bits: int = 32) -> Any:
    values = list(values)
    return ir.Constant(ir.VectorType(ir.IntType(bits), len(values)), values)


def _pick(builder: Any, first: Any, second: Any, order: Any) -> Any:
    """Return elements of two vectors, numbered through."""
    return builder.shuffle_vector(first, second, _constant(order))


def _at(context: Any, builder: Any, kind: Any, array: Any, offset: Any, element: Any) -> Any:
    """Return the address of vectors in an array of bytes."""
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
def lanes(typing, value):
    """Return lanes of one value."""

    def generate(context, builder, signature, arguments):
        single = builder.insert_element(_constant([0] * Lanes.count), arguments[0], ir.IntType(32)(0))
        return _pick(builder, single, single, [0] * Lanes.count)

    return Lanes()(types.int32), generate


@intrinsic
def frozen(typing, array):
    """Return the array as one that cannot be written, so that functions are compiled for this kind only."""

    def generate(context, builder, signature, arguments):
        return impl_ret_borrowed(context, builder, signature.return_type, arguments[0])

    return array.copy(readonly=True)(array), generate


@intrinsic
def add(typing, total, source, first, second, weights, planes):
    """Return `total` plus the levels of pairs, times their two weights.

    With planes, half of the lanes are the channels of two neighbouring pixels at `first`, the other half of those at
    `second`. Without, they are eight levels at `first`, and those at `second`. `weights` are two int16 in an int32.
    """
    channels, count = planes.count, Lanes.count
    if channels:
        half = [(min(c, channels - 1), min(c, channels - 1) + channels) for c in range(count // 2)]
        pairs = half + [(one + READ, other + READ) for one, other in half]
    else:
        pairs = [(lane, lane + READ) for lane in range(count)]

    def generate(context, builder, signature, arguments):
        read = ir.VectorType(ir.IntType(8), READ)
        ends = [
            builder.load(_at(context, builder, source, arguments[1], offset, read), align=1)
            for offset in arguments[2:4]
        ]
        both = _pick(builder, *ends, range(2 * READ))
        # A zero after each byte makes int16 of them.
        order = [place for pair in pairs for byte in pair for place in (byte, 2 * READ)]
        short = ir.VectorType(ir.IntType(16), 2 * count)
        levels = builder.bitcast(_pick(builder, both, _constant([0] * 2 * READ, 8), order), short)
        pair = builder.bitcast(arguments[4], ir.VectorType(ir.IntType(16), 2))
        # LLVM knows the following as one instruction, such as VPMADDWD.
        wide = ir.VectorType(ir.IntType(32), 2 * count)
        shares = builder.sext(_pick(builder, pair, pair, [0, 1] * count), wide)
        products = builder.mul(builder.zext(levels, wide), shares)
        even, odd = (_pick(builder, products, products, range(start, 2 * count, 2)) for start in (0, 1))
        return builder.add(arguments[0], builder.add(even, odd))

    return total(total, source, types.intp, types.intp, types.int32, planes), generate


@intrinsic
def write(typing, low, high, line, first, second):
    """Write the levels of sums with low and high parts of weights: half of them to `first`, half to `second`."""

    def generate(context, builder, signature, arguments):
        def every(value):
            return _constant([value] * Lanes.count)

        level = builder.ashr(builder.add(arguments[0], builder.shl(arguments[1], every(LOW))), every(BITS))
        level = builder.select(builder.icmp_signed("<", level, every(0)), every(0), level)
        level = builder.select(builder.icmp_signed(">", level, every(255)), every(255), level)
        level = builder.trunc(level, ir.VectorType(ir.IntType(8), Lanes.count))
        size = Lanes.count // 2
        for number, offset in enumerate(arguments[3:5]):
            part = _pick(builder, level, level, range(number * size, (number + 1) * size))
            builder.store(part, _at(context, builder, line, arguments[2], offset, part.type), align=1)
        return context.get_dummy_value()

    return types.none(low, high, line, types.intp, types.intp), generate


@intrinsic
def copy(typing, source, at, size, target, to):
    """Copy bytes. Slices would do the same, and take seconds to compile."""

    def generate(context, builder, signature, arguments):
        start = _at(context, builder, source, arguments[0], arguments[1], ir.IntType(8))
        end = _at(context, builder, target, arguments[3], arguments[4], ir.IntType(8))
        cgutils.raw_memcpy(builder, end, start, arguments[2], 1)
        return context.get_dummy_value()

    return types.none(source, types.intp, types.intp, target, types.intp), generate


@compiled
def sinc(x):
    return 1.0 if x == 0.0 else math.sin(x * math.pi) / (x * math.pi)


@compiled
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


@compiled
def taps(length, start, stop, count, kind):
    """Return the first input of each output, and weights [count, pairs, 2] of it and those after it.

    The weights of two inputs are in one int32 for their low parts, and in one for their high parts.
    """
    alone()
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
        center = start + (i + 0.5) * scale
        total = 0.0
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


@compiled
def resize_rows(source, at, stride, first, weights, lines, to, step, planes):
    """Resize the four rows at `at` horizontally, into lines at `to`."""
    alone()
    channels = len(planes)
    for x in range(len(first)):
        a = at + first[x] * channels
        low, high, low_after, high_after = lanes(HALF), lanes(0), lanes(HALF), lanes(0)
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


@compiled
def blend_rows(source, places, weights, size, lines, to):
    """Blend the rows at `places` into a line at `to`."""
    alone()
    for x in range(0, size, BLOCK):
        low, low1, low2, low3 = lanes(HALF), lanes(HALF), lanes(HALF), lanes(HALF)
        high, high1, high2, high3 = lanes(0), lanes(0), lanes(0), lanes(0)
        for k in range(len(weights)):
            a, b, share, rest = places[2 * k] + x, places[2 * k + 1] + x, weights[k, 0], weights[k, 1]
            low, high = add(low, source, a, b, share, ()), add(high, source, a, b, rest, ())
            a, b = a + 8, b + 8
            low1, high1 = add(low1, source, a, b, share, ()), add(high1, source, a, b, rest, ())
            a, b = a + 8, b + 8
            low2, high2 = add(low2, source, a, b, share, ()), add(high2, source, a, b, rest, ())
            a, b = a + 8, b + 8
            low3, high3 = add(low3, source, a, b, share, ()), add(high3, source, a, b, rest, ())
        p = to + x
        write(low, high, lines, p, p + 4)
        write(low1, high1, lines, p + 8, p + 12)
        write(low2, high2, lines, p + 16, p + 20)
        write(low3, high3, lines, p + 24, p + 28)


@compiled
def padded(size):
    """Return the room for a line that is written in blocks, and read beyond its end."""
    return (size + BLOCK - 1) // BLOCK * BLOCK + READ


@compiled
def across_first(flat, stride, columns, across, rows, along, out, planes):
    """Resize rows, and then blend them. `flat` are all bytes of the image; `out` those of the result."""
    alone()
    channels = len(planes)
    height, size = len(flat) // stride, len(columns) * channels
    # Rows that were resized, in turn in as many places as are needed at once.
    reach, step = 2 * along.shape[1], padded(size)
    room = (reach + 2 * ROWS - 2) // ROWS * ROWS
    lines, line, places = np.empty(room * step, np.uint8), np.empty(step, np.uint8), np.empty(reach, np.int64)
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
        blend_rows(frozen(lines), places, along[y], size, line, 0)
        copy(line, 0, size, out, y * size)


@compiled
def along_first(flat, stride, columns, across, rows, along, out, planes):
    """Blend rows, and then resize them, see `across_first`."""
    alone()
    channels = len(planes)
    height, size = len(flat) // stride, len(columns) * channels
    begin = columns[0] * channels
    extent = (columns[-1] - columns[0] + (across.shape[1] - 1) * 2) * channels + READ
    span = min(extent, stride - begin)
    reach, step, apart = 2 * along.shape[1], padded(extent), padded(size)
    lines, results = np.empty(ROWS * step, np.uint8), np.empty(ROWS * apart, np.uint8)
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
        resize_rows(frozen(lines), -begin, step, columns, across, results, 0, apart, planes)
        for y in range(start, min(start + ROWS, len(rows))):
            copy(results, (y - start) * apart, size, out, y * size)


@compiled
def resize_into(image, box, out, code, planes):
    """Resize a box (left, top, right, bottom) of an image [h, w, C] into `out` [H, W, C].

    Both are uint8 without gaps. The box lies inside the image. `code` is of `CODES`, `planes` of `PLANES`.
    """
    alone()
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
                for c in range(channels):
                    result[i + c] = flat[p + c]
                i += channels
        return
    columns, across = taps(width, left, right, out.shape[1], kind)
    rows, along = taps(height, top, bottom, out.shape[0], kind)
    if code >= TALL and height - out.shape[0] > 2 * max(width - out.shape[1], 0):
        along_first(flat, stride, columns, across, rows, along, result, planes)
    else:
        across_first(flat, stride, columns, across, rows, along, result, planes)


@compiled
def steps(length, start, stop, count):
    """Return the nearest input of each output. The position is a sum of steps, as in Pillow: that decides ties."""
    alone()
    step = np.float64(stop - start) / count
    position = start + step * 0.5
    nearest = np.empty(count, np.int64)
    for i in range(count):
        nearest[i] = min(max(int(position), 0), length - 1)
        position += step
    return nearest


@compiled
def neighbours(length, start, stop, count):
    """Return the input before each output, that after it, and the share of the latter."""
    before, after, share = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.float32)
    for i in range(count):
        position = min(max(start + (i + 0.5) * ((stop - start) / count) - 0.5, 0.0), length - 1.0)
        before[i] = int(position)
        after[i] = min(before[i] + 1, length - 1)
        share[i] = np.float32(position - before[i])
    return before, after, share


@compiled
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
