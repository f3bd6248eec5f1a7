"""What a parameter group has of its own: regularization, and being frozen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optserve_server.errors import DomainError, Reason
from optserve_server.optimizers.adam import Adam
from optserve_server.sessions.session import Session
from optserve_server.spec.session_spec import (
    ClipByGlobalNorm,
    GradientSpec,
    ParameterGroup,
    WeightAverageSpec,
)
from tests.service.sessions.support import parameters, session_of, spec_of, step

START = {"a": np.array([1.0, -2.0, 3.0]), "b": np.array([0.5, -0.25])}
GRADIENT = {"a": np.array([3.0, 0.0, 0.0]), "b": np.array([0.0, 4.0])}


def make(group: dict[str, Any], **fields: Any) -> Session:
    return session_of(spec_of(groups=(ParameterGroup(name="g", tensors=("b",), **group),), **fields), START)


def test_a_group_has_its_own_l1_and_l2() -> None:
    session = make({"l1": 0.5, "l2": 0.25}, gradient=GradientSpec(l1=0.125))
    result = step(session, GRADIENT)
    of_a = GRADIENT["a"] + 0.125 * np.sign(START["a"])
    of_b = GRADIENT["b"] + 0.5 * np.sign(START["b"]) + 0.25 * START["b"]
    np.testing.assert_allclose(parameters(session)["a"], START["a"] - 0.1 * of_a, rtol=1e-15)
    np.testing.assert_allclose(parameters(session)["b"], START["b"] - 0.1 * of_b, rtol=1e-15)
    penalty = 0.125 * 6.0 + 0.5 * 0.75 + 0.25 * (0.25 + 0.0625) / 2
    assert result.regularization_penalty == pytest.approx(penalty, rel=1e-15)
    assert result.gradient_norm == pytest.approx(np.sqrt((of_a**2).sum() + (of_b**2).sum()), rel=1e-15)


def test_a_group_can_go_without_the_sessions_regularization() -> None:
    session = make({"l2": 0.0}, gradient=GradientSpec(l2=0.5))
    step(session, GRADIENT)
    np.testing.assert_allclose(parameters(session)["b"], START["b"] - 0.1 * GRADIENT["b"], rtol=1e-15)


def test_a_frozen_group_stays_and_counts_in_no_norm() -> None:
    clip = GradientSpec(clip=ClipByGlobalNorm(max_norm=1.5))
    session = make({"frozen": True}, rule=Adam(), gradient=clip)
    result = step(session, GRADIENT, per_tensor_norms=True)
    assert result.gradient_norm == 3.0
    assert result.clipped_gradient_norm == 1.5
    assert result.tensor_norms == (("a", 3.0),)
    np.testing.assert_array_equal(parameters(session)["b"], START["b"])
    assert parameters(session)["a"][0] != START["a"][0]


def test_what_is_not_finite_for_a_frozen_tensor_is_no_reason_to_reject() -> None:
    session = make({"frozen": True})
    step(session, {**GRADIENT, "b": np.array([np.nan, np.inf])})
    np.testing.assert_array_equal(parameters(session)["b"], START["b"])


def test_a_frozen_tensor_may_be_left_out_of_accumulated_gradients() -> None:
    session = make({"frozen": True}, gradient=GradientSpec(accumulation_steps=2))
    for _ in range(2):
        step(session, {"a": GRADIENT["a"]})
    assert session.step == 1
    with pytest.raises(DomainError) as caught:
        step(session, {"b": GRADIENT["b"]})
    assert caught.value.reason is Reason.MISSING_TENSOR


def test_thawing_goes_on_with_the_state_of_before() -> None:
    session, other = make({}, rule=Adam()), make({}, rule=Adam())
    step(session, GRADIENT), step(other, GRADIENT)
    session.update_spec(make({"frozen": True}, rule=Adam()).spec)
    step(session, GRADIENT)
    held = parameters(session)["b"]
    np.testing.assert_array_equal(held, parameters(other)["b"])
    session.update_spec(make({}, rule=Adam()).spec)
    step(session, GRADIENT)
    assert (parameters(session)["b"][1]) != held[1]


def test_the_average_of_frozen_weights_is_themselves() -> None:
    session = make({"frozen": True}, weight_average=WeightAverageSpec(decay=0.5))
    for _ in range(3):
        step(session, GRADIENT)
    from optserve_server.state.read_parameters import Point

    np.testing.assert_array_equal(parameters(session, point=Point.AVERAGE)["b"], START["b"])
