"""Asks a server for the answer to a case, with nothing but the generated stubs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np

from optserve.v1 import function_service_pb2 as functions
from optserve.v1 import session_pb2
from optserve.v1 import session_service_pb2 as sessions
from optserve.v1.function_service_pb2_grpc import FunctionServiceStub
from optserve.v1.session_service_pb2_grpc import SessionServiceStub
from optserve.v1.tensor_pb2 import NamedTensor
from tests.conformance.messages import parse
from tests.conformance.reports import follow
from tests.conformance.tasks import Answer, Task
from tests.conformance.tensors import NAMES, Array, array_of, sparse_rows, tensor
from tests.conformance.training import (
    ALONE,
    DOWN,
    METRIC,
    ZERO,
    Gradients,
    Path,
    Tensors,
    Training,
    answer_of,
    session_spec,
    training_of,
)

TIMEOUT = 30.0
"""Seconds that a call may take; the first of a program compiles it."""


class Client:
    """A channel with the contract's stubs, which is a runner of cases."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.sessions = SessionServiceStub(self.channel)
        self.functions = FunctionServiceStub(self.channel)
        self._ways: dict[str, Callable[[Task], Answer]] = {
            "optimizers": self.session,
            "gradient": self.session,
            "schedules": self.schedule,
            "losses": self.loss,
            "activations": self.activation,
            "layers": self.layer,
            "metrics": self.metrics,
        }

    def __call__(self, task: Task) -> Answer:
        return self._ways[task.family](task)

    def close(self) -> None:
        """Closes the channel."""
        self.channel.close()

    def session(self, task: Task, gradient_dtype: np.dtype[Any] | None = None) -> Answer:
        """Steps through a case of a session, with gradients of its own type or another."""
        return answer_of(task, self.path(training_of(task, gradient_dtype)))

    def path(self, wanted: Training) -> Path:
        """What a new session goes through."""
        name = self.create(wanted.spec, wanted.parameters)
        path = Path()
        for gradients in wanted.gradients:
            if wanted.before is not None:
                path.before.append(self.pull(name, wanted.before))
            after = self.step(name, gradients).parameters
            path.parameters.append({named.name: array_of(named.tensor) for named in after})
            if wanted.after is not None:
                path.after.append(self.pull(name, wanted.after))
        self.delete(name)
        return path

    def metrics(self, task: Task) -> Answer:
        """What a session makes of reported values."""
        name = self.create(session_spec("metrics", task.case), {ALONE: ZERO})
        answer = follow(task.file, task.case, Watched(self, name))
        self.delete(name)
        return answer

    def create(self, spec: session_pb2.SessionSpec, parameters: Tensors) -> str:
        """The name of a new session."""
        inits = [sessions.ParameterInit(name=n, value=tensor(a)) for n, a in parameters.items()]
        request = sessions.CreateSessionRequest(spec=spec, parameters=inits)
        return self.sessions.CreateSession(request, timeout=TIMEOUT).session.name

    def delete(self, name: str) -> None:
        """Deletes a session."""
        self.sessions.DeleteSession(sessions.DeleteSessionRequest(name=name), timeout=TIMEOUT)

    def step(self, name: str, gradients: Gradients) -> sessions.StepResponse:
        """One step; the answer holds the parameters after it."""
        request = sessions.StepRequest(
            name=name,
            options=sessions.StepOptions(pull=sessions.PullOptions(), overrides=gradients.overrides),
            gradients=[NamedTensor(name=n, tensor=tensor(a)) for n, a in gradients.whole.items()],
            sparse_gradients=[sparse_rows(n, rows) for n, rows in gradients.rows.items()],
        )
        return self.sessions.Step(request, timeout=TIMEOUT)

    def pull(self, name: str, point: session_pb2.ParameterPoint.ValueType) -> dict[str, Array]:
        """One of the session's parameter-shaped values."""
        request = sessions.PullParametersRequest(name=name, pull=sessions.PullOptions(point=point))
        responses = list(self.sessions.PullParameters(request, timeout=TIMEOUT))
        data = b"".join(response.chunk.data for response in responses)
        found = {}
        for entry in responses[0].header.layout:
            dtype = np.dtype(NAMES[entry.dtype])
            count = int(np.prod(entry.shape))
            flat = np.frombuffer(data, dtype.newbyteorder("<"), count, entry.byte_offset)
            found[entry.name] = flat.reshape(tuple(entry.shape))
        return found

    def schedule(self, task: Task) -> Answer:
        """A schedule at its steps."""
        steps = functions.StepList(steps=task.case.inputs["steps"])
        spec: Any = parse("schedules", task.case)
        request = functions.EvaluateScheduleRequest(schedule=spec, steps=steps)
        return {"values": array_of(self.functions.EvaluateSchedule(request, timeout=TIMEOUT).values)}

    def loss(self, task: Task) -> Answer:
        """A loss with everything that can be asked for."""
        spec: Any = parse("losses", task.case)
        given: Any = {name: tensor(task.array(name)) for name in task.case.inputs}
        request = functions.ComputeLossRequest(loss=spec, per_example=True, gradient=True, **given)
        response = self.functions.ComputeLoss(request, timeout=TIMEOUT)
        answer = {"per_example": array_of(response.per_example), "gradient": array_of(response.gradient)}
        return answer | ({"value": response.value} if response.HasField("value") else {})

    def activation(self, task: Task) -> Answer:
        """An activation and its vector-Jacobian products."""
        spec: Any = parse("activations", task.case)
        given: Any = {name: tensor(task.array(name)) for name in task.case.inputs}
        backward = functions.ComputeActivationGradientRequest(activation=spec, **given)
        del given["output_gradient"]
        forward = functions.ComputeActivationRequest(activation=spec, **given)
        output = self.functions.ComputeActivation(forward, timeout=TIMEOUT).output
        product = self.functions.ComputeActivationGradient(backward, timeout=TIMEOUT)
        answer = {"output": array_of(output), "input_gradient": array_of(product.input_gradient)}
        if product.HasField("slope_gradient"):
            answer["slope_gradient"] = array_of(product.slope_gradient)
        return answer

    def layer(self, task: Task) -> Answer:
        """What a layer takes, as a network of its own and a batch of one."""
        spec: Any = parse("layers", task.case)
        request = functions.EstimateComplexityRequest()
        request.network.input_shape.extend(task.case.inputs["shape"])
        request.network.layers.append(spec)
        (found,) = self.functions.EstimateComplexity(request, timeout=TIMEOUT).layers
        return {
            "output_shape": list(found.output_shape),
            "trainable": found.complexity.trainable_parameters,
            "non_trainable": found.complexity.non_trainable_parameters,
            "multiply_adds": found.complexity.multiply_adds,
            "flops": found.complexity.flops,
        }


class Watched:
    """A session that gets reports of a metric."""

    def __init__(self, client: Client, name: str) -> None:
        self.client, self.name = client, name

    def step(self) -> float:
        return self.client.step(self.name, Gradients({ALONE: DOWN}, {})).result.learning_rate

    def report(self, value: float) -> tuple[Any, Any, bool]:
        metrics = [sessions.Metric(name=METRIC, value=value)]
        request = sessions.ReportMetricsRequest(name=self.name, metrics=metrics)
        found = self.client.sessions.ReportMetrics(request, timeout=TIMEOUT)
        return found.reduce_on_plateau, found.early_stopping, found.stopped

    def parameter(self) -> float:
        return float(self.client.pull(self.name, session_pb2.PARAMETER_POINT_PARAMETERS)[ALONE][0])
