"""Runtime functions of compiled kernels: conversion of narrow floats, and sums in the fixed order.

The text of this module is put in front of every generated kernel, so that Numba's disk
cache, which is named by the text, can never hold a kernel with an older version of it.
"""

import math  # noqa: F401  for the kernels
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic
from numba.np import arrayobj

jit = numba.njit(nogil=True, error_model="numpy")


@intrinsic
def array_at(_context: Any, dtype: Any, address: Any, size: Any) -> Any:
    """The contiguous array of ``dtype`` at an address, which need not be aligned."""
    array = types.Array(dtype.dtype, 1, "C", aligned=False)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = arrayobj.make_array(array)(context, builder)  # type: ignore[no-untyped-call]
        item = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(dtype.dtype)))
        data = builder.inttoptr(arguments[1], made.data.type)
        shape = [arguments[2]]
        arrayobj.populate_array(made, data, shape, [item], item, None)  # type: ignore[no-untyped-call]
        return made._getvalue()

    return array(dtype, types.int64, types.int64), generate


@intrinsic
def widen_half(_context: Any, half: Any) -> Any:
    """A float32 from the bits of a float16, by the processor's own instruction."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def narrow_half(_context: Any, x: Any) -> Any:
    """The bits of a float32 rounded to float16, to nearest even, by the processor's own instruction."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@jit
def bits_of(x: Any) -> Any:
    """The bits of a float32 as uint32."""
    return np.float32(x).view(np.uint32)


@jit
def float_of(bits: Any) -> Any:
    """The float32 with these bits."""
    return np.uint32(bits).view(np.float32)


@jit
def decode_bfloat16(h: Any) -> Any:
    """A float32 from the bits of a bfloat16."""
    return float_of(np.uint32(h) << np.uint32(16))


@jit
def decode_float16(h: Any) -> Any:
    """A float32 from the bits of a float16, by integers alone for all but subnormals."""
    magnitude = np.uint32(h) & np.uint32(0x7FFF)
    normal = (magnitude << np.uint32(13)) + np.uint32(0x38000000)
    special = (magnitude << np.uint32(13)) | np.uint32(0x7F800000)
    small = bits_of(np.float32(np.int32(magnitude)) * np.float32(2.0**-24))
    bits = small if magnitude < np.uint32(0x400) else normal
    bits = special if magnitude >= np.uint32(0x7C00) else bits
    return float_of(bits | ((np.uint32(h) & np.uint32(0x8000)) << np.uint32(16)))


@jit
def round_to_odd(x: Any) -> Any:
    """A float64 as float32, rounded to the odd neighbour where inexact."""
    near = np.float32(x)
    wide = np.float64(near)
    bits = bits_of(near)
    down = bits - np.uint32(1) if abs(wide) > abs(x) else bits
    return float_of(down | np.uint32(1)) if (wide != x) & (x == x) else near


@jit
def encode_bfloat16(x: Any) -> Any:
    """The bits of a float32 rounded to bfloat16, to nearest even."""
    bits = bits_of(x)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + even) >> np.uint32(16)
    return np.uint16(rounded if x == x else np.uint32(0x7FC0))


@jit
def encode_float16(x: Any) -> Any:
    """The bits of a float32 rounded to float16, to nearest even."""
    magnitude = bits_of(x) & np.uint32(0x7FFFFFFF)
    even = (magnitude >> np.uint32(13)) & np.uint32(1)
    normal = (magnitude - np.uint32(0x38000000) + np.uint32(0xFFF) + even) >> np.uint32(13)
    # Below 2**-14 the unit is 2**-24: adding 2**23 units rounds to whole ones.
    units = float_of(magnitude) * np.float32(2.0**24) + np.float32(2.0**23)
    small = bits_of(units) - np.uint32(0x4B000000)
    bits = small if magnitude < np.uint32(0x38800000) else normal
    bits = np.uint32(0x7C00) if magnitude >= np.uint32(0x477FF000) else bits
    bits = bits if x == x else np.uint32(0x7E00)
    return np.uint16(bits | ((bits_of(x) >> np.uint32(16)) & np.uint32(0x8000)))


@jit
def add_squares(values: Any, lanes: Any) -> Any:
    """Adds the squares of ``values`` to the lanes, row by row."""
    rows = len(values) // 64
    fours = rows // 4
    for row in range(fours):  # a lane is read and written once for four rows
        part = values[row * 256 : row * 256 + 256]
        for j in range(64):
            lane = lanes[j]
            lane += np.float64(part[j]) * np.float64(part[j])
            lane += np.float64(part[j + 64]) * np.float64(part[j + 64])
            lane += np.float64(part[j + 128]) * np.float64(part[j + 128])
            lane += np.float64(part[j + 192]) * np.float64(part[j + 192])
            lanes[j] = lane
    for row in range(fours * 4, rows):
        part = values[row * 64 : row * 64 + 64]
        for j in range(64):
            lanes[j] += np.float64(part[j]) * np.float64(part[j])
    part = values[rows * 64 :]
    for j in range(len(part)):
        lanes[j] += np.float64(part[j]) * np.float64(part[j])


@jit
def add_magnitudes(values: Any, lanes: Any) -> Any:
    """Adds the magnitudes of ``values`` to the lanes, row by row."""
    rows = len(values) // 64
    for row in range(rows):
        part = values[row * 64 : row * 64 + 64]
        for j in range(64):
            lanes[j] += abs(np.float64(part[j]))
    part = values[rows * 64 :]
    for j in range(len(part)):
        lanes[j] += abs(np.float64(part[j]))


@jit
def add_non_finite(values: Any, lanes: Any) -> Any:
    """Adds to a lane how many of ``values`` are not finite; a count needs no order."""
    count = 0
    for i in range(len(values)):
        count += not (abs(values[i]) < np.inf)
    lanes[0] += count


@jit
def fold_lanes(lanes: Any) -> Any:
    """The sum of the lanes, folded by halves. Overwrites them."""
    width = 32
    while width > 0:
        for j in range(width):
            lanes[j] += lanes[j + width]
        width //= 2
    return lanes[0]


@jit
def find_first_greater(marks: Any, position: Any) -> Any:
    """The index of the first of ascending ``marks`` that is greater than ``position``."""
    low, high = 0, len(marks)
    while low < high:
        middle = (low + high) // 2
        if marks[middle] > position:
            high = middle
        else:
            low = middle + 1
    return low


@jit
def fold_blocks(sums: Any, firsts: Any, out: Any) -> Any:
    """Adds up the blocks of each segment, in order; (reductions, blocks) to (reductions, segments)."""
    for row in range(len(sums)):
        for segment in range(len(firsts) - 1):
            total = 0.0
            for block in range(firsts[segment], firsts[segment + 1]):
                total += sums[row, block]
            out[row, segment] = total
