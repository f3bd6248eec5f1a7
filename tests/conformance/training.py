"""A case of a session for every driver: its inputs, and how the answer is assembled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import json_format

from optserve.v1.optimizer_spec_pb2 import OptimizerSpec
from optserve.v1.schedule_spec_pb2 import BOUNDARY_SIDE_AFTER, ScheduleSpec
from optserve.v1.session_pb2 import (
    PARAMETER_POINT_AVERAGE,
    PARAMETER_POINT_LOOKAHEAD,
    ParameterPoint,
    SessionSpec,
)
from optserve.v1.session_service_pb2 import HyperparameterOverride
from tests.conformance.corpus import Case
from tests.conformance.messages import parse
from tests.conformance.tasks import FLOAT32, Answer, Task

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

POINTS = {"lookahead": PARAMETER_POINT_LOOKAHEAD, "average": PARAMETER_POINT_AVERAGE}
"""The expected parts that are another point of the session than its parameters. The
look-ahead is read before each step, the average after it."""

ALONE = "p"
"""Name of the only tensor of optimizers' and metrics' cases."""

METRIC, ZERO, DOWN = "val_loss", np.zeros(1), np.array([-1.0])
"""Of the family metrics: what is reported, the first parameter, and every step's gradient."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of a tensor's gradient: indices [k] and values [k, *row shape]."""

    indices: Array
    values: Array


@dataclasses.dataclass(frozen=True)
class Gradients:
    """What one step sends.

    Attributes:
        whole: gradients of whole tensors by name.
        rows: rows of gradients by tensor name.
        overrides: hyperparameters that have other values in this step.
    """

    whole: Tensors
    rows: Mapping[str, Rows]
    overrides: Sequence[HyperparameterOverride] = ()


@dataclasses.dataclass(frozen=True)
class Training:
    """A session and the gradients of its steps.

    Attributes:
        spec: the session's.
        parameters: first values.
        gradients: one each step.
        before: the point to be read before each step.
        after: the point to be read after each step.
    """

    spec: SessionSpec
    parameters: Tensors
    gradients: Sequence[Gradients]
    before: ParameterPoint.ValueType | None = None
    after: ParameterPoint.ValueType | None = None


@dataclasses.dataclass(frozen=True)
class Path:
    """What was read: the parameters after each step, and the points asked for."""

    parameters: list[Tensors] = dataclasses.field(default_factory=list)
    before: list[Tensors] = dataclasses.field(default_factory=list)
    after: list[Tensors] = dataclasses.field(default_factory=list)


def training_of(task: Task, gradient_dtype: np.dtype[Any] | None = None) -> Training:
    """The session of a case of an optimizer, or of a whole session."""
    case, dtype = task.case, task.dtype
    parameters, gradients = case.inputs["parameters"], case.inputs["gradients"]
    if task.family == "optimizers":
        parameters, gradients = {ALONE: parameters}, [{ALONE: step} for step in gradients]
    first = arrays(parameters, dtype)
    sparse = case.inputs.get("sparse_gradients", [{}] * len(gradients))
    overrides = case.inputs.get("overrides", [[]] * len(gradients))
    given = gradient_dtype or dtype
    return Training(
        session_spec(task.family, case),
        first,
        [
            Gradients(
                arrays(whole, given),
                rows_of(rows, first, given),
                [json_format.ParseDict(override, HyperparameterOverride()) for override in changed],
            )
            for whole, rows, changed in zip(gradients, sparse, overrides, strict=True)
        ],
        before=POINTS["lookahead"] if "lookahead" in case.expected else None,
        after=POINTS["average"] if "average" in case.expected else None,
    )


def answer_of(task: Task, path: Path) -> Answer:
    """The answer to the case whose session went along ``path``."""
    parts = {"parameters": path.parameters, "lookahead": path.before, "average": path.after}
    found = {name: steps for name, steps in parts.items() if steps}
    if task.family == "optimizers":
        return {name: [step[ALONE] for step in steps] for name, steps in found.items()}
    return found


def session_spec(family: str, case: Case) -> SessionSpec:
    """The session that a case asks for, its learning rates as a schedule."""
    spec = SessionSpec()
    message = parse(family, case)
    if isinstance(message, OptimizerSpec):
        spec.optimizer.CopyFrom(message)
    else:
        assert isinstance(message, SessionSpec)
        spec.CopyFrom(message)
    if "learning_rates" in case.inputs:
        spec.schedule.CopyFrom(schedule_of(case.inputs["learning_rates"]))
    return spec


def schedule_of(rates: Sequence[float]) -> ScheduleSpec:
    """The schedule that gives update i the rate ``rates[i]``."""
    spec = ScheduleSpec()
    spec.piecewise_constant.boundaries.extend(range(1, len(rates)))
    spec.piecewise_constant.values.extend(rates)
    spec.piecewise_constant.boundary_side = BOUNDARY_SIDE_AFTER
    return spec


def rows_of(rows: Mapping[str, Any], parameters: Tensors, dtype: np.dtype[Any]) -> dict[str, Rows]:
    """Indices and nested lists by name as arrays; in float32 the indices are int32, else int64."""
    index = np.dtype(np.int32 if dtype == FLOAT32 else np.int64)
    return {
        name: Rows(
            np.array(some["indices"], index),
            np.array(some["values"], dtype).reshape(-1, *parameters[name].shape[1:]),
        )
        for name, some in rows.items()
    }


def arrays(tensors: Mapping[str, Any], dtype: np.dtype[Any]) -> dict[str, Array]:
    """Nested lists by name as arrays."""
    return {name: np.array(value, dtype) for name, value in tensors.items()}
