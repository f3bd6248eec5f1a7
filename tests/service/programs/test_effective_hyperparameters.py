"""Hyperparameters that have other values in one step."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.durability.change_records import replay_record
from optserve_server.errors import DomainError, Reason
from optserve_server.hyperparameters import Chosen
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.adamw import AdamW
from optserve_server.optimizers.momentum import Momentum
from optserve_server.schedules.exponential import Exponential
from optserve_server.sessions.session import Session
from optserve_server.spec.override import Override
from optserve_server.spec.session_spec import GradientSpec, ParameterGroup
from optserve_server.state.staging import NamedArray
from optserve_server.state.step_result import StepOptions
from optserve_server.stepping.step_record import encode_step_record
from optserve_server.wire.specifications.spec_text import SPEC_TEXT
from tests.service.sessions.support import CountingBackend, parameters, session_of, spec_of, step

START = {"a": np.array([1.0, -2.0, 3.0]), "b": np.array([0.5])}
GRADIENT = {"a": np.array([0.1, 0.2, -0.3]), "b": np.array([1.0])}
GROUP = ParameterGroup(name="g", tensors=("b",))


def make(**fields: Any) -> Session:
    return session_of(spec_of(**fields), START)


def over(name: str, value: float, group: str | None = None) -> tuple[Override, ...]:
    return (Override(group, name, value),)


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [
        (Adam(), "learning_rate", 0.5),
        (Adam(), "beta1", 0.5),
        (Adam(), "beta2", 0.75),
        (Adam(), "epsilon", 0.125),
        (AdamW(), "weight_decay", 0.5),
        (Momentum(momentum=0.9), "momentum", 0.25),
    ],
)
def test_a_step_goes_as_under_the_overridden_rule_and_the_next_one_as_before(
    rule: Any, name: str, value: float
) -> None:
    session, other = make(rule=rule), make(rule=rule)
    step(session, GRADIENT), step(other, GRADIENT)
    other.update_spec(spec_of(dataclasses.replace(rule, **{name: value})))
    step(session, GRADIENT, overrides=over(name, value)), step(other, GRADIENT)
    other.update_spec(spec_of(rule))
    step(session, GRADIENT), step(other, GRADIENT)
    for key, expected in parameters(other).items():
        np.testing.assert_array_equal(parameters(session)[key], expected)


@pytest.mark.parametrize("name", ["l1", "l2", "decoupled_weight_decay"])
def test_regularization_and_decay_are_overridden(name: str) -> None:
    def spec(value: float) -> Any:
        if name == "decoupled_weight_decay":
            return spec_of(decoupled_weight_decay=value)
        return spec_of(gradient=GradientSpec(**{name: value}))

    session, other = session_of(spec(0.25), START), session_of(spec(0.75), START)
    result, expected = step(session, GRADIENT, overrides=over(name, 0.75)), step(other, GRADIENT)
    assert result.regularization_penalty == expected.regularization_penalty
    for key, value in parameters(other).items():
        np.testing.assert_array_equal(parameters(session)[key], value)


def test_a_group_alone_is_overridden() -> None:
    session = make(groups=(GROUP,))
    result = step(session, GRADIENT, overrides=over("learning_rate", 1.0, "g"))
    assert result.learning_rate == 0.1  # the session's
    np.testing.assert_allclose(parameters(session)["a"], START["a"] - 0.1 * GRADIENT["a"], rtol=1e-15)
    np.testing.assert_allclose(parameters(session)["b"], START["b"] - 1.0 * GRADIENT["b"], rtol=1e-15)


def test_the_default_group_alone_is_overridden() -> None:
    session = make(groups=(GROUP,))
    step(session, GRADIENT, overrides=over("learning_rate", 1.0, ""))
    np.testing.assert_allclose(parameters(session)["a"], START["a"] - 1.0 * GRADIENT["a"], rtol=1e-15)
    np.testing.assert_allclose(parameters(session)["b"], START["b"] - 0.1 * GRADIENT["b"], rtol=1e-15)


def test_a_learning_rate_takes_the_place_of_the_schedules_and_keeps_the_groups_factor() -> None:
    schedule = Chosen(Exponential(initial_learning_rate=0.5, decay_rate=0.5, decay_steps=1))
    group = dataclasses.replace(GROUP, learning_rate_factor=2.0)
    session = make(schedule=schedule, groups=(group,))
    result = step(session, GRADIENT, overrides=over("learning_rate", 0.125))
    assert result.learning_rate == 0.125
    np.testing.assert_allclose(parameters(session)["b"], START["b"] - 0.25 * GRADIENT["b"], rtol=1e-15)
    assert step(session, GRADIENT).learning_rate == 0.25  # the schedule continued


def test_no_kernel_is_compiled_for_an_override() -> None:
    class Compiling(CountingBackend):
        compiled = 0

        def compile(self, *arguments: Any, **named: Any) -> Any:
            self.compiled += 1
            return super().compile(*arguments, **named)

    backend = Compiling()
    session = session_of(spec_of(Adam()), START, store=_store(backend))
    staging = session.stage_arrays([NamedArray(name, a) for name, a in GRADIENT.items()])
    for number in range(3):
        before = backend.compiled
        session.take_step(staging, StepOptions(overrides=over("learning_rate", 0.1 * number)))
    assert backend.compiled == before


def _store(backend: NumpyBackend) -> Any:
    from optserve_server.sessions.store import Store

    return Store(backend)


@pytest.mark.parametrize(
    ("overrides", "reason", "field"),
    [
        (over("beta9", 0.5), Reason.UNSUPPORTED_VALUE, "options.overrides[0].name"),
        (over("bias_correction", 1.0), Reason.UNSUPPORTED_VALUE, "options.overrides[0].name"),
        (over("beta1", 1.0), Reason.OUT_OF_RANGE, "options.overrides[0].value"),
        (over("learning_rate", -1.0), Reason.OUT_OF_RANGE, "options.overrides[0].value"),
        (over("learning_rate", float("nan")), Reason.OUT_OF_RANGE, "options.overrides[0].value"),
        (over("l2", -1.0), Reason.OUT_OF_RANGE, "options.overrides[0].value"),
        (over("l2", 0.5), Reason.UNSUPPORTED_VALUE, "options.overrides[0].value"),
        (over("epsilon_root", 0.5), Reason.UNSUPPORTED_VALUE, "options.overrides[0].value"),
        (over("beta1", 0.5, "none"), Reason.UNSUPPORTED_VALUE, "options.overrides[0].group"),
        ((*over("beta1", 0.5), *over("beta2", 2.0)), Reason.OUT_OF_RANGE, "options.overrides[1].value"),
    ],
)
def test_what_cannot_be_overridden_is_rejected_and_changes_nothing(
    overrides: Any, reason: Reason, field: str
) -> None:
    session = make(rule=Adam())
    with pytest.raises(DomainError) as caught:
        step(session, GRADIENT, overrides=overrides)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert session.step == 0
    np.testing.assert_array_equal(parameters(session)["a"], START["a"])


def test_overrides_are_part_of_a_steps_content() -> None:
    session = make()
    first = step(session, GRADIENT, worker="w", sequence=1, overrides=over("learning_rate", 0.5))
    again = step(session, GRADIENT, worker="w", sequence=1, overrides=over("learning_rate", 0.5))
    assert again == dataclasses.replace(first, replayed=True)
    with pytest.raises(DomainError) as caught:
        step(session, GRADIENT, worker="w", sequence=1, overrides=over("learning_rate", 0.25))
    assert caught.value.reason is Reason.SEQUENCE_REUSED


def test_a_record_replays_with_its_overrides() -> None:
    session, replica = make(rule=Adam(), groups=(GROUP,)), make(rule=Adam(), groups=(GROUP,))
    overrides = (*over("learning_rate", 0.5, "g"), *over("beta1", 0.75))
    options = StepOptions(worker="w", sequence=1, overrides=overrides)
    staging = session.stage_arrays([NamedArray(name, a) for name, a in GRADIENT.items()])
    pieces = encode_step_record(staging, options)
    session.take_step(staging, options)
    payload = b"".join(bytes(piece) for piece in pieces)
    replay_record(replica, memoryview(payload), SPEC_TEXT)
    for key, expected in parameters(session).items():
        np.testing.assert_array_equal(parameters(replica)[key], expected)
