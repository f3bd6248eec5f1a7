"""Rows of the family ``gradient``: whole sessions over two named tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.conformance.inputs import make_nested
from tests.conformance.oracle import gradient
from tests.conformance.oracle.lines import flatten, nest, shape_of
from tests.conformance.sources.row import Row

Nested = dict[str, Any]
"""Arrays as nested lists, by tensor name."""

PARAMETERS: Nested = {"bias": [1.5, -2.0], "kernel": [[-1.25, 0.875], [2.0, 1.75], [-0.75, -1.5]]}
CALLS = 9
RATES = [0.03, 0.01, 0.02, 0.04, 0.005, 0.0125, 0.0075, 0.015, 0.025]


def everywhere(value: float) -> dict[str, float]:
    """The same value for every tensor."""
    return dict.fromkeys(PARAMETERS, value)


@dataclasses.dataclass(frozen=True)
class Guarded:
    """What a source is given: tensors, the gradients of each call, and what to do."""

    parameters: Nested
    gradients: list[Nested]
    settings: gradient.Settings


Runner = Callable[[Guarded], Sequence[tuple[Nested, Nested]]]
"""To the parameters and their average after each call."""


def name_arrays(names: Sequence[str], arrays: Iterable[Any]) -> Nested:
    """Nested lists by name."""
    return {name: np.array(a, np.float64).tolist() for name, a in zip(names, arrays, strict=True)}


def piecewise(rates: Sequence[float]) -> dict[str, Any]:
    """A ScheduleSpec that gives update i the rate ``rates[i]``."""
    fields = {
        "boundaries": list(range(1, len(rates))),
        "values": list(rates),
        "boundary_side": "BOUNDARY_SIDE_AFTER",
    }
    return {"piecewise_constant": fields}


def row(
    file: str,
    case: str,
    source: str,
    convention: str,
    fields: Mapping[str, Any],
    settings: gradient.Settings,
    framework: Runner | None,
    note: str = "",
) -> Row:
    """A session that descends, with heavy-ball momentum where the settings have some."""
    gradients = [
        {"bias": make_nested((2,), seed=17 * call + 1), "kernel": make_nested((3, 2), seed=31 * call + 2)}
        for call in range(CALLS)
    ]
    case_inputs = Guarded(PARAMETERS, gradients, settings)
    spec = {"optimizer": optimizer(convention, settings), "schedule": piecewise(settings.rates), **fields}
    given = {"parameters": PARAMETERS, "gradients": gradients}
    return Row(
        "gradient", file, case, source, spec, given,
        lambda: answer(settings, run_oracle(case_inputs)),
        (lambda: answer(settings, framework(case_inputs))) if framework else None,
        note=note,
    )  # fmt: skip


def optimizer(convention: str, settings: gradient.Settings) -> dict[str, Any]:
    head = {"convention": f"CONVENTION_{convention}"}
    return {**head, "momentum": {"momentum": settings.momentum}} if settings.momentum else {**head, "sgd": {}}


def answer(settings: gradient.Settings, path: Sequence[tuple[Nested, Nested]]) -> dict[str, Any]:
    result = {"parameters": [parameters for parameters, _ in path]}
    return result if settings.average is None else {**result, "average": [average for _, average in path]}


def run_oracle(case: Guarded) -> list[tuple[Nested, Nested]]:
    shapes = {name: shape_of(value) for name, value in case.parameters.items()}
    path = gradient.trajectory(flat(case.parameters), [flat(g) for g in case.gradients], case.settings)
    return [(nest_all(p, shapes), nest_all(a, shapes)) for p, a in path]


def flat(tensors: Nested) -> gradient.Tensors:
    return {name: flatten(value) for name, value in tensors.items()}


def nest_all(tensors: gradient.Tensors, shapes: Mapping[str, tuple[int, ...]]) -> Nested:
    return {name: nest(values, shapes[name]) for name, values in tensors.items()}
