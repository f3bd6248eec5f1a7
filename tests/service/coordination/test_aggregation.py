"""SYNC: the aggregate's bits depend on ranks, and not on the order of arrival."""

from __future__ import annotations

import numpy as np
import pytest

from optserve_server.optimizers import REGISTRY
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.base import ElementwiseRule, Rule
from optserve_server.optimizers.sgd import SGD
from optserve_server.spec.coordination import Aggregation, CoordinationSync
from optserve_server.state.step_result import StepResult
from tests.service.coordination.support import Arrays, Coordinated, bits
from tests.service.sessions.support import parameters, session_of, spec_of, step

RULES = [rule for rule in REGISTRY.values() if issubclass(rule, ElementwiseRule)]
RNG = np.random.default_rng(3)
VALUES: Arrays = {"w": RNG.standard_normal((7, 5)).astype(np.float32), "b": RNG.standard_normal(3)}


def gradients(seed: int, count: int) -> list[Arrays]:
    rng = np.random.default_rng(seed)
    return [
        {n: rng.standard_normal(a.shape).astype(a.dtype) for n, a in VALUES.items()} for _ in range(count)
    ]


def make_coordinated(count: int, rule: Rule, **spec: object) -> Coordinated:
    made = Coordinated(spec_of(rule, coordination=CoordinationSync(**spec)), VALUES)
    for worker in range(count):
        made.join(f"w{worker}")
    return made


def contribute(
    made: Coordinated, sequence: int, given: list[Arrays], order: list[int], weights: list[int] | None = None
) -> None:
    """One step of all workers; a contribution of worker i is ``given[i]``."""
    waits = [
        made.contribute(f"w{i}", i + 1, sequence, given[i], sequence - 1, weights[i] if weights else 1)
        for i in order
    ]
    for one in waits:
        assert isinstance(one.outcome, StepResult), one.outcome
        assert one.outcome.step == sequence


@pytest.mark.parametrize("cls", RULES, ids=lambda cls: cls.name)
def test_a_step_of_several_is_the_step_with_their_mean(cls: type[ElementwiseRule]) -> None:
    made, alone = make_coordinated(3, cls()), session_of(spec_of(cls()), VALUES)
    for sequence in (1, 2, 3):
        given = gradients(sequence, 3)
        contribute(made, sequence, given, [1, 2, 0])
        mean = {n: (given[0][n] + given[1][n] + given[2][n]) / a.dtype.type(3) for n, a in VALUES.items()}
        step(alone, mean)
        assert bits(made.parameters()) == bits(parameters(alone))


@pytest.mark.parametrize("aggregation", Aggregation)
def test_a_hundred_orders_of_arrival_give_the_same_bits(aggregation: Aggregation) -> None:
    found = set()
    given = gradients(11, 6)
    spec = {"aggregation": aggregation, "max_norm": 3.0, "weight_by_examples": True}
    for seed in range(100):
        made = make_coordinated(6, SGD(learning_rate=0.1), **spec)
        order = np.random.default_rng(seed).permutation(6).tolist()
        contribute(made, 1, given, order, weights=[5, 1, 7, 3, 2, 9])
        found.add(bits(made.parameters()))
    assert len(found) == 1


def aggregate_of(count: int, weights: list[int] | None = None, **spec: object) -> np.ndarray:
    """The aggregate of `gradients(5, count)` of "w"."""
    made = make_coordinated(count, SGD(learning_rate=1.0), **spec)
    contribute(made, 1, gradients(5, count), list(range(count)), weights)
    return np.asarray(VALUES["w"] - made.parameters()["w"])


@pytest.mark.parametrize("count", [4, 5])
def test_each_aggregation_is_its_formula(count: int) -> None:
    given = np.stack([one["w"] for one in gradients(5, count)]).astype(np.float64)
    norms = np.array(
        [np.sqrt(sum(np.sum(a.astype(float) ** 2) for a in one.values())) for one in gradients(5, count)]
    )
    scaled = given * np.minimum(1, 2.0 / norms)[:, None, None]
    middle = np.sort(given, axis=0)
    expected = {
        Aggregation.MEAN: given.mean(axis=0),
        Aggregation.SUM: given.sum(axis=0),
        Aggregation.COORDINATE_MEDIAN: np.median(given, axis=0),
        Aggregation.TRIMMED_MEAN: middle[1:-1].mean(axis=0),
        Aggregation.NORM_BOUNDED_MEAN: scaled.mean(axis=0),
    }
    for aggregation, value in expected.items():
        found = aggregate_of(count, aggregation=aggregation, max_norm=2.0)
        np.testing.assert_allclose(found, value, atol=2e-6)


def test_means_are_weighted_by_examples() -> None:
    weights = [1, 5, 2]
    given = np.stack([one["w"] for one in gradients(5, 3)]).astype(np.float64)
    found = aggregate_of(3, weights, weight_by_examples=True)
    np.testing.assert_allclose(found, np.average(given, axis=0, weights=weights), atol=2e-6)


def test_a_gradient_of_another_type_and_with_a_loss_scale_is_aggregated() -> None:
    made = make_coordinated(2, SGD(learning_rate=1.0))
    half = {name: np.ones(a.shape, np.float16) for name, a in VALUES.items()}
    full = {name: np.full(a.shape, 12.0, a.dtype) for name, a in VALUES.items()}
    made.contribute("w0", 1, 1, half, 0)
    last = made.contribute("w1", 2, 1, full, 0, loss_scale=4.0)
    assert isinstance(last.outcome, StepResult)
    np.testing.assert_allclose(VALUES["w"] - made.parameters()["w"], np.full((7, 5), 2.0), atol=1e-6)


def test_replayed_records_give_the_same_bits() -> None:
    made = make_coordinated(3, Adam())
    for sequence in (1, 2):
        contribute(made, sequence, gradients(sequence, 3), [2, 0, 1])
    before = bits(made.parameters())
    made.restart()
    assert bits(made.parameters()) == before
    again = made.contribute("w1", 2, 2, gradients(2, 3)[1], 1)
    assert isinstance(again.outcome, StepResult)
    assert again.outcome.replayed
    assert bits(made.parameters()) == before
