"""Losses by expression: values, derivatives, executors, and what is refused."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.program import Op, Program
from optserve_server.errors import DomainError, Reason
from optserve_server.expressions.named_numbers import MAX_CONSTANTS
from optserve_server.losses.base import Reduction, reduce_losses
from optserve_server.losses.formula import custom as custom_module
from optserve_server.losses.formula.custom import Custom
from optserve_server.losses.formula.custom_programs import MAX_INSTRUCTIONS, compile_programs
from optserve_server.losses.regression.mean_squared_error import MeanSquaredError
from tests.service.mathematics.differences import numeric_gradient

Array = npt.NDArray[Any]
YOGHURT = "where(y_pred > y_true, COST*(y_pred - y_true), PROFIT*(y_true - y_pred))"
COSTS = (("COST", 1.0), ("PROFIT", 99.0))
RNG = np.random.default_rng(3)
P, T = RNG.normal(size=(3, 2, 4)), RNG.normal(size=(3, 2, 4))
WEIGHTS = np.array([[1.0, 2.0], [0.0, 0.5], [3.0, 1.0]])

FORMULAS = [
    YOGHURT,
    "where(y_pred > y_true, 1*(y_pred - y_true), 99*(y_true - y_pred))",
    "(y_pred - y_true)**2",
    "abs(y_pred - y_true)/COST",
    "log1p((y_pred - y_true)**2) + tanh(y_pred)*exp(-y_true)",
    "maximum(PROFIT*(y_true - y_pred), COST*(y_pred - y_true))",
    "where(abs(y_pred - y_true) < 1, (y_pred - y_true)**2/2, sqrt(abs(y_pred - y_true)) - 0.5)",
    "minimum(expm1(y_pred), 3) - y_true*log(1 + y_pred**4)",
    "sign(y_pred) + y_pred**-2",
    "y_pred",
]
BACKENDS: list[Backend] = [NumpyBackend(threads=1), NumbaBackend(threads=1)]


def custom(expression: str = YOGHURT, constants: Any = COSTS) -> Custom:
    return Custom(expression=expression, constants=constants)


@pytest.mark.parametrize("reduction", list(Reduction))
@pytest.mark.parametrize("expression", FORMULAS)
def test_the_gradient_is_the_derivative(expression: str, reduction: Reduction) -> None:
    loss = custom(expression)

    def value(prediction: Array) -> float:
        per_example = loss.per_example(prediction, T)
        reduced = reduce_losses(per_example, reduction)
        return float(per_example.sum()) if reduced is None else reduced

    gradient = loss.gradient(P, T, reduction)
    assert gradient == pytest.approx(numeric_gradient(value, P), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("expression", FORMULAS)
def test_backends_compute_what_numpy_does(expression: str, dtype: Any, backend: Backend) -> None:
    loss, p, t, w = custom(expression), P.astype(dtype), T.astype(dtype), WEIGHTS.astype(dtype)
    for reduction in Reduction:
        found = loss.evaluate(p, t, reduction, sample_weight=w, with_gradient=True, backend=backend)
        assert found.gradient is not None
        assert found.per_example.dtype == found.gradient.dtype == dtype
        exact = {"rtol": 0, "atol": 0} if backend.name == "numpy" else {"rtol": 4e-6}
        assert np.allclose(found.per_example, loss.per_example(p, t, w), **exact)
        assert np.allclose(found.gradient, loss.gradient(p, t, reduction, w), **exact)


def test_the_mean_squared_error_by_another_name() -> None:
    squared, loss = MeanSquaredError(), custom("(y_pred - y_true)**2")
    assert loss.per_example(P, T) == pytest.approx(squared.per_example(P, T), rel=1e-15)
    for reduction in Reduction:
        expected = squared.gradient(P, T, reduction, WEIGHTS)
        assert loss.gradient(P, T, reduction, WEIGHTS) == pytest.approx(expected, rel=1e-14)


def test_the_lectures_sum_is_the_reduction_sum() -> None:
    forecast, sold = np.array([[3.0], [1.0], [2.0]]), np.array([[2.0], [2.0], [2.0]])
    per_example = custom().per_example(forecast, sold)
    assert per_example.tolist() == [1.0, 99.0, 0.0]
    assert reduce_losses(per_example, Reduction.SUM) == 100.0
    assert custom().gradient(forecast, sold, Reduction.SUM).tolist() == [[1.0], [-99.0], [-99.0]]


class Counting:
    """A backend that notes what it compiled and ran."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.compiled: list[Program] = []
        self.runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def compile(self, program: Program, dtype: Any, storage: Mapping[str, Any], *, keep: bool) -> Any:
        assert not keep
        self.compiled.append(program)
        kernel = self.backend.compile(program, dtype, storage, keep=False)

        def count_call(*arguments: Any) -> Any:
            self.runs += 1
            return kernel(*arguments)

        return count_call


def test_value_and_gradient_come_from_one_kernel() -> None:
    backend: Any = Counting(NumpyBackend(threads=1))
    custom().evaluate(P, T, Reduction.SUM, with_gradient=True, backend=backend)
    assert (len(backend.compiled), backend.runs) == (1, 1)
    assert [name for name, _ in backend.compiled[0].stores] == ["value", "slope"]
    found = custom().evaluate(P, T, Reduction.SUM, with_gradient=False, backend=backend)
    assert found.gradient is None
    assert [name for name, _ in backend.compiled[1].stores] == ["value"]


