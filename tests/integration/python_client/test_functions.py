"""Schedules, losses and activations, computed by the server."""

from __future__ import annotations

import numpy as np
import pytest

import optserve
from optserve import activations, errors, losses, schedules

X = np.array([[0.5, -1.0, 2.0], [0.0, 3.0, -0.25]])


@pytest.mark.parametrize("steps", [range(0, 40, 10), [0, 10, 20, 30], np.arange(0, 40, 10)])
def test_a_schedule_is_evaluated_at_steps_and_over_ranges(client, steps):
    rates = client.evaluate_schedule(schedules.Exponential(1.0, decay_steps=10, decay_rate=0.5), steps)
    np.testing.assert_allclose(rates, [1, 0.5, 0.25, 0.125])
    assert rates.dtype == np.float64


def test_a_schedule_is_evaluated_at_one_step(client):
    schedule = schedules.PiecewiseConstant(boundaries=[2], values=[0.5, 0.25])
    assert client.evaluate_schedule(schedule, 2).tolist() == [0.5]
    assert client.evaluate_schedule(schedule, 3).tolist() == [0.25]


def test_a_loss_comes_with_its_gradient(client):
    target = np.eye(3)[:2]
    loss = client.loss(losses.CategoricalCrossentropy(from_logits=True), X, target, per_example=True)
    p = np.exp(X) / np.exp(X).sum(1, keepdims=True)
    np.testing.assert_allclose(loss.per_example, -np.log((p * target).sum(1)))
    assert loss.value == pytest.approx(loss.per_example.mean())
    np.testing.assert_allclose(loss.gradient, (p - target) / 2)


def test_a_sparse_loss_takes_indices(client):
    loss = client.loss(
        losses.SparseCategoricalCrossentropy(from_logits=True), X, np.array([2, 1]), gradient=False
    )
    assert loss.value == pytest.approx(np.mean(np.log(np.exp(X).sum(1)) - X[[0, 1], [2, 1]]))
    with pytest.raises(ValueError, match="not asked"):
        _ = loss.gradient


def test_an_unreduced_loss_has_no_value(client):
    none = losses.MeanSquaredError(reduction=optserve.LossReduction.NONE)
    loss = client.loss(none, X, np.zeros_like(X), per_example=True)
    np.testing.assert_allclose(loss.per_example, (X**2).mean(1))
    with pytest.raises(ValueError, match="not reduced"):
        _ = loss.value


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_activation_keeps_type_and_shape(client, dtype):
    y = client.activation(activations.LeakyReLU(negative_slope=0.5), X.astype(dtype))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, np.where(X > 0, X, 0.5 * X).astype(dtype))


def test_an_activations_gradient(client):
    dy = np.arange(6.0).reshape(2, 3)
    dx = client.activation_gradient(activations.Tanh(), X, dy)
    np.testing.assert_allclose(dx, dy * (1 - np.tanh(X) ** 2))


def test_a_slope_is_given_beside_the_input_and_has_a_gradient(client):
    slope = np.array([0.5, 0.25, 2.0])
    y = client.activation(activations.PReLU(), X, slope=slope)
    np.testing.assert_array_equal(y, np.where(X > 0, X, slope * X))
    dx, slope_gradient = client.activation_gradient(activations.PReLU(), X, np.ones_like(X), slope=slope)
    np.testing.assert_array_equal(dx, np.where(X > 0, 1, slope))
    np.testing.assert_array_equal(slope_gradient, [0, -1, -0.25])
    with pytest.raises(errors.InvalidArgument, match="takes a slope"):
        client.activation(activations.PReLU(), X)


def test_maxout_shortens_an_axis(client):
    maxout = activations.Maxout(3)
    np.testing.assert_array_equal(client.activation(maxout, X), [[2.0], [3.0]])
    np.testing.assert_array_equal(
        client.activation_gradient(maxout, X, np.array([[1.0], [5.0]])), [[0, 0, 1], [0, 5, 0]]
    )


def test_drawn_slopes_repeat_with_their_seed(client):
    drawn = activations.RReLU(training=True, seed=3)
    x = -np.ones((4, 5))
    np.testing.assert_array_equal(
        client.activation(drawn, x), -client.activation_gradient(drawn, x, np.ones_like(x))
    )
    assert len(np.unique(client.activation(drawn, x))) == 20


UNBOUNDED: set[type[object]] = {activations.ExponentialActivation, activations.GLU}
"""Activations whose slope is infinite at an infinity, or a product with one."""


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "kind", [kind for kind in activations.Activation.__subclasses__() if kind not in UNBOUNDED]
)
def test_infinities_have_values_and_derivatives(client, kind, dtype):
    activation = kind(1) if kind is activations.Maxout else kind()
    x = np.array([-np.inf, -100.0, -0.0, 100.0, np.inf], dtype)
    slope = {"slope": np.array(0.5, dtype)} if kind is activations.PReLU else {}
    assert not np.isnan(client.activation(activation, x, **slope)).any()
    dx = client.activation_gradient(activation, x, np.ones_like(x), **slope)
    assert np.isfinite(dx[0] if slope else dx).all()


def test_a_type_that_the_wire_does_not_know_is_refused_at_once(client):
    with pytest.raises(TypeError, match="complex128"):
        client.activation(activations.ReLU(), X.astype(complex))
