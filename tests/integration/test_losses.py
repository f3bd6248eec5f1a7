"""Losses over a real socket: weights, classes, boxes, and the errors of inputs that do not fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from optserve.v1 import function_service_pb2 as pb
from optserve.v1.convention_pb2 import CONVENTION_OPTAX, CONVENTION_TORCH
from optserve.v1.loss_spec_pb2 import (
    LOSS_REDUCTION_MEAN_WITH_SAMPLE_WEIGHT,
    LOSS_REDUCTION_SUM,
    LOSS_REDUCTION_SUM_OVER_BATCH_SIZE,
    LossSpec,
)
from tests.integration.client import Client, array, expect_refusal, tensor

P, Y = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[1.0, 1.0], [1.0, 1.0]])


def make_request(spec: LossSpec, prediction: Any, target: Any, weights: Any = None) -> pb.ComputeLossRequest:
    request = pb.ComputeLossRequest(loss=spec, per_example=True, gradient=True)
    request.prediction.CopyFrom(tensor(np.array(prediction)))
    request.target.CopyFrom(tensor(np.array(target)))
    if weights is not None:
        request.sample_weight.CopyFrom(tensor(np.array(weights)))
    return request


def absolute(reduction: int = LOSS_REDUCTION_SUM_OVER_BATCH_SIZE) -> LossSpec:
    spec = LossSpec(reduction=reduction)  # type: ignore[arg-type]
    spec.mean_absolute_error.SetInParent()
    return spec


@pytest.mark.parametrize(
    ("reduction", "divisor"),
    [
        (LOSS_REDUCTION_SUM, 1),
        (LOSS_REDUCTION_SUM_OVER_BATCH_SIZE, 2),
        (LOSS_REDUCTION_MEAN_WITH_SAMPLE_WEIGHT, 2.5),
    ],
)
def test_sample_weights_multiply_everything(client: Client, reduction: int, divisor: float) -> None:
    answer = client.functions.ComputeLoss(make_request(absolute(reduction), P, Y, [2.0, 0.5]))
    assert array(answer.per_example).tolist() == [1.0, 1.5]
    assert answer.value == pytest.approx(2.5 / divisor)
    assert array(answer.gradient) == pytest.approx(np.array([[0, 1], [0.25, 0.25]]) / divisor)
    assert answer.loss.reduction == reduction


def test_classes_have_weights(client: Client) -> None:
    spec = LossSpec(convention=CONVENTION_TORCH, reduction=LOSS_REDUCTION_MEAN_WITH_SAMPLE_WEIGHT)
    spec.sparse_categorical_crossentropy.class_weights.extend([1, 3])
    answer = client.functions.ComputeLoss(make_request(spec, np.zeros((2, 2)), [0, 1]))
    assert array(answer.per_example) == pytest.approx(math.log(2) * np.array([1, 3]))
    assert answer.value == pytest.approx(math.log(2))
    assert list(answer.loss.sparse_categorical_crossentropy.class_weights) == [1, 3]


def test_the_echo_states_every_field(client: Client) -> None:
    spec = LossSpec(convention=CONVENTION_OPTAX)
    spec.binary_focal_crossentropy.gamma = 1.5
    echo = client.functions.ComputeLoss(make_request(spec, P, Y)).loss.binary_focal_crossentropy
    assert (echo.gamma, echo.from_logits, echo.apply_class_balancing) == (1.5, True, False)
    assert (echo.alpha, echo.axis, echo.HasField("label_smoothing")) == (0.25, -1, True)


def test_boxes(client: Client) -> None:
    spec = LossSpec()
    spec.ciou.SetInParent()
    answer = client.functions.ComputeLoss(make_request(spec, [[0.0, 0.0, 2.0, 1.0]], [[0.0, 0.0, 2.0, 1.0]]))
    assert answer.value == pytest.approx(0, abs=1e-7)
    assert answer.loss.ciou.epsilon == 1e-7


def classes(weights: list[float], axis: int = -1) -> LossSpec:
    spec = LossSpec()
    spec.categorical_crossentropy.axis = axis
    spec.categorical_crossentropy.class_weights.extend(weights)
    return spec


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (make_request(absolute(), P, Y, [1.0]), "SHAPE_MISMATCH", "sample_weight"),
        (make_request(absolute(), P, Y, np.ones(2, np.float32)), "DTYPE_MISMATCH", "sample_weight"),
        (make_request(absolute(), P, Y, np.ones(2, np.int32)), "DTYPE_MISMATCH", "sample_weight.dtype"),
        (make_request(LossSpec(reduction=9), P, Y), "UNSUPPORTED_VALUE", "loss.reduction"),  # type: ignore[arg-type]
        (
            make_request(classes([1, 2, 3]), P, Y),
            "SHAPE_MISMATCH",
            "loss.categorical_crossentropy.class_weights",
        ),
        (
            make_request(classes([1, -2]), P, Y),
            "OUT_OF_RANGE",
            "loss.categorical_crossentropy.class_weights[1]",
        ),
        (make_request(classes([], axis=2), P, Y), "OUT_OF_RANGE", "loss.categorical_crossentropy.axis"),
        (make_request(LossSpec(giou=LossSpec().giou), P, Y), "SHAPE_MISMATCH", "prediction"),
    ],
)
def test_what_does_not_fit_is_named(
    client: Client, request_: pb.ComputeLossRequest, reason: str, field: str
) -> None:
    if field == "loss.reduction":
        request_.loss.mean_absolute_error.SetInParent()
    with expect_refusal() as told:
        client.functions.ComputeLoss(request_)
    assert (told.reason, told.fields) == (reason, [field])
