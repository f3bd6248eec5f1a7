"""Losses by expression through the client."""

from __future__ import annotations

import numpy as np
import pytest

from optserve import LossReduction, errors, losses, spec

YOGHURT = "where(y_pred > y_true, COST*(y_pred - y_true), PROFIT*(y_true - y_pred))"


def test_a_formula_comes_with_its_gradient(client):
    loss = losses.Custom(YOGHURT, constants={"COST": 1, "PROFIT": 99}, reduction=LossReduction.SUM)
    found = client.loss(loss, np.array([[3.0], [1.0]]), np.array([[2.0], [2.0]]), per_example=True)
    assert found.value == 100
    assert found.per_example.tolist() == [1, 99]
    assert found.gradient.tolist() == [[1], [-99]]


def test_a_wrong_formula_is_refused_by_position(client):
    with pytest.raises(errors.InvalidArgument) as caught:
        client.loss(losses.Custom("y_pred -\n y_ture"), np.zeros((1, 1)), np.zeros((1, 1)))
    assert caught.value.reason is errors.Reason.INVALID_EXPRESSION
    assert caught.value.field == "loss.custom.expression"
    assert caught.value.metadata == {"position": "2:2", "text": "y_ture"}


def test_constants_survive_the_way_to_a_message_and_back():
    loss = losses.Custom(YOGHURT, constants={"PROFIT": 99, "COST": 1})
    message = spec.encode_spec(loss)
    assert dict(message.custom.constants) == {"COST": 1, "PROFIT": 99}
    assert spec.decode_spec(message).constants == {"COST": 1, "PROFIT": 99}
    assert not spec.encode_spec(losses.Custom("y_pred")).custom.constants


def test_constants_are_numbers():
    with pytest.raises(TypeError):
        spec.encode_spec(losses.Custom(YOGHURT, constants={"COST": "much"}))
