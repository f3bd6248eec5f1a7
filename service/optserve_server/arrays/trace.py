"""Tracer: runs a formula once on symbols and records its operations as a program."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

from optserve_server.arrays.ops import Ops
from optserve_server.arrays.program import (
    Constant,
    Instruction,
    Load,
    Op,
    Operand,
    Program,
    Reduction,
    ReductionKind,
    Result,
    Scalar,
    SegmentScalar,
)

N = TypeVar("N", Scalar, SegmentScalar)


class _Traced:
    """Base of symbols and conditions: they belong to a tracer and have no truth value."""

    __array_ufunc__ = None  # NumPy's numbers leave their operators to ours
    __hash__ = None  # type: ignore[assignment]  # == makes a condition

    def __init__(self, tracer: Tracer, operand: Operand) -> None:
        self.tracer = tracer
        self.operand = operand

    def __bool__(self) -> bool:
        raise TypeError("a traced value has no truth: choose with where(condition, a, b)")


class Condition(_Traced):
    """A comparison of symbols; the first argument of ``where`` and nothing else."""


def _make_operator_methods(op: Op) -> tuple[Callable[[Any, Any], Symbol], Callable[[Any, Any], Symbol]]:
    """The methods of a symbol for an operation: with it on the left, and on the right."""
    return lambda a, b: a.tracer.record_operation(op, a, b), lambda b, a: b.tracer.record_operation(op, a, b)


def _make_comparison_method(op: Op) -> Callable[[Any, Any], Condition]:
    """The method of a symbol for a comparison."""
    return lambda a, b: a.tracer._record_comparison(op, a, b)


class Symbol(_Traced):
    """A traced value; represents one element of every array."""

    __add__, __radd__ = _make_operator_methods(Op.ADD)
    __sub__, __rsub__ = _make_operator_methods(Op.SUBTRACT)
    __mul__, __rmul__ = _make_operator_methods(Op.MULTIPLY)
    __truediv__, __rtruediv__ = _make_operator_methods(Op.DIVIDE)
    __lt__, __le__ = _make_comparison_method(Op.LESS), _make_comparison_method(Op.LESS_EQUAL)
    __gt__, __ge__ = _make_comparison_method(Op.GREATER), _make_comparison_method(Op.GREATER_EQUAL)
    __eq__ = _make_comparison_method(Op.EQUAL)  # type: ignore[assignment]

    def __neg__(self) -> Symbol:
        return self.tracer.record_operation(Op.NEGATE, self)

    def __ne__(self, other: object) -> NoReturn:
        raise TypeError("there is no != in the vocabulary: exchange the branches of where(a == b, ...)")


class Tracer(Ops):
    """Makes a `Program` out of what formulas do with its symbols; implements `Ops`.

    Arithmetic that involves no array is refused with TypeError: its result is the same
    for every element, so it belongs into a rule's ``compute_scalars()``, in float64, once.

    Args:
        numbers_alone: lets such arithmetic pass, for programs that no rule is behind.
    """

    def __init__(self, *, numbers_alone: bool = False) -> None:
        self._numbers_alone = numbers_alone
        self._instructions: list[Instruction] = []
        self._known: dict[Instruction, Result] = {}
        self._touched: dict[str, None] = {}
        self._numbers: dict[Scalar | SegmentScalar, None] = {}
        self._stores: dict[str, Operand] = {}
        self._reductions: dict[str, Reduction] = {}

    def load(self, name: str) -> Symbol:
        """The element of the named array, as it was before any store."""
        self._touched.setdefault(name)
        return Symbol(self, Load(name))

    def scalar(self, name: str) -> Symbol:
        """A number given with each call."""
        return self._scalar_symbol(Scalar(name))

    def segment_scalar(self, name: str) -> Symbol:
        """A number given with each call for each of its segments."""
        return self._scalar_symbol(SegmentScalar(name))

    def store(self, name: str, value: Any) -> None:
        """Stores ``value``, a symbol or number, to the named array.

        Raises:
            ValueError: the array was stored to before.
        """
        if name in self._stores:
            raise ValueError(f"{name} is stored twice")
        self._touched.setdefault(name)
        self._stores[name] = self._to_operand(value)

    def reduce(self, name: str, kind: ReductionKind, value: Any) -> None:
        """Returns the sum of ``value`` over each segment under ``name``.

        Raises:
            ValueError: the name was used before.
            TypeError: ``value`` depends on no array.
        """
        if name in self._reductions:
            raise ValueError(f"{name} is reduced twice")
        operand = self._to_operand(value)
        _require_array((operand,), "a reduction")
        self._reductions[name] = Reduction(name, kind, operand)

    def build_program(self) -> Program:
        """Returns the traced program without dead code."""
        stores = [(name, x) for name, x in self._stores.items() if x != Load(name)]
        live = _find_live_instructions(
            self._instructions, [x for _, x in stores] + [r.operand for r in self._reductions.values()]
        )
        renumbered = {old: Result(new) for new, old in enumerate(live)}

        def renumber(x: Operand) -> Operand:
            return renumbered[x.index] if isinstance(x, Result) else x

        kept = [self._instructions[i] for i in live]
        instructions = tuple(Instruction(k.op, tuple(map(renumber, k.operands))) for k in kept)
        reductions = tuple(Reduction(r.name, r.kind, renumber(r.operand)) for r in self._reductions.values())
        used = {x for k in instructions for x in k.operands}
        used |= {x for _, x in stores} | {r.operand for r in reductions}
        stored = {name for name, _ in stores}
        return Program(
            arrays=tuple(name for name in self._touched if Load(name) in used or name in stored),
            scalars=_list_names(self._numbers, Scalar, used),
            segment_scalars=_list_names(self._numbers, SegmentScalar, used),
            instructions=instructions,
            stores=tuple((name, renumber(x)) for name, x in stores),
            reductions=reductions,
        )

    def where(self, condition: Any, a: Any, b: Any) -> Symbol:
        """``a`` where the condition holds, otherwise ``b``."""
        if not isinstance(condition, Condition) or condition.tracer is not self:
            raise TypeError("where takes a comparison of traced values as its condition")
        return Symbol(
            self,
            self._append_instruction(Op.SELECT, condition.operand, self._to_operand(a), self._to_operand(b)),
        )

    def _scalar_symbol(self, number: N) -> Symbol:
        self._numbers.setdefault(number)
        return Symbol(self, number)

    def _to_operand(self, value: Any) -> Operand:
        if isinstance(value, Symbol):
            if value.tracer is not self:
                raise TypeError("a symbol of another tracer")
            return value.operand
        if isinstance(value, _Traced | bool):
            raise TypeError("a condition is no number: choose with where(condition, a, b)")
        return Constant(float(value))

    def record_operation(self, op: Op, *values: Any) -> Symbol:
        """The result of one operation."""
        operands = tuple(self._to_operand(value) for value in values)
        if not self._numbers_alone:
            _require_array(operands, op.value)
        return Symbol(self, self._append_instruction(op, *operands))

    def _record_comparison(self, op: Op, *values: Any) -> Condition:
        return Condition(self, self.record_operation(op, *values).operand)

    def _append_instruction(self, op: Op, *operands: Operand) -> Result:
        instruction = Instruction(op, operands)
        if instruction not in self._known:
            self._known[instruction] = Result(len(self._instructions))
            self._instructions.append(instruction)
        return self._known[instruction]


def _require_array(operands: tuple[Operand, ...], what: str) -> None:
    """Refuses operands that are the same for every element."""
    if not any(isinstance(x, Load | Result) for x in operands):
        raise TypeError(f"{what} of numbers alone: compute it in scalars()")


def _find_live_instructions(instructions: list[Instruction], roots: list[Operand]) -> list[int]:
    """Indices of the instructions that ``roots`` depend on, ascending."""
    live = {x.index for x in roots if isinstance(x, Result)}
    for index in reversed(range(len(instructions))):
        if index in live:
            live.update(x.index for x in instructions[index].operands if isinstance(x, Result))
    return sorted(live)


def _list_names(
    numbers: Iterable[Scalar | SegmentScalar], kind: type[Scalar] | type[SegmentScalar], used: set[Operand]
) -> tuple[str, ...]:
    return tuple(x.name for x in numbers if isinstance(x, kind) and x in used)
