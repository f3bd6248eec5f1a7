"""Changing a session's specification between two steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.errors import DomainError, Reason
from optserve_server.hyperparameters import Chosen
from optserve_server.optimizers import REGISTRY
from optserve_server.optimizers.adadelta import Adadelta
from optserve_server.optimizers.adafactor import Adafactor
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.adamax import Adamax
from optserve_server.optimizers.amsgrad import AMSGrad
from optserve_server.optimizers.base import Rule
from optserve_server.optimizers.momentum import Momentum, MomentumForm
from optserve_server.optimizers.muon import Muon
from optserve_server.optimizers.nadam import NAdam
from optserve_server.optimizers.prodigy import Prodigy
from optserve_server.optimizers.rmsprop import RMSprop
from optserve_server.optimizers.sgd import SGD
from optserve_server.schedules.exponential import Exponential
from optserve_server.sessions.session import Session
from optserve_server.sessions.store import Limits, Store
from optserve_server.spec.session_spec import GradientSpec, ParameterGroup, SessionSpec, WeightAverageSpec
from optserve_server.state.read_parameters import Point
from tests.service.sessions.support import parameters, session_of, spec_of, step

START = {"w": np.array([1.0, -2.0, 3.0]), "b": np.array([0.5])}
GRADIENT = {"w": np.array([0.1, -0.2, 0.3]), "b": np.array([0.7])}


def train(spec: SessionSpec, steps: int = 3) -> Session:
    session = session_of(spec, START)
    for _ in range(steps):
        step(session, GRADIENT)
    return session


def after_a_step(session: Session) -> np.ndarray[Any, Any]:
    step(session, GRADIENT)
    return parameters(session)["w"]


@pytest.mark.parametrize(
    ("before", "after", "carried", "dropped", "started", "restarted"),
    [
        (Adam(), Adam(learning_rate=0.5), ("m", "v"), (), (), False),
        (Adam(), SGD(), (), ("m", "v"), (), False),
        (Adam(), AMSGrad(), ("m", "v"), (), ("v_max",), False),
        (AMSGrad(), Adam(), ("m", "v"), ("v_max",), (), False),
        (Adam(), Momentum(form=MomentumForm.EMA), ("m",), ("v",), (), False),
        (Momentum(form=MomentumForm.EMA), Adam(), (), ("m",), ("m", "v"), True),
        (RMSprop(), Adam(), (), ("v",), ("m", "v"), True),
        (Adam(), RMSprop(), ("v",), ("m",), (), False),
        (Adam(), NAdam(), (), ("m", "v"), ("m", "v"), True),
        (NAdam(), Adam(), ("m", "v"), (), (), False),
        (Adam(), Adamax(), ("m",), ("v",), ("u",), False),
        (SGD(), Momentum(), (), (), ("velocity",), True),
        (Adamax(), Adadelta(), (), ("m", "u"), ("v", "step_squares"), True),
        (Prodigy(), Adam(), (), ("scaled_m", "scaled_v", "gradient_sum", "way_back"), ("m", "v"), True),
        (Adam(), Muon(), (), ("m", "v"), ("m", "v"), True),
        (Muon(), Muon(momentum=0.5), ("m", "v"), (), (), False),
        (Adafactor(), Adafactor(clip_threshold=2.0), ("r", "c", "v"), (), (), False),
        (Adafactor(), Adafactor(min_dim_size_to_factor=9), (), ("r", "c", "v"), ("r", "c", "v"), True),
        (Adafactor(), Adam(), (), ("r", "c", "v"), ("m", "v"), True),
    ],
)
def test_what_becomes_of_state(
    before: Rule,
    after: Rule,
    carried: tuple[str, ...],
    dropped: tuple[str, ...],
    started: tuple[str, ...],
    restarted: bool,
) -> None:
    (transfer,) = train(spec_of(before)).update_spec(spec_of(after))
    assert (transfer.carried, transfer.dropped, transfer.started) == (carried, dropped, started)
    assert transfer.restarted is restarted


@pytest.mark.parametrize("before", REGISTRY.values(), ids=lambda cls: cls.name)
def test_any_pair_goes_on_finitely(before: type[Rule]) -> None:
    for after in REGISTRY.values():
        goes_on_finitely(before, after)


def goes_on_finitely(before: type[Rule], after: type[Rule]) -> None:
    session = train(spec_of(before()))
    at_switch = parameters(session)["w"].copy()
    pace = np.abs(at_switch - START["w"]).max()
    session.update_spec(spec_of(after()))
    assert session.step == 3
    np.testing.assert_array_equal(parameters(session)["w"], at_switch)
    fresh = session_of(spec_of(after()), parameters(session))
    moved = np.abs(after_a_step(session) - at_switch)
    assert session.step == 4
    assert np.all(np.isfinite(moved)), after
    # Nowhere near the leap that a moment corrected for the wrong count would make: what is
    # carried may move it as the rule before did, or as the new one does in some steps.
    for _ in range(3):
        after_a_step(fresh)
    assert moved.max() < 3 * max(pace, np.abs(parameters(fresh)["w"] - at_switch).max()), after


def test_a_restarted_rule_steps_as_if_it_were_new() -> None:
    session = train(spec_of(SGD(learning_rate=0.1)))
    fresh = session_of(spec_of(Adam()), parameters(session))
    session.update_spec(spec_of(Adam()))
    np.testing.assert_array_equal(after_a_step(session), after_a_step(fresh))


def test_carried_state_steps_as_if_the_rule_had_always_been_there() -> None:
    session = train(spec_of(Adam(learning_rate=0.1)))
    reference = train(spec_of(Adam(learning_rate=0.1)))
    session.update_spec(spec_of(Adam(learning_rate=0.1, epsilon=1e-6)))
    session.update_spec(spec_of(Adam(learning_rate=0.1)))
    np.testing.assert_array_equal(after_a_step(session), after_a_step(reference))


def test_the_schedule_goes_on_from_the_sessions_step() -> None:
    session = train(spec_of(Adam()))
    schedule = Exponential(initial_learning_rate=1.0, decay_steps=1.0, decay_rate=0.5)
    session.update_spec(spec_of(SGD(), schedule=Chosen(schedule)))
    assert step(session, GRADIENT).learning_rate == 0.125


def test_a_weight_average_starts_from_the_parameters() -> None:
    session = train(spec_of())
    now = parameters(session)["w"].copy()
    session.update_spec(spec_of(weight_average=WeightAverageSpec(decay=0.5)))
    np.testing.assert_array_equal(parameters(session, point=Point.AVERAGE)["w"], now)
    later = after_a_step(session)
    np.testing.assert_array_equal(parameters(session, point=Point.AVERAGE)["w"], 0.5 * now + 0.5 * later)


def test_each_group_is_switched_by_itself() -> None:
    own = ParameterGroup(name="g", tensors=("b",), optimizer=Chosen(Momentum()))
    session = train(spec_of(Adam(), groups=(own,)))
    changed = ParameterGroup(name="g", tensors=("b",), learning_rate_factor=0.0)
    transfers = {t.group: t for t in session.update_spec(spec_of(Adam(), groups=(changed,)))}
    assert transfers[""].carried == ("m", "v")
    assert transfers["g"].started == ("m", "v")
    before = parameters(session)["b"].copy()
    step(session, GRADIENT)
    np.testing.assert_array_equal(parameters(session)["b"], before)


def expect_refusal(session: Session, spec: SessionSpec, **options: Any) -> DomainError:
    before = parameters(session)["w"].tobytes(), session.spec
    with pytest.raises(DomainError) as caught:
        session.update_spec(spec, **options)
    assert (parameters(session)["w"].tobytes(), session.spec) == before
    return caught.value


def test_refusals_change_nothing() -> None:
    accumulating = spec_of(gradient=GradientSpec(accumulation_steps=2))
    session = session_of(accumulating, START)
    step(session, GRADIENT)
    error = expect_refusal(session, spec_of())
    assert (error.reason, error.metadata) == (Reason.STEP_INCOMPLETE, {"accumulated": "1", "needed": "2"})
    step(session, GRADIENT)
    assert expect_refusal(session, spec_of(), expected_step=0).reason is Reason.STEP_MISMATCH
    regrouped = spec_of(groups=(ParameterGroup(name="g", tensors=("b",)),))
    error = expect_refusal(session, regrouped)
    assert (error.reason, error.field) == (Reason.CONFLICTING_FIELDS, "spec.groups")
    session.update_spec(spec_of())
    assert after_a_step(session).shape == (3,)


def test_groups_are_checked_before_sizes() -> None:
    store = Store(NumpyBackend())
    grouped = spec_of(groups=(ParameterGroup(name="g", tensors=("b",)),))
    session = session_of(grouped, START, store)
    with pytest.raises(DomainError) as caught:
        store.update_spec(session, spec_of())
    assert (caught.value.reason, caught.value.field) == (Reason.CONFLICTING_FIELDS, "spec.groups")


def test_more_state_than_the_server_allows_is_refused() -> None:
    store = Store(NumpyBackend(), Limits(max_session_bytes=2 * 4 * 8))
    session = session_of(spec_of(Momentum()), START, store)
    with pytest.raises(DomainError) as caught:
        store.update_spec(session, spec_of(Adam()))
    assert caught.value.reason is Reason.LIMIT_EXCEEDED
    assert isinstance(session.spec.optimizer.algorithm, Momentum)
    assert store.update_spec(session, spec_of(SGD()))[0].dropped == ("velocity",)
