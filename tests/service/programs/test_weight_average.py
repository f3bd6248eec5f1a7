"""How far the average of the weights moves, and when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optserve_server.optimizers.sgd import SGD
from optserve_server.spec.session_spec import GradientSpec, WeightAverageSpec, WeightAverageStart
from optserve_server.state.read_parameters import Point
from tests.service.sessions.support import parameters, session_of, spec_of, step


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("start", list(WeightAverageStart)[:2])
def test_an_average_of_constant_weights_stays_where_they_are(dtype: Any, start: WeightAverageStart) -> None:
    average = WeightAverageSpec(decay=0.99999, start=start, every_micro_batch=False)
    weights = {"a": np.array([0.1, -3.7, 1e5], dtype)}
    session = session_of(spec_of(weight_average=average), weights)
    for _ in range(2000):
        step(session, {"a": np.zeros(3, dtype)})
    np.testing.assert_array_equal(parameters(session, point=Point.AVERAGE)["a"], weights["a"])


def test_an_average_moves_as_far_as_its_decay_says_in_float32() -> None:
    average = WeightAverageSpec(decay=0.99999, every_micro_batch=False)
    session = session_of(
        spec_of(SGD(learning_rate=1.0), weight_average=average), {"a": np.zeros(1, np.float32)}
    )
    for gradient in (0.0, -1.0):
        step(session, {"a": np.full(1, gradient, np.float32)})
    # float32 has 0.3 % less than 1 - decay if it is taken after decay was rounded.
    assert parameters(session, point=Point.AVERAGE)["a"] == pytest.approx([1e-5], rel=1e-6)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (WeightAverageStart.COPY, [2.5, 2.75]),
        (WeightAverageStart.ZERO, [2.25, 2.625]),
        (WeightAverageStart.ZERO_DEBIASED, [2 + 2 / 3, 2 + 2 / 3]),
    ],
)
def test_an_average_between_steps(start: WeightAverageStart, expected: list[float]) -> None:
    spec = spec_of(
        SGD(learning_rate=1.0),
        weight_average=WeightAverageSpec(decay=0.5, start=start, every_micro_batch=True),
        gradient=GradientSpec(accumulation_steps=2),
    )
    session = session_of(spec, {"a": np.array([1.0])})
    found = []
    # The weight is 2 after the first two, 3 after the next two.
    for _ in range(5):
        step(session, {"a": np.array([-1.0])})
        found.append(float(parameters(session, point=Point.AVERAGE)["a"][0]))
    assert found[0] == 1.0
    assert found[3:] == pytest.approx(expected)
