"""FunctionService: schedules, losses, activations and estimates without a session."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from grpc import aio

from optserve.v1 import function_service_pb2 as pb
from optserve.v1.activation_spec_pb2 import ActivationSpec
from optserve.v1.function_service_pb2_grpc import FunctionServiceServicer
from optserve.v1.tensor_pb2 import Tensor
from optserve_server.activations.base import Activation
from optserve_server.arrays.backend import Backend
from optserve_server.complexity.network import estimate_complexity, zero_state_size
from optserve_server.errors import DomainError, Reason, within
from optserve_server.hyperparameters import Chosen
from optserve_server.losses.base import Floats, Loss, Reduction
from optserve_server.rpc.execution.execution import Execution
from optserve_server.wire.fields.tensors import INT32, INT64, WIRE_DTYPES, array_from, tensor_to
from optserve_server.wire.specifications.networks import (
    batch_size_from,
    element_type_from,
    estimate_to,
    network_from,
)
from optserve_server.wire.specifications.schedules import steps_from
from optserve_server.wire.specifications.specs import (
    algorithm_from,
    reduction_from,
    write_algorithm,
    write_loss,
)

Context = aio.ServicerContext[Any, Any]
T = TypeVar("T")

SMALL_BYTES = 1 << 17
"""Input up to which a function is shorter than handing it to another thread."""

MAX_REDUCED_ELEMENTS = 1 << 20
"""Elements of what a function makes of an empty tensor: the message says nothing of their number."""

_TARGETS = (*WIRE_DTYPES, INT32, INT64)


class FunctionService(FunctionServiceServicer):
    """Decodes, calls the mathematics, encodes.

    Args:
        execution: where work runs.
        backend: what runs the formulas that callers send.
    """

    def __init__(self, execution: Execution, backend: Backend) -> None:
        self._execution = execution
        self._backend = backend

    async def EvaluateSchedule(
        self, request: pb.EvaluateScheduleRequest, context: Context
    ) -> pb.EvaluateScheduleResponse:
        return await self._execution.in_thread(lambda: _evaluate_schedule(request))

    async def ComputeLoss(self, request: pb.ComputeLossRequest, context: Context) -> pb.ComputeLossResponse:
        with within("loss"):
            chosen, reduction = algorithm_from(request.loss), reduction_from(request.loss)

        def work() -> pb.ComputeLossResponse:
            return _compute_loss(request, chosen, reduction, self._backend)

        if chosen.algorithm.compiles:
            return await self._execution.in_thread(work)
        return await self._run_or_offload(request.prediction, work)

    async def ComputeActivation(
        self, request: pb.ComputeActivationRequest, context: Context
    ) -> pb.ComputeActivationResponse:
        return await self._run_or_offload(request.input, lambda: _compute_activation(request))

    async def ComputeActivationGradient(
        self, request: pb.ComputeActivationGradientRequest, context: Context
    ) -> pb.ComputeActivationGradientResponse:
        return await self._run_or_offload(request.input, lambda: _compute_activation_gradient(request))

    async def EstimateComplexity(
        self, request: pb.EstimateComplexityRequest, context: Context
    ) -> pb.EstimateComplexityResponse:
        return await self._execution.in_thread(lambda: _estimate_complexity(request))

    async def _run_or_offload(self, tensor: Tensor, work: Callable[[], T]) -> T:
        return work() if tensor.ByteSize() <= SMALL_BYTES else await self._execution.in_thread(work)


def _array_from(tensor: Tensor, allowed: Collection[np.dtype[Any]]) -> npt.NDArray[Any]:
    """A tensor's array, unless it is empty and a sum over its empty dimension would be long.

    Raises:
        DomainError: what `array_from` raises, and LIMIT_EXCEEDED.
    """
    array = array_from(tensor, allowed)
    elements = math.prod(filter(None, array.shape))
    if not array.size and elements > MAX_REDUCED_ELEMENTS:
        raise DomainError(
            Reason.LIMIT_EXCEEDED,
            f"the dimensions beside the empty one have {elements} elements, more than {MAX_REDUCED_ELEMENTS}",
            field="shape",
            metadata={"limit": "empty_tensor_elements", "value": MAX_REDUCED_ELEMENTS},
        )
    return array


def _evaluate_schedule(request: pb.EvaluateScheduleRequest) -> pb.EvaluateScheduleResponse:
    with within("schedule"):
        chosen = algorithm_from(request.schedule)
    values = chosen.algorithm.rates(steps_from(request))
    response = pb.EvaluateScheduleResponse(values=tensor_to(values))
    write_algorithm(response.schedule, chosen)
    return response


def _compute_loss(
    request: pb.ComputeLossRequest, chosen: Chosen[Loss], reduction: Reduction, backend: Backend
) -> pb.ComputeLossResponse:
    with within("prediction"):
        prediction = _array_from(request.prediction, WIRE_DTYPES)
    with within("target"):
        target = _array_from(request.target, _TARGETS)
    with within(f"loss.{chosen.algorithm.name}"):
        chosen.algorithm.check_shape(prediction.shape)
    sample_weight = _decode_sample_weight(request)
    loss = chosen.algorithm.compute(
        prediction,
        target,
        reduction,
        sample_weight=sample_weight,
        with_gradient=request.gradient,
        backend=backend,
    )
    response = pb.ComputeLossResponse(value=loss.value)
    if request.per_example:
        response.per_example.CopyFrom(tensor_to(loss.per_example))
    if loss.gradient is not None:
        response.gradient.CopyFrom(tensor_to(loss.gradient))
    write_loss(response.loss, chosen, reduction)
    return response


def _decode_sample_weight(request: pb.ComputeLossRequest) -> Floats | None:
    if not request.HasField("sample_weight"):
        return None
    with within("sample_weight"):
        return _array_from(request.sample_weight, WIRE_DTYPES)


def _compute_activation(request: pb.ComputeActivationRequest) -> pb.ComputeActivationResponse:
    with within("input"):
        x = _array_from(request.input, WIRE_DTYPES)
    slope = _decode_slope(request)
    chosen = _choose_activation(request.activation, x.ndim)
    response = pb.ComputeActivationResponse(output=tensor_to(chosen.algorithm.evaluate(x, slope)))
    write_algorithm(response.activation, chosen)
    return response


def _compute_activation_gradient(
    request: pb.ComputeActivationGradientRequest,
) -> pb.ComputeActivationGradientResponse:
    with within("input"):
        x = _array_from(request.input, WIRE_DTYPES)
    with within("output_gradient"):
        dy = _array_from(request.output_gradient, WIRE_DTYPES)
    slope = _decode_slope(request)
    chosen = _choose_activation(request.activation, x.ndim)
    response = pb.ComputeActivationGradientResponse(
        input_gradient=tensor_to(chosen.algorithm.vjp(x, dy, slope))
    )
    if slope is not None:
        response.slope_gradient.CopyFrom(tensor_to(chosen.algorithm.slope_gradient(x, dy, slope)))
    write_algorithm(response.activation, chosen)
    return response


def _estimate_complexity(request: pb.EstimateComplexityRequest) -> pb.EstimateComplexityResponse:
    batch_size, dtype = batch_size_from(request), element_type_from(request)
    optimizer = None
    if request.HasField("optimizer"):
        with within("optimizer"):
            optimizer = algorithm_from(request.optimizer)
    state_elements = optimizer.algorithm.state_elements if optimizer else zero_state_size
    with within("network"):
        network = network_from(request.network)
        response = estimate_to(
            estimate_complexity(network, batch_size, dtype.itemsize, state_elements), network
        )
    if optimizer:
        write_algorithm(response.optimizer, optimizer)
    return response


def _decode_slope(
    request: pb.ComputeActivationRequest | pb.ComputeActivationGradientRequest,
) -> npt.NDArray[Any] | None:
    if not request.HasField("slope"):
        return None
    with within("slope"):
        return _array_from(request.slope, WIRE_DTYPES)


def _choose_activation(message: ActivationSpec, rank: int) -> Chosen[Activation]:
    with within("activation"):
        chosen = algorithm_from(message)
        with within(chosen.algorithm.name):
            chosen.algorithm.check_rank(rank)
        return chosen
