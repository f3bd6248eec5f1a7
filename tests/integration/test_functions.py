"""Functions and capabilities over a real socket."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from optserve.v1 import capabilities_service_pb2 as capabilities
from optserve.v1 import function_service_pb2 as pb
from optserve.v1 import tensor_pb2
from optserve.v1.convention_pb2 import CONVENTION_KERAS, CONVENTION_LECTURE, CONVENTION_TORCH
from optserve.v1.error_reason_pb2 import ErrorReason
from optserve.v1.loss_spec_pb2 import LOSS_REDUCTION_NONE, LOSS_REDUCTION_SUM_OVER_BATCH_SIZE
from optserve.v1.tensor_pb2 import Tensor
from tests.integration.client import Client, array, expect_refusal, tensor
from tests.support.server import running_server


def exponential() -> pb.EvaluateScheduleRequest:
    request = pb.EvaluateScheduleRequest()
    schedule = request.schedule.exponential
    schedule.initial_learning_rate, schedule.decay_steps, schedule.decay_rate = 0.5, 2, 0.25
    return request


def test_a_schedule_at_points_and_over_a_range(client: Client) -> None:
    points, over = exponential(), exponential()
    points.steps.steps.extend([4, 0, 1])
    over.range.stop, over.range.stride = 5, 2
    answer = client.functions.EvaluateSchedule(points)
    assert array(answer.values).tolist() == pytest.approx([0.5 / 16, 0.5, 0.25], rel=1e-15)
    assert answer.schedule.convention == CONVENTION_KERAS
    assert answer.schedule.exponential.HasField("staircase")
    assert array(client.functions.EvaluateSchedule(over).values).tolist() == [0.5, 0.125, 0.03125]


@pytest.mark.parametrize(
    ("at", "reason", "fields"),
    [
        ({}, "FIELD_REQUIRED", []),
        ({"steps": pb.StepList(steps=[0, -1])}, "OUT_OF_RANGE", ["steps.steps[1]"]),
        ({"range": pb.StepRange(start=-1)}, "OUT_OF_RANGE", ["range.start"]),
        ({"range": pb.StepRange(stop=1, stride=-1)}, "OUT_OF_RANGE", ["range.stride"]),
        ({"range": pb.StepRange(stop=1_000_001)}, "LIMIT_EXCEEDED", ["range"]),
        ({"range": pb.StepRange(stop=2**63 - 1)}, "LIMIT_EXCEEDED", ["range"]),
    ],
)
def test_where_a_schedule_has_no_value(
    client: Client, at: dict[str, object], reason: str, fields: list[str]
) -> None:
    request = exponential()
    request.MergeFrom(pb.EvaluateScheduleRequest(**at))  # type: ignore[arg-type]
    with expect_refusal() as told:
        client.functions.EvaluateSchedule(request)
    assert (told.reason, told.fields) == (reason, fields)


def test_a_loss_with_values_and_gradient(client: Client) -> None:
    prediction = np.array([[1, 2], [3, 5]], np.float32)
    request = pb.ComputeLossRequest(prediction=tensor(prediction), per_example=True, gradient=True)
    request.target.CopyFrom(tensor(np.array([[1, 1], [1, 1]], np.float32)))
    request.loss.mean_squared_error.SetInParent()
    answer = client.functions.ComputeLoss(request)
    assert array(answer.per_example).tolist() == [0.5, 10]
    assert answer.value == 5.25
    assert array(answer.gradient).tolist() == [[0, 0.5], [1, 2]]
    assert answer.loss.reduction == LOSS_REDUCTION_SUM_OVER_BATCH_SIZE
    request.loss.reduction = LOSS_REDUCTION_NONE
    assert not client.functions.ComputeLoss(request).HasField("value")


def test_a_sparse_loss_takes_classes(client: Client) -> None:
    request = pb.ComputeLossRequest(
        prediction=tensor(np.zeros((2, 4))), target=tensor(np.array([0, 3], np.int32))
    )
    request.loss.sparse_categorical_crossentropy.from_logits = True
    assert client.functions.ComputeLoss(request).value == pytest.approx(math.log(4), rel=1e-15)


def test_an_activation_and_its_gradient(client: Client) -> None:
    x, dy = np.array([-2.0, 3.0]), np.array([1.0, 10.0])
    forward = pb.ComputeActivationRequest(input=tensor(x))
    forward.activation.leaky_relu.negative_slope = 0.25
    backward = pb.ComputeActivationGradientRequest(
        activation=forward.activation, input=tensor(x), output_gradient=tensor(dy)
    )
    assert array(client.functions.ComputeActivation(forward).output).tolist() == [-0.5, 3]
    answer = client.functions.ComputeActivationGradient(backward)
    assert array(answer.input_gradient).tolist() == [0.25, 10]
    assert answer.activation.leaky_relu.negative_slope == 0.25


def test_a_large_activation_leaves_the_event_loop(client: Client) -> None:
    x = np.linspace(-5, 5, 1_000_000, dtype=np.float32)
    request = pb.ComputeActivationRequest(input=tensor(x))
    request.activation.tanh.SetInParent()
    assert array(client.functions.ComputeActivation(request, timeout=20).output) == pytest.approx(np.tanh(x))


def test_an_empty_tensor_asks_for_no_memory(client: Client) -> None:
    """Sums over an empty dimension have as many elements as the other dimensions."""
    empty = Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[1 << 31, 0])
    loss = pb.ComputeLossRequest(prediction=empty, target=empty, per_example=True)
    loss.loss.mean_squared_error.SetInParent()
    with expect_refusal() as told:
        client.functions.ComputeLoss(loss)
    assert (told.reason, told.fields) == ("LIMIT_EXCEEDED", ["prediction.shape"])
    activation = pb.ComputeActivationRequest(input=empty)
    activation.activation.softmax.SetInParent()
    with expect_refusal() as told:
        client.functions.ComputeActivation(activation)
    assert (told.reason, told.fields) == ("LIMIT_EXCEEDED", ["input.shape"])
    activation.input.shape[:] = [1 << 20, 0]
    assert list(client.functions.ComputeActivation(activation).output.shape) == [1 << 20, 0]


def test_a_slope_comes_with_its_gradient(client: Client) -> None:
    x, dy, slope = np.array([[-2.0, 3.0], [-1.0, -4.0]]), np.ones((2, 2)), np.array([[0.5], [0.25]])
    forward = pb.ComputeActivationRequest(input=tensor(x), slope=tensor(slope))
    forward.activation.prelu.SetInParent()
    backward = pb.ComputeActivationGradientRequest(
        activation=forward.activation, input=tensor(x), output_gradient=tensor(dy), slope=tensor(slope)
    )
    assert array(client.functions.ComputeActivation(forward).output).tolist() == [[-1, 3], [-0.25, -1]]
    answer = client.functions.ComputeActivationGradient(backward)
    assert array(answer.input_gradient).tolist() == [[0.5, 1], [0.25, 0.25]]
    assert array(answer.slope_gradient).tolist() == [[-2], [-5]]
    backward.ClearField("slope")
    backward.activation.relu.SetInParent()
    assert not client.functions.ComputeActivationGradient(backward).HasField("slope_gradient")


def _prelu(slope: Tensor | None) -> pb.ComputeActivationRequest:
    request = pb.ComputeActivationRequest(input=tensor(np.zeros((2, 3))), slope=slope)
    request.activation.prelu.SetInParent()
    return request


def _maxout(group_size: int) -> pb.ComputeActivationRequest:
    request = pb.ComputeActivationRequest(input=tensor(np.zeros((2, 3))))
    request.activation.maxout.group_size = group_size
    return request


def _activation(input_: Tensor, axis: int | None = None) -> pb.ComputeActivationRequest:
    request = pb.ComputeActivationRequest(input=input_)
    if axis is not None:
        request.activation.softmax.axis = axis
    return request


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (_activation(tensor(np.zeros(2))), "FIELD_REQUIRED", "activation"),
        (_activation(tensor(np.zeros(2)), 1), "OUT_OF_RANGE", "activation.softmax.axis"),
        (_activation(tensor(np.zeros(2, np.int32)), 0), "DTYPE_MISMATCH", "input.dtype"),
        (_activation(Tensor(), 0), "FIELD_REQUIRED", "input.dtype"),
        (_prelu(None), "FIELD_REQUIRED", "slope"),
        (_prelu(tensor(np.zeros(2))), "SHAPE_MISMATCH", "slope"),
        (_prelu(tensor(np.zeros(3, np.float32))), "DTYPE_MISMATCH", "slope"),
        (_prelu(tensor(np.zeros(3, np.int32))), "DTYPE_MISMATCH", "slope.dtype"),
        (_maxout(0), "OUT_OF_RANGE", "activation.maxout.group_size"),
        (_maxout(2), "SHAPE_MISMATCH", "input"),
    ],
)
def test_what_has_no_activation(
    client: Client, request_: pb.ComputeActivationRequest, reason: str, field: str
) -> None:
    with expect_refusal() as told:
        client.functions.ComputeActivation(request_)
    assert (told.code, told.reason, told.fields) == (grpc.StatusCode.INVALID_ARGUMENT, reason, [field])


def test_a_target_that_does_not_fit(client: Client) -> None:
    request = pb.ComputeLossRequest(prediction=tensor(np.zeros((2, 3))), target=tensor(np.zeros((3, 2))))
    request.loss.mean_squared_error.SetInParent()
    with expect_refusal() as told:
        client.functions.ComputeLoss(request)
    assert (told.reason, told.fields) == ("SHAPE_MISMATCH", ["target"])


def test_a_network_is_counted(client: Client) -> None:
    request = pb.EstimateComplexityRequest(batch_size=2)
    request.network.input_shape.extend([3])
    request.network.layers.add().dense.units = 4
    request.optimizer.convention = CONVENTION_TORCH
    request.optimizer.adam.SetInParent()
    answer = client.functions.EstimateComplexity(request, timeout=20)
    (layer,) = answer.layers
    assert (layer.name, list(layer.output_shape)) == ("dense_0", [4])
    assert layer.complexity == answer.total
    assert answer.total == pb.Complexity(
        trainable_parameters=16, parameter_bytes=64, multiply_adds=24, flops=56, feature_map_bytes=32
    )
    assert answer.optimizer_state_bytes == 2 * 64
    assert answer.optimizer.adam.epsilon == 1e-8
    assert answer.network.layers[0].dense.use_bias


def test_a_network_that_cannot_be_is_refused_by_its_path(client: Client) -> None:
    request = pb.EstimateComplexityRequest()
    request.network.layers.add().flatten.SetInParent()
    request.network.layers.add().pooling.window.extend([2, 2])
    with expect_refusal() as told:
        client.functions.EstimateComplexity(request, timeout=20)
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SHAPE_MISMATCH")
    assert told.fields == ["network.layers[1].pooling.window"]
    assert told.metadata == {"expected": "2 dimensions and channels", "actual": "[1]"}


@pytest.mark.parametrize(
    ("flags", "features"),
    [
        ({}, {"data_connections", "shared_memory"}),
        ({"data_port": "off", "shared_memory": "no"}, set()),
        ({"data_port": "off", "shared_memory": "no", "data_dir": True}, {"snapshots"}),
    ],
)
def test_capabilities_name_what_a_server_offers(
    tmp_path: Path, flags: dict[str, Any], features: set[str]
) -> None:
    given = flags | ({"data_dir": tmp_path / "data"} if "data_dir" in flags else {})
    with running_server(**given) as server, Client(server.address) as client:
        answer = client.capabilities.GetCapabilities(capabilities.GetCapabilitiesRequest())
    assert set(answer.features) == features | {"push", "metrics", "watch", "workers"}
    assert len(answer.features) == len(set(answer.features))
    assert set(answer.error_reasons) == set(ErrorReason.values()) - {0}


def test_capabilities_name_every_algorithm_with_its_defaults(client: Client) -> None:
    answer = client.capabilities.GetCapabilities(capabilities.GetCapabilitiesRequest())
    assert (answer.api_version, answer.backend) == ("optserve.v1", "numpy")
    assert answer.limits.max_message_bytes == 64 << 20
    assert answer.limits.chunk_bytes == 1 << 20
    known = {(a.family, a.name): {h.name: h for h in a.hyperparameters} for a in answer.algorithms}
    adam = known["optimizers", "adam"]
    assert adam["beta1"].range == "double in [0, 1)"
    assert adam["bias_correction"].range == "one of FOLDED, HATTED, NONE"
    epsilons = {default.convention: default.value for default in adam["epsilon"].defaults}
    assert (epsilons[CONVENTION_KERAS], epsilons[CONVENTION_TORCH]) == ("1e-07", "1e-08")
    assert epsilons[CONVENTION_LECTURE] == "0.0"
    assert not known["schedules", "exponential"]["decay_rate"].defaults
    strides = known["layers", "convolution"]["strides"]
    assert (strides.range, strides.defaults[0].value) == ("list of numbers", "[]")
    assert {family for family, _ in known} == {
        "optimizers",
        "schedules",
        "losses",
        "activations",
        "initializers",
        "layers",
    }
