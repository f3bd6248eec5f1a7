"""What the tracer keeps, shares, drops and refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from optserve_server.arrays.program import (
    Constant,
    Instruction,
    Load,
    Op,
    Program,
    ReductionKind,
    Result,
    Scalar,
)
from optserve_server.arrays.trace import Tracer


def trace_decay(factor: float) -> Program:
    t = Tracer()
    p, g = t.load("p"), t.load("g")
    unused = t.load("unused") * t.scalar("nothing")
    assert unused is not None
    t.store("p", p - t.scalar("rate") * (g + factor * p) - factor * p)
    return t.build_program()


def test_keeps_what_is_needed_and_shares_what_is_equal() -> None:
    program = trace_decay(0.5)
    assert program.arrays == ("p", "g")
    assert program.scalars == ("rate",)
    assert program.instructions == (
        Instruction(Op.MULTIPLY, (Constant(0.5), Load("p"))),
        Instruction(Op.ADD, (Load("g"), Result(0))),
        Instruction(Op.MULTIPLY, (Scalar("rate"), Result(1))),
        Instruction(Op.SUBTRACT, (Load("p"), Result(2))),
        Instruction(Op.SUBTRACT, (Result(3), Result(0))),
    )
    assert program.stores == (("p", Result(4)),)


def test_equal_formulas_make_equal_programs() -> None:
    assert trace_decay(0.5) == trace_decay(0.5)
    assert hash(trace_decay(0.5)) == hash(trace_decay(0.5))
    assert trace_decay(0.5) != trace_decay(0.25)
    assert trace_decay(0.0) != trace_decay(-0.0)
    assert trace_decay(math.nan) == trace_decay(math.nan)


def test_storing_what_is_there_is_dropped() -> None:
    t = Tracer()
    t.store("p", t.load("p"))
    t.store("q", t.load("g") + np.float64(1.0))
    assert t.build_program().arrays == ("g", "q")


def test_numbers_on_either_side_become_constants() -> None:
    t = Tracer()
    p = t.load("p")
    for i, x in enumerate([np.float32(2.0) - p, 2 / p, 2 + p, 2 * p, t.where(2 > p, p, 1)]):  # noqa: SIM300
        t.store(f"q{i}", x)
    first, second, third, fourth, compare, _ = t.build_program().instructions
    assert first == Instruction(Op.SUBTRACT, (Constant(2.0), Load("p")))
    assert second == Instruction(Op.DIVIDE, (Constant(2.0), Load("p")))
    assert third == Instruction(Op.ADD, (Constant(2.0), Load("p")))
    assert fourth == Instruction(Op.MULTIPLY, (Constant(2.0), Load("p")))
    assert compare == Instruction(Op.LESS, (Load("p"), Constant(2.0)))


REFUSED: dict[str, Callable[[Tracer, Any, Any], object]] = {
    "scalars alone": lambda t, p, s: s * s,
    "scalar and constant": lambda t, p, s: 1 - s,
    "scalar and segment scalar": lambda t, p, s: s * t.segment_scalar("c"),
    "root of a scalar": lambda t, p, s: t.sqrt(s),
    "comparison of scalars": lambda t, p, s: s < 1,
    "truth of a comparison": lambda t, p, s: p if p > 0 else -p,
    "truth of a symbol": lambda t, p, s: not p,
    "arithmetic with a condition": lambda t, p, s: p * (p > 0),
    "condition as a value": lambda t, p, s: t.store("q", p > 0),
    "value as a condition": lambda t, p, s: t.where(p, p, s),
    "boolean as a condition": lambda t, p, s: t.where(True, p, s),
    "inequality": lambda t, p, s: p != s,
    "another tracer's symbol": lambda t, p, s: p + Tracer().load("q"),
    "reduction of a scalar": lambda t, p, s: t.reduce("n", ReductionKind.SUM_OF_SQUARES, s),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refuses(what: str) -> None:
    t = Tracer()
    with pytest.raises(TypeError):
        REFUSED[what](t, t.load("p"), t.scalar("s"))


def test_a_name_is_used_once() -> None:
    t = Tracer()
    t.store("p", t.load("g"))
    t.reduce("n", ReductionKind.SUM_OF_SQUARES, t.load("g"))
    with pytest.raises(ValueError, match="p is stored twice"):
        t.store("p", t.load("g"))
    with pytest.raises(ValueError, match="n is reduced twice"):
        t.reduce("n", ReductionKind.NON_FINITE_COUNT, t.load("g"))
