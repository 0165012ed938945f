"""Vectors of levels and weights in code that numba compiles: the instructions that a resize spends its time on."""

# mypy: disable-error-code="no-untyped-def"

import functools
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, models, register_model

BITS, LOW = 22, 11
"""Bits of a weight behind the point, and of its low part. Both parts fit into int16."""
READ = 16
"""Bytes of one read from an image. Those that mean nothing have a weight of 0."""

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
