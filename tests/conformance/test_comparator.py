"""The judge tells right from wrong, and the corpus tells each form of a rule from the others."""

from __future__ import annotations

import copy
import dataclasses
from enum import Enum
from typing import Any

import numpy as np
import pytest

from optserve_server import optimizers
from optserve_server.errors import DomainError
from optserve_server.hyperparameters import Convention, declarations, field_types
from optserve_server.optimizers.base import Rule
from tests.conformance import corpus, trajectories
from tests.conformance.comparator import difference, judge
from tests.conformance.corpus import Case
from tests.conformance.specs import resolve
from tests.conformance.test_corpus import FEDERATED, NOT_OFFERED


@pytest.mark.parametrize("family", corpus.FAMILIES)
def test_judge_notices_one_wrong_number(family: str) -> None:
    for _, case in corpus.cases(family):
        for part in case.expected:
            wrong = copy.deepcopy(dict(case.expected))
            wrong[part] = nudge(wrong[part])
            with pytest.raises(AssertionError, match=f"^{part} is off"):
                judge(wrong, case.expected, case.tolerance["float64"], np.float64, family)


def nudge(tree: Any) -> Any:
    """The tree with its largest number a little larger."""
    largest = max(corpus.numbers(tree), key=abs)

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: walk(value) for key, value in node.items()}
        if isinstance(node, list):
            return [walk(item) for item in node]
        return (node * (1 + 1e-6) or 1e-6) if node == largest else node

    return walk(tree)


def test_judge_refuses_missing_and_surplus_parts() -> None:
    with pytest.raises(AssertionError):
        judge({"values": [1.0]}, {"values": [1.0], "more": [1.0]}, 1.0, np.float64, "schedules")
    with pytest.raises(AssertionError):
        judge({"values": [1.0], "more": [1.0]}, {"values": [1.0]}, 1.0, np.float64, "schedules")


