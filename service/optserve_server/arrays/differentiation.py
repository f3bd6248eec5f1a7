"""Forward-mode differentiation: the derivative of a program, within the same program.

Forward mode: every instruction is followed by that of its tangent. There is one input to
differentiate by and every array is as long as every other, so reverse mode
would save nothing; and a branch that ``where`` does not take cannot spoil the taken branch,
as 0 times infinity does in reverse mode.

Where a function bends, the derivative is
    abs(x) at 0: 0
    maximum(a, b), minimum(a, b) at a = b: half of each, as in JAX and PyTorch
    where(c, a, b): that of the branch taken; conditions have none
    sign(x): 0 everywhere
and where it is vertical, as sqrt(x) at 0, infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from optserve_server.arrays.interpreter import apply_operation
from optserve_server.arrays.ops import Ops, Value
from optserve_server.arrays.program import Constant, Load, Op, Operand, Program, Result, Scalar
from optserve_server.arrays.register_allocation import COMPARISONS
from optserve_server.arrays.trace import Tracer

Tangent: TypeAlias = Value | None
"""A derivative; None if it is 0 by the form of the formula alone."""

Partial: TypeAlias = Callable[[Ops, Sequence[Value], Value], Value]
"""From operands and result to the derivative with respect to one operand."""

PARTIALS: Mapping[Op, tuple[Partial, ...]] = {
    Op.ADD: (lambda o, x, y: 1.0, lambda o, x, y: 1.0),
    Op.SUBTRACT: (lambda o, x, y: 1.0, lambda o, x, y: -1.0),
    Op.MULTIPLY: (lambda o, x, y: x[1], lambda o, x, y: x[0]),
    Op.DIVIDE: (lambda o, x, y: _reciprocal(x[1]), lambda o, x, y: -y / x[1]),
    Op.NEGATE: (lambda o, x, y: -1.0,),
    Op.SQRT: (lambda o, x, y: 0.5 / y,),
    Op.ABS: (lambda o, x, y: o.sign(x[0]),),
    Op.EXP: (lambda o, x, y: y,),
    Op.EXPM1: (lambda o, x, y: o.exp(x[0]),),
    Op.LOG: (lambda o, x, y: 1.0 / x[0],),
    Op.LOG1P: (lambda o, x, y: 1.0 / (1.0 + x[0]),),
    Op.TANH: (lambda o, x, y: (1.0 - y) * (1.0 + y),),
}
"""The smooth operations, and abs. The others are in `_instruction_tangent`."""


def differentiate_program(program: Program, of: str, by: str, into: str) -> Program:
    """``program``, which also stores the derivative of one array by another, element by element.

    Args:
        program: a program without segment scalars.
        of: the array whose stored value is differentiated.
        by: the array by whose loaded element it is differentiated.
        into: the array that receives the derivative.

    Raises:
        KeyError: the program stores nothing to ``of``.
        TypeError: the program has segment scalars.
    """
    t = Tracer(numbers_alone=True)
    values: list[Value] = []
    tangents: list[Tangent] = []

    def value(x: Operand) -> Value:
        match x:
            case Result():
                return values[x.index]
            case Constant():
                return x.value
            case Load():
                return t.load(x.name)
            case Scalar():
                return t.scalar(x.name)
        raise TypeError("segment scalars are not differentiated")

    def tangent(x: Operand) -> Tangent:
        if isinstance(x, Result):
            return tangents[x.index]
        return 1.0 if x == Load(by) else None

    for instruction in program.instructions:
        operands = [value(x) for x in instruction.operands]
        values.append(apply_operation(t, instruction.op, *operands))
        moving = [tangent(x) for x in instruction.operands]
        tangents.append(_instruction_tangent(t, instruction.op, operands, values[-1], moving))
    for name, x in program.stores:
        t.store(name, value(x))
    for reduction in program.reductions:
        t.reduce(reduction.name, reduction.kind, value(reduction.operand))
    slope = tangent(dict(program.stores)[of])
    t.store(into, 0.0 if slope is None else slope)
    return t.build_program()


def _instruction_tangent(
    ops: Ops, op: Op, operands: Sequence[Value], result: Value, tangents: Sequence[Tangent]
) -> Tangent:
    """The tangent of one instruction's result."""
    if op in COMPARISONS or op is Op.SIGN or all(t is None for t in tangents):
        return None
    if op is Op.SELECT:
        return ops.where(operands[0], _zero_if_none(tangents[1]), _zero_if_none(tangents[2]))
    if op is Op.MAXIMUM:
        return _extremum_tangent(ops, operands[0] > operands[1], operands, tangents)
    if op is Op.MINIMUM:
        return _extremum_tangent(ops, operands[0] < operands[1], operands, tangents)
    total: Tangent = None
    for partial, tangent in zip(PARTIALS[op], tangents, strict=True):
        if tangent is not None:
            term = _simplify_product(partial(ops, operands, result), tangent)
            total = term if total is None else total + term
    return total


def _extremum_tangent(
    ops: Ops, first: Value, operands: Sequence[Value], tangents: Sequence[Tangent]
) -> Value:
    """The tangent of the chosen operand; the mean of both where they are equal."""
    halves = [_simplify_product(0.5, t) for t in tangents if t is not None]
    mean = halves[0] if len(halves) == 1 else halves[0] + halves[1]
    a, b = map(_zero_if_none, tangents)
    return ops.where(first, a, ops.where(operands[0] == operands[1], mean, b))


def _simplify_product(a: Value, b: Value) -> Value:
    """``a * b``, without multiplying by what changes nothing."""
    for one, other in ((a, b), (b, a)):
        if isinstance(one, float) and abs(one) == 1.0:
            return other if one > 0 else -other
    return a * b


def _reciprocal(x: Value) -> Value:
    """``1 / x``, of numbers as of arrays: nothing is raised."""
    return math.copysign(math.inf, x) if isinstance(x, float) and x == 0 else 1.0 / x


def _zero_if_none(tangent: Tangent) -> Value:
    return 0.0 if tangent is None else tangent
