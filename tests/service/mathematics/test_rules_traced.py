"""Every rule, with every setting of its flags, traced and plain."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.errors import DomainError
from optserve_server.hyperparameters import declarations
from optserve_server.optimizers.base import ElementwiseRule
from tests.service.mathematics.evaluation import run, run_program, trace_rule
from tests.support.variants import rules

STEPS = 5
MOVES_WITHOUT_GRADIENTS = ("yogi", "ftrl")
"""optax' Yogi starts with a small first moment, and FTRL computes weights from gradients alone."""
ONLY_VALUE = ("eta_plus", "learning_rate_power")
"""Hyperparameters that cannot be 1% smaller."""


def cases() -> Iterator[tuple[str, ElementwiseRule]]:
    for label, rule in rules():
        yield label, rule
        if getattr(rule, "epsilon", 0.0):
            try:
                yield f"{label}, no epsilon", with_numbers(rule, epsilon=0.0)
            except DomainError:
                assert rule.name in ("adadelta", "adopt", "prodigy")
        if needs_positive_root(rule):
            yield f"{label}, root", with_numbers(rule, epsilon_root=0.01)


def with_numbers(rule: Any, **numbers: float) -> ElementwiseRule:
    """The rule with other hyperparameters."""
    changed: ElementwiseRule = dataclasses.replace(rule, **numbers)
    return changed


def needs_positive_root(rule: ElementwiseRule) -> bool:
    """Whether the rule has an epsilon under the root and it is 0."""
    return getattr(rule, "epsilon_root", None) == 0.0


RULES: dict[str, list[tuple[str, ElementwiseRule]]] = {}
"""Labelled rules of each class."""
for _label, _rule in cases():
    RULES.setdefault(_rule.name, []).append((_label, _rule))
of_each_class = pytest.mark.parametrize("labelled", RULES.values(), ids=RULES)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@of_each_class
def test_the_traced_programs_give_the_bits_of_plain_evaluation(
    labelled: list[tuple[str, ElementwiseRule]], dtype: type
) -> None:
    for label, rule in labelled:
        require_bits_of_plain_evaluation(label, rule, dtype)


def require_bits_of_plain_evaluation(label: str, rule: ElementwiseRule, dtype: type) -> None:
    rng = np.random.default_rng(7)
    p = rng.normal(size=300).astype(dtype)
    gradients = [rng.normal(size=300).astype(dtype) for _ in range(STEPS)]
    rates = [0.1 * 0.7**i for i in range(STEPS)]
    for g in gradients:
        g[::50] = 0  # a weight that never sees a gradient
    expected = run(rule, p, gradients, rates)[-1]
    actual = run_program(NumpyBackend(threads=1), rule, p, gradients, rates)
    for name, array in expected.items():
        assert array.dtype == dtype, (label, name)
        assert np.isfinite(array).all(), (label, name)
        assert np.array_equal(array, actual[name]), (label, name)
    if rule.name not in MOVES_WITHOUT_GRADIENTS:
        assert np.array_equal(expected["p"][::50], p[::50]), label
    assert not np.array_equal(expected["p"], p), label


@of_each_class
def test_the_programs_do_not_depend_on_numbers(labelled: list[tuple[str, ElementwiseRule]]) -> None:
    for label, rule in labelled:
        numbers = {
            name: value * 0.99
            for name in declarations(type(rule))
            if isinstance(value := getattr(rule, name), float) and name not in ONLY_VALUE
        }
        assert numbers, label
        assert trace_rule(with_numbers(rule, **numbers)) == trace_rule(rule), label


@of_each_class
def test_every_slot_is_used(labelled: list[tuple[str, ElementwiseRule]]) -> None:
    for label, rule in labelled:
        program = trace_rule(rule)
        assert set(program.arrays) == {"p", "g", *rule.slots()}, label
        assert {name for name, _ in program.stores} == {"p", *rule.slots()}, label


def test_without_a_root_of_epsilon_the_programs_have_none() -> None:
    without = [(label, rule) for label, rule in cases() if needs_positive_root(rule)]
    assert without
    for label, rule in without:
        given = trace_rule(with_numbers(rule, epsilon_root=0.01))
        assert set(given.scalars) - set(trace_rule(rule).scalars) == {"epsilon_root"}, label
        assert len(given.instructions) == len(trace_rule(rule).instructions) + 1, label


def test_flags_make_different_programs_within_a_rule() -> None:
    from optserve_server.optimizers.adam import Adam, BiasCorrection
    from optserve_server.optimizers.epsilon import EpsilonPlacement

    programs = {
        trace_rule(Adam(bias_correction=correction, epsilon_placement=placement))
        for correction in (BiasCorrection.FOLDED, BiasCorrection.HATTED)
        for placement in EpsilonPlacement
    }
    assert len(programs) == 4
