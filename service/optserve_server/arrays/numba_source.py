"""Generator of Python source for Numba: a program as one fused scalar loop."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import llvmlite.binding
import numpy as np

from optserve_server.arrays import numba_runtime
from optserve_server.arrays.narrow_floats import BFLOAT16, FLOAT16, FLOAT64
from optserve_server.arrays.program import Instruction, Load, Op, Operand, Program, ReductionKind
from optserve_server.arrays.reductions import BLOCK, LANES
from optserve_server.arrays.source_generation import FUNCTIONS, INFIX, OperandNames, find_loads, find_stores

CHUNK = 1024
"""Elements whose summands wait in the nearest cache; a multiple of `LANES`."""

BY_INTEGERS = "decode_float16", "encode_float16"
BY_INSTRUCTION = "widen_half", "narrow_half"

HALVES = BY_INSTRUCTION if llvmlite.binding.get_host_cpu_features().get("f16c") else BY_INTEGERS
"""What reads and writes a float16 in a kernel."""

EXPRESSIONS = {
    **INFIX,
    **{op: f"math.{op}({{0}})" for op in FUNCTIONS},
    Op.SELECT: "{1} if {0} else {2}",
    Op.ABS: "abs({0})",
    Op.SIGN: "T(1.0) if {0} > T(0.0) else (T(-1.0) if {0} < T(0.0) else (T(0.0) if {0} == T(0.0) else {0}))",
    Op.MAXIMUM: "{0} if ({0} > {1}) | ({0} != {0}) else {1}",
    Op.MINIMUM: "{0} if ({0} < {1}) | ({0} != {0}) else {1}",
}

SUMMANDS = {
    ReductionKind.SUM_OF_SQUARES: "add_squares",
    ReductionKind.SUM_OF_MAGNITUDES: "add_magnitudes",
    ReductionKind.NON_FINITE_COUNT: "add_non_finite",
}

CUT = 8
"""Entries of a table before those of arrays; see `numba_source`."""

PLAIN = """
def kernel(low, high, table):
{arrays}
{numbers}
    start = low
    segment = find_first_greater(ends, low)
    while start < high:
        end = min(ends[segment], high)
{runs}
{slices}
        for i in range(end - start):
{body}
        start = end
        segment += 1
"""

REDUCING = """
def kernel(low, high, table):
{arrays}
{numbers}
    lanes = np.empty(({count}, {LANES}))
    values = np.empty(({buffered}, {chunk}), T)
    segment = find_first_greater(firsts, low) - 1
    for block in range(low, high):
        while firsts[segment + 1] <= block:
            segment += 1
        start = starts[segment] + (block - firsts[segment]) * {BLOCK}
        stop = min(start + {BLOCK}, ends[segment])
        lanes[:] = 0.0
{runs}
        while start < stop:
            end = min(start + {chunk}, stop)
{slices}
            for i in range(end - start):
{body}
{summed}
            start = end
{folded}
"""


def numba_source(
    program: Program, dtype: np.dtype[Any], dtypes: Sequence[np.dtype[Any]], *, whole: bool = True
) -> str:
    """The text of a module that defines ``kernel(low, high, table)``.

    It computes the elements, or where the program reduces the blocks, from ``low`` to before
    ``high``. The table (int64) holds the addresses of the segments' starts, ends and first
    blocks; how many segments there are; the addresses of the scalars, of the segment scalars
    (one row each) and of the blocks' sums (one row per reduction); how many blocks there are;
    and the address of each array. So a call converts three arguments, however many arrays
    there are.

    Args:
        program: the program.
        dtype: the compute dtype.
        dtypes: the storage dtype of each of the program's arrays; 16-bit floats are
            passed as uint16.
        whole: whether what kernels call is part of the text; otherwise its names, those of
            `numba_runtime`, have to be there when the module is run.
    """
    names = OperandNames.from_program(program)
    rows = range(len(program.reductions))
    depth = 4 if program.reductions else 3
    buffered = _find_buffered_operands(program, dtype, dtypes)
    text = (REDUCING if rows else PLAIN).format(
        arrays=_indent_lines(1, _array_declarations(program, dtypes)),
        numbers=_indent_lines(1, _scalar_declarations(names)),
        runs=_indent_lines(2, [
            f"c{i} = T(runs[{i} * table[3] + segment])" for i in range(len(program.segment_scalars))
        ]),
        slices=_indent_lines(depth - 1, [f"b{i} = a{i}[start:end]" for i in range(len(program.arrays))] + [
            f"v{i} = values[{i}, : end - start]" for i in range(len(buffered))
        ]),
        body=_indent_lines(depth, _loop_body_statements(names, dtype, dtypes, buffered) or ["pass"]),
        summed=_indent_lines(3, [
            f"{SUMMANDS[r.kind]}({_locate_summand(program, r.operand, buffered)}, lanes[{i}])"
            for i, r in enumerate(program.reductions)
        ]),
        folded=_indent_lines(2, [f"sums[{i} * table[7] + block] = fold_lanes(lanes[{i}])" for i in rows]),
        count=len(rows), buffered=len(buffered), chunk=CHUNK if buffered else BLOCK, LANES=LANES, BLOCK=BLOCK,
    )  # fmt: skip
    return f"{runtime_source() if whole else ''}\nT = np.{dtype.name}\n{text}"


def runtime_source() -> str:
    """The text of what kernels call."""
    return inspect.getsource(numba_runtime)


def _array_declarations(program: Program, dtypes: Sequence[np.dtype[Any]]) -> list[str]:
    """What the table leads to."""
    lines = [
        "starts = array_at(np.int64, table[0], table[3])",
        "ends = array_at(np.int64, table[1], table[3])",
        "firsts = array_at(np.int64, table[2], table[3] + 1)",
        f"numbers = array_at(np.float64, table[4], {len(program.scalars)})",
        f"runs = array_at(np.float64, table[5], {len(program.segment_scalars)} * table[3])",
        f"sums = array_at(np.float64, table[6], {len(program.reductions)} * table[7])",
        "size = ends[table[3] - 1]",
    ]
    for i, dtype in enumerate(dtypes):
        lines.append(f"a{i} = array_at(np.{kernel_dtype(dtype).name}, table[{CUT + i}], size)")
    return lines


def kernel_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What a kernel takes an array of ``dtype`` for."""
    return np.dtype(np.uint16) if dtype in (FLOAT16, BFLOAT16) else dtype


