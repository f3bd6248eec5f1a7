"""Computes cases with the service's own code and a backend, without a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from optserve.v1.session_pb2 import PARAMETER_POINT_AVERAGE, PARAMETER_POINT_LOOKAHEAD, SessionSpec
from optserve_server.arrays.backend import Backend
from optserve_server.complexity.network import NamedLayer, Network, estimate_complexity
from optserve_server.sessions.session import Session
from optserve_server.sessions.store import ParameterInit, Store
from optserve_server.state.read_parameters import Point
from optserve_server.state.sparse_rows import NamedRows
from optserve_server.state.staging import NamedArray
from optserve_server.state.step_result import StepOptions
from optserve_server.wire.messages.steps import overrides_from
from optserve_server.wire.specifications.specs import algorithm_from, reduction_from, session_spec_from
from tests.conformance.messages import parse
from tests.conformance.reports import follow
from tests.conformance.tasks import Answer, Task
from tests.conformance.training import (
    ALONE,
    DOWN,
    METRIC,
    ZERO,
    Path,
    Tensors,
    answer_of,
    session_spec,
    training_of,
)

POINTS = {PARAMETER_POINT_LOOKAHEAD: Point.LOOKAHEAD, PARAMETER_POINT_AVERAGE: Point.AVERAGE}


class Embedded:
    """A runner of cases in this process.

    Args:
        backend: what computes.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._ways: dict[str, Callable[[Task], Answer]] = {
            "optimizers": self.session,
            "gradient": self.session,
            "schedules": schedule,
            "losses": self.loss,
            "activations": activation,
            "layers": layer,
            "metrics": self.metrics,
        }

    def __call__(self, task: Task) -> Answer:
        return self._ways[task.family](task)

    def session(self, task: Task) -> Answer:
        """The parameters of a session, step by step."""
        wanted = training_of(task)
        session = self.create(wanted.spec, wanted.parameters)
        path = Path()
        for gradients in wanted.gradients:
            if wanted.before is not None:
                path.before.append(values(session, POINTS[wanted.before]))
            whole = [NamedArray(*item) for item in gradients.whole.items()]
            rows = [NamedRows(name, some.indices, some.values) for name, some in gradients.rows.items()]
            options = StepOptions(overrides=overrides_from(gradients.overrides, "overrides"))
            session.take_step(session.stage_arrays(whole, rows), options)
            path.parameters.append(values(session, Point.PARAMETERS))
            if wanted.after is not None:
                path.after.append(values(session, POINTS[wanted.after]))
        return answer_of(task, path)

    def create(self, spec: SessionSpec, parameters: Tensors) -> Session:
        """A new session."""
        first = [ParameterInit(n, a.dtype, a.shape, a) for n, a in parameters.items()]
        return Store(self.backend).create("", session_spec_from(spec), first)

    def metrics(self, task: Task) -> Answer:
        """What a session makes of reported values."""
        session = self.create(session_spec("metrics", task.case), {ALONE: ZERO})
        return follow(task.file, task.case, Watched(session))

    def loss(self, task: Task) -> Answer:
        """A loss, its values per example and its gradient."""
        message = parse("losses", task.case)
        reduction = reduction_from(message)  # type: ignore[arg-type]
        given = {name: task.array(name) for name in task.case.inputs}
        loss = algorithm_from(message).algorithm
        found = loss.compute(**given, reduction=reduction, with_gradient=True, backend=self.backend)
        answer = {"per_example": found.per_example, "gradient": found.gradient}
        return answer if found.value is None else {**answer, "value": found.value}


class Watched:
    """A session that gets reports of a metric."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def step(self) -> float:
        staging = self.session.stage_arrays([NamedArray(ALONE, DOWN)])
        return self.session.take_step(staging, StepOptions()).learning_rate

    def report(self, value: float) -> tuple[Any, Any, bool]:
        found = self.session.report_metrics({METRIC: value})
        return found.monitors.plateau, found.monitors.stopping, found.stopped

    def parameter(self) -> float:
        return float(values(self.session, Point.PARAMETERS)[ALONE][0])


def values(session: Session, point: Point) -> Tensors:
    """One of the session's values."""
    found = session.read_values(point=point)
    return {tensor.entry.name: found.array(i) for i, tensor in enumerate(found.tensors)}


def schedule(task: Task) -> Answer:
    """A schedule at its steps."""
    chosen = algorithm_from(parse("schedules", task.case)).algorithm
    return {"values": np.array([chosen.rate(step) for step in task.case.inputs["steps"]])}


def activation(task: Task) -> Answer:
    """An activation and its vector-Jacobian products."""
    chosen = algorithm_from(parse("activations", task.case)).algorithm
    x, dy = task.array("input"), task.array("output_gradient")
    if "slope" not in task.case.inputs:
        return {"output": chosen.evaluate(x), "input_gradient": chosen.vjp(x, dy)}
    slope = task.array("slope")
    return {
        "output": chosen.evaluate(x, slope),
        "input_gradient": chosen.vjp(x, dy, slope),
        "slope_gradient": chosen.slope_gradient(x, dy, slope),
    }


def layer(task: Task) -> Answer:
    """What a layer takes, as a network of its own and a batch of one."""
    chosen = algorithm_from(parse("layers", task.case)).algorithm
    network = Network((NamedLayer("", chosen),), tuple(task.case.inputs["shape"]))
    found = estimate_complexity(network, batch_size=1, element_size=4).layers[0]
    return {
        "output_shape": list(found.output_shape),
        "trainable": found.complexity.trainable_parameters,
        "non_trainable": found.complexity.non_trainable_parameters,
        "multiply_adds": found.complexity.multiply_adds,
        "flops": found.complexity.flops,
    }
