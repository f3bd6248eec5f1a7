"""Asks a server for the answer to a case, with nothing but the generated stubs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from optserve.v1 import function_service_pb2 as functions
from optserve.v1 import session_pb2
from optserve.v1 import session_service_pb2 as sessions
from optserve.v1.function_service_pb2_grpc import FunctionServiceStub
from optserve.v1.optimizer_spec_pb2 import OptimizerSpec
from optserve.v1.schedule_spec_pb2 import BOUNDARY_SIDE_AFTER, ScheduleSpec
from optserve.v1.session_service_pb2_grpc import SessionServiceStub
from optserve.v1.tensor_pb2 import (
    DATA_TYPE_BFLOAT16,
    DATA_TYPE_FLOAT16,
    DATA_TYPE_FLOAT32,
    DATA_TYPE_FLOAT64,
    DATA_TYPE_INT64,
    DataType,
    NamedTensor,
    Tensor,
)
from tests.conformance.corpus import Case
from tests.conformance.messages import parse

Array = npt.NDArray[Any]
TIMEOUT = 30.0
"""Seconds that a call may take; the first of a program compiles it."""

TYPES: dict[str, DataType.ValueType] = {
    "float16": DATA_TYPE_FLOAT16,
    "bfloat16": DATA_TYPE_BFLOAT16,
    "float32": DATA_TYPE_FLOAT32,
    "float64": DATA_TYPE_FLOAT64,
    "int64": DATA_TYPE_INT64,
}
NAMES = {number: name for name, number in TYPES.items()}


def tensor(array: Array) -> Tensor:
    """An array as a message."""
    # ml_dtypes' bfloat16 has no byte order of its own; its bytes are an integer's.
    raw = np.ascontiguousarray(array).view(f"u{array.itemsize}")
    data = raw.astype(raw.dtype.newbyteorder("<")).tobytes()
    return Tensor(dtype=TYPES[array.dtype.name], shape=array.shape, data=data)


def array_of(message: Tensor) -> Array:
    """A message as an array."""
    flat: Array = np.frombuffer(message.data, np.dtype(NAMES[message.dtype]).newbyteorder("<"))
    return flat.reshape(tuple(message.shape))


class Client:
    """A channel with the contract's stubs."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.sessions = SessionServiceStub(self.channel)
        self.functions = FunctionServiceStub(self.channel)

    def close(self) -> None:
        """Closes the channel."""
        self.channel.close()

    def optimizer(
        self, case: Case, dtype: np.dtype[Any], gradient_dtype: np.dtype[Any] | None = None
    ) -> dict[str, Any]:
        """Steps through an optimizer case, its learning rates as a schedule."""
        spec = session_pb2.SessionSpec()
        message = parse("optimizers", case)
        assert isinstance(message, OptimizerSpec)
        spec.optimizer.CopyFrom(message)
        if "learning_rates" in case.inputs:
            spec.schedule.CopyFrom(schedule_of(case.inputs["learning_rates"]))
        parameters = {"p": np.array(case.inputs["parameters"], dtype)}
        gradients = [{"p": np.array(g, gradient_dtype or dtype)} for g in case.inputs["gradients"]]
        point = session_pb2.PARAMETER_POINT_LOOKAHEAD if "lookahead" in case.expected else None
        path, points = self.trajectory(spec, parameters, gradients, before=point)
        answer: dict[str, Any] = {"parameters": [step["p"] for step in path]}
        return answer | {"lookahead": [step["p"] for step in points]} if points else answer

    def gradient(self, case: Case, dtype: np.dtype[Any]) -> dict[str, Any]:
        """Steps through a case of a whole session."""
        spec = parse("gradient", case)
        assert isinstance(spec, session_pb2.SessionSpec)
        parameters = {name: np.array(value, dtype) for name, value in case.inputs["parameters"].items()}
        gradients = [{n: np.array(g, dtype) for n, g in call.items()} for call in case.inputs["gradients"]]
        point = session_pb2.PARAMETER_POINT_AVERAGE if "average" in case.expected else None
        path, averages = self.trajectory(spec, parameters, gradients, after=point)
        return {"parameters": path} | ({"average": averages} if averages else {})

    def trajectory(
        self,
        spec: session_pb2.SessionSpec,
        parameters: Mapping[str, Array],
        gradients: Sequence[Mapping[str, Array]],
        before: session_pb2.ParameterPoint.ValueType | None = None,
        after: session_pb2.ParameterPoint.ValueType | None = None,
    ) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
        """Parameters after each step of a new session, and another point before or after each."""
        inits = [sessions.ParameterInit(name=n, value=tensor(a)) for n, a in parameters.items()]
        request = sessions.CreateSessionRequest(spec=spec, parameters=inits)
        name = self.sessions.CreateSession(request, timeout=TIMEOUT).session.name
        path, points = [], []
        for values in gradients:
            if before is not None:
                points.append(self.pull(name, before))
            path.append(self.step(name, values))
            if after is not None:
                points.append(self.pull(name, after))
        self.sessions.DeleteSession(sessions.DeleteSessionRequest(name=name), timeout=TIMEOUT)
        return path, points

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

    def schedule(self, case: Case) -> dict[str, Any]:
        """A schedule at its steps."""
        spec = parse("schedules", case)
        assert isinstance(spec, ScheduleSpec)
        steps = functions.StepList(steps=case.inputs["steps"])
        request = functions.EvaluateScheduleRequest(schedule=spec, steps=steps)
        return {"values": array_of(self.functions.EvaluateSchedule(request, timeout=TIMEOUT).values)}

    def loss(self, case: Case, dtype: np.dtype[Any]) -> dict[str, Any]:
        """A loss with everything that can be asked for."""
        target = np.array(case.inputs["target"])
        request = functions.ComputeLossRequest(
            prediction=tensor(np.array(case.inputs["prediction"], dtype)),
            target=tensor(target.astype(dtype if target.dtype.kind == "f" else np.int64)),
            per_example=True,
            gradient=True,
        )
        request.loss.MergeFrom(parse("losses", case))  # type: ignore[arg-type]
        response = self.functions.ComputeLoss(request, timeout=TIMEOUT)
        answer = {"per_example": array_of(response.per_example), "gradient": array_of(response.gradient)}
        return answer | ({"value": response.value} if response.HasField("value") else {})

    def activation(self, case: Case, dtype: np.dtype[Any]) -> dict[str, Any]:
        """An activation and its vector-Jacobian product."""
        x = tensor(np.array(case.inputs["input"], dtype))
        forward = functions.ComputeActivationRequest(input=x)
        backward = functions.ComputeActivationGradientRequest(
            input=x, output_gradient=tensor(np.array(case.inputs["output_gradient"], dtype))
        )
        for request in (forward, backward):
            request.activation.MergeFrom(parse("activations", case))  # type: ignore[arg-type]
            if "slope" in case.inputs:
                request.slope.CopyFrom(tensor(np.array(case.inputs["slope"], dtype)))
        output = self.functions.ComputeActivation(forward, timeout=TIMEOUT).output
        product = self.functions.ComputeActivationGradient(backward, timeout=TIMEOUT)
        answer = {"output": array_of(output), "input_gradient": array_of(product.input_gradient)}
        if product.HasField("slope_gradient"):
            answer["slope_gradient"] = array_of(product.slope_gradient)
        return answer

    def layer(self, case: Case) -> dict[str, Any]:
        """What a layer takes, as a network of its own and a batch of one."""
        request = functions.EstimateComplexityRequest()
        request.network.input_shape.extend(case.inputs["shape"])
        request.network.layers.add().MergeFrom(parse("layers", case))  # type: ignore[arg-type]
        (found,) = self.functions.EstimateComplexity(request, timeout=TIMEOUT).layers
        return {
            "output_shape": list(found.output_shape),
            "trainable": found.complexity.trainable_parameters,
            "non_trainable": found.complexity.non_trainable_parameters,
            "multiply_adds": found.complexity.multiply_adds,
            "flops": found.complexity.flops,
        }


def schedule_of(rates: Sequence[float]) -> ScheduleSpec:
    """The schedule that gives update i the rate ``rates[i]``."""
    spec = ScheduleSpec()
    spec.piecewise_constant.boundaries.extend(range(1, len(rates)))
    spec.piecewise_constant.values.extend(rates)
    spec.piecewise_constant.boundary_side = BOUNDARY_SIDE_AFTER
    return spec
