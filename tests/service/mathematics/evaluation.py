"""Runs a rule by itself: on plain arrays, and as a traced program."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.program import Program
from optserve_server.arrays.trace import Tracer
from optserve_server.arrays.vocabulary import NumpyOps
from optserve_server.optimizers.base import ElementwiseRule

Arrays = dict[str, npt.NDArray[Any]]


def start(rule: ElementwiseRule, p: npt.NDArray[Any]) -> Arrays:
    """Parameters and slots before the first step."""
    return {"p": p.copy(), **{name: np.full_like(p, value) for name, value in rule.slots().items()}}


def plain(rule: ElementwiseRule, arrays: Arrays, g: npt.NDArray[Any], numbers: dict[str, float]) -> Arrays:
    """One step on plain arrays."""
    values = rule.update(NumpyOps(), arrays["p"], g, *list(arrays.values())[1:], **numbers)
    return dict(zip(arrays, values, strict=True))


def run(
    rule: ElementwiseRule, p: npt.NDArray[Any], gradients: Sequence[npt.NDArray[Any]], rates: Sequence[float]
) -> list[Arrays]:
    """Parameters and slots after each step."""
    arrays, carried, path = start(rule, p), dict(rule.carry()), []
    for step, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        numbers = rule.scalars(step, rate, **carried)
        carried = {name: numbers.pop(name) for name in carried}
        arrays = plain(rule, arrays, g, numbers)
        path.append(arrays)
    return path


def traced(rule: ElementwiseRule) -> Program:
    """The program of one step."""
    t = Tracer()
    parameters = inspect.signature(rule.update).parameters.values()
    numbers = {p.name: t.scalar(p.name) for p in parameters if p.kind is p.KEYWORD_ONLY}
    names = ["p", *rule.slots()]
    p, *state = [t.load(name) for name in names]
    for name, value in zip(names, rule.update(t, p, t.load("g"), *state, **numbers), strict=True):
        t.store(name, value)
    return t.program()


def run_traced(
    backend: Backend,
    rule: ElementwiseRule,
    p: npt.NDArray[Any],
    gradients: Sequence[npt.NDArray[Any]],
    rates: Sequence[float],
) -> Arrays:
    """Parameters and slots after the last step of the traced program."""
    program = traced(rule)
    kernel = backend.compile(program, p.dtype, {})
    arrays, carried = start(rule, p), dict(rule.carry())
    for step, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        numbers = rule.scalars(step, rate, **carried)
        carried = {name: numbers[name] for name in carried}
        given = arrays | {"g": g}
        kernel(
            {name: given[name] for name in program.arrays}, {name: numbers[name] for name in program.scalars}
        )
    return arrays
