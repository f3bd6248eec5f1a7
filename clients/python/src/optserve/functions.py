"""Functions that a server computes without a session."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from optserve import coercion, spec
from optserve._codec import dtypes
from optserve._codec.dtypes import Array
from optserve._transport.connection import Connection
from optserve.specs.activations import Activation
from optserve.specs.losses import Loss
from optserve.specs.schedules import Schedule
from optserve.v1 import function_service_pb2 as wire
from optserve.v1 import tensor_pb2

T = TypeVar("T")

AnyLoss: TypeAlias = Loss | type[Loss] | str
"""A loss, or the class or name of one that needs no field."""
AnyActivation: TypeAlias = Activation | type[Activation] | str
"""An activation, or the class or name of one that needs no field."""


class LossValue:
    """The result of a loss.

    Args:
        message: the answer of the server.
    """

    def __init__(self, message: wire.ComputeLossResponse) -> None:
        self._value = message.value if message.HasField("value") else None
        self._gradient = dtypes.from_tensor(message.gradient) if message.HasField("gradient") else None
        self._per_example = (
            dtypes.from_tensor(message.per_example) if message.HasField("per_example") else None
        )

    @property
    def value(self) -> float:
        """The reduced loss; ValueError under LossReduction.NONE."""
        return _require(self._value, "the loss is not reduced")

    @property
    def gradient(self) -> Array:
        """Gradient with respect to the prediction, of its type and shape; ValueError if not requested."""
        return _require(self._gradient, "the gradient was not asked for")

    @property
    def per_example(self) -> Array:
        """The loss of each example; ValueError if not requested."""
        return _require(self._per_example, "the values per example were not asked for")

    def __repr__(self) -> str:
        return f"<LossValue {self._value}>"


def evaluate_schedule(
    connection: Connection, schedule: Schedule, steps: int | range | Iterable[int], timeout: float | None
) -> NDArray[np.float64]:
    """See `Client.evaluate_schedule`."""
    request = wire.EvaluateScheduleRequest(schedule=spec.encode(Schedule.of(schedule, "schedule")))
    if isinstance(steps, range) and steps.step > 0 and len(steps):
        request.range.CopyFrom(wire.StepRange(start=steps.start, stop=steps.stop, stride=steps.step))
    else:
        numbers = coercion.to_tuple(steps, "steps", coercion.whole)
        request.steps.CopyFrom(wire.StepList(steps=numbers))
    response = connection.call(connection.functions.EvaluateSchedule, request, timeout)
    return dtypes.from_tensor(response.values)


def compute_loss(
    connection: Connection,
    loss: AnyLoss,
    prediction: ArrayLike,
    target: ArrayLike,
    sample_weight: ArrayLike | None,
    gradient: bool,
    per_example: bool,
    timeout: float | None,
) -> LossValue:
    """See `Client.loss`."""
    request = wire.ComputeLossRequest(
        loss=spec.encode(Loss.of(loss, "loss")),
        prediction=_tensor(prediction, "prediction"),
        target=_tensor(target, "target"),
        sample_weight=_optional(sample_weight, "sample_weight"),
        gradient=gradient,
        per_example=per_example,
    )
    return LossValue(connection.call(connection.functions.ComputeLoss, request, timeout))


def compute_activation(
    connection: Connection,
    activation: AnyActivation,
    x: ArrayLike,
    slope: ArrayLike | None,
    timeout: float | None,
) -> Array:
    """See `Client.activation`."""
    request = wire.ComputeActivationRequest(
        activation=spec.encode(Activation.of(activation, "activation")),
        input=_tensor(x, "x"),
        slope=_optional(slope, "slope"),
    )
    response = connection.call(connection.functions.ComputeActivation, request, timeout)
    return dtypes.from_tensor(response.output)


def compute_activation_gradient(
    connection: Connection,
    activation: AnyActivation,
    x: ArrayLike,
    dy: ArrayLike,
    slope: ArrayLike | None,
    timeout: float | None,
) -> Array | tuple[Array, Array]:
    """See `Client.activation_gradient`."""
    request = wire.ComputeActivationGradientRequest(
        activation=spec.encode(Activation.of(activation, "activation")),
        input=_tensor(x, "x"),
        output_gradient=_tensor(dy, "dy"),
        slope=_optional(slope, "slope"),
    )
    response = connection.call(connection.functions.ComputeActivationGradient, request, timeout)
    dx = dtypes.from_tensor(response.input_gradient)
    return dx if slope is None else (dx, dtypes.from_tensor(response.slope_gradient))


def _tensor(value: ArrayLike, what: str) -> tensor_pb2.Tensor:
    return dtypes.to_tensor(dtypes.as_array(value, dtypes.SUPPORTED, what))


def _optional(value: ArrayLike | None, what: str) -> tensor_pb2.Tensor | None:
    return None if value is None else _tensor(value, what)


def _require(value: T | None, otherwise: str) -> T:
    if value is None:
        raise ValueError(otherwise)
    return value
