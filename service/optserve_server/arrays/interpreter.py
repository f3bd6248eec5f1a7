"""Execution of a program's instructions with any `Ops`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from optserve_server.arrays.ops import Ops, Value
from optserve_server.arrays.program import Constant, Load, Op, Operand, Program, Result, Scalar

OPERATORS: Mapping[Op, Callable[..., Any]] = {
    Op.ADD: operator.add,
    Op.SUBTRACT: operator.sub,
    Op.MULTIPLY: operator.mul,
    Op.DIVIDE: operator.truediv,
    Op.NEGATE: operator.neg,
    Op.LESS: operator.lt,
    Op.LESS_EQUAL: operator.le,
    Op.GREATER: operator.gt,
    Op.GREATER_EQUAL: operator.ge,
    Op.EQUAL: operator.eq,
}
"""Operations that values have themselves; the others are functions of `Ops`."""

Values = Mapping[Load | Scalar, Value]
"""What stands for arrays and numbers."""


def apply_operation(ops: Ops, op: Op, *values: Value) -> Value:
    """One operation."""
    if op in OPERATORS:
        return OPERATORS[op](*values)
    return getattr(ops, "where" if op is Op.SELECT else op.value)(*values)


def interpret_program(program: Program, ops: Ops, values: Values) -> dict[str, Value]:
    """What a program without segment scalars stores, by array.

    Args:
        program: the program.
        ops: the operations.
        values: a value for each array that is read and each scalar.
    """
    results: list[Value] = []

    def value(x: Operand) -> Value:
        match x:
            case Result():
                return results[x.index]
            case Constant():
                return x.value
            case Load() | Scalar():
                return values[x]
        raise TypeError("a replay has no segments")

    for instruction in program.instructions:
        results.append(apply_operation(ops, instruction.op, *map(value, instruction.operands)))
    return {name: value(x) for name, x in program.stores}
