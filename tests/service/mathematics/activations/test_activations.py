"""Activations: values, derivatives, infinities, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optserve_server.activations import REGISTRY
from optserve_server.activations.along_axis.glu import GLU
from optserve_server.activations.along_axis.log_softmax import LogSoftmax
from optserve_server.activations.along_axis.maxout import Maxout
from optserve_server.activations.along_axis.softmax import Softmax
from optserve_server.activations.base import Activation, ElementwiseActivation
from optserve_server.activations.gated.gelu import GELU
from optserve_server.activations.gated.hard_swish import HardSwish
from optserve_server.activations.gated.mish import Mish
from optserve_server.activations.gated.silu import SiLU
from optserve_server.activations.piecewise_linear.hard_sigmoid import HardSigmoid
from optserve_server.activations.piecewise_linear.leaky_relu import LeakyReLU
from optserve_server.activations.piecewise_linear.relu import ReLU
from optserve_server.activations.piecewise_linear.rrelu import RReLU
from optserve_server.activations.sigmoidal.sigmoid import Sigmoid
from optserve_server.activations.sigmoidal.softsign import Softsign
from optserve_server.activations.sigmoidal.tanh import Tanh
from optserve_server.activations.smooth_rectifiers.celu import CELU
from optserve_server.activations.smooth_rectifiers.elu import ELU
from optserve_server.activations.smooth_rectifiers.selu import ALPHA, SCALE, SELU
from optserve_server.activations.smooth_rectifiers.softplus import Softplus
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.trace import Tracer
from optserve_server.errors import DomainError, Reason
from tests.service.mathematics.differences import numeric_gradient

ACTIVATIONS: list[Activation] = [
    cls() for cls in REGISTRY.values() if not cls.takes_slope and cls not in (Maxout, GLU)
]
ACTIVATIONS += [Softmax(axis=0), Softmax(axis=-2), LeakyReLU(negative_slope=0.0), LogSoftmax(axis=1)]
ACTIVATIONS += [ELU(alpha=0.25), CELU(alpha=0.25), GELU(approximate=True), Softplus(beta=3.0)]
ACTIVATIONS += [RReLU(training=True, seed=5), RReLU(lower=0.0, upper=0.0)]
ELEMENTWISE = [a for a in ACTIVATIONS if isinstance(a, ElementwiseActivation)]

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_the_vjp_is_the_derivative(activation: Activation) -> None:
    rng = np.random.default_rng(3)
    x, dy = rng.normal(size=(3, 4, 2)) * 2, rng.normal(size=(3, 4, 2))
    numeric = numeric_gradient(lambda x: float((activation.evaluate(x) * dy).sum()), x)
    # Differences have the digits of the values, which exponentials raise.
    scale = max(1, np.abs(activation.evaluate(x)).max())
    assert activation.vjp(x, dy) == pytest.approx(numeric, rel=1e-7, abs=1e-9 * scale)


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
    program = t.build_program()
    NumpyBackend(threads=1).compile(program, np.dtype(dtype), {})({n: arrays[n] for n in program.arrays}, {})
    assert np.array_equal(arrays["y"], activation.evaluate(arrays["x"]))
    assert np.array_equal(arrays["dx"], activation.vjp(arrays["x"], arrays["dy"]))


@pytest.mark.parametrize(
    ("activation", "x", "y", "dx"),
    [
        (Sigmoid(), [-INF, -1e30, 0, 1e30, INF], [0, 0, 0.5, 1, 1], [0, 0, 0.25, 0, 0]),
        (Tanh(), [-INF, -1e30, 0, 1e30, INF], [-1, -1, 0, 1, 1], [0, 0, 1, 0, 0]),
        (ReLU(), [-INF, -2, 0, 3, INF], [0, 0, 0, 3, INF], [0, 0, 0, 1, 1]),
        (LeakyReLU(negative_slope=0.5), [-INF, -2, 0, 3, INF], [-INF, -1, 0, 3, INF], [0.5, 0.5, 0.5, 1, 1]),
        (LeakyReLU(negative_slope=0.0), [-INF, -2, 0, 3, INF], [0, 0, 0, 3, INF], [0, 0, 0, 1, 1]),
        (ELU(), [-INF, -1e30, 0, 1e30, INF], [-1, -1, 0, 1e30, INF], [0, 0, 1, 1, 1]),
        (ELU(alpha=0.0), [-INF, -1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]),
        (ELU(alpha=1e30), [-INF, 0, INF], [-1e30, 0, INF], [0, 1e30, 1]),
        (SELU(), [-INF, 0, INF], [-SCALE * ALPHA, 0, INF], [0, SCALE * ALPHA, SCALE]),
        (CELU(alpha=2.0), [-INF, -1e30, 0, 1e30, INF], [-2, -2, 0, 1e30, INF], [0, 0, 1, 1, 1]),
        (CELU(alpha=1e-30), [-INF, -1, 0, 1], [-1e-30, -1e-30, 0, 1], [0, 0, 1, 1]),
        (CELU(alpha=1e30), [-INF, 0, INF], [-1e30, 0, INF], [0, 1, 1]),
        (GELU(), [-INF, -1e30, 0, 1e30, INF], [0, 0, 0, 1e30, INF], [0, 0, 0.5, 1, 1]),
        (GELU(approximate=True), [-INF, -1e30, 0, 1e30, INF], [0, 0, 0, 1e30, INF], [0, 0, 0.5, 1, 1]),
        (SiLU(), [-INF, -1e30, 0, 1e30, INF], [0, 0, 0, 1e30, INF], [0, 0, 0.5, 1, 1]),
        (Mish(), [-INF, -1e30, 0, 1e30, INF], [0, 0, 0, 1e30, INF], [0, 0, 0.6, 1, 1]),
        (Softplus(), [-INF, -1e30, 0, 1e30, INF], [0, 0, math.log(2), 1e30, INF], [0, 0, 0.5, 1, 1]),
        (Softplus(beta=1e-30), [-INF, 0, INF], [0, math.log(2) * 1e30, INF], [0, 0.5, 1]),
        (Softplus(beta=1e30), [-INF, -1, 0, 1, INF], [0, 0, math.log(2) * 1e-30, 1, INF], [0, 0, 0.5, 1, 1]),
        (Softsign(), [-INF, -1, 0, 3, INF], [-1, -0.5, 0, 0.75, 1], [0, 0.25, 1, 0.0625, 0]),
        (HardSigmoid(), [-INF, -3, 0, 3, INF], [0, 0, 0.5, 1, 1], [0, 0, 1 / 6, 0, 0]),
        (HardSwish(), [-INF, -1e30, -3, 0, 3, INF], [0, 0, 0, 0, 3, INF], [0, 0, 0, 0.5, 1, 1]),
        (RReLU(), [-INF, -48, 0, INF], [-INF, -11, 0, INF], [11 / 48, 11 / 48, 11 / 48, 1]),
        (RReLU(lower=0.0, upper=0.0), [-INF, -48, 0, INF], [0, 0, 0, INF], [0, 0, 0, 1]),
        (LogSoftmax(), [0, 1e30, -INF], [-1e30, 0, -INF], [1, -2, 1]),
        (LogSoftmax(), [INF, INF, 5, -INF], [-math.log(2), -math.log(2), -INF, -INF], [-1, -1, 1, 1]),
        (LogSoftmax(), [-INF, -INF], [NAN, NAN], [NAN, NAN]),
        (Maxout(group_size=2), [-INF, INF, 5, 5], [INF, 5], [0, 1, 1, 0]),
        (Maxout(group_size=3), [-INF, -INF, -INF], [-INF], [1, 0, 0]),
        (Softmax(), [0, 1e30, -INF], [0, 1, 0], [0, 0, 0]),
        (Softmax(), [0, INF, 5], [0, 1, 0], [0, 0, 0]),
        (Softmax(), [INF, INF, 5, 5], [0.5, 0.5, 0, 0], [0, 0, 0, 0]),
        (Softmax(), [-INF, -INF], [NAN, NAN], [NAN, NAN]),
        (Softmax(), [3e38, -3e38], [1, 0], [0, 0]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_far_out(
    activation: Activation, x: list[float], y: list[float], dx: list[float], dtype: type
) -> None:
    given = np.array(x, dtype)
    value = activation.evaluate(given)
    slope = activation.vjp(given, np.ones_like(value))
    assert (value.dtype, slope.dtype) == (dtype, dtype)
    close = 4 * float(np.finfo(dtype).eps)  # of the logarithms and constants; infinities and zeros are exact
    assert value.tolist() == pytest.approx(y, rel=close, abs=0, nan_ok=True)
    assert slope.tolist() == pytest.approx(dx, rel=close, abs=0, nan_ok=True)


@pytest.mark.parametrize(
    ("activation", "x", "slope"),
    [
        (Sigmoid(), 40.0, math.exp(-40)),
        (Tanh(), 20.0, 4 * math.exp(-40)),
        (Tanh(), -20.0, 4 * math.exp(-40)),
        (SiLU(), -40.0, -39 * math.exp(-40)),
        (Softplus(), -40.0, math.exp(-40)),
        (Mish(), -40.0, -39 * math.exp(-40)),
    ],
)
def test_slopes_keep_their_digits_where_the_value_is_near_one(
    activation: Activation, x: float, slope: float
) -> None:
    assert activation.vjp(np.array([x]), np.ones(1)) == pytest.approx([slope], rel=1e-14, abs=0)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_nan_stays(activation: Activation) -> None:
    assert np.isnan(activation.evaluate(np.full((2, 2), NAN))).all()


@pytest.mark.parametrize("activation", [Softmax(axis=0), LogSoftmax(axis=0)], ids=repr)
def test_a_row_of_minus_infinity_spoils_no_other(activation: Activation) -> None:
    x = np.array([[-INF, -INF, 1.0], [-INF, 2.0, -INF]])
    rows = [activation.evaluate(x), activation.vjp(x, np.ones_like(x))]
    assert [np.isnan(row).tolist() for row in rows] == [[[True, False, False]] * 2] * 2


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
def test_large_inputs_give_the_bits_of_small_ones(activation: Activation) -> None:
    x, dy = np.random.default_rng(2).normal(size=(2, 7, 10_001)).astype(np.float32)
    for whole, parts in (
        (activation.evaluate(x.T), [activation.evaluate(column) for column in x.T]),
        (activation.vjp(x.T, dy.T), [activation.vjp(*columns) for columns in zip(x.T, dy.T, strict=True)]),
    ):
        assert np.array_equal(whole, np.stack(parts))


@pytest.mark.parametrize("activation", ELEMENTWISE, ids=repr)
def test_a_scalar_is_a_tensor(activation: Activation) -> None:
    x = np.array(0.5, np.float32)
    for result in (activation.evaluate(x), activation.vjp(x, x)):
        assert isinstance(result, np.ndarray)
        assert (result.shape, result.dtype) == ((), np.float32)


@pytest.mark.parametrize(("axis", "shape"), [(2, (3, 4)), (-3, (3, 4)), (-1, ()), (0, ())])
def test_an_axis_that_is_not_there_is_refused(axis: int, shape: tuple[int, ...]) -> None:
    x = np.zeros(shape)
    for call in (lambda a: a.evaluate(x), lambda a: a.vjp(x, x), lambda a: a.check_rank(len(shape))):
        with pytest.raises(DomainError) as caught:
            call(Softmax(axis=axis))
        assert (caught.value.reason, caught.value.field) == (Reason.OUT_OF_RANGE, "axis")


@pytest.mark.parametrize(
    ("x", "dy", "reason", "field"),
    [
        (np.zeros(3, np.int32), np.zeros(3, np.int32), Reason.DTYPE_MISMATCH, "input"),
        (np.zeros(3, np.float16), np.zeros(3, np.float32), Reason.DTYPE_MISMATCH, "output_gradient"),
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
