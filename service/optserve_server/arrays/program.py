"""Straight-line programs, made by the tracer and run by the executors."""

from __future__ import annotations

import dataclasses
import functools
from enum import StrEnum
from typing import TypeAlias


@dataclasses.dataclass(frozen=True)
class Load:
    """One element of the named array, decoded to the compute dtype."""

    name: str


@dataclasses.dataclass(frozen=True)
class Scalar:
    """A number that is the same for every element of a call."""

    name: str


@dataclasses.dataclass(frozen=True)
class SegmentScalar:
    """A number that is the same for every element of a segment of a call."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A number that never changes. Equal to those of the same bits: 0.0 is not -0.0."""

    value: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self.value.hex() == other.value.hex()

    def __hash__(self) -> int:
        return hash(self.value.hex())


@dataclasses.dataclass(frozen=True)
class Result:
    """What the instruction at ``index`` computed."""

    index: int


Operand: TypeAlias = Load | Scalar | SegmentScalar | Constant | Result


class Op(StrEnum):
    """Operations of the vocabulary. Comparisons yield conditions for SELECT only."""

    ADD = "add"
    SUBTRACT = "subtract"
    MULTIPLY = "multiply"
    DIVIDE = "divide"
    NEGATE = "negate"
    LESS = "less"
    LESS_EQUAL = "less_equal"
    GREATER = "greater"
    GREATER_EQUAL = "greater_equal"
    EQUAL = "equal"
    SELECT = "select"
    SQRT = "sqrt"
    ABS = "abs"
    SIGN = "sign"
    MAXIMUM = "maximum"
    MINIMUM = "minimum"
    EXP = "exp"
    EXPM1 = "expm1"
    LOG = "log"
    LOG1P = "log1p"
    TANH = "tanh"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One operation on operands in the compute dtype."""

    op: Op
    operands: tuple[Operand, ...]


class ReductionKind(StrEnum):
    """What is summed over the elements of a segment, in float64."""

    SUM_OF_SQUARES = "sum_of_squares"
    SUM_OF_MAGNITUDES = "sum_of_magnitudes"
    NON_FINITE_COUNT = "non_finite_count"


@dataclasses.dataclass(frozen=True)
class Reduction:
    """A sum over each segment of a call, under the name it is returned by."""

    name: str
    kind: ReductionKind
    operand: Operand


@dataclasses.dataclass(frozen=True)
class Program:
    """A formula over arrays of one length. Equal formulas make equal programs.

    Attributes:
        arrays: names of the arrays read or written, in order.
        scalars: names of the numbers that hold for a whole call.
        segment_scalars: names of the numbers that hold for a segment.
        instructions: the operations, each referring to earlier ones only.
        stores: pairs of array name and what is stored there. All loads of an element
            happen before any of its stores.
        reductions: the sums to return.
    """

    arrays: tuple[str, ...]
    scalars: tuple[str, ...]
    segment_scalars: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    stores: tuple[tuple[str, Operand], ...]
    reductions: tuple[Reduction, ...] = ()

    @property
    def operands(self) -> list[Operand]:
        """The operands of all instructions, then what is stored and reduced."""
        found = [x for k in self.instructions for x in k.operands]
        return found + [x for _, x in self.stores] + [r.operand for r in self.reductions]

    def __hash__(self) -> int:
        return self._cached_hash

    @functools.cached_property
    def _cached_hash(self) -> int:
        """Computed once: every step looks its programs up."""
        return hash((self.arrays, self.scalars, self.segment_scalars, self.instructions, self.stores))
