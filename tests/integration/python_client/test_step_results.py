"""Results of steps, whose fields are read from the server's message when they are asked for."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest

import optserve
from optserve.parameters import Parameters
from optserve.v1 import session_service_pb2 as wire

GIVEN = {
    "step": 3,
    "learning_rate": 0.5,
    "gradient_norm": 2.0,
    "clipped_gradient_norm": 1.0,
    "non_finite_count": 4,
    "staleness": 5,
    "regularization_penalty": 0.25,
    "durable_step": 2,
    "accumulated": 1,
    "replayed": True,
    "sequence": 7,
    "contributions": 6,
    "weight": 0.125,
}
NORMS = {"b": 1.5, "a": 0.0}
VALUES = Parameters({"w": np.ones(2, np.float32)}, step=3)


def read_result(outcome=wire.STEP_OUTCOME_SKIPPED):
    norms = [wire.TensorNorm(name=name, norm=norm) for name, norm in NORMS.items()]
    message = wire.StepResult(**GIVEN, outcome=outcome, tensor_norms=norms)
    return optserve.StepResult.from_message(message, VALUES, "worker")


def make_expected():
    outcome = optserve.StepOutcome.SKIPPED
    return optserve.StepResult(
        **GIVEN, outcome=outcome, tensor_norms=NORMS, worker="worker", parameters=VALUES
    )


@pytest.mark.parametrize("field", dataclasses.fields(optserve.StepResult), ids=lambda field: field.name)
def test_each_field_can_be_the_first_to_be_read(field):
    found, right = getattr(read_result(), field.name), getattr(make_expected(), field.name)
    assert found == right
    assert type(found) is type(right)


def test_a_result_is_what_one_with_the_same_values_is():
    assert read_result() == make_expected()
    assert repr(read_result()) == repr(make_expected())
    assert copy.deepcopy(read_result()).tensor_norms == NORMS
    assert pickle.loads(pickle.dumps(read_result())).gradient_norm == 2.0
    assert dataclasses.replace(read_result(), step=4).step == 4


def test_an_outcome_that_is_newer_than_the_client_is_none():
    assert read_result(outcome=99).outcome is None


@pytest.mark.parametrize("result", [read_result(), make_expected()], ids=["read", "made"])
def test_other_names_are_no_attributes(result):
    with pytest.raises(AttributeError, match="'StepResult' object has no attribute 'loss'"):
        result.loss  # noqa: B018
