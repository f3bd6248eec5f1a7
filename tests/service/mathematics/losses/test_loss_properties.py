"""What holds for every loss: gradients, reductions, weights, and what executors make of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.ops import NumpyOps
from optserve_server.arrays.trace import Tracer
from optserve_server.losses import REGISTRY
from optserve_server.losses.base import Loss, Reduction
from optserve_server.losses.elementwise import ElementwiseLoss
from tests.service.mathematics.differences import numeric_gradient
from tests.service.mathematics.losses.loss_cases import (
    CASES,
    FIELDS,
    Array,
    floats,
    inputs,
    make_loss,
    smooth,
)

each_loss = pytest.mark.parametrize(("name", "fields"), CASES)
searched = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
WIDTH = 2e-6


def draw_inputs(data: st.DataObject, loss: Loss) -> tuple[Array, Array]:
    predictions, targets = inputs(loss)
    p, y = data.draw(predictions), data.draw(targets)
    assume(smooth(loss, p, y))
    return p, y


def weights_for(loss: Loss, data: st.DataObject, p: Array, y: Array) -> Array | None:
    shape = loss.per_example(p, y).shape
    flat = data.draw(floats(0.25, 2)).ravel()[: int(np.prod(shape))]
    return data.draw(st.sampled_from([None, flat.reshape(shape)]))


@each_loss
@searched
@given(data=st.data())
def test_the_gradient_is_that_of_central_differences(
    name: str, fields: dict[str, object], data: st.DataObject
) -> None:
    loss = make_loss(name, fields)
    p, y = draw_inputs(data, loss)
    weights = weights_for(loss, data, p, y)
    reduction = data.draw(st.sampled_from(list(Reduction)))

    def value(p: Array) -> float:
        losses = loss.per_example(p, y, weights)
        reduced = loss.reduce(losses, y, reduction, weights)
        return float(losses.sum()) if reduced is None else reduced

    gradient = loss.gradient(p, y, reduction, weights)
    scale = 1 + np.abs(gradient).max()
    assert gradient == pytest.approx(numeric_gradient(value, p, WIDTH), rel=1e-6, abs=1e-7 * scale)


@each_loss
@searched
@given(data=st.data())
def test_reductions_are_consistent(name: str, fields: dict[str, object], data: st.DataObject) -> None:
    loss = make_loss(name, fields)
    p, y = draw_inputs(data, loss)
    weights = weights_for(loss, data, p, y)
    total = loss.total_weight(y, weights)
    each = loss.per_example(p, y, weights)
    values = {r: loss.reduce(each, y, r, weights) for r in Reduction}
    slopes = {r: loss.gradient(p, y, r, weights) for r in Reduction}
    count = max(each.size - loss.count_ignored(y), 1)
    for reduction, divisor in (
        (Reduction.SUM, 1),
        (Reduction.SUM_OVER_BATCH_SIZE, count),
        (Reduction.MEAN, count),
        (Reduction.MEAN_WITH_SAMPLE_WEIGHT, count if total is None else total or math.inf),
    ):
        assert values[reduction] == pytest.approx(each.sum() / divisor, rel=1e-12, abs=1e-12)
        assert slopes[reduction] == pytest.approx(slopes[Reduction.NONE] / divisor, rel=1e-12, abs=1e-15)
    assert values[Reduction.NONE] is None
    unweighted = loss.per_example(p, y)
    assert each == pytest.approx(unweighted * (1 if weights is None else weights), rel=1e-15)


ELEMENTWISE = [
    (name, fields)
    for name, fields in CASES
    if isinstance(make_loss(name, fields), ElementwiseLoss) and "positive_weights" not in fields
]


@pytest.mark.parametrize(("name", "fields"), ELEMENTWISE)
@searched
@given(data=st.data())
def test_elements_have_weights_of_their_own(
    name: str, fields: dict[str, object], data: st.DataObject
) -> None:
    """Equal weights along an example are its weight; others count in value and gradient alike."""
    loss = make_loss(name, fields)
    p, y = draw_inputs(data, loss)
    weights, reduction = data.draw(floats(0.25, 2)), data.draw(st.sampled_from(list(Reduction)))
    axis = getattr(loss, "axis", -1)
    each = np.take(weights, 0, axis)
    spread = np.broadcast_to(np.expand_dims(each, axis), p.shape)
    for how in Reduction:
        assert loss.per_example(p, y, spread) == pytest.approx(loss.per_example(p, y, each), rel=1e-12)
        assert loss.total_weight(y, spread) == pytest.approx(loss.total_weight(y, each), rel=1e-12)
        assert loss.gradient(p, y, how, spread) == pytest.approx(loss.gradient(p, y, how, each), rel=1e-12)

    def value(p: Array) -> float:
        losses = loss.per_example(p, y, weights)
        reduced = loss.reduce(losses, y, reduction, weights)
        return float(losses.sum()) if reduced is None else reduced

    gradient = loss.gradient(p, y, reduction, weights)
    scale = 1 + np.abs(gradient).max()
    assert gradient == pytest.approx(numeric_gradient(value, p, WIDTH), rel=1e-6, abs=1e-7 * scale)


@pytest.mark.parametrize(("name", "fields"), ELEMENTWISE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_the_text_of_an_elementwise_loss_can_be_traced(
    name: str, fields: dict[str, object], dtype: Any, data: st.DataObject
) -> None:
    """Blocked NumPy computes the traced program to the bits of the plain text."""
    loss: Any = make_loss(name, fields)
    predictions, targets = inputs(loss)
    p, y = data.draw(predictions).astype(dtype).ravel(), data.draw(targets).astype(dtype).ravel()
    t = Tracer()
    symbols = t.load("p"), t.load("y")
    t.store("value", loss.value(t, *symbols))
    t.store("slope", loss.derivative(t, *symbols))
    program = t.build_program()
    kept = {"p": p, "y": y, "value": np.zeros_like(p), "slope": np.zeros_like(p)}
    NumpyBackend(threads=1).compile(program, np.dtype(dtype), {})({n: kept[n] for n in program.arrays}, {})
    with np.errstate(all="ignore"):
        plain = {"value": loss.value(NumpyOps(), p, y), "slope": loss.derivative(NumpyOps(), p, y)}
    for part, values in plain.items():
        assert np.array_equal(kept[part], np.broadcast_to(values, p.shape)), part


def test_every_loss_is_among_the_cases() -> None:
    assert {name for name, _ in CASES} == {cls.name for cls in REGISTRY.values()} - {"custom", "ciou"}
    assert set(FIELDS) <= {name for name, _ in CASES}
