"""What pictures show is what the server computed."""

from __future__ import annotations

import numpy as np
import pytest

from optserve import activations, errors, optimizers, schedules
from optserve.activations import Activation
from optserve.enums import Convention, NesterovForm
from optserve.optimizers import Optimizer
from optserve.plotting import pictures
from optserve.plotting.activations import activation_curves, list_elementwise
from optserve.plotting.optimizer_paths import FAR, every_optimizer, optimizer_paths, with_learning_rate
from optserve.plotting.plot_items import Item
from optserve.plotting.schedules import schedule_curves
from optserve.plotting.surfaces import ALL, SURFACES

X = np.linspace(-4, 4, 33)


def names(items):
    return {item.label for item in items}


def test_schedules_are_the_served_rates(client):
    exponential = schedules.Exponential(1.0, 10, 0.5)
    items = [Item("a", exponential), Item("b", schedules.ConstantSchedule(0.3))]
    first, second = schedule_curves(client, items, 40)
    np.testing.assert_array_equal(first.steps, np.arange(40))
    np.testing.assert_array_equal(first.rates, client.evaluate_schedule(exponential, range(40)))
    np.testing.assert_allclose(first.rates, 0.5 ** (np.arange(40) / 10))
    assert (second.label, set(second.rates)) == ("b", {0.3})


def test_a_drawn_schedule_is_the_curve(client):
    curves = schedule_curves(client, [Item("a", schedules.Rsqrt(1.0, 10))], 50)
    (line,) = pictures.draw_schedules(curves).axes[0].lines
    np.testing.assert_array_equal(line.get_xdata(), curves[0].steps)
    np.testing.assert_array_equal(line.get_ydata(), curves[0].rates)


def test_an_activation_comes_with_its_derivative(client):
    (curve,) = activation_curves(client, [Item("sigmoid", activations.Sigmoid())], X, 0.25)
    y = 1 / (1 + np.exp(-X))
    np.testing.assert_allclose(curve.y, y)
    np.testing.assert_allclose(curve.derivative, y * (1 - y))


def test_a_slope_is_given_where_the_server_asks_for_one(client):
    (curve,) = activation_curves(client, [Item("prelu", activations.PReLU())], X, 0.5)
    np.testing.assert_array_equal(curve.y, np.where(X > 0, X, X / 2))
    np.testing.assert_array_equal(curve.derivative, np.where(X > 0, 1, 0.5))


def test_what_works_along_an_axis_is_drawn_over_its_first_input(client):
    softmax = activations.Softmax(axis=0)
    maxout = activations.Maxout(3)
    first, second = activation_curves(client, [Item("s", softmax), Item("m", maxout)], X, 0.25)
    y = 1 / (1 + np.exp(-X))
    np.testing.assert_allclose(first.y, y)
    np.testing.assert_allclose(first.derivative, y * (1 - y))
    np.testing.assert_array_equal(second.y, np.maximum(X, 0))
    np.testing.assert_array_equal(second.derivative, X >= 0)
    assert (first.label, second.label) == ("s, at (x, 0)", "m, at (x, 0, 0)")


def test_the_sheet_has_every_elementwise_activation(client):
    items = list_elementwise(client)
    assert names(items) >= {"sigmoid", "tanh", "relu", "leaky_relu", "prelu", "rrelu", "elu", "gelu", "mish"}
    assert {"softmax", "log_softmax", "maxout"} <= set(Activation.CHOICES) - names(items)
    along_an_axis = {name for name, cls in Activation.CHOICES.items() if "axis" in cls.__dataclass_fields__}
    assert names(items) == set(Activation.CHOICES) - along_an_axis
    curves = activation_curves(client, items, X + 0.01, 0.25)  # off the kinks
    step = 1e-6
    moved = activation_curves(client, items, X + 0.01 + step, 0.25)
    for curve, other in zip(curves, moved, strict=True):
        np.testing.assert_allclose(
            (other.y - curve.y) / step, curve.derivative, rtol=1e-6, atol=1e-5, err_msg=curve.label
        )


def test_a_drawn_activation_is_the_curve(client):
    curves = activation_curves(client, list_elementwise(client)[:3], X, 0.25)
    figure = pictures.draw_activations(curves)
    assert len(figure.axes) == 3
    for axes, curve in zip(figure.axes, curves, strict=True):
        value, derivative = axes.lines[-2:]
        np.testing.assert_array_equal(value.get_ydata(), curve.y)
        np.testing.assert_array_equal(derivative.get_ydata(), curve.derivative)


