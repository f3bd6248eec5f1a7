"""Calls of the functions that a server computes without a session."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from optserve import coercion, spec
from optserve._codec import dtypes
from optserve._codec.dtypes import Array
from optserve._transport.call import Call
from optserve.complexity import AnyOptimizer, NetworkComplexity
from optserve.specs.activations import Activation
from optserve.specs.layers import Network
from optserve.specs.losses import Loss
from optserve.specs.optimizers import Optimizer
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
        return _require_not_none(self._value, "the loss is not reduced")

    @property
    def gradient(self) -> Array:
        """Gradient with respect to the prediction, of its type and shape; ValueError if not requested."""
        return _require_not_none(self._gradient, "the gradient was not asked for")

    @property
    def per_example(self) -> Array:
        """The loss of each example; ValueError if not requested."""
        return _require_not_none(self._per_example, "the values per example were not asked for")

    def __repr__(self) -> str:
        return f"<LossValue {self._value}>"


def make_schedule_evaluation(
    schedule: Schedule, steps: int | range | Iterable[int]
) -> Call[NDArray[np.float64]]:
    """Returns the call of `Client.evaluate_schedule`."""
    request = wire.EvaluateScheduleRequest(schedule=spec.encode_spec(Schedule.of(schedule, "schedule")))
    if isinstance(steps, range) and steps.step > 0 and len(steps):
        request.range.start, request.range.stop = steps.start, steps.stop
        request.range.stride = steps.step
    else:
        request.steps.steps.extend(coercion.to_tuple(steps, "steps", coercion.to_int))
        request.steps.SetInParent()

    def decode(answer: wire.EvaluateScheduleResponse) -> NDArray[np.float64]:
        return dtypes.from_tensor(answer.values)

    return Call(lambda stubs: stubs.functions.EvaluateSchedule, request, decode)


def make_loss(
    loss: AnyLoss,
    prediction: ArrayLike,
    target: ArrayLike,
    sample_weight: ArrayLike | None,
    gradient: bool,
    per_example: bool,
) -> Call[LossValue]:
    """Returns the call of `Client.loss`."""
    request = wire.ComputeLossRequest(
        loss=spec.encode_spec(Loss.of(loss, "loss")),
        prediction=_encode_tensor(prediction, "prediction"),
        target=_encode_tensor(target, "target"),
        sample_weight=_optional_tensor(sample_weight, "sample_weight"),
        gradient=gradient,
        per_example=per_example,
    )
    return Call(lambda stubs: stubs.functions.ComputeLoss, request, LossValue)


def make_activation(activation: AnyActivation, x: ArrayLike, slope: ArrayLike | None) -> Call[Array]:
    """Returns the call of `Client.activation`."""
    request = wire.ComputeActivationRequest(
        activation=spec.encode_spec(Activation.of(activation, "activation")),
        input=_encode_tensor(x, "x"),
        slope=_optional_tensor(slope, "slope"),
    )

    def decode(answer: wire.ComputeActivationResponse) -> Array:
        return dtypes.from_tensor(answer.output)

    return Call(lambda stubs: stubs.functions.ComputeActivation, request, decode)


def make_activation_gradient(
    activation: AnyActivation, x: ArrayLike, dy: ArrayLike, slope: ArrayLike | None
) -> Call[Array | tuple[Array, Array]]:
    """Returns the call of `Client.activation_gradient`."""
    request = wire.ComputeActivationGradientRequest(
        activation=spec.encode_spec(Activation.of(activation, "activation")),
        input=_encode_tensor(x, "x"),
        output_gradient=_encode_tensor(dy, "dy"),
        slope=_optional_tensor(slope, "slope"),
    )

    def decode(answer: wire.ComputeActivationGradientResponse) -> Array | tuple[Array, Array]:
        dx = dtypes.from_tensor(answer.input_gradient)
        return dx if slope is None else (dx, dtypes.from_tensor(answer.slope_gradient))

    return Call(lambda stubs: stubs.functions.ComputeActivationGradient, request, decode)


def make_complexity_estimate(
    network: Network, batch_size: int, dtype: DTypeLike, optimizer: AnyOptimizer | None
) -> Call[NetworkComplexity]:
    """Returns the call of `Client.estimate_complexity`."""
    request = wire.EstimateComplexityRequest(
        network=spec.encode_spec(Network.of(network, "network")),
        batch_size=coercion.to_int(batch_size, "batch_size"),
        dtype=dtypes.TYPES[dtypes.check_dtype(dtype, dtypes.WIRE_DTYPES, "dtype")],
        optimizer=None if optimizer is None else spec.encode_spec(Optimizer.of(optimizer, "optimizer")),
    )
    return Call(lambda stubs: stubs.functions.EstimateComplexity, request, NetworkComplexity.from_message)


def _encode_tensor(value: ArrayLike, what: str) -> tensor_pb2.Tensor:
    """Encodes an argument of a function."""
    return dtypes.to_tensor(dtypes.as_array(value, dtypes.SUPPORTED, what))


def _optional_tensor(value: ArrayLike | None, what: str) -> tensor_pb2.Tensor | None:
    """Encodes an argument that may be left out."""
    return None if value is None else _encode_tensor(value, what)


def _require_not_none(value: T | None, otherwise: str) -> T:
    if value is None:
        raise ValueError(otherwise)
    return value
