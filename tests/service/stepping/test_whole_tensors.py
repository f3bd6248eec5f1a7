"""Rules that look at whole tensors or groups, within sessions: guards, groups, pushes, switches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optserve_server.hyperparameters import Chosen
from optserve_server.optimizers.adafactor import Adafactor
from optserve_server.optimizers.base import Rule
from optserve_server.optimizers.lamb import LAMB
from optserve_server.optimizers.lars import LARS
from optserve_server.optimizers.matrix import norm
from optserve_server.optimizers.muon import Muon, orthogonalize
from optserve_server.optimizers.prodigy import Prodigy
from optserve_server.optimizers.sgd import SGD
from optserve_server.sessions.session import Session
from optserve_server.spec.session_spec import (
    ClipByGlobalNorm,
    ClipByTensorNorm,
    GradientSpec,
    NonFinitePolicy,
    ParameterGroup,
    WeightAverageSpec,
)
from optserve_server.state.read_parameters import Point
from tests.service.sessions.support import parameters, session_of, spec_of, step

START = {"k": np.array([[1.0, -2.0, 0.5], [0.5, 3.0, -1.0]]), "b": np.array([0.5, -0.25, 1.0])}
GRADIENT = {"k": np.array([[0.1, -0.2, 0.3], [0.4, 0.1, -0.3]]), "b": np.array([0.7, -0.1, 0.2])}
RULES = [LAMB(learning_rate=0.1), LARS(learning_rate=0.1), Adafactor(), Muon(), Prodigy(initial_estimate=0.1)]
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def after(session: Session, steps: int = 3, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    for _ in range(steps):
        step(session, {n: g * options.get("loss_scale", 1.0) for n, g in GRADIENT.items()}, **options)
    return parameters(session)


def assert_equal(one: dict[str, Any], other: dict[str, Any], rtol: float = 0.0) -> None:
    for name, array in one.items():
        np.testing.assert_allclose(other[name], array, rtol=rtol, atol=0)


@each_rule
def test_a_loss_scale_is_divided_out_first(rule: Rule) -> None:
    plain = after(session_of(spec_of(rule), START))
    assert_equal(plain, after(session_of(spec_of(rule), START), loss_scale=1024.0))
    assert not np.array_equal(plain["k"], START["k"])


@each_rule
def test_clipping_comes_first(rule: Rule) -> None:
    clip = ClipByGlobalNorm(max_norm=0.5)
    clipped = session_of(spec_of(rule, gradient=GradientSpec(clip=clip)), START)
    factor = clip.scale_factor(float(np.sqrt(sum((g * g).sum() for g in GRADIENT.values()))))
    assert factor < 1
    given = session_of(spec_of(rule), START)
    for _ in range(3):
        step(given, {name: g * factor for name, g in GRADIENT.items()})
    assert_equal(parameters(given), after(clipped), rtol=1e-12)


@each_rule
def test_clipping_by_tensor_comes_first(rule: Rule) -> None:
    clip = ClipByTensorNorm(max_norm=0.5)
    clipped = session_of(spec_of(rule, gradient=GradientSpec(clip=clip)), START)
    given = session_of(spec_of(rule), START)
    for _ in range(3):
        step(given, {name: g * clip.scale_factor(float(np.linalg.norm(g))) for name, g in GRADIENT.items()})
    assert_equal(parameters(given), after(clipped), rtol=1e-12)


@each_rule
def test_accumulation_steps_on_the_mean(rule: Rule) -> None:
    twice = session_of(spec_of(rule, gradient=GradientSpec(accumulation_steps=2)), START)
    assert_equal(after(session_of(spec_of(rule), START), 3), after(twice, 6), rtol=1e-12)
    assert twice.step == 3


@pytest.mark.parametrize("name", ["k", "b"])
def test_a_norm_of_nan_reaches_every_element(name: str) -> None:
    gradient = GradientSpec(non_finite=NonFinitePolicy.ALLOW)
    session = session_of(spec_of(Adafactor(), gradient=gradient), {name: START[name]})
    bad = GRADIENT[name].copy()
    bad[0] = np.nan
    step(session, {name: bad})
    assert np.isnan(parameters(session)[name]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("exponent", [-100, 0, 100])
def test_a_norm_neither_overflows_nor_vanishes(dtype: Any, exponent: int) -> None:
    scale = 2.0 ** (exponent if dtype is np.float32 else 10 * exponent)
    assert norm(np, np.array([[3, 0], [0, -4]], dtype) * dtype(scale)) == 5 * scale
    assert norm(np, np.zeros((0, 2), dtype)) == 0


@each_rule
def test_decoupled_decay_alone(rule: Rule) -> None:
    session = session_of(spec_of(rule, decoupled_weight_decay=0.5), START)
    step(session, {name: np.zeros_like(g) for name, g in GRADIENT.items()})
    kept = 1 - 0.5 * rule.base_learning_rate
    assert_equal({name: p * kept for name, p in START.items()}, parameters(session), rtol=1e-15)


@each_rule
def test_the_weight_average_follows(rule: Rule) -> None:
    session = session_of(spec_of(rule, weight_average=WeightAverageSpec(decay=0.5)), START)
    first = after(session, 1)
    second = after(session, 1)
    average = parameters(session, point=Point.AVERAGE)
    assert_equal({name: 0.5 * first[name] + 0.5 * second[name] for name in first}, average, rtol=1e-15)


@each_rule
def test_a_group_of_its_own(rule: Rule) -> None:
    groups = (ParameterGroup(name="g", tensors=("k",), optimizer=Chosen(rule)),)
    mixed = after(session_of(spec_of(SGD(learning_rate=0.1), groups=groups), START), 2)
    alone = session_of(spec_of(rule), {"k": START["k"]})
    for _ in range(2):
        step(alone, {"k": GRADIENT["k"]})
    np.testing.assert_array_equal(mixed["k"], parameters(alone)["k"])
    np.testing.assert_allclose(mixed["b"], START["b"] - 0.2 * GRADIENT["b"], rtol=1e-15)


@each_rule
def test_a_push_with_reset_starts_anew(rule: Rule) -> None:
    other = {name: g[::-1].copy() for name, g in GRADIENT.items()}
    session, continued = session_of(spec_of(rule), START), session_of(spec_of(rule), START)
    step(session, other)
    step(continued, other)
    staging = session.allocate_staging(None, None)
    staging.buffer[:] = session.read_values().buffer
    session.assign_parameters(staging, reset_state=True)
    assert not np.array_equal(after(session, 1)["k"], after(continued, 1)["k"])


@each_rule
def test_validation_changes_nothing(rule: Rule) -> None:
    session = session_of(spec_of(rule), START)
    after(session, 2, validate_only=True)
    assert_equal(START, parameters(session))
    assert_equal(after(session_of(spec_of(rule), START)), after(session))


def test_state_has_the_shapes_of_the_rule() -> None:
    session = session_of(spec_of(Adafactor()), START)
    (partition,) = session.arenas.partitions.values()
    shapes = {name: {s: a.shape for s, a in of.items()} for name, of in partition.matrices.items()}
    assert shapes == {"k": {"r": (2,), "c": (3,)}, "b": {"v": (3,)}}
    assert session.slot_names() == {"": ("r", "c", "v")}


def test_orthogonalized_keeps_directions_and_evens_lengths() -> None:
    u = np.diag([3.0, 1.0, 0.2])
    result = orthogonalize(np, u, iterations=5, divisor=norm(np, u))
    assert np.abs(result - np.diag(np.diag(result))).max() < 1e-12
    assert np.all((np.diag(result) > 0.6) & (np.diag(result) < 1.3))


def test_prodigy_finds_a_larger_step_than_it_began_with() -> None:
    session = session_of(spec_of(Prodigy(initial_estimate=1e-3)), START)
    moved = []
    for _ in range(60):
        before = parameters(session)["k"].copy()
        step(session, parameters(session))  # the gradient of |p|^2/2
        moved.append(float(np.abs(parameters(session)["k"] - before).max()))
    assert max(moved) > 20 * moved[0]
    assert np.abs(parameters(session)["k"]).max() < np.abs(START["k"]).max()