def _indent_lines(depth: int, lines: Sequence[str]) -> str:
    return "\n".join(" " * 4 * depth + line for line in lines)


def _scalar_declarations(names: OperandNames) -> list[str]:
    """Rounds scalars and constants to the compute dtype, under names of their own.

    Numba would keep a float64 variable that is assigned again wide.
    """
    lines = [f"s{i} = T(numbers[{i}])" for i in range(len(names.program.scalars))]
    return lines + [f"k{i} = T({_float_literal(x.value)})" for i, x in enumerate(names.constants)]


def _float_literal(value: float) -> str:
    if math.isnan(value):
        return "np.nan"
    return repr(value) if math.isfinite(value) else f"{'-' if value < 0 else ''}np.inf"


def _find_buffered_operands(
    program: Program, dtype: np.dtype[Any], dtypes: Sequence[np.dtype[Any]]
) -> tuple[Operand, ...]:
    """What is summed and has to wait for it; the elements of some arrays are there already."""
    there = {
        Load(name)
        for name, storage in zip(program.arrays, dtypes, strict=True)
        if storage == dtype and name not in find_stores(program)
    }
    return tuple(dict.fromkeys(r.operand for r in program.reductions if r.operand not in there))


def _locate_summand(program: Program, operand: Operand, buffered: Sequence[Operand]) -> str:
    """Where a chunk's values of ``operand`` are."""
    if operand in buffered:
        return f"v{buffered.index(operand)}"
    assert isinstance(operand, Load)
    return f"b{program.arrays.index(operand.name)}"


def _loop_body_statements(
    names: OperandNames, dtype: np.dtype[Any], dtypes: Sequence[np.dtype[Any]], buffered: Sequence[Operand]
) -> list[str]:
    program = names.program
    lines = [f"x{i} = {_decode_expression(f'b{i}[i]', dtype, dtypes[i])}" for i in find_loads(program)]
    lines += [f"r{i} = {_instruction_expression(names, k)}" for i, k in enumerate(program.instructions)]
    for name, x in program.stores:
        number = program.arrays.index(name)
        lines.append(f"b{number}[i] = {_encode_expression(names[x], dtype, dtypes[number])}")
    return lines + [f"v{i}[i] = {names[x]}" for i, x in enumerate(buffered)]


def _instruction_expression(names: OperandNames, instruction: Instruction) -> str:
    return EXPRESSIONS[instruction.op].format(*[names[x] for x in instruction.operands])


def _decode_expression(element: str, dtype: np.dtype[Any], storage: np.dtype[Any]) -> str:
    if storage == dtype:
        return element
    if storage == FLOAT16:
        element = f"{HALVES[0]}({element})"
    if storage == BFLOAT16:
        element = f"decode_bfloat16({element})"
    return f"T({element})"


def _encode_expression(value: str, dtype: np.dtype[Any], storage: np.dtype[Any]) -> str:
    if storage == dtype:
        return value
    if storage in (FLOAT16, BFLOAT16):
        narrow = f"round_to_odd({value})" if dtype == FLOAT64 else value
        return f"{HALVES[1] if storage == FLOAT16 else 'encode_bfloat16'}({narrow})"
    return f"np.{storage.name}({value})"
