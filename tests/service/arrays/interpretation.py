"""What a program means: each instruction once, on whole arrays, in plain NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.kernel import Segments
from optserve_server.arrays.narrow_floats import BFLOAT16, FLOAT64
from optserve_server.arrays.program import Constant, Load, Op, Operand, Program, ReductionKind, Result, Scalar

ACCURATE: Mapping[Op, Any] = {
    Op.ADD: np.add, Op.SUBTRACT: np.subtract, Op.MULTIPLY: np.multiply, Op.DIVIDE: np.divide,
    Op.NEGATE: np.negative, Op.LESS: np.less, Op.LESS_EQUAL: np.less_equal, Op.GREATER: np.greater,
    Op.GREATER_EQUAL: np.greater_equal, Op.EQUAL: np.equal, Op.SELECT: np.where, Op.SQRT: np.sqrt,
    Op.ABS: np.abs, Op.SIGN: np.sign, Op.EXP: np.exp, Op.EXPM1: np.expm1, Op.LOG: np.log,
    Op.LOG1P: np.log1p, Op.TANH: np.tanh,
    Op.MAXIMUM: lambda a, b: np.where((a > b) | np.isnan(a), a, b),
    Op.MINIMUM: lambda a, b: np.where((a < b) | np.isnan(a), a, b),
}  # fmt: skip


def interpret(
    program: Program,
    dtype: np.dtype[Any],
    arrays: Mapping[str, npt.NDArray[Any]],
    scalars: Mapping[str, float],
    segments: Segments,
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[np.float64]]]:
    """The arrays as the program leaves them, and its reductions one element at a time."""
    lengths = np.diff(segments.ends, prepend=0)
    results: list[Any] = []

    def value(x: Operand) -> Any:
        match x:
            case Load():
                return arrays[x.name].astype(dtype)
            case Scalar():
                return dtype.type(scalars[x.name])
            case Constant():
                return dtype.type(x.value)
            case Result():
                return results[x.index]
        return np.repeat(segments.scalars[x.name].astype(dtype), lengths)

    with np.errstate(all="ignore"):
        for instruction in program.instructions:
            results.append(ACCURATE[instruction.op](*map(value, instruction.operands)))
        after = dict(arrays)
        for name, x in program.stores:
            after[name] = round_to(
                np.broadcast_to(value(x), arrays[name].shape).astype(dtype), arrays[name].dtype
            )
        sums = {r.name: lane_sums(summands(r.kind, value(r.operand)), segments) for r in program.reductions}
    return after, sums


def round_to(x: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """``x`` rounded once, to nearest even."""
    if not (x.dtype == FLOAT64 and dtype == BFLOAT16):
        return x.astype(dtype)
    near = x.astype(np.float32).astype(BFLOAT16)  # rounded twice: at a tie the first may mislead
    bits = near.view(np.uint16)
    neighbours = np.stack([near, (bits + 1).view(BFLOAT16), (bits - np.uint16(1)).view(BFLOAT16)])
    wide = neighbours.astype(np.float64)
    wide[np.isinf(wide)] = np.copysign(2.0**128, wide[np.isinf(wide)])
    distance = np.where(np.sign(wide) * np.sign(x) < 0, np.inf, np.abs(wide - x))
    distance[np.isnan(distance)] = np.inf
    best = distance == distance.min(axis=0)
    even = (neighbours.view(np.uint16) & 1) == 0
    rank = np.where(best, 1 + even, 0)
    chosen = np.take_along_axis(neighbours, rank.argmax(axis=0)[None], axis=0)[0]
    return np.where(np.isfinite(x) & (x != 0), chosen, near)


def summands(kind: ReductionKind, x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """What each element adds."""
    wide = x.astype(np.float64)
    if kind is ReductionKind.SUM_OF_SQUARES:
        return wide * wide
    return (
        np.abs(wide) if kind is ReductionKind.SUM_OF_MAGNITUDES else (~np.isfinite(wide)).astype(np.float64)
    )


def lane_sums(x: npt.NDArray[np.float64], segments: Segments) -> npt.NDArray[np.float64]:
    """The sums of segments in the order that `optserve_server.arrays.reductions` states."""
    totals, start = [], 0
    for end in segments.ends:
        total = 0.0
        for low in range(start, int(end), 8192):
            block = x[low : min(low + 8192, int(end))]
            lanes = np.zeros(64)
            for row in range(0, len(block), 64):
                part = block[row : row + 64]
                lanes[: len(part)] = lanes[: len(part)] + part
            for width in (32, 16, 8, 4, 2, 1):
                lanes = lanes[:width] + lanes[width : 2 * width]
            total += float(lanes[0])
        totals.append(total)
        start = int(end)
    return np.array(totals)
