"""Losses by expression over a real socket."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from optserve.v1 import capabilities_service_pb2 as capabilities
from optserve.v1 import function_service_pb2 as pb
from optserve.v1.loss_spec_pb2 import LOSS_REDUCTION_SUM
from tests.integration.client import Client, array, expect_refusal, tensor

YOGHURT = "where(y_pred > y_true, COST*(y_pred - y_true), PROFIT*(y_true - y_pred))"
FORECAST = np.array([[3.0], [1.0]], np.float32)
SOLD = np.array([[2.0], [2.0]], np.float32)


def request(expression: str, **constants: float) -> pb.ComputeLossRequest:
    message = pb.ComputeLossRequest(
        prediction=tensor(FORECAST), target=tensor(SOLD), per_example=True, gradient=True
    )
    message.loss.reduction = LOSS_REDUCTION_SUM
    message.loss.custom.expression = expression
    message.loss.custom.constants.update(constants)
    return message


def test_value_losses_and_gradient(client: Client) -> None:
    answer = client.functions.ComputeLoss(request(YOGHURT, COST=1, PROFIT=99))
    assert answer.value == 100
    assert array(answer.per_example).tolist() == [1, 99]
    assert array(answer.gradient).tolist() == [[1], [-99]]
    assert answer.loss.custom.expression == YOGHURT
    assert dict(answer.loss.custom.constants) == {"COST": 1, "PROFIT": 99}


def test_without_a_gradient(client: Client) -> None:
    message = request(YOGHURT, COST=1, PROFIT=99)
    message.gradient = message.per_example = False
    answer = client.functions.ComputeLoss(message)
    assert answer.value == 100
    assert not answer.HasField("gradient")


@pytest.mark.parametrize(
    ("expression", "constants", "reason", "field", "position"),
    [
        ("", {}, "INVALID_EXPRESSION", "loss.custom.expression", "1:1"),
        ("y_pred.__class__", {}, "INVALID_EXPRESSION", "loss.custom.expression", "1:7"),
        ("y_pred\n + __import__('os')", {}, "INVALID_EXPRESSION", "loss.custom.expression", "2:4"),
        ("y_pred + \u0443_pred", {}, "INVALID_EXPRESSION", "loss.custom.expression", "1:10"),
        ("y_pred**y_pred**9", {}, "INVALID_EXPRESSION", "loss.custom.expression", "1:9"),
        ("(" * 100_000, {}, "INVALID_EXPRESSION", "loss.custom.expression", "1:1025"),
        ("COST*y_pred", {"COAST": 1}, "INVALID_EXPRESSION", "loss.custom.expression", "1:1"),
        ("y_pred", {"lambda": 1}, "MALFORMED_NAME", "loss.custom.constants", None),
        ("y_pred", {"COST": float("nan")}, "OUT_OF_RANGE", "loss.custom.constants[COST]", None),
    ],
)
def test_a_refusal_names_the_place(
    client: Client,
    expression: str,
    constants: dict[str, float],
    reason: str,
    field: str,
    position: str | None,
) -> None:
    with expect_refusal() as told:
        client.functions.ComputeLoss(request(expression, **constants))
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert told.fields == [field]
    assert told.metadata.get("position") == position


def test_an_expression_is_required(client: Client) -> None:
    message = request("y_pred")
    message.loss.custom.ClearField("expression")
    with expect_refusal() as told:
        client.functions.ComputeLoss(message)
    assert (told.reason, told.fields) == ("FIELD_REQUIRED", ["loss.custom.expression"])


def test_many_formulas_at_once_do_not_hold_up_the_others(client: Client) -> None:
    formulas = [f"(y_pred - {i})**2 + abs(y_true)" for i in range(24)]
    formulas += ["+".join(["y_pred"] * i) for i in range(2, 30)]
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda text: client.functions.ComputeLoss(request(text), timeout=20), formulas)
        begun = time.monotonic()
        client.capabilities.GetCapabilities(capabilities.GetCapabilitiesRequest(), timeout=5)
        assert time.monotonic() - begun < 5
        values = [answer.value for answer in answers]
    assert values[:2] == pytest.approx([10 + 4, 4 + 0 + 4])
    assert values[24:26] == pytest.approx([8, 12])


def test_capabilities_name_its_fields(client: Client) -> None:
    answer = client.capabilities.GetCapabilities(capabilities.GetCapabilitiesRequest())
    (custom,) = [a for a in answer.algorithms if (a.family, a.name) == ("losses", "custom")]
    ranges = {h.name: h.range for h in custom.hyperparameters}
    assert ranges == {"expression": "string", "constants": "numbers by name"}
