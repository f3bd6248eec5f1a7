"""Runs a rule over a case's steps, without a session around it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.ops import NumpyOps
from optserve_server.optimizers.base import ElementwiseRule, Rule
from optserve_server.optimizers.groupwise import GroupwiseRule
from optserve_server.optimizers.matrix import MatrixRule
from optserve_server.optimizers.tensorwise import TensorwiseRule
from optserve_server.programs.step_programs import PARAMETER
from tests.conformance.corpus import Case

Array = npt.NDArray[Any]
State = dict[str, Array]
Advance = Callable[[State, Array, Mapping[str, float], float], dict[str, float]]
"""Changes parameters and slots in place by gradient, the rule's numbers and the decay factor;
returns what is carried on beside the numbers."""


def follow(rule: Rule, case: Case, dtype: np.dtype[Any], advance: Advance) -> dict[str, Any]:
    """The answer to an optimizer case in ``dtype``."""
    gradients = np.array(case.inputs["gradients"], dtype)
    state: State = {PARAMETER: np.array(case.inputs["parameters"], dtype)}
    state |= {slot: np.full(shape, value, dtype) for slot, (shape, value) in slots(rule, state).items()}
    path, points = [], []
    carried = dict(rule.initial_scalar_state())
    for step, (gradient, rate) in enumerate(zip(gradients, rates(rule, case), strict=True), 1):
        numbers = rule.compute_scalars(step, rate, **carried)
        carried = {name: numbers[name] for name in carried}
        points.append(lookahead(rule, state, numbers))
        with np.errstate(over="ignore"):  # what overflows becomes infinite, as in every kernel
            carried |= advance(state, gradient, numbers, 1 - rate * rule.decoupled_weight_decay)
        path.append(state[PARAMETER].copy())
    answer: dict[str, Any] = {"parameters": path}
    return answer | {"lookahead": points} if rule.has_lookahead else answer


def slots(rule: Rule, state: State) -> dict[str, tuple[tuple[int, ...], float]]:
    """Shape and first value of each slot."""
    shape = state[PARAMETER].shape
    if isinstance(rule, MatrixRule):
        return {name: (of_slot, 0.0) for name, of_slot in rule.tensor_slots(shape).items()}
    return {name: (shape, value) for name, value in rule.slots().items()}


def rates(rule: Rule, case: Case) -> list[float]:
    """The learning rate of each step."""
    found: list[float] = case.inputs.get(
        "learning_rates", [rule.base_learning_rate] * len(case.inputs["gradients"])
    )
    return found


def lookahead(rule: Rule, state: State, numbers: Mapping[str, float]) -> Array:
    """Where the step's gradient is taken."""
    p, *slots = state.values()
    if not rule.has_lookahead:
        return p.copy()
    assert isinstance(rule, ElementwiseRule)
    return np.array(
        rule.lookahead(NumpyOps(), p, *slots, **select_numbers(rule, rule.lookahead, numbers, p.dtype))
    )


def select_numbers(
    rule: Rule, formula: Any, numbers: Mapping[str, float], dtype: np.dtype[Any]
) -> dict[str, Any]:
    """The numbers that a formula takes: carried ones only where it names them."""
    named = inspect.signature(formula).parameters
    return round_numbers(
        {k: v for k, v in numbers.items() if k in named or k not in rule.initial_scalar_state()}, dtype
    )


def round_numbers(numbers: Mapping[str, float], dtype: np.dtype[Any]) -> dict[str, Any]:
    """The numbers as every executor takes them: rounded to the compute dtype once."""
    return {name: dtype.type(value) for name, value in numbers.items()}


def plainly(rule: Rule) -> Advance:
    """The rule's own formulas on NumPy arrays."""

    def advance(
        state: State, gradient: Array, numbers: Mapping[str, float], decay: float
    ) -> dict[str, float]:
        dtype = gradient.dtype
        p, *slots = state.values()
        if isinstance(rule, MatrixRule):
            given = dict(zip(list(state)[1:], slots, strict=True))
            p, after = rule.step(np, p, gradient, given, numbers, decay)
            state.update({PARAMETER: p, **after})
            return {}
        assert isinstance(rule, ElementwiseRule)
        if rule.decoupled_weight_decay:
            p = dtype.type(decay) * p
        more, carried = beforehand(rule, p, gradient, slots, numbers)
        given = select_numbers(rule, rule.update, {**numbers, **more}, dtype)
        results = rule.update(NumpyOps(), p, gradient, *slots, **given)
        for name, value in zip(state, results, strict=True):
            assert value.dtype == dtype, f"{name} became {value.dtype}"
            state[name] = value
        return carried

    return advance


def beforehand(
    rule: ElementwiseRule, p: Array, gradient: Array, slots: list[Array], numbers: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """What a rule finds out about the tensor first: further numbers, and carried ones."""
    if isinstance(rule, TensorwiseRule):
        given = select_numbers(rule, rule.tensor_sum_terms, numbers, p.dtype)
        measured = rule.tensor_sum_terms(NumpyOps(), p, gradient, *slots, **given)
        norms = {n: np.array([np.linalg.norm(v.astype(np.float64))]) for n, v in measured.items()}
        return {name: float(of[0]) for name, of in rule.compute_tensor_scalars(norms).items()}, {}
    if isinstance(rule, GroupwiseRule):
        given = select_numbers(rule, rule.group_sum_terms, numbers, p.dtype)
        summed = rule.group_sum_terms(NumpyOps(), p, gradient, *slots, **given)
        return rule.compute_group_scalars(
            {n: float(np.abs(v).sum(dtype=np.float64)) for n, v in summed.items()}, numbers
        )
    return {}, {}
