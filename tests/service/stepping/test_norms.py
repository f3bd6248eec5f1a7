"""Norms of float64 gradients whose squares leave the range of float64, and what depends on them."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from optserve_server.optimizers.lamb import LAMB
from optserve_server.optimizers.lars import LARS
from optserve_server.sessions.session import Session
from optserve_server.spec.session_spec import (
    ClipByGlobalNorm,
    ClipByTensorNorm,
    ClipByValue,
    GradientSpec,
    NonFinitePolicy,
)
from tests.service.sessions.support import parameters, session_of, spec_of, step

SCALES = [1e200, 1e-200]
about = functools.partial(pytest.approx, rel=1e-14, abs=0)  # of a small norm 1e-12 would be anything
UNIT = {"a": np.array([3.0, 0.0, 12.0]), "b": np.array([[4.0], [84.0]])}
"""Norms: 12.369..., 84.095..., together 85."""


def gradients(scale: float) -> dict[str, npt.NDArray[np.float64]]:
    return {name: g * scale for name, g in UNIT.items()}


def make(scale: float, **gradient: Any) -> Session:
    start = {name: np.zeros_like(g) for name, g in UNIT.items()}
    return session_of(spec_of(gradient=GradientSpec(**gradient)), start)


def measure_movement(session: Session) -> dict[str, npt.NDArray[Any]]:
    """What SGD at 0.1 took the gradient for."""
    return {name: values / -0.1 for name, values in parameters(session).items()}


@pytest.mark.parametrize("policy", [NonFinitePolicy.REJECT, NonFinitePolicy.ALLOW])
@pytest.mark.parametrize("scale", SCALES)
def test_norms_in_results(scale: float, policy: NonFinitePolicy) -> None:
    session = make(scale, non_finite=policy)
    for options in ({}, {"per_tensor_norms": True}, {"loss_scale": 2.0}):
        result = step(session, gradients(scale), **options)
        own = 85 * scale / options.get("loss_scale", 1.0)
        assert result.gradient_norm == result.clipped_gradient_norm == about(own)
        assert dict(result.tensor_norms) == (
            {} if "per_tensor_norms" not in options else about(
                {"a": math.sqrt(153) * scale, "b": math.sqrt(7072) * scale}
            )
        )  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
def test_norms_of_accumulated_gradients(scale: float) -> None:
    session = make(scale, accumulation_steps=2)
    for _ in range(2):
        assert step(session, gradients(scale)).gradient_norm == about(85 * scale)


@pytest.mark.parametrize("limit", [0.5, 1.0])
@pytest.mark.parametrize("scale", SCALES)
def test_clipping_by_the_joint_norm(scale: float, limit: float) -> None:
    session = make(scale, clip=ClipByGlobalNorm(max_norm=limit * scale))
    result = step(session, gradients(scale))
    for name, g in measure_movement(session).items():
        np.testing.assert_allclose(g, UNIT[name] / 85 * limit * scale, rtol=1e-14)
    assert result.gradient_norm == about(85 * scale)
    assert result.clipped_gradient_norm == about(limit * scale)


def test_clipping_large_gradients_to_one() -> None:
    session = make(1e200, clip=ClipByGlobalNorm(max_norm=1.0))
    assert step(session, gradients(1e200)).clipped_gradient_norm == about(1)
    np.testing.assert_allclose(measure_movement(session)["b"], UNIT["b"] / 85, rtol=1e-14)


@pytest.mark.parametrize("scale", SCALES)
def test_clipping_by_each_tensors_norm(scale: float) -> None:
    session = make(scale, clip=ClipByTensorNorm(max_norm=20 * scale))
    result = step(session, gradients(scale))
    clipped = {"a": UNIT["a"] * scale, "b": UNIT["b"] / math.sqrt(7072) * 20 * scale}
    for name, g in measure_movement(session).items():
        np.testing.assert_allclose(g, clipped[name], rtol=1e-14)
    assert result.clipped_gradient_norm == about(math.hypot(math.sqrt(153), 20) * scale)


@pytest.mark.parametrize("scale", SCALES)
def test_the_norm_after_clipping_by_value(scale: float) -> None:
    result = step(make(scale, clip=ClipByValue(max_value=4 * scale)), gradients(scale))
    expected = math.hypot(3, 4, 4, 4) * scale
    assert result.clipped_gradient_norm == about(expected)


def test_the_penalty_of_large_parameters() -> None:
    start = {name: g * 1e200 for name, g in UNIT.items()}
    spec = spec_of(gradient=GradientSpec(l1=1e-200, l2=1e-300))
    result = step(session_of(spec, start), gradients(1.0))
    assert result.regularization_penalty == about(103 + 1e-300 * (85 * 1e200) / 2 * (85 * 1e200))


@pytest.mark.parametrize("scale", SCALES)
def test_float32_beside_float64(scale: float) -> None:
    """The joint norm is the larger type's where that is large, the other's where that is small."""
    start = {"a": np.zeros(3), "b": np.zeros((2, 1), np.float32)}
    mixed = {"a": UNIT["a"] * scale, "b": UNIT["b"].astype(np.float32)}
    session = session_of(spec_of(), start)
    expected = math.sqrt(153) * scale if scale > 1 else math.sqrt(7072)
    assert step(session, mixed).gradient_norm == about(expected)
    alone = {"a": UNIT["a"] * scale, "b": np.zeros((2, 1), np.float32)}
    assert step(session, alone).gradient_norm == about(math.sqrt(153) * scale)


@pytest.mark.parametrize("scale", SCALES)
def test_a_session_that_changes_its_rule_keeps_its_norms(scale: float) -> None:
    session = make(scale)
    session.update_spec(spec_of(gradient=GradientSpec(clip=ClipByGlobalNorm(max_norm=scale))))
    assert step(session, gradients(scale)).clipped_gradient_norm == about(scale)


@pytest.mark.parametrize("scale", SCALES)
def test_trust_ratios_of_large_and_small_parameters(scale: float) -> None:
    """LARS moves by trust_coefficient*|p|/|g| of the gradient, LAMB by lr*|p| of a unit vector."""
    start = {name: g * scale for name, g in UNIT.items()}
    lars = LARS(learning_rate=1.0, momentum=0.0, weight_decay=0.0, trust_coefficient=0.5, epsilon=0.0)
    session = session_of(spec_of(lars), start)
    step(session, UNIT)
    for name, values in parameters(session).items():
        np.testing.assert_allclose(values, 0.5 * start[name], rtol=1e-14)
    session = session_of(spec_of(LAMB(learning_rate=0.25, weight_decay=0.0)), start)
    step(session, {name: np.ones_like(g) for name, g in UNIT.items()})
    for name, values in parameters(session).items():
        length = np.sqrt(np.sum(np.square(UNIT[name]))) / math.sqrt(values.size)
        np.testing.assert_allclose(values, (UNIT[name] - 0.25 * length) * scale, rtol=1e-6)
