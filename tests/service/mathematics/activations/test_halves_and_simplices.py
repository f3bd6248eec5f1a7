"""Activations along an axis: what infinities, ties and odd extents make of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optserve_server.activations.along_axis.glu import GLU
from optserve_server.activations.along_axis.softmin import Softmin
from optserve_server.activations.along_axis.sparsemax import Sparsemax
from optserve_server.activations.piecewise_linear.hard_tanh import HardTanh
from optserve_server.activations.piecewise_linear.relu import ReLU
from optserve_server.errors import DomainError, Reason

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparsemax_is_a_distribution_with_zeros(dtype: type) -> None:
    x = np.array([[3.0, 0.0, -1.0], [0.5, 0.25, -4.0], [INF, INF, 0.0], [-INF, 1.0, -INF]], dtype)
    y = Sparsemax().evaluate(x)
    assert y.tolist() == [[1, 0, 0], [0.625, 0.375, 0], [0.5, 0.5, 0], [0, 1, 0]]
    slope = Sparsemax().vjp(x, np.array([[1.0, 2.0, 4.0]] * 4, dtype))
    assert slope.tolist() == [[0, 0, 0], [-0.5, 0.5, 0], [-0.5, 0.5, 0], [0, 0, 0]]
    assert np.isnan(Sparsemax().evaluate(np.full((1, 2), -INF, dtype))).all()
    assert Sparsemax().evaluate(np.zeros((0, 3), dtype)).shape == (0, 3)


def test_softmin_gives_most_to_the_least() -> None:
    assert Softmin().evaluate(np.array([-INF, 0.0])).tolist() == [1, 0]
    assert Softmin().evaluate(np.array([0.0, math.log(3)])) == pytest.approx([0.75, 0.25])


def test_a_closed_gate_lets_no_infinity_through() -> None:
    x = np.array([INF, 2.0, -INF, 0.0])
    assert GLU().evaluate(x).tolist() == [0, 1]
    assert GLU().vjp(x, np.ones(2)).tolist() == [0, 0.5, 0, 0.5]


def test_an_odd_extent_has_no_halves() -> None:
    with pytest.raises(DomainError) as caught:
        GLU().evaluate(np.zeros((2, 3)))
    assert (caught.value.reason, caught.value.field) == (Reason.SHAPE_MISMATCH, "input")


def test_limits_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(DomainError) as caught:
        HardTanh(min_value=1.0, max_value=1.0)
    assert (caught.value.reason, caught.value.field) == (Reason.CONFLICTING_FIELDS, "min_value")


def test_a_rectifier_with_every_knob() -> None:
    relu = ReLU(max_value=2.0, negative_slope=0.5, threshold=1.0)
    x = np.array([-INF, -1.0, 1.0, 1.5, 2.0, 3.0, INF, NAN])
    assert relu.evaluate(x)[:-1].tolist() == [-INF, -1, 0, 1.5, 2, 2, 2]
    assert np.isnan(relu.evaluate(x)[-1])
    assert relu.vjp(x, np.ones(8))[:-1].tolist() == [0.5, 0.5, 0.5, 1, 0, 0, 0]
