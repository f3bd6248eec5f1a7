"""Asks a server for the answer to a case, with nothing but the generated stubs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from tests.conformance.tasks import Answer, Task
from tests.conformance.tensors import NAMES, Array, array_of, tensor
from tests.conformance.training import Path, Training, answer_of, training_of

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
        inits = [sessions.ParameterInit(name=n, value=tensor(a)) for n, a in wanted.parameters.items()]
        request = sessions.CreateSessionRequest(spec=wanted.spec, parameters=inits)
        name = self.sessions.CreateSession(request, timeout=TIMEOUT).session.name
        path = Path()
        for values in wanted.gradients:
            if wanted.before is not None:
                path.before.append(self.pull(name, wanted.before))
            path.parameters.append(self.step(name, values))
            if wanted.after is not None:
                path.after.append(self.pull(name, wanted.after))
        self.sessions.DeleteSession(sessions.DeleteSessionRequest(name=name), timeout=TIMEOUT)
        return path

    def step(self, name: str, gradients: Mapping[str, Array]) -> dict[str, Array]:
        """One step; returns the parameters after it."""
        request = sessions.StepRequest(
            name=name,
            options=sessions.StepOptions(pull=sessions.PullOptions()),
            gradients=[NamedTensor(name=n, tensor=tensor(a)) for n, a in gradients.items()],
        )
        response = self.sessions.Step(request, timeout=TIMEOUT)
        return {named.name: array_of(named.tensor) for named in response.parameters}

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