def test_other_numbers_need_no_other_kernel() -> None:
    backend: Any = Counting(NumpyBackend(threads=1))
    for cost in (2.0, 3.0):
        loss = custom(constants=(("COST", cost), ("PROFIT", 50.0)))
        found = loss.evaluate(P, T, Reduction.SUM, with_gradient=True, backend=backend)
        assert found.per_example == pytest.approx(loss.per_example(P, T))
    assert len(backend.compiled) == 1


def test_the_kernels_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    backend: Any = Counting(NumpyBackend(threads=1))
    kept = functools.lru_cache(maxsize=2)(custom_module._compile_kernel.__wrapped__)
    monkeypatch.setattr(custom_module, "_compile_kernel", kept)
    for factor in (1, 2, 1, 3, 1, 2):  # 3 takes the place of 2
        loss = custom(expression=f"y_pred {'* y_pred ' * factor}", constants=())
        loss.evaluate(P, T, Reduction.SUM, with_gradient=False, backend=backend)
    assert len(backend.compiled) == 4


def test_read_only_and_unaligned_arrays_are_taken() -> None:
    raw = b"x" + P.astype(np.float32).tobytes()
    p = np.frombuffer(raw, np.float32, offset=1).reshape(P.shape)
    t = np.asfortranarray(T.astype(np.float32))
    for backend in BACKENDS:
        found = custom().evaluate(p, t, Reduction.SUM, with_gradient=True, backend=backend)
        assert found.per_example == pytest.approx(custom().per_example(p.copy(), t), rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
def test_nothing_is_lost_on_nothing(shape: tuple[int, ...], backend: Backend) -> None:
    empty = np.zeros(shape, np.float32)
    found = custom().evaluate(empty, empty, Reduction.SUM, with_gradient=True, backend=backend)
    assert np.array_equal(found.per_example, np.zeros(shape[:-1]))
    assert found.gradient is not None
    assert found.gradient.shape == shape


def test_shapes_and_types_are_checked() -> None:
    for target, reason in ((T[:2], Reason.SHAPE_MISMATCH), (T.astype(np.float32), Reason.DTYPE_MISMATCH)):
        with pytest.raises(DomainError) as caught:
            custom().evaluate(P, target, Reduction.SUM, with_gradient=True, backend=BACKENDS[0])
        assert (caught.value.reason, caught.value.field) == (reason, "target")


def error(expression: str, constants: Any = ()) -> DomainError:
    with pytest.raises(DomainError) as caught:
        custom(expression, constants)
    return caught.value


@pytest.mark.parametrize("expression", ["y_true", "3", "COST + 2", "where(1 < 2, y_true, y_pred)"])
def test_a_loss_depends_on_the_prediction(expression: str) -> None:
    told = error(expression, COSTS)
    assert (told.reason, told.field) == (Reason.INVALID_EXPRESSION, "expression")
    assert told.metadata["position"] == "1:1"
    assert "y_pred" in told.message


def test_what_takes_too_many_operations_is_refused() -> None:
    sum_of_powers = "+".join(f"(y_pred+{i})**15/(y_true+{i})**15" for i in range(28))
    assert error(sum_of_powers).reason is Reason.INVALID_EXPRESSION
    allowed = "+".join(f"(y_pred+{i})**15" for i in range(10))
    program, _ = compile_programs(allowed, ()).both
    assert 100 < len(program.instructions) <= MAX_INSTRUCTIONS
    assert Op.MULTIPLY in {k.op for k in program.instructions}


@pytest.mark.parametrize(
    ("constants", "reason", "field"),
    [
        ((("", 1.0),), Reason.MALFORMED_NAME, "constants"),
        ((("1st", 1.0),), Reason.MALFORMED_NAME, "constants"),
        ((("CO ST", 1.0),), Reason.MALFORMED_NAME, "constants"),
        ((("\uff23OST", 1.0),), Reason.MALFORMED_NAME, "constants"),
        ((("COST\n", 1.0),), Reason.MALFORMED_NAME, "constants"),
        ((("lambda", 1.0),), Reason.MALFORMED_NAME, "constants"),
        ((("None", 1.0),), Reason.MALFORMED_NAME, "constants"),
        ((("y_pred", 1.0),), Reason.MALFORMED_NAME, "constants"),
        ((("where", 1.0),), Reason.MALFORMED_NAME, "constants"),
        ((("C" * 33, 1.0),), Reason.MALFORMED_NAME, "constants"),
        ((("COST", float("nan")),), Reason.OUT_OF_RANGE, "constants[COST]"),
        ((("COST", float("inf")),), Reason.OUT_OF_RANGE, "constants[COST]"),
        (tuple((f"C{i}", 1.0) for i in range(MAX_CONSTANTS + 1)), Reason.OUT_OF_RANGE, "constants"),
    ],
)
def test_constants_have_names_and_are_finite(constants: Any, reason: Reason, field: str) -> None:
    told = error("y_pred", constants)
    assert (told.reason, told.field) == (reason, field)


def test_as_many_constants_as_are_allowed() -> None:
    names = [f"C{i}" for i in range(MAX_CONSTANTS)]
    loss = custom("+".join(["y_pred", *names]), tuple((name, 1.0) for name in names))
    assert loss.per_example(P, T) == pytest.approx(P.mean(axis=-1) + MAX_CONSTANTS)