@pytest.mark.parametrize("wrong", [[1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_difference_refuses_sizes_and_values(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match=r"expected|finite"):
        difference(wrong, [1.0, 2.0], np.float64, by_element=True)


def test_difference_measures() -> None:
    found = difference([1.0, 2.0 + 2**-51], [1.0, 2.0], np.float64, by_element=True)
    assert found.relative == 2**-52
    assert found.ulp == 1.0
    assert difference([1e-9, 1.0], [0.0, 1.0], np.float64, by_element=True).relative == float("inf")
    assert difference([1e-9, 1.0], [0.0, 1.0], np.float64, by_element=False).relative == 1e-9


def flags() -> list[Any]:
    """Each value of each enum or boolean of each rule."""
    found = []
    for name in optimizers.REGISTRY:
        cls = optimizers.REGISTRY[name]
        for field, kind in field_types(cls).items():
            if kind is bool or (isinstance(kind, type) and issubclass(kind, Enum)):
                for value in (
                    [False, True] if kind is bool else declarations(cls)[field].allowed or list(kind)
                ):
                    found.append(pytest.param(name, field, value, id=f"{name}-{field}-{value}"))
    return found


@pytest.mark.parametrize(("name", "field", "value"), flags())
def test_a_wrong_form_is_noticed(name: str, field: str, value: Any) -> None:
    """Some case of another form fails when the rule is given this one instead."""
    assert any(
        fails(dataclasses.replace(rule, **{field: value}), case)
        for case in corpus.load(corpus.VECTORS / "optimizers" / f"{name}.json").cases
        if getattr(rule := resolve(optimizers.REGISTRY, case.spec), field) != value
        if can_replace(rule, field, value)
    )


UNPROVED = {
    ("adagrad", "TORCH", "epsilon"): "1e-10 beside a root of 0.1 is below the tolerance",
    ("momentum", "KERAS", "dampening"): "the form has none",
    ("nadam", "OPTAX", "momentum_decay"): "the form has none",
    ("adabelief", "OPTAX", "epsilon"): "1e-16 is below the tolerance",
    ("adabelief", "OPTAX", "epsilon_root"): "1e-16 is below the tolerance",
    ("adopt", "OPTAX", "epsilon"): "no root comes down to 1e-6",
    ("fed_avg_m", "KERAS", "learning_rate"): "at rate 1 the parameters would come too near to 0",
    ("fed_adagrad", "KERAS", "tau"): "1e-9 beside a root of 1 is below the tolerance",
    ("ftrl", "KERAS", "learning_rate_power"): "it has one value",
    ("adafactor", "KERAS", "epsilon1"): "1e-30 beside squares of gradients is below the tolerance",
    ("adafactor", "KERAS", "epsilon2"): "no parameter is as small as 1e-3",
    ("adafactor", "TORCH", "epsilon1"): "the dtype's epsilon is below every mean",
    ("adafactor", "TORCH", "epsilon2"): "no parameter is as small as 1e-3",
    ("muon", "TORCH", "epsilon"): "no momentum is as short as 1e-7",
    ("prodigy", "OPTAX", "epsilon"): "1e-8 of an estimate of 1e-6 is below the tolerance",
    ("prodigy", "OPTAX", "beta3"): "0 stands for a root",
    ("prodigy", "OPTAX", "weight_decay"): "one per cent of 0 is 0.001 of a step of 1e-6",
    ("lion", "KERAS", "beta1"): "one per cent turns no sign",
    ("lion", "OPTAX", "beta1"): "one per cent turns no sign",
    ("radam", "TORCH", "epsilon"): "1e-8 in the few rectified steps is below the tolerance",
    ("radam", "OPTAX", "epsilon"): "1e-8 in the few rectified steps is below the tolerance",
    **{(name, "OPTAX", "learning_rate"): "optax has no default rate" for name in optimizers.REGISTRY},
}


def defaults() -> list[Any]:
    """Each float with a default of each rule, under each framework that has the rule."""
    missing = {(name, framework.upper()) for framework, name in NOT_OFFERED if framework != "keras"}
    # The papers' defaults are recorded under the default convention.
    missing |= {(n, "KERAS") for f, n in NOT_OFFERED if f == "keras" and n not in FEDERATED}
    return [
        pytest.param(name, convention, field, id=f"{name}-{convention}-{field}")
        for name in optimizers.REGISTRY
        for convention in (Convention.KERAS, Convention.TORCH, Convention.OPTAX)
        for field, declaration in declarations(optimizers.REGISTRY[name]).items()
        if type(declaration.defaults[convention]) is float
        if (name, convention) not in missing and (name, convention, field) not in UNPROVED
    ]


@pytest.mark.parametrize(("name", "convention", "field"), defaults())
def test_a_wrong_default_is_noticed(name: str, convention: Convention, field: str) -> None:
    """Some case that leaves the field to the convention fails when the default is one per cent off."""
    rules = [
        (resolve(optimizers.REGISTRY, case.spec), case)
        for case in corpus.load(corpus.VECTORS / "optimizers" / f"{name}.json").cases
        if case.spec["convention"] == f"CONVENTION_{convention}" and field not in case.spec[name]
        if field != "learning_rate" or "learning_rates" not in case.inputs
    ]
    wrong = [
        (dataclasses.replace(rule, **{field: getattr(rule, field) * 0.99 or 1e-3}), c) for rule, c in rules
    ]
    assert any(fails(rule, case, tolerance=1e-12) for rule, case in wrong)


def can_replace(rule: Rule, field: str, value: Any) -> bool:
    try:
        dataclasses.replace(rule, **{field: value})
    except DomainError:
        return False
    return True


def fails(rule: Rule, case: Case, tolerance: float = 1e-6) -> bool:
    dtype = np.dtype(np.float64)
    answer = trajectories.follow(rule, case, dtype, trajectories.plainly(rule))
    try:
        judge(answer, case.expected, tolerance, dtype, "optimizers")
    except AssertionError:
        return True
    return False
