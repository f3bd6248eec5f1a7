"""Runs a rule over a case's steps, without a session around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.vocabulary import NumpyOps
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.tensorwise import TensorwiseRule
from optserve_server.sessions.guards import PARAMETER
from tests.conformance.corpus import Case

Array = npt.NDArray[Any]
State = dict[str, Array]
Advance = Callable[[State, Array, Mapping[str, float], float], None]
"""Changes parameters and slots in place by gradient, the rule's numbers and the decay factor."""


def follow(rule: ElementwiseRule, case: Case, dtype: np.dtype[Any], advance: Advance) -> dict[str, Any]:
    """The answer to an optimizer case in ``dtype``."""
    gradients = np.array(case.inputs["gradients"], dtype)
    state: State = {PARAMETER: np.array(case.inputs["parameters"], dtype)}
    state |= {slot: np.full_like(state[PARAMETER], value) for slot, value in rule.slots().items()}
    path, points = [], []
    for gradient, (rate, numbers) in zip(gradients, steps(rule, case), strict=True):
        points.append(lookahead(rule, state, numbers))
        advance(state, gradient, numbers, 1 - rate * rule.decoupled_weight_decay)
        path.append(state[PARAMETER].copy())
    answer: dict[str, Any] = {"parameters": path}
    return answer | {"lookahead": points} if rule.has_lookahead else answer


def steps(rule: ElementwiseRule, case: Case) -> Iterator[tuple[float, dict[str, float]]]:
    """Learning rate and the rule's numbers of each step."""
    count = len(case.inputs["gradients"])
    rates = case.inputs.get("learning_rates", [rule.base_learning_rate] * count)
    carried = dict(rule.carry())
    for step, rate in enumerate(rates, 1):
        numbers = rule.scalars(step, rate, **carried)
        carried = {name: numbers.pop(name) for name in carried}
        yield rate, numbers


def lookahead(rule: ElementwiseRule, state: State, numbers: Mapping[str, float]) -> Array:
    """Where the step's gradient is taken."""
    p, *slots = state.values()
    return np.array(rule.lookahead(NumpyOps(), p, *slots, **rounded(numbers, p.dtype)))


def rounded(numbers: Mapping[str, float], dtype: np.dtype[Any]) -> dict[str, Any]:
    """The numbers as every executor takes them: rounded to the compute dtype once."""
    return {name: dtype.type(value) for name, value in numbers.items()}


def plainly(rule: ElementwiseRule) -> Advance:
    """`ElementwiseRule.update` itself on NumPy arrays."""

    def advance(state: State, gradient: Array, numbers: Mapping[str, float], decay: float) -> None:
        dtype = gradient.dtype
        p, *slots = state.values()
        if rule.decoupled_weight_decay:
            p = dtype.type(decay) * p
        given = rounded(numbers, dtype)
        if isinstance(rule, TensorwiseRule):
            measured = rule.measured(NumpyOps(), p, gradient, *slots, **given)
            norms = {n: np.array([np.linalg.norm(v.astype(np.float64))]) for n, v in measured.items()}
            given |= {name: dtype.type(of[0]) for name, of in rule.numbers_of_tensors(norms).items()}
        after = rule.update(NumpyOps(), p, gradient, *slots, **given)
        for name, value in zip(state, after, strict=True):
            assert value.dtype == dtype, f"{name} became {value.dtype}"
            state[name] = value

    return advance
