"""Rectifiers whose slope is given, or drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optserve_server.activations.along_axis.maxout import Maxout
from optserve_server.activations.piecewise_linear.prelu import PReLU
from optserve_server.activations.piecewise_linear.relu import ReLU
from optserve_server.activations.piecewise_linear.rrelu import RReLU
from optserve_server.errors import DomainError, Reason
from tests.service.mathematics.differences import numeric_gradient

SHAPES = [(), (1,), (4,), (3, 1), (3, 4), (2, 1, 1), (1, 3, 4), (2, 3, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_both_gradients_of_prelu_are_derivatives(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    x, dy = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4))
    slope = rng.normal(size=shape)
    by_x = numeric_gradient(lambda x: float((PReLU().evaluate(x, slope) * dy).sum()), x)
    by_slope = numeric_gradient(lambda s: float((PReLU().evaluate(x, s) * dy).sum()), slope)
    assert PReLU().vjp(x, dy, slope) == pytest.approx(by_x, rel=1e-7, abs=1e-9)
    gradient = PReLU().slope_gradient(x, dy, slope)
    assert (gradient.shape, gradient.dtype) == (shape, np.float64)
    assert gradient == pytest.approx(by_slope, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_prelu_far_out(dtype: type) -> None:
    x = np.array([-math.inf, -math.inf, -2, 0, 3, math.inf, math.nan], dtype)
    slope = np.array([0, 0.5, -0.5, 2, 2, 0, 0], dtype)
    y, dx = PReLU().evaluate(x, slope), PReLU().vjp(x, np.ones_like(x), slope)
    np.testing.assert_array_equal(y, np.array([0, -math.inf, 1, 0, 3, math.inf, math.nan], dtype))
    np.testing.assert_array_equal(dx[:6], np.array([0, 0.5, -0.5, 2, 1, 1], dtype))


def test_a_slopes_gradient_is_summed_in_float64() -> None:
    x, slope = np.full(1 << 20, -0.1, np.float32), np.zeros(1, np.float32)
    gradient = PReLU().slope_gradient(x, np.ones_like(x), slope)
    assert gradient.dtype == np.float32
    assert gradient[0] == np.float32(float(np.float32(-0.1)) * (1 << 20))


def test_empty_inputs_have_a_slope_gradient_of_0() -> None:
    x, slope = np.zeros((0, 3), np.float32), np.ones(3, np.float32)
    assert PReLU().slope_gradient(x, x, slope).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("slope", "reason"),
    [
        (None, Reason.FIELD_REQUIRED),
        (np.zeros(3), Reason.SHAPE_MISMATCH),
        (np.zeros((1, 2, 4)), Reason.SHAPE_MISMATCH),
        (np.zeros((3, 4)), Reason.SHAPE_MISMATCH),
        (np.zeros(4, np.float32), Reason.DTYPE_MISMATCH),
    ],
)
def test_slopes_that_do_not_fit_are_refused(slope: np.ndarray | None, reason: Reason) -> None:
    x = np.zeros((2, 4))
    for call in (lambda: PReLU().evaluate(x, slope), lambda: PReLU().vjp(x, x, slope)):
        with pytest.raises(DomainError) as caught:
            call()
        assert (caught.value.reason, caught.value.field) == (reason, "slope")


def test_a_slope_that_nobody_takes_is_refused() -> None:
    x = np.zeros(4)
    for call in (
        ReLU().evaluate,
        lambda x, s: RReLU().vjp(x, x, s),
        lambda x, s: ReLU().slope_gradient(x, x, s),
    ):
        with pytest.raises(DomainError) as caught:
            call(x, x)
        assert (caught.value.reason, caught.value.field) == (Reason.CONFLICTING_FIELDS, "slope")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_drawn_slopes_are_uniform_and_their_own(dtype: type) -> None:
    x = -np.ones((200, 500), dtype)
    slopes = -RReLU(training=True, seed=1).evaluate(x)
    assert slopes.min() >= dtype(1 / 8)
    assert slopes.max() <= dtype(1 / 3)
    assert slopes.mean() == pytest.approx((1 / 8 + 1 / 3) / 2, rel=0.005)
    assert slopes.std() == pytest.approx((1 / 3 - 1 / 8) / math.sqrt(12), rel=0.01)
    assert len(np.unique(slopes)) > 0.9 * slopes.size
    assert not np.array_equal(slopes, -RReLU(training=True, seed=2).evaluate(x))


def test_one_seed_draws_the_same_slopes_in_either_direction_and_type() -> None:
    drawn = RReLU(training=True, seed=1)
    x = np.random.default_rng(0).normal(size=(3, 4))
    dx = drawn.vjp(x, np.ones_like(x))
    assert np.array_equal(drawn.evaluate(x), np.where(x > 0, x, dx * x))
    assert np.array_equal(
        drawn.vjp(x.astype(np.float32), np.ones(x.shape, np.float32)), dx.astype(np.float32)
    )


def test_draws_do_not_change_with_a_release() -> None:
    slopes = -RReLU(lower=0.0, upper=1.0, training=True, seed=7).evaluate(-np.ones(3))
    assert slopes.tolist() == [0.625095466604667, 0.8972138009695755, 0.7756856902451935]


def test_ends_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(DomainError) as caught:
        RReLU(lower=0.5, upper=0.25)
    assert (caught.value.reason, caught.value.field) == (Reason.CONFLICTING_FIELDS, "lower")


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_maxout_and_its_gradient(axis: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4, 6, 2))
    maxout = Maxout(group_size=2, axis=axis)
    y = maxout.evaluate(x)
    assert y.shape == maxout.output_shape(x.shape)
    assert np.array_equal(np.moveaxis(y, axis, 0)[0], np.moveaxis(x, axis, 0)[:2].max(0))
    dy = rng.normal(size=y.shape)
    numeric = numeric_gradient(lambda x: float((maxout.evaluate(x) * dy).sum()), x)
    assert maxout.vjp(x, dy) == pytest.approx(numeric, rel=1e-7, abs=1e-9)


def test_nan_wins_its_group() -> None:
    assert np.isnan(Maxout(group_size=2).evaluate(np.array([1.0, math.nan]))).all()


def test_maxout_of_nothing_is_nothing() -> None:
    x = np.zeros((3, 0), np.float32)
    assert Maxout(group_size=2).evaluate(x).shape == Maxout(group_size=2).vjp(x, x).shape == (3, 0)


@pytest.mark.parametrize(
    ("maxout", "x", "dy", "reason", "field"),
    [
        (Maxout(group_size=4), np.zeros((2, 6)), np.zeros((2, 1)), Reason.SHAPE_MISMATCH, "input"),
        (Maxout(group_size=2), np.zeros((2, 6)), np.zeros((2, 6)), Reason.SHAPE_MISMATCH, "output_gradient"),
        (Maxout(group_size=1, axis=2), np.zeros((2, 6)), np.zeros((2, 6)), Reason.OUT_OF_RANGE, "axis"),
        (Maxout(group_size=1), np.zeros(()), np.zeros(()), Reason.OUT_OF_RANGE, "axis"),
    ],
)
def test_inputs_that_make_no_groups_are_refused(
    maxout: Maxout, x: np.ndarray, dy: np.ndarray, reason: Reason, field: str
) -> None:
    with pytest.raises(DomainError) as caught:
        maxout.vjp(x, dy)
    assert (caught.value.reason, caught.value.field) == (reason, field)
