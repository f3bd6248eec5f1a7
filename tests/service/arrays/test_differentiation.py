"""Derivatives of programs: each operation, ties, branches not taken, and whole formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.constant_replacement import replace_constants
from optserve_server.arrays.differentiation import PARTIALS, differentiate_program
from optserve_server.arrays.narrow_floats import FLOAT64
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.program import Constant, Op, Program, ReductionKind
from optserve_server.arrays.register_allocation import COMPARISONS
from optserve_server.arrays.trace import Tracer
from tests.support.tiers import slow_unless

Array = npt.NDArray[np.float64]
Formula = Callable[[Tracer, Any, Any], Any]

NUMPY = NumpyBackend(threads=1)
BACKENDS: list[Backend] = [NUMPY, NumbaBackend(threads=1)]

SMOOTH: dict[Op, list[Formula]] = {
    Op.ADD: [lambda t, x, y: x + y, lambda t, x, y: y + x, lambda t, x, y: x + x],
    Op.SUBTRACT: [lambda t, x, y: x - y, lambda t, x, y: y - x, lambda t, x, y: 2.0 - x],
    Op.MULTIPLY: [lambda t, x, y: x * y, lambda t, x, y: x * x * x, lambda t, x, y: -1.0 * x],
    Op.DIVIDE: [lambda t, x, y: x / y, lambda t, x, y: y / x, lambda t, x, y: x / 3.0],
    Op.NEGATE: [lambda t, x, y: -(x * y)],
    Op.SQRT: [lambda t, x, y: t.sqrt(x * x + 1.0)],
    Op.ABS: [lambda t, x, y: t.abs(x), lambda t, x, y: t.abs(x * y)],
    Op.SIGN: [lambda t, x, y: x * t.sign(x)],
    Op.MAXIMUM: [lambda t, x, y: t.maximum(x, y), lambda t, x, y: t.maximum(y, x * x)],
    Op.MINIMUM: [lambda t, x, y: t.minimum(x, y), lambda t, x, y: t.minimum(1.0, x * x)],
    Op.SELECT: [
        lambda t, x, y: t.where(x > y, x * x, 3.0 * x),
        lambda t, x, y: t.where(y <= 0.0, 2.0, x * y),
        lambda t, x, y: t.where(x == y, x, -x),
    ],
    Op.EXP: [lambda t, x, y: t.exp(x * y)],
    Op.EXPM1: [lambda t, x, y: t.expm1(x)],
    Op.LOG: [lambda t, x, y: t.log(x * x)],
    Op.LOG1P: [lambda t, x, y: t.log1p(x * x)],
    Op.TANH: [lambda t, x, y: t.tanh(x * 2.0)],
}
X = np.array([-2.5, -1.75, -0.6, 0.3, 0.8, 1.9])
Y = np.array([1.5, -0.5, -2.0, 0.7, -1.1, 0.25])


def programs(formula: Formula) -> tuple[Program, Program]:
    """A formula's program, and the one with its derivative by x."""
    t = Tracer()
    t.store("value", formula(t, t.load("x"), t.load("y")))
    return t.build_program(), differentiate_program(t.build_program(), "value", "x", "slope")


def run(
    program: Program,
    x: Any,
    y: Any = 0.0,
    scalars: Mapping[str, float] | None = None,
    backend: Backend = NUMPY,
) -> dict[str, Array]:
    x = np.array(x, np.float64).reshape(-1)
    arrays = {"x": x, "y": np.broadcast_to(np.array(y, np.float64), x.shape).copy()}
    arrays |= {name: np.full(x.shape, np.nan) for name, _ in program.stores}
    backend.compile(program, FLOAT64, {})({n: arrays[n] for n in program.arrays}, scalars or {})
    return arrays


def differences(program: Program, x: Array, y: Array, h: float = 1e-6) -> Array:
    above, below = run(program, x + h, y)["value"], run(program, x - h, y)["value"]
    slope: Array = (above - below) / (2 * h)
    return slope


def test_every_operation_is_covered() -> None:
    assert set(SMOOTH) == set(Op) - COMPARISONS
    assert set(PARTIALS) == set(SMOOTH) - {Op.SIGN, Op.MAXIMUM, Op.MINIMUM, Op.SELECT}


@pytest.mark.parametrize("backend", slow_unless(lambda b: b is NUMPY, BACKENDS), ids=lambda b: b.name)
@pytest.mark.parametrize(
    "formula", [pytest.param(f, id=f"{op}-{i}") for op, fs in SMOOTH.items() for i, f in enumerate(fs)]
)
def test_the_derivative_is_the_limit_of_differences(formula: Formula, backend: Backend) -> None:
    plain, both = programs(formula)
    found = run(both, X, Y, backend=backend)
    assert found["slope"] == pytest.approx(differences(plain, X, Y), rel=1e-7, abs=1e-8)
    assert found["value"] == pytest.approx(run(plain, X, Y)["value"], rel=1e-15)


@pytest.mark.parametrize(
    ("formula", "x", "slope"),
    [
        (lambda t, x, y: t.abs(x), 0.0, 0.0),
        (lambda t, x, y: t.maximum(x, y), 0.0, 0.5),
        (lambda t, x, y: t.maximum(y, x), 0.0, 0.5),
        (lambda t, x, y: t.minimum(3.0 * x, 7.0 * x), 0.0, 5.0),
        (lambda t, x, y: t.where(x > 0.0, 2.0 * x, 3.0 * x), 0.0, 3.0),
        (lambda t, x, y: t.where(x >= 0.0, 2.0 * x, 3.0 * x), 0.0, 2.0),
        (lambda t, x, y: t.sign(x), 0.0, 0.0),
        (lambda t, x, y: t.sqrt(x), 0.0, math.inf),
    ],
)
def test_where_a_function_bends_the_convention_holds(formula: Formula, x: float, slope: float) -> None:
    assert run(programs(formula)[1], x)["slope"].tolist() == [slope]


