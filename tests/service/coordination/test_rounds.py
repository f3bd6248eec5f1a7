"""ROUNDS: the mean of changes, weighted by examples, is a step of the session's rule."""

from __future__ import annotations

import numpy as np
import pytest

from optserve_server.errors import DomainError, Reason
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.base import Rule
from optserve_server.optimizers.sgd import SGD
from optserve_server.spec.coordination import CoordinationRounds, Damping
from optserve_server.spec.session_spec import GradientSpec, NonFinitePolicy
from optserve_server.state.step_result import StepOutcome, StepResult
from tests.service.coordination.support import Arrays, Coordinated, bits
from tests.service.sessions.support import parameters, session_of, spec_of, step

RNG = np.random.default_rng(8)
VALUES: Arrays = {"w": RNG.standard_normal(40).astype(np.float32), "b": RNG.standard_normal(3)}


def changes(seed: int, count: int) -> list[Arrays]:
    rng = np.random.default_rng(seed)
    return [
        {name: (0.01 * rng.standard_normal(a.shape)).astype(a.dtype) for name, a in VALUES.items()}
        for _ in range(count)
    ]


def make_federated(rule: Rule, **spec: object) -> Coordinated:
    made = Coordinated(spec_of(rule, coordination=CoordinationRounds(**spec)), VALUES)
    for worker in "abc":
        made.join(worker)
    return made


@pytest.mark.parametrize("rule", [SGD(learning_rate=1.0), Adam(learning_rate=0.1)], ids=["fedavg", "fedadam"])
def test_a_round_is_a_step_of_the_negated_weighted_mean(rule: Rule) -> None:
    made, alone = make_federated(rule, buffer_size=3), session_of(spec_of(rule), VALUES)
    weights = (5, 1, 3)
    for sequence in (1, 2, 3):
        given = changes(sequence, 3)
        for worker, change, weight in zip("abc", given, weights, strict=True):
            epoch = "abc".index(worker) + 1
            sent = made.contribute(worker, epoch, sequence, change, sequence - 1, weight)
            assert isinstance(sent.outcome, StepResult)
            assert sent.outcome.outcome is StepOutcome.ACCUMULATED
        mean = {}
        for name, array in VALUES.items():
            total = (
                given[0][name] * array.dtype.type(5) + given[1][name] + given[2][name] * array.dtype.type(3)
            )
            mean[name] = -(total / array.dtype.type(9))
        step(alone, mean)
        assert made.session.step == sequence
        assert bits(made.parameters()) == bits(parameters(alone))


def test_an_open_round_survives_a_restart() -> None:
    made = make_federated(SGD(learning_rate=1.0), buffer_size=3, deadline_seconds=5.0)
    given = changes(1, 3)
    for position, worker in enumerate("ab"):
        made.contribute(worker, position + 1, 1, given[position], 0)
    made.restart()
    assert made.session.coordinator.has_open_round
    again = made.contribute("a", 1, 1, given[0], 0)
    assert isinstance(again.outcome, StepResult)
    assert again.outcome.replayed
    made.contribute("c", 3, 1, given[2], 0)
    assert made.session.step == 1
    expected = VALUES["w"] + (given[0]["w"] + given[1]["w"] + given[2]["w"]) / np.float32(3)
    np.testing.assert_array_equal(made.parameters()["w"], expected)


def test_late_changes_count_less_or_not_at_all() -> None:
    made = make_federated(SGD(learning_rate=1.0), buffer_size=1, max_staleness=1, damping=Damping.INVERSE)
    zero = {name: np.zeros_like(array) for name, array in VALUES.items()}
    made.contribute("a", 1, 1, zero, 0)
    late = made.contribute("b", 2, 1, changes(1, 1)[0], 0)
    assert isinstance(late.outcome, StepResult)
    assert (late.outcome.staleness, late.outcome.weight) == (1, 0.5)
    too_late = made.contribute("c", 3, 1, zero, 0)
    assert isinstance(too_late.outcome, DomainError)
    assert too_late.outcome.reason is Reason.ROUND_CLOSED


def test_what_is_not_finite_is_rejected_skipped_or_allowed() -> None:
    bad = {name: np.full_like(array, np.inf) for name, array in VALUES.items()}
    for policy, expected in (
        (NonFinitePolicy.REJECT, Reason.NON_FINITE_GRADIENT),
        (NonFinitePolicy.SKIP, StepOutcome.SKIPPED),
        (NonFinitePolicy.ALLOW, StepOutcome.ACCUMULATED),
    ):
        spec = spec_of(
            SGD(learning_rate=1.0),
            gradient=GradientSpec(non_finite=policy),
            coordination=CoordinationRounds(buffer_size=2),
        )
        made = Coordinated(spec, VALUES)
        made.join("a")
        found = made.contribute("a", 1, 1, bad, 0).outcome
        assert found is not None
        assert (found.outcome if isinstance(found, StepResult) else found.reason) == expected  # type: ignore[attr-defined]
        before = made.session.coordinator.to_json(), made.session.skipped
        made.restart()
        assert (made.session.coordinator.to_json(), made.session.skipped) == before


def test_the_coordination_does_not_change_in_an_open_round() -> None:
    made = make_federated(SGD(learning_rate=1.0), buffer_size=2)
    made.contribute("a", 1, 1, changes(1, 1)[0], 0)
    with pytest.raises(DomainError) as refused:
        made.session.update_spec(spec_of(SGD(learning_rate=1.0)))
    assert refused.value.reason is Reason.STEP_INCOMPLETE
    made.contribute("b", 2, 1, changes(1, 1)[0], 0)
    made.session.update_spec(spec_of(SGD(learning_rate=1.0)))


def test_a_round_closes_with_those_that_are_left_but_not_with_fewer_than_its_least() -> None:
    made = make_federated(SGD(learning_rate=1.0), buffer_size=5, min_contributions=2)
    given = changes(1, 3)
    made.contribute("a", 1, 1, given[0], 0)
    made.leave("b", 2)
    assert made.session.step == 0
    made.leave("c", 3)
    assert made.session.step == 0
    epoch = made.join("d").epoch
    made.contribute("d", epoch, 1, given[1], 0)
    assert made.session.step == 1


@pytest.mark.parametrize("limit", ["buffer_size", "max_active"])
def test_a_round_that_could_not_close_is_rejected(limit: str) -> None:
    with pytest.raises(DomainError, match=f"at most {limit}, 2") as refused:
        CoordinationRounds(**{"buffer_size": 3, "min_contributions": 3, limit: 2})
    assert (refused.value.reason, refused.value.field) == (Reason.CONFLICTING_FIELDS, "min_contributions")
