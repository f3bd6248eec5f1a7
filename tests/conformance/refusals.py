"""Requests that a server rejects, and the reason and field that every client must report."""

from __future__ import annotations

from typing import Any

import numpy as np

from clients.python.conformance.stubs.driver_pb2 import DriverRequest, DriverResponse
from optserve.v1.error_reason_pb2 import ErrorReason
from tests.conformance.drivers import Driver
from tests.conformance.tensors import tensor

ROW = np.array([[0.25, 0.75]])


def training(gradient: Any, tensor_name: str = "w", **sgd: float) -> DriverRequest:
    """A step of a session with one parameter of two elements."""
    request = DriverRequest()
    call = request.train
    call.spec.optimizer.sgd.SetInParent()
    for field, value in sgd.items():
        setattr(call.spec.optimizer.sgd, field, value)
    call.parameters.add(name="w").value.CopyFrom(tensor(np.ones(2)))
    named = call.gradients.add().tensors.add(name=tensor_name)
    named.tensor.CopyFrom(tensor(np.array(gradient)))
    return request


def rows(index: int) -> DriverRequest:
    """A step of the same session, on one of its rows."""
    request = training([])
    del request.train.gradients[0].tensors[:]
    some = request.train.sparse_gradients.add().tensors.add(name="w")
    some.indices.CopyFrom(tensor(np.array([index])))
    some.values.CopyFrom(tensor(np.ones(1)))
    return request


def with_plan(shard_size: int) -> DriverRequest:
    """The same, with a data plan."""
    request = training([1.0, 1.0])
    request.train.spec.data_plan.example_count = 4
    request.train.spec.data_plan.shard_size = shard_size
    return request


def as_stream(request: DriverRequest) -> DriverRequest:
    """The same through a stream."""
    changed = DriverRequest()
    changed.CopyFrom(request)
    changed.train.stream = True
    return changed


def loss() -> DriverRequest:
    """A loss whose target has another shape."""
    request = DriverRequest()
    request.loss.loss.mean_squared_error.SetInParent()
    request.loss.prediction.CopyFrom(tensor(ROW))
    request.loss.target.CopyFrom(tensor(ROW.T))
    return request


def activation() -> DriverRequest:
    """Softmax along an axis that there is not."""
    request = DriverRequest()
    request.activation.activation.softmax.axis = 5
    request.activation.input.CopyFrom(tensor(ROW))
    request.activation.output_gradient.CopyFrom(tensor(ROW))
    return request


def schedule() -> DriverRequest:
    """A rate before the first step."""
    request = DriverRequest()
    request.schedule.schedule.exponential.initial_learning_rate = 0.5
    request.schedule.schedule.exponential.decay_steps = 3
    request.schedule.schedule.exponential.decay_rate = 0.5
    request.schedule.steps.extend([0, -1])
    return request


def complexity() -> DriverRequest:
    """A convolution over an image, given a row."""
    request = DriverRequest()
    request.complexity.network.input_shape.append(4)
    layer = request.complexity.network.layers.add().convolution
    layer.filters = 2
    layer.kernel.extend([3, 3])
    return request


Told = tuple[str, str | None]
"""A reason without its prefix, and the field; None if clients may check it before they send, and name
the field as their language has it, or may take the step by a unary call or a stream."""

REFUSALS: dict[str, tuple[DriverRequest, Told]] = {
    "rate": (
        training([1.0, 1.0], learning_rate=-1.0),
        ("OUT_OF_RANGE", "spec.optimizer.sgd.learning_rate"),
    ),
    "shard_size": (with_plan(0), ("OUT_OF_RANGE", "spec.data_plan.shard_size")),
    "nan": (training([1.0, float("nan")]), ("NON_FINITE_GRADIENT", None)),
    "nan_in_stream": (
        as_stream(training([1.0, float("nan")])),
        ("NON_FINITE_GRADIENT", "chunk.data"),
    ),
    "row": (rows(2), ("OUT_OF_RANGE", None)),
    "row_in_stream": (as_stream(rows(2)), ("OUT_OF_RANGE", None)),
    "unknown_tensor": (training([1.0, 1.0], "b"), ("UNKNOWN_TENSOR", None)),
    "gradient_shape": (training([1.0, 1.0, 1.0]), ("SHAPE_MISMATCH", None)),
    "target_shape": (loss(), ("SHAPE_MISMATCH", "target")),
    "axis": (activation(), ("OUT_OF_RANGE", "activation.softmax.axis")),
    "step": (schedule(), ("OUT_OF_RANGE", "steps.steps[1]")),
    "layer": (complexity(), ("SHAPE_MISMATCH", "network.layers[0].convolution.kernel")),
}
"""By defect: the request, and the expected error."""


def check_refusal(driver: Driver, name: str) -> None:
    """Asks a driver for something wrong.

    Raises:
        AssertionError: it tells something else than `REFUSALS` has.
    """
    request, (reason, field) = REFUSALS[name]
    told_reason, told_field = refusal_of(driver.exchange(request))
    assert told_reason == reason, f"{name}: {told_reason} where {reason} is expected"
    assert field in (None, told_field), f"{name}: the field is {told_field!r} where {field!r} is expected"


def refusal_of(response: DriverResponse) -> tuple[str, str]:
    """Reason and field that a driver reported.

    Raises:
        AssertionError: it reported no error.
    """
    assert response.WhichOneof("outcome") == "refusal", f"the driver's answer is {response}"
    reason = ErrorReason.Name(response.refusal.reason).removeprefix("ERROR_REASON_")
    return reason, response.refusal.field
