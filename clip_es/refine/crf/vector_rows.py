"""Arithmetic on short rows of float32 as single vector instructions, for use inside numba functions.

Numba turns a loop over a handful of channels into scalar code. These intrinsics write the vector instructions
themselves; the width of a row is the length of a tuple, so it is known when the code is compiled. They check no bounds.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as _intrinsic

intrinsic: Any = _intrinsic  # the decorator drops the first parameter, which type checkers cannot see

_FLOAT, _INT, _INDEX = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FAST = ("fast",)
_LOG2_E = 1.4426950408889634
_EXP2 = (1.54035304e-4, 1.33335581e-3, 9.61812911e-3, 5.55041087e-2, 0.240226507, 0.693147181, 1.0)
"""2**x for -0.5..0.5 to 1e-7: the Taylor coefficients, highest first."""


@intrinsic
def gather(typingctx, out, to, start, at, table, corners, weights, pixel, row, corner):
    """out[to] = start[at] + sum over corners i of weights[pixel, i] * table[corners[pixel, i]]."""
    signature = types.void(out, types.intp, start, types.intp, table, corners, weights, types.intp, row, corner)

    def codegen(context, builder, signature, args):
        width = row.count
        total = _load(builder, _row(context, builder, signature, args, 2, args[3], width))
        for vertex, weight in _corners(context, builder, signature, args, 5, args[7], corner.count):
            value = _load(builder, _row(context, builder, signature, args, 4, vertex, width))
            total = builder.fadd(total, builder.fmul(_splat(builder, weight, width), value, flags=_FAST), flags=_FAST)
        _store(builder, total, _row(context, builder, signature, args, 0, args[1], width))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def scatter(typingctx, table, corners, weights, pixel, values, at, row, corner):
    """table[corners[pixel, i]] += weights[pixel, i] * values[at] for each corner i."""
    signature = types.void(table, corners, weights, types.intp, values, types.intp, row, corner)

    def codegen(context, builder, signature, args):
        width = row.count
        value = _load(builder, _row(context, builder, signature, args, 4, args[5], width))
        for vertex, weight in list(_corners(context, builder, signature, args, 1, args[3], corner.count)):
            place = _row(context, builder, signature, args, 0, vertex, width)
            more = builder.fmul(_splat(builder, weight, width), value, flags=_FAST)
            _store(builder, builder.fadd(_load(builder, place), more, flags=_FAST), place)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def blend(typingctx, new, old, at, one, other, row):
    """new[at] = old[at] + (old[one] + old[other]) / 2."""
    signature = types.void(new, old, types.intp, types.intp, types.intp, row)

    def codegen(context, builder, signature, args):
        width = row.count
        middle, left, right = (
            _load(builder, _row(context, builder, signature, args, 1, args[i], width)) for i in (2, 3, 4)
        )
        half = builder.fmul(builder.fadd(left, right, flags=_FAST), _constant(0.5, width), flags=_FAST)
        place = _row(context, builder, signature, args, 0, args[2], width)
        _store(builder, builder.fadd(middle, half, flags=_FAST), place)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def softmax(typingctx, out, to, start, at, row):
    """out[to] = softmax(start[at]), to 1e-6."""
    signature = types.void(out, types.intp, start, types.intp, row)

    def codegen(context, builder, signature, args):
        width = row.count
        floats, ints = ir.VectorType(_FLOAT, width), ir.VectorType(_INT, width)
        values = _load(builder, _row(context, builder, signature, args, 2, args[3], width))
        top = _call(builder, f"llvm.vector.reduce.fmax.v{width}f32", _FLOAT, values)
        power = builder.fmul(builder.fsub(values, _splat(builder, top, width)), _constant(_LOG2_E, width))
        lowest = _constant(-126, width)  # below, 2**power is no normal number
        power = builder.select(builder.fcmp_ordered(">", power, lowest), power, lowest)
        whole = _call(builder, f"llvm.rint.v{width}f32", floats, power)
        rest = builder.fsub(power, whole)
        exponential = _constant(0, width)
        for coefficient in _EXP2:
            exponential = builder.fmul(exponential, rest, flags=_FAST)
            exponential = builder.fadd(exponential, _constant(coefficient, width), flags=_FAST)
        bits = builder.add(builder.fptosi(whole, ints), ir.Constant(ints, [127] * width))
        bits = builder.shl(bits, ir.Constant(ints, [23] * width))  # 2**whole, by its exponent
        exponential = builder.fmul(exponential, builder.bitcast(bits, floats))
        total = _call(builder, f"llvm.vector.reduce.fadd.v{width}f32", _FLOAT, ir.Constant(_FLOAT, 0.0), exponential)
        share = _splat(builder, builder.fdiv(ir.Constant(_FLOAT, 1.0), total), width)
        _store(builder, builder.fmul(exponential, share), _row(context, builder, signature, args, 0, args[1], width))
        return context.get_dummy_value()

    return signature, codegen


def _data(context, builder, signature, args, position):
    return context.make_array(signature.args[position])(context, builder, args[position]).data


def _row(context, builder, signature, args, position, index, width):
    """Pointer to a row of the C-contiguous array that is argument `position`."""
    data = _data(context, builder, signature, args, position)
    place = builder.gep(data, [builder.mul(index, ir.Constant(_INDEX, width))])
    return builder.bitcast(place, ir.VectorType(_FLOAT, width).as_pointer())


def _corners(context, builder, signature, args, position, pixel, count):
    """Vertex and weight of each corner of a pixel; the arrays are the arguments at `position` and after it."""
    vertices = _data(context, builder, signature, args, position)
    weights = _data(context, builder, signature, args, position + 1)
    first = builder.mul(pixel, ir.Constant(_INDEX, count))
    for i in range(count):
        place = builder.add(first, ir.Constant(_INDEX, i))
        vertex = builder.sext(builder.load(builder.gep(vertices, [place])), _INDEX)
        yield vertex, builder.load(builder.gep(weights, [place]))


def _load(builder, pointer):
    value = builder.load(pointer)
    value.align = 4
    return value


def _store(builder, value, pointer):
    builder.store(value, pointer).align = 4


def _constant(value, width):
    return ir.Constant(ir.VectorType(_FLOAT, width), [float(value)] * width)


def _splat(builder, scalar, width):
    single = builder.insert_element(_constant(0, width), scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(_INT, width), [0] * width))


def _call(builder, name, result, *args):
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args, fastmath=_FAST)
