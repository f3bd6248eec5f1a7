"""Common parts of the source generators: numbers and names of operands and arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from optserve_server.arrays.program import Constant, Load, Op, Operand, Program, Result, Scalar, SegmentScalar

INFIX: Mapping[Op, str] = {
    Op.ADD: "{0} + {1}",
    Op.SUBTRACT: "{0} - {1}",
    Op.MULTIPLY: "{0} * {1}",
    Op.DIVIDE: "{0} / {1}",
    Op.NEGATE: "-{0}",
    Op.LESS: "{0} < {1}",
    Op.LESS_EQUAL: "{0} <= {1}",
    Op.GREATER: "{0} > {1}",
    Op.GREATER_EQUAL: "{0} >= {1}",
    Op.EQUAL: "{0} == {1}",
}
"""Operations that are written alike in Python and in C."""

FUNCTIONS = (Op.SQRT, Op.EXP, Op.EXPM1, Op.LOG, Op.LOG1P, Op.TANH)
"""Operations that are functions of that name in the mathematical libraries of both."""


@dataclasses.dataclass(frozen=True)
class OperandNames:
    """Identifiers in generated source. A program's own names never get there.

    Attributes:
        program: the program.
        constants: its constants, in order of appearance.
    """

    program: Program
    constants: tuple[Constant, ...]

    @classmethod
    def from_program(cls, program: Program) -> OperandNames:
        """The names of the operands of ``program``."""
        return cls(program, tuple(dict.fromkeys(x for x in program.operands if isinstance(x, Constant))))

    def __getitem__(self, x: Operand) -> str:
        """x0 loaded, s0 scalar, c0 segment scalar, k0 constant, r0 result."""
        match x:
            case Load():
                return f"x{self.program.arrays.index(x.name)}"
            case Scalar():
                return f"s{self.program.scalars.index(x.name)}"
            case SegmentScalar():
                return f"c{self.program.segment_scalars.index(x.name)}"
            case Constant():
                return f"k{self.constants.index(x)}"
            case Result():
                return f"r{x.index}"


def find_loads(program: Program) -> list[int]:
    """Numbers of the arrays that are read."""
    read = set(program.operands)
    return [i for i, name in enumerate(program.arrays) if Load(name) in read]


def find_stores(program: Program) -> frozenset[str]:
    """Names of the arrays that are written."""
    return frozenset(name for name, _ in program.stores)


def storage_dtypes(program: Program, dtype: np.dtype[Any], storage: Any) -> tuple[np.dtype[Any], ...]:
    """The storage dtype of each array."""
    return tuple(np.dtype(storage.get(name, dtype)) for name in program.arrays)
