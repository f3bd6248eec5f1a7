"""What one step does to a session, and what it reports."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from optserve_server.arrays.program import Program
from optserve_server.errors import DomainError, Reason
from optserve_server.hyperparameters import Chosen
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.adamw import AdamW
from optserve_server.optimizers.momentum import Momentum
from optserve_server.optimizers.nesterov import Nesterov, NesterovForm
from optserve_server.optimizers.rprop import Rprop
from optserve_server.optimizers.sgd import SGD
from optserve_server.schedules.piecewise_constant import PiecewiseConstant
from optserve_server.sessions.session import Session
from optserve_server.sessions.store import Store
from optserve_server.spec.plateau import ReduceOnPlateauSpec
from optserve_server.spec.session_spec import (
    ClipByGlobalNorm,
    ClipByNorm,
    ClipByTensorNorm,
    ClipByValue,
    GradientSpec,
    NonFinitePolicy,
    ParameterGroup,
    WeightAverageSpec,
)
from optserve_server.state.read_parameters import Point
from optserve_server.state.step_result import StepOutcome
from tests.conformance.non_finite import CLIPPED, Clipped
from tests.service.sessions.support import CountingBackend, parameters, session_of, spec_of, step

START = {"a": np.array([1.0, -2.0]), "b": np.array([[3.0, 4.0, 5.0]])}
GRADIENT = {"a": np.array([3.0, 0.0]), "b": np.array([[0.0, 4.0, 0.0]])}


def make_guarded_session(**gradient: Any) -> Session:
    return session_of(spec_of(gradient=GradientSpec(**gradient)), START)


def measure_movement(session: Session) -> dict[str, list[float]]:
    """How far SGD at 0.1 moved each element, in units of the gradient."""
    now = parameters(session)
    return {name: ((START[name] - now[name]) / 0.1).reshape(-1).round(12).tolist() for name in START}


def test_plain_step_reports_what_it_did() -> None:
    session = make_guarded_session()
    result = step(session, GRADIENT)
    assert measure_movement(session) == {"a": [3, 0], "b": [0, 4, 0]}
    assert result.step == session.step == 1
    assert result.outcome is StepOutcome.APPLIED
    assert result.learning_rate == 0.1
    assert result.gradient_norm == result.clipped_gradient_norm == 5
    assert result.tensor_norms == ()


def test_tensor_norms_on_request() -> None:
    assert step(make_guarded_session(), GRADIENT, per_tensor_norms=True).tensor_norms == (
        ("a", 3.0),
        ("b", 4.0),
    )


def test_tensor_norms_of_tensors_without_elements() -> None:
    start = {"a": np.ones((0, 3)), "b": np.ones(2), "c": np.ones(0, np.float32), "d": np.ones((2, 0))}
    session = session_of(spec_of(), start)
    norms = step(session, {**start, "b": np.array([3.0, 4.0])}, per_tensor_norms=True).tensor_norms
    assert norms == (("a", 0.0), ("b", 5.0), ("d", 0.0), ("c", 0.0))
    alone = step(session, {"a": start["a"]}, per_tensor_norms=True)
    assert (alone.gradient_norm, alone.tensor_norms) == (0.0, (("a", 0.0),))


@pytest.mark.parametrize("tensors", [1, 1000])
def test_any_number_of_tensors_costs_one_update_and_one_measurement(tensors: int) -> None:
    backend = CountingBackend()
    ones = {f"t{i}": np.ones(3, np.float32) for i in range(tensors)}
    session = session_of(spec_of(Adam()), ones, Store(backend))
    backend.writes = backend.reads = 0
    step(session, ones)
    assert (backend.writes, backend.reads) == (1, 1)


@pytest.mark.parametrize(
    "gradient",
    [{}, {"clip": ClipByValue(max_value=1.0)}, {"l1": 0.5, "l2": 0.25}, {"accumulation_steps": 2}],
    ids=["plain", "clip", "regularised", "accumulated"],
)
def test_a_step_that_happens_in_any_case_is_one_pass_and_the_same(gradient: dict[str, Any]) -> None:
    backend = CountingBackend()
    mixed = {"a": START["a"], "c": np.ones(3, np.float32)}
    grown = {"a": GRADIENT["a"], "c": np.full(3, 2.0, np.float32)}
    sessions = [
        session_of(
            spec_of(Adam(), gradient=GradientSpec(**gradient, non_finite=policy)), mixed, Store(backend)
        )
        for policy in (NonFinitePolicy.ALLOW, NonFinitePolicy.REJECT)
    ]
    for _ in range(3):
        backend.writes = backend.reads = 0
        results = [step(sessions[0], grown)]
        calls = (backend.writes, backend.reads)
        results.append(step(sessions[1], grown))
        assert results[0] == results[1]
        if results[0].outcome is StepOutcome.APPLIED:
            assert calls == (2, 0)
    for name, value in parameters(sessions[0]).items():
        assert value.tobytes() == parameters(sessions[1])[name].tobytes()


def test_clip_by_value() -> None:
    session = make_guarded_session(clip=ClipByValue(max_value=1.0))
    result = step(session, GRADIENT)
    assert measure_movement(session) == {"a": [1, 0], "b": [0, 1, 0]}
    assert (result.gradient_norm, result.clipped_gradient_norm) == (5, math.sqrt(2))


def test_clip_by_tensor_norm() -> None:
    session = make_guarded_session(clip=ClipByTensorNorm(max_norm=3.5))
    result = step(session, GRADIENT)
    assert measure_movement(session) == {"a": [3, 0], "b": [0, 3.5, 0]}
    assert result.clipped_gradient_norm == pytest.approx(math.hypot(3, 3.5), rel=1e-15)


def test_clip_by_global_norm() -> None:
    session = make_guarded_session(clip=ClipByGlobalNorm(max_norm=1.0))
    result = step(session, GRADIENT)
    assert measure_movement(session) == {"a": [0.6, 0], "b": [0, 0.8, 0]}
    assert result.clipped_gradient_norm == pytest.approx(1, rel=1e-15)


def test_regularisation_is_added_before_clipping_and_its_penalty_reported() -> None:
    session = make_guarded_session(l1=0.5, l2=2.0, clip=ClipByValue(max_value=6.0))
    result = step(session, GRADIENT)
    # g + 0.5*sign(p) + 2*p, clipped to 6.
    assert measure_movement(session) == {"a": [5.5, -4.5], "b": [6, 6, 6]}
    assert result.regularization_penalty == 0.5 * 15 + 2 * 55 / 2


def test_loss_scale_is_divided_out() -> None:
    session = make_guarded_session()
    result = step(session, {name: g * 1024 for name, g in GRADIENT.items()}, loss_scale=1024.0)
    assert measure_movement(session) == {"a": [3, 0], "b": [0, 4, 0]}
    assert result.gradient_norm == 5


def test_accumulation_steps_on_the_mean() -> None:
    session = make_guarded_session(accumulation_steps=2)
    for round_number in (1, 2):
        first = step(session, GRADIENT)
        assert (first.outcome, first.accumulated) == (StepOutcome.ACCUMULATED, 1)
        assert first.step == round_number - 1
        second = step(session, {name: g * 3 for name, g in GRADIENT.items()})
        assert (second.outcome, second.accumulated, second.step) == (StepOutcome.APPLIED, 0, round_number)
        assert second.gradient_norm == 10
        assert measure_movement(session) == {"a": [6 * round_number, 0], "b": [0, 8 * round_number, 0]}


def test_accumulation_needs_every_tensor() -> None:
    session = make_guarded_session(accumulation_steps=2)
    with pytest.raises(DomainError) as caught:
        step(session, {"a": GRADIENT["a"]})
    assert caught.value.reason is Reason.MISSING_TENSOR
    assert caught.value.metadata == {"tensor": "b"}


def test_decoupled_decay_and_its_overrides() -> None:
    groups = (ParameterGroup(name="bias", tensors=("b",), decoupled_weight_decay=0.0),)
    session = session_of(spec_of(AdamW(learning_rate=0.1, weight_decay=0.5), groups=groups), START)
    plain = session_of(spec_of(Adam(learning_rate=0.1)), START)
    zero = {name: np.zeros_like(p) for name, p in START.items()}
    step(session, zero)
    step(plain, zero)
    np.testing.assert_array_equal(parameters(session)["a"], parameters(plain)["a"] * (1 - 0.1 * 0.5))
    np.testing.assert_array_equal(parameters(session)["b"], START["b"])


def test_groups_have_their_own_rate_and_rule() -> None:
    own = Chosen(Momentum(learning_rate=1.0, momentum=0.5))
    groups = (
        ParameterGroup(name="slow", tensors=("a",), learning_rate_factor=0.5),
        ParameterGroup(name="other", tensors=("b*",), optimizer=own),
    )
    session = session_of(spec_of(groups=groups), START)
    assert session.slot_names() == {"slow": (), "other": tuple(own.algorithm.slots())}
    step(session, GRADIENT)
    step(session, GRADIENT)
    assert measure_movement(session) == {"a": [3, 0], "b": [0, 40 + 60, 0]}


def test_weight_average_copies_first_and_follows_tensors_left_alone() -> None:
    session = session_of(spec_of(weight_average=WeightAverageSpec(decay=0.5)), START)
    np.testing.assert_array_equal(parameters(session, point=Point.AVERAGE)["a"], START["a"])
    step(session, GRADIENT)
    after_first = parameters(session)
    for name, value in parameters(session, point=Point.AVERAGE).items():
        np.testing.assert_array_equal(value, after_first[name])
    step(session, {"b": GRADIENT["b"]})
    average, now = parameters(session, point=Point.AVERAGE), parameters(session)
    for name in START:
        np.testing.assert_array_equal(average[name], 0.5 * after_first[name] + 0.5 * now[name])


def test_tensors_left_out_stay_as_they_are() -> None:
    session = session_of(spec_of(Momentum(learning_rate=0.1, momentum=0.5)), START)
    step(session, GRADIENT)
    before = parameters(session)
    step(session, {"b": GRADIENT["b"]})
    np.testing.assert_array_equal(parameters(session)["a"], before["a"])
    assert parameters(session)["b"][0, 1] != before["b"][0, 1]
    assert session.step == 2


def test_schedule_sees_step_zero_first() -> None:
    schedule = PiecewiseConstant(boundaries=(0,), values=(1.0, 0.25))
    session = session_of(spec_of(SGD(), schedule=Chosen(schedule)), START)
    assert [step(session, GRADIENT).learning_rate for _ in range(3)] == [1.0, 0.25, 0.25]


def test_learning_rate_beside_a_schedule_is_refused() -> None:
    schedule = Chosen(PiecewiseConstant(boundaries=(0,), values=(1.0, 0.25)))
    with pytest.raises(DomainError) as caught:
        dataclasses.replace(
            spec_of(schedule=schedule), optimizer=Chosen(SGD(), given=frozenset({"learning_rate"}))
        )
    assert (caught.value.reason, caught.value.field) == (
        Reason.CONFLICTING_FIELDS,
        "optimizer.sgd.learning_rate",
    )


def test_lookahead_is_where_the_next_step_would_look() -> None:
    rule = Nesterov(learning_rate=0.1, momentum=0.5, form=NesterovForm.LOOKAHEAD)
    session = session_of(spec_of(rule), START)
    np.testing.assert_array_equal(parameters(session, point=Point.LOOKAHEAD)["a"], START["a"])
    step(session, GRADIENT)
    now = parameters(session)["a"]
    velocity = now - START["a"]
    ahead = parameters(session, point=Point.LOOKAHEAD)["a"]
    np.testing.assert_allclose(ahead, now + 0.5 * velocity, rtol=1e-14)
    np.testing.assert_array_equal(parameters(session)["a"], now)


@pytest.mark.parametrize("point", [Point.AVERAGE, Point.LOOKAHEAD])
def test_points_that_are_not_kept(point: Point) -> None:
    with pytest.raises(DomainError) as caught:
        make_guarded_session().read_values(point=point)
    assert caught.value.reason is Reason.POINT_UNAVAILABLE


BAD = {"a": np.array([1.0, np.nan]), "b": np.array([[np.inf, 1.0, -np.inf]])}


def test_non_finite_reject_names_the_tensor() -> None:
    session = make_guarded_session()
    with pytest.raises(DomainError) as caught:
        step(session, BAD)
    assert caught.value.reason is Reason.NON_FINITE_GRADIENT
    assert caught.value.field == "gradients[0].tensor.data"
    assert caught.value.metadata == {"tensor": "a", "count": "3"}
    assert (session.step, measure_movement(session)) == (0, {"a": [0, 0], "b": [0, 0, 0]})


def test_non_finite_skip_counts() -> None:
    session = make_guarded_session(non_finite=NonFinitePolicy.SKIP)
    result = step(session, BAD)
    assert (result.outcome, result.non_finite_count) == (StepOutcome.SKIPPED, 3)
    assert (session.step, session.skipped, measure_movement(session)) == (0, 1, {"a": [0, 0], "b": [0, 0, 0]})


def test_non_finite_allow_goes_on() -> None:
    session = make_guarded_session(non_finite=NonFinitePolicy.ALLOW)
    result = step(session, BAD)
    assert (result.outcome, result.non_finite_count, session.step) == (StepOutcome.APPLIED, 3, 1)
    assert np.isnan(parameters(session)["a"]).tolist() == [False, True]


@pytest.mark.parametrize("clip", [ClipByTensorNorm, ClipByGlobalNorm])
@pytest.mark.parametrize("line", CLIPPED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clipping_by_norm_of_what_is_not_finite(clip: type[ClipByNorm], line: Clipped, dtype: Any) -> None:
    expected = line.by_tensor_norm if clip is ClipByTensorNorm else line.by_global_norm
    start = {name: np.ones(len(g), dtype) for name, g in zip("ab", line.gradient, strict=True)}
    gradient = GradientSpec(clip=clip(max_norm=1.0), non_finite=NonFinitePolicy.ALLOW)
    session = session_of(spec_of(SGD(learning_rate=0.5), gradient=gradient), start)
    result = step(session, {name: np.array(g, dtype) for name, g in zip("ab", line.gradient, strict=True)})
    for name, left in zip("ab", expected, strict=True):
        np.testing.assert_array_equal(parameters(session)[name], 1 - 0.5 * np.array(left, dtype))
    assert not math.isfinite(result.gradient_norm)
    assert math.isnan(result.clipped_gradient_norm)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"schedule": Chosen(PiecewiseConstant(boundaries=(1,), values=(0.1, 0.2)))}, "schedule"),
        ({"reduce_on_plateau": ReduceOnPlateauSpec()}, "reduce_on_plateau"),
        (
            {"groups": (ParameterGroup(name="g", tensors=("a",), learning_rate_factor=0.5),)},
            "groups[0].learning_rate_factor",
        ),
    ],
)
def test_a_rule_without_a_rate_refuses_what_changes_one(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(DomainError, match="rprop") as caught:
        spec_of(Rprop(), **fields)
    assert (caught.value.reason, caught.value.field) == (Reason.CONFLICTING_FIELDS, field)
    spec_of(SGD(), **fields)


def test_validate_only_changes_nothing() -> None:
    session = session_of(spec_of(Adam(), gradient=GradientSpec(accumulation_steps=2)), START)
    result = step(session, GRADIENT, validate_only=True, worker="w", sequence=1)
    assert (result.outcome, result.step, result.accumulated) == (StepOutcome.VALIDATED, 0, 0)
    assert result.gradient_norm == 5
    assert step(session, GRADIENT, worker="w", sequence=1).replayed is False


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_gradients_of_every_dtype(dtype: Any) -> None:
    session = make_guarded_session()
    step(session, {name: g.astype(dtype) for name, g in GRADIENT.items()})
    assert measure_movement(session) == {"a": [3, 0], "b": [0, 4, 0]}


def test_both_parameter_dtypes_side_by_side() -> None:
    mixed = {"a": START["a"], "c": np.ones(3, np.float32), "b": START["b"]}
    session = session_of(spec_of(), mixed)
    assert [entry.name for entry in session.layout.entries] == ["a", "b", "c"]
    result = step(session, {**GRADIENT, "c": np.full(3, 2.0, np.float32)})
    assert measure_movement(session) == {"a": [3, 0], "b": [0, 4, 0]}
    np.testing.assert_array_equal(parameters(session)["c"], np.float32(1) - np.float32(0.1) * np.float32(2))
    assert result.gradient_norm == pytest.approx(math.sqrt(25 + 12), rel=1e-15)


def test_a_failure_half_way_closes_the_session_to_further_steps() -> None:
    class Failing(CountingBackend):
        def on_call(self, program: Program) -> None:
            if program.stores and self.writes:
                raise MemoryError
            super().on_call(program)

    mixed = {"a": START["a"], "c": np.ones(3, np.float32)}
    backend = Failing()
    session = session_of(spec_of(), mixed, Store(backend))
    with pytest.raises(MemoryError):
        step(session, {"a": GRADIENT["a"], "c": np.ones(3, np.float32)})
    with pytest.raises(DomainError) as caught:
        session.read_values()
    assert caught.value.reason is Reason.INTERNAL


def test_a_request_that_is_checked_during_a_step_finds_the_session_whole() -> None:
    """A step may run in a thread while the next request is checked, before its turn."""

    class Asking(CountingBackend):
        session: Session | None = None

        def on_call(self, program: Program) -> None:
            if self.session is not None:
                assert self.session.read_values([]).step == 0

    backend = Asking()
    session = session_of(spec_of(), START, Store(backend))
    backend.session = session
    assert step(session, GRADIENT).step == 1
