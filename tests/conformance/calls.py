"""Cases as calls of a conformance driver, and a driver's answers as those of the corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from clients.python.conformance.stubs import driver_pb2 as pb
from optserve.v1.session_service_pb2 import ParameterInit
from optserve.v1.tensor_pb2 import NamedTensor
from tests.conformance.messages import parse
from tests.conformance.reports import follow
from tests.conformance.tasks import FLOAT64, Answer, Task
from tests.conformance.tensors import array_of, sparse_rows, tensor
from tests.conformance.training import (
    ALONE,
    DOWN,
    METRIC,
    ZERO,
    Gradients,
    Path,
    Tensors,
    answer_of,
    session_spec,
    training_of,
)


def request_of(task: Task) -> pb.DriverRequest:
    """What a driver is asked for a task."""
    return CALLS[task.family](task)


def answer_in(task: Task, response: pb.DriverResponse) -> Answer:
    """What a driver answered to `request_of` the same task.

    Raises:
        AssertionError: the driver did not do it.
    """
    outcome = response.WhichOneof("outcome")
    assert outcome in ANSWERS, f"the driver's answer is {response}"
    return ANSWERS[outcome](task, getattr(response, outcome))


def train_call(task: Task) -> pb.DriverRequest:
    """Half of the tasks step through a stream, so that every client's two ways are judged."""
    wanted = training_of(task)
    call = pb.TrainCall(
        spec=wanted.spec,
        parameters=[ParameterInit(name=n, value=tensor(a)) for n, a in wanted.parameters.items()],
        gradients=[tensors(step.whole) for step in wanted.gradients],
        sparse_gradients=sparse_tensors(wanted.gradients),
        overrides=overrides(wanted.gradients),
        stream=task.dtype == FLOAT64,
        before=wanted.before,
        after=wanted.after,
    )
    return pb.DriverRequest(train=call)


def tensors(arrays: Tensors) -> pb.Tensors:
    """Arrays by name as a message."""
    return pb.Tensors(tensors=[NamedTensor(name=n, tensor=tensor(a)) for n, a in arrays.items()])


def sparse_tensors(gradients: Sequence[Gradients]) -> list[pb.SparseTensors]:
    """The rows of each step; empty if no step has any."""
    if not any(step.rows for step in gradients):
        return []
    return [
        pb.SparseTensors(tensors=[sparse_rows(name, rows) for name, rows in step.rows.items()])
        for step in gradients
    ]


def overrides(gradients: Sequence[Gradients]) -> list[pb.StepOverrides]:
    """The overrides of each step; empty if no step has any."""
    if not any(step.overrides for step in gradients):
        return []
    return [pb.StepOverrides(overrides=step.overrides) for step in gradients]


def schedule_call(task: Task) -> pb.DriverRequest:
    """A schedule at its steps."""
    spec: Any = parse("schedules", task.case)
    return pb.DriverRequest(schedule=pb.ScheduleCall(schedule=spec, steps=task.case.inputs["steps"]))


def loss_call(task: Task) -> pb.DriverRequest:
    """A loss of the case's inputs, which are named as the message's fields."""
    spec: Any = parse("losses", task.case)
    return pb.DriverRequest(loss=pb.LossCall(loss=spec, **inputs(task)))


def activation_call(task: Task) -> pb.DriverRequest:
    """An activation of the case's inputs, which are named as the message's fields."""
    spec: Any = parse("activations", task.case)
    return pb.DriverRequest(activation=pb.ActivationCall(activation=spec, **inputs(task)))


def complexity_call(task: Task) -> pb.DriverRequest:
    """A layer as a network of its own."""
    spec: Any = parse("layers", task.case)
    call = pb.ComplexityCall()
    call.network.layers.append(spec)
    call.network.input_shape.extend(task.case.inputs["shape"])
    return pb.DriverRequest(complexity=call)


def metrics_call(task: Task) -> pb.DriverRequest:
    """A session that gets reports of a metric; a lower rate shows in the step after the report."""
    call = pb.MetricsCall(
        spec=session_spec("metrics", task.case),
        parameter=NamedTensor(name=ALONE, tensor=tensor(ZERO)),
        gradient=NamedTensor(name=ALONE, tensor=tensor(DOWN)),
        metric=METRIC,
        values=task.case.inputs["values"],
        report_first=task.file == "reduce_on_plateau",
    )
    return pb.DriverRequest(metrics=call)


def inputs(task: Task) -> dict[str, Any]:
    """All inputs as tensors."""
    return {name: tensor(task.array(name)) for name in task.case.inputs}


def train_answer(task: Task, found: pb.TrainAnswer) -> Answer:
    """The path that a session went along."""
    return answer_of(task, Path(paths(found.parameters), paths(found.before), paths(found.after)))


def paths(steps: Iterable[pb.Tensors]) -> list[Tensors]:
    """Arrays by name, step by step."""
    return [{named.name: array_of(named.tensor) for named in step.tensors} for step in steps]


def fields_answer(task: Task, found: Any) -> Answer:
    """An answer whose fields are named as the corpus names its parts."""
    parts = {field.name: value for field, value in found.ListFields()}
    return {name: value if name == "value" else array_of(value) for name, value in parts.items()}


def complexity_answer(task: Task, found: pb.ComplexityAnswer) -> Answer:
    """What the only layer takes."""
    (layer,) = found.layers
    return {
        "output_shape": list(layer.output_shape),
        "trainable": layer.complexity.trainable_parameters,
        "non_trainable": layer.complexity.non_trainable_parameters,
        "multiply_adds": layer.complexity.multiply_adds,
        "flops": layer.complexity.flops,
    }


class Replayed:
    """A session with reports of a metric, replayed from the driver's answers."""

    def __init__(self, found: pb.MetricsAnswer) -> None:
        self._steps, self._reports = iter(found.reports), iter(found.reports)
        self._parameter = array_of(found.parameter.tensor)

    def step(self) -> float:
        return next(self._steps).learning_rate

    def report(self, value: float) -> tuple[Any, Any, bool]:
        found = next(self._reports)
        return found.reduce_on_plateau, found.early_stopping, found.stopped

    def parameter(self) -> float:
        return float(self._parameter[0])


def metrics_answer(task: Task, found: pb.MetricsAnswer) -> Answer:
    """What the session made of the values."""
    return follow(task.file, task.case, Replayed(found))


CALLS: dict[str, Callable[[Task], pb.DriverRequest]] = {
    "optimizers": train_call,
    "gradient": train_call,
    "schedules": schedule_call,
    "losses": loss_call,
    "activations": activation_call,
    "layers": complexity_call,
    "metrics": metrics_call,
}
ANSWERS: dict[str, Callable[[Task, Any], Answer]] = {
    "train": train_answer,
    "schedule": fields_answer,
    "loss": fields_answer,
    "activation": fields_answer,
    "complexity": complexity_answer,
    "metrics": metrics_answer,
}
