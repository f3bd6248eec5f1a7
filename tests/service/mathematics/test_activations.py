"""Activations: values, derivatives, infinities, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optserve_server.activations import ALL
from optserve_server.activations.base import Activation, ElementwiseActivation
from optserve_server.activations.leaky_relu import LeakyRelu
from optserve_server.activations.relu import Relu
from optserve_server.activations.sigmoid import Sigmoid
from optserve_server.activations.softmax import Softmax
from optserve_server.activations.tanh import Tanh
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.trace import Tracer
from optserve_server.errors import DomainError, Reason
from tests.service.mathematics.differences import numeric_gradient

ACTIVATIONS: list[Activation] = [cls() for cls in ALL]
ACTIVATIONS += [Softmax(axis=0), Softmax(axis=-2), LeakyRelu(negative_slope=0.0)]
ELEMENTWISE = [a for a in ACTIVATIONS if isinstance(a, ElementwiseActivation)]

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_the_vjp_is_the_derivative(activation: Activation) -> None:
    rng = np.random.default_rng(3)
    x, dy = rng.normal(size=(3, 4, 2)) * 2, rng.normal(size=(3, 4, 2))
    numeric = numeric_gradient(lambda x: float((activation.evaluate(x) * dy).sum()), x)
    assert activation.vjp(x, dy) == pytest.approx(numeric, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ELEMENTWISE, ids=repr)
def test_the_traced_programs_give_the_bits_of_plain_evaluation(
    activation: ElementwiseActivation, dtype: type
) -> None:
    t = Tracer()
    t.store("y", activation.forward(t, t.load("x")))
    t.store("dx", activation.gradient(t, t.load("x"), t.load("dy")))
    rng = np.random.default_rng(5)
    arrays = {name: rng.normal(size=99).astype(dtype) * 3 for name in ("x", "dy", "y", "dx")}
    program = t.program()
    NumpyBackend(threads=1).compile(program, np.dtype(dtype), {})({n: arrays[n] for n in program.arrays}, {})
    assert np.array_equal(arrays["y"], activation.evaluate(arrays["x"]))
    assert np.array_equal(arrays["dx"], activation.vjp(arrays["x"], arrays["dy"]))


@pytest.mark.parametrize(
    ("activation", "x", "y", "dx"),
    [
        (Sigmoid(), [-INF, -1e30, 0, 1e30, INF], [0, 0, 0.5, 1, 1], [0, 0, 0.25, 0, 0]),
        (Tanh(), [-INF, -1e30, 0, 1e30, INF], [-1, -1, 0, 1, 1], [0, 0, 1, 0, 0]),
        (Relu(), [-INF, -2, 0, 3, INF], [0, 0, 0, 3, INF], [0, 0, 0, 1, 1]),
        (LeakyRelu(negative_slope=0.5), [-INF, -2, 0, 3, INF], [-INF, -1, 0, 3, INF], [0.5, 0.5, 0.5, 1, 1]),
        (LeakyRelu(negative_slope=0.0), [-INF, -2, 0, 3, INF], [0, 0, 0, 3, INF], [0, 0, 0, 1, 1]),
        (Softmax(), [0, 1e30, -INF], [0, 1, 0], [0, 0, 0]),
        (Softmax(), [0, INF, 5], [0, 1, 0], [0, 0, 0]),
        (Softmax(), [INF, INF, 5, 5], [0.5, 0.5, 0, 0], [0, 0, 0, 0]),
        (Softmax(), [-INF, -INF], [0.5, 0.5], [0, 0]),
        (Softmax(), [3e38, -3e38], [1, 0], [0, 0]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_far_out(
    activation: Activation, x: list[float], y: list[float], dx: list[float], dtype: type
) -> None:
    given = np.array(x, dtype)
    value, slope = activation.evaluate(given), activation.vjp(given, np.ones_like(given))
    assert (value.dtype, slope.dtype) == (dtype, dtype)
    assert value.tolist() == y
    assert slope.tolist() == dx


@pytest.mark.parametrize(
    ("activation", "x", "slope"),
    [(Sigmoid(), 40.0, math.exp(-40)), (Tanh(), 20.0, 4 * math.exp(-40)), (Tanh(), -20.0, 4 * math.exp(-40))],
)
def test_slopes_keep_their_digits_where_the_value_is_near_one(
    activation: Activation, x: float, slope: float
) -> None:
    assert activation.vjp(np.array([x]), np.ones(1)) == pytest.approx([slope], rel=1e-14, abs=0)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_nan_stays(activation: Activation) -> None:
    assert np.isnan(activation.evaluate(np.full((2, 2), NAN))).all()


def test_softmax_sums_to_one_on_its_axis() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    for axis in range(-3, 3):
        assert Softmax(axis=axis).evaluate(x).sum(axis) == pytest.approx(1.0, rel=1e-14)
    assert Softmax().evaluate(np.array([0.0, math.log(3)])) == pytest.approx([0.25, 0.75], rel=1e-15)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_empty_inputs_have_empty_outputs(activation: Activation) -> None:
    empty = np.zeros((3, 0), np.float32)
    assert activation.evaluate(empty).shape == activation.vjp(empty, empty).shape == (3, 0)


@pytest.mark.parametrize("activation", ELEMENTWISE, ids=repr)
def test_a_scalar_is_a_tensor(activation: Activation) -> None:
    x = np.array(0.5, np.float32)
    for result in (activation.evaluate(x), activation.vjp(x, x)):
        assert isinstance(result, np.ndarray)
        assert (result.shape, result.dtype) == ((), np.float32)


@pytest.mark.parametrize(("axis", "shape"), [(2, (3, 4)), (-3, (3, 4)), (-1, ()), (0, ())])
def test_an_axis_that_is_not_there_is_refused(axis: int, shape: tuple[int, ...]) -> None:
    x = np.zeros(shape)
    for call in (lambda a: a.evaluate(x), lambda a: a.vjp(x, x), lambda a: a.check(len(shape))):
        with pytest.raises(DomainError) as caught:
            call(Softmax(axis=axis))
        assert (caught.value.reason, caught.value.field) == (Reason.OUT_OF_RANGE, "axis")


@pytest.mark.parametrize(
    ("x", "dy", "reason", "field"),
    [
        (np.zeros(3, np.int32), np.zeros(3, np.int32), Reason.DTYPE_MISMATCH, "input"),
        (np.zeros(3, np.float16), np.zeros(3, np.float16), Reason.DTYPE_MISMATCH, "input"),
        (np.zeros(3), np.zeros(3, np.float32), Reason.DTYPE_MISMATCH, "output_gradient"),
        (np.zeros(3), np.zeros((1, 3)), Reason.SHAPE_MISMATCH, "output_gradient"),
        (np.zeros((2, 3)), np.zeros(3), Reason.SHAPE_MISMATCH, "output_gradient"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    x: np.ndarray,
    dy: np.ndarray,
    reason: Reason,
    field: str,
) -> None:
    with pytest.raises(DomainError) as caught:
        Sigmoid().vjp(x, dy)
    assert (caught.value.reason, caught.value.field) == (reason, field)