def test_a_branch_that_is_not_taken_spoils_nothing() -> None:
    _, both = programs(lambda t, x, y: t.where(x > 0.0, t.log(x) + t.sqrt(x), t.exp(-1000.0 * x) * 0.0 + x))
    assert run(both, [4.0])["slope"].tolist() == [0.25 + 0.25]
    _, both = programs(lambda t, x, y: t.where(x > 0.0, x, t.log(x) / t.sqrt(x)))
    assert run(both, [2.0])["slope"].tolist() == [1.0]


def test_what_does_not_depend_has_a_slope_of_zero() -> None:
    assert run(programs(lambda t, x, y: y * y)[1], X, Y)["slope"].tolist() == [0.0] * 6
    assert run(programs(lambda t, x, y: 3.0)[1], X, Y)["slope"].tolist() == [0.0] * 6
    assert run(programs(lambda t, x, y: x)[1], X, Y)["slope"].tolist() == [1.0] * 6


def test_division_by_the_number_zero_is_that_of_arrays() -> None:
    _, both = programs(lambda t, x, y: x / -0.0)
    assert run(both, [1.0])["slope"].tolist() == [-math.inf]


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_scalars_multiply_each_other(backend: Backend) -> None:
    t = Tracer()
    a, b = t.scalar("a"), t.scalar("b")
    t.store("value", a * (b * t.load("x")) + a)
    both = differentiate_program(t.build_program(), "value", "x", "slope")
    assert run(both, X, scalars={"a": 3.0, "b": 5.0}, backend=backend)["slope"].tolist() == [15.0] * 6


def test_a_derivative_can_be_differentiated() -> None:
    _, once = programs(lambda t, x, y: x * x * x)
    twice = differentiate_program(once, "slope", "x", "curvature")
    found = run(twice, X)
    assert found["slope"] == pytest.approx(3 * X**2, rel=1e-14)
    assert found["curvature"] == pytest.approx(6 * X, rel=1e-14)


def test_other_stores_and_reductions_stay() -> None:
    t = Tracer()
    x = t.load("x")
    t.store("value", x * x)
    t.store("y", x + 1.0)
    t.reduce("squares", ReductionKind.SUM_OF_SQUARES, x)
    both = differentiate_program(t.build_program(), "value", "x", "slope")
    assert [name for name, _ in both.stores] == ["value", "y", "slope"]
    assert [r.name for r in both.reductions] == ["squares"]


def test_what_cannot_be_differentiated_is_refused() -> None:
    t = Tracer()
    t.store("value", t.load("x") * t.segment_scalar("c"))
    with pytest.raises(TypeError, match="segment"):
        differentiate_program(t.build_program(), "value", "x", "slope")
    with pytest.raises(KeyError):
        differentiate_program(programs(lambda t, x, y: x)[0], "nothing", "x", "slope")


def test_lifted_numbers_compute_the_same() -> None:
    def formula(cost: float) -> Formula:
        return lambda t, x, y: t.where(x > y, cost * (x - y), 99.0 * (y - x)) / 7.0

    one, numbers = replace_constants(programs(formula(3.0))[1])
    other, others = replace_constants(programs(formula(5.0))[1])
    assert one == other
    assert numbers != others
    assert not any(isinstance(x, Constant) for k in one.instructions for x in k.operands)
    expected, found = run(programs(formula(3.0))[1], X, Y), run(one, X, Y, numbers)
    assert all(np.array_equal(expected[name], found[name]) for name in ("value", "slope"))
    assert replace_constants(Tracer().build_program()) == (Tracer().build_program(), {})


MAKERS: list[Callable[[Tracer, Any, Any], Any]] = [
    lambda t, a, b: a + b, lambda t, a, b: a - b, lambda t, a, b: a * b, lambda t, a, b: a / (b * b + 1.0),
    lambda t, a, b: t.tanh(a), lambda t, a, b: t.exp(t.tanh(a)), lambda t, a, b: t.log1p(a * a),
    lambda t, a, b: t.sqrt(1.0 + a * a), lambda t, a, b: t.where(a > b, a, b * 0.5), lambda t, a, b: -a,
]  # fmt: skip


@given(data=st.data(), x=st.floats(-2, 2), y=st.floats(-2, 2))
@settings(max_examples=60, deadline=None)
def test_random_formulas(data: st.DataObject, x: float, y: float) -> None:
    t = Tracer()
    values = [t.load("x"), t.load("y")]
    for _ in range(data.draw(st.integers(1, 8))):
        a, b = data.draw(st.sampled_from(values)), data.draw(st.sampled_from(values))
        values.append(data.draw(st.sampled_from(MAKERS))(t, a, b))
    t.store("value", values[-1])
    plain = t.build_program()
    h = 1e-5
    below, here, above = run(plain, [x - h, x, x + h], y)["value"]
    # Where the two sides disagree, the formula bends or jumps, or is too steep to tell.
    assume(abs((above - here) - (here - below)) <= 1e-3 * h)
    slope = run(differentiate_program(plain, "value", "x", "slope"), x, y)["slope"]
    assert slope == pytest.approx((above - below) / (2 * h), rel=1e-3, abs=1e-3)