def test_gradient_descent_takes_the_path_of_its_formula(client):
    bowl = SURFACES["quadratic"]
    (path,) = optimizer_paths(
        client, [Item("sgd", optimizers.SGD(learning_rate=0.04))], bowl, np.array([-9.0, 2.0]), 20
    )
    t = np.arange(21)[:, None]
    np.testing.assert_allclose(path.points, np.array([-9.0, 2.0]) * np.array([0.96, 0.2]) ** t)
    np.testing.assert_array_equal(path.values, bowl.values_at(path.points))
    assert not path.diverged


def test_a_rule_that_looks_ahead_gets_its_gradients_there(client):
    bowl = SURFACES["quadratic"]
    spec = optimizers.Nesterov(learning_rate=0.02, momentum=0.8, form=NesterovForm.LOOKAHEAD)
    (path,) = optimizer_paths(client, [Item("nesterov", spec)], bowl, np.array([-9.0, 2.0]), 15)
    p, v = np.array([-9.0, 2.0]), np.zeros(2)
    for point in path.points:
        np.testing.assert_allclose(point, p)
        v = 0.8 * v - 0.02 * np.array([1, 20]) * (p + 0.8 * v)
        p = p + v


def test_a_path_that_diverges_ends_and_says_so(client):
    beale = SURFACES["beale"]
    (path,) = optimizer_paths(
        client, [Item("sgd", optimizers.SGD(learning_rate=9.0))], beale, np.array([1.0, 1.5]), 50
    )
    assert path.diverged
    assert len(path.points) < 51
    assert np.abs(path.points[-1]).max() > FAR
    figure = pictures.draw_paths([path], beale)
    assert figure.legends[0].texts[0].get_text() == "sgd: diverged"


def test_a_path_may_leave_where_there_is_no_minimum(client):
    saddle = SURFACES["saddle"]
    (path,) = optimizer_paths(
        client, [Item("sgd", optimizers.SGD(learning_rate=0.5))], saddle, np.ones(2), 50
    )
    assert len(path.points) < 51
    assert not path.diverged


def test_no_session_stays_behind(client):
    before = [session.name for session in client.sessions()]
    bowl = SURFACES["quadratic"]
    optimizer_paths(client, [Item("adam", optimizers.Adam())], bowl, np.array(bowl.start), 2)
    with pytest.raises(errors.InvalidArgument):
        optimizer_paths(client, [Item("adam", optimizers.Adam(beta1=2.0))], bowl, np.array(bowl.start), 2)
    assert [session.name for session in client.sessions()] == before


def test_every_optimizer_without_a_required_field_takes_a_path(client):
    items = every_optimizer(client)
    assert names(items) == set(Optimizer.CHOICES)
    bowl = SURFACES["quadratic"]
    for path in optimizer_paths(client, with_learning_rate(items, 0.01), bowl, np.array(bowl.start), 3):
        assert path.points.shape == (4, 2), path.label
        assert np.isfinite(path.values).all(), path.label


def test_a_drawn_path_is_the_path(client):
    bowl = SURFACES["quadratic"]
    items = [Item("sgd", optimizers.SGD(learning_rate=0.05)), Item("lion", optimizers.Lion())]
    paths = optimizer_paths(client, items, bowl, np.array(bowl.start), 10)
    contour, descent = pictures.draw_paths(paths, bowl).axes
    drawn = {line.get_label(): line.get_xydata() for line in contour.lines}
    sheet = pictures.draw_path_sheet(paths, bowl).axes
    for i, path in enumerate(paths):
        np.testing.assert_array_equal(drawn[path.label], path.points)
        np.testing.assert_array_equal(descent.lines[i].get_ydata(), path.values)
        assert any(np.array_equal(line.get_xydata(), path.points) for line in sheet[i].lines)


def test_only_a_missing_learning_rate_is_filled():
    torch = optimizers.Adam(convention=Convention.TORCH)
    items = [Item("a", torch), Item("b", optimizers.SGD(learning_rate=3.0))]
    rates = [item.spec.learning_rate for item in with_learning_rate(items, 0.5)]
    assert rates == [0.5, 3.0]
    assert with_learning_rate(items, 0.5)[0].spec.convention is Convention.TORCH


@pytest.mark.parametrize("surface", ALL, ids=lambda surface: surface.name)
def test_a_surface_has_the_right_gradient_and_minimum(surface):
    left, right, bottom, top = surface.window
    points = np.random.default_rng(0).uniform((left, bottom), (right, top), (20, 2))
    h = 1e-6
    for point in points:
        moved = surface.values_at(point + h * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]))
        differences = [(moved[0] - moved[1]) / (2 * h), (moved[2] - moved[3]) / (2 * h)]
        np.testing.assert_allclose(surface.gradient_at(point), differences, rtol=1e-5, atol=1e-4)
    if surface.minimum is not None:
        np.testing.assert_allclose(surface.gradient_at(np.array(surface.minimum)), 0, atol=1e-12)
        assert (surface.values_at(points) > surface.values_at(np.array([surface.minimum]))).all()
