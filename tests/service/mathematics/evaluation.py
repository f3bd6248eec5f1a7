"""Evaluation of a rule without a session: on plain arrays, and as a traced program."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.kernel import Segments
from optserve_server.arrays.ops import NumpyOps
from optserve_server.arrays.program import Program
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.programs.step_programs import StepPrograms
from optserve_server.spec.session_spec import GradientSpec
from tests.conformance.trajectories import beforehand

Arrays = dict[str, npt.NDArray[Any]]


def start(rule: ElementwiseRule, p: npt.NDArray[Any]) -> Arrays:
    """Parameters and slots before the first step."""
    return {"p": p.copy(), **{name: np.full_like(p, value) for name, value in rule.slots().items()}}


def plain(rule: ElementwiseRule, arrays: Arrays, g: npt.NDArray[Any], numbers: dict[str, float]) -> Arrays:
    """One step on plain arrays."""
    values = rule.update(NumpyOps(), arrays["p"], g, *list(arrays.values())[1:], **numbers)
    return dict(zip(arrays, values, strict=True))


def numbers_of_steps(
    rule: ElementwiseRule, arrays: Arrays, gradients: Sequence[npt.NDArray[Any]], rates: Sequence[float]
) -> Iterator[tuple[npt.NDArray[Any], dict[str, float]]]:
    """Each step's gradient and numbers, with what the rule finds out about ``arrays`` first."""
    carried = dict(rule.initial_scalar_state())
    for step, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        numbers = rule.compute_scalars(step, rate, **carried)
        carried = {name: numbers[name] for name in carried}
        p, *slots = arrays.values()
        more, found = beforehand(rule, p, g, slots, numbers)
        carried |= found
        yield g, {**numbers, **more}


def run(
    rule: ElementwiseRule, p: npt.NDArray[Any], gradients: Sequence[npt.NDArray[Any]], rates: Sequence[float]
) -> list[Arrays]:
    """Parameters and slots after each step."""
    arrays, path = start(rule, p), []
    for g, numbers in numbers_of_steps(rule, arrays, gradients, rates):
        named = inspect.signature(rule.update).parameters
        given = {k: v for k, v in numbers.items() if k in named or k not in rule.initial_scalar_state()}
        arrays.update(plain(rule, arrays, g, given))
        path.append(dict(arrays))
    return path


def trace_rule(rule: ElementwiseRule) -> Program:
    """The program of one step."""
    return StepPrograms(rule, GradientSpec(), decays=False, averages=False).trace_apply(False)


def run_program(
    backend: Backend,
    rule: ElementwiseRule,
    p: npt.NDArray[Any],
    gradients: Sequence[npt.NDArray[Any]],
    rates: Sequence[float],
) -> Arrays:
    """Parameters and slots after the last step of the traced program."""
    program = trace_rule(rule)
    kernel = backend.compile(program, p.dtype, {})
    arrays = start(rule, p)
    for g, numbers in numbers_of_steps(rule, arrays, gradients, rates):
        given = arrays | {"g": g}
        of_tensors = {name: np.array([numbers[name]]) for name in program.segment_scalars}
        kernel(
            {name: given[name] for name in program.arrays},
            {name: numbers[name] for name in program.scalars},
            Segments(np.array([len(p)], np.int64), of_tensors),
        )
    return arrays
