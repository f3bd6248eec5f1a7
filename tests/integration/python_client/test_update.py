"""Changing a session's specification through the client."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import optserve
from optserve import errors, optimizers, schedules

GRADIENT = {"w": np.array([0.1, -0.2, 0.3])}


@pytest.fixture
def session(client):
    made = client.create_session({"w": np.ones(3)}, optimizers.Adam(learning_rate=0.1))
    made.step(GRADIENT)
    yield made
    made.delete()


def test_another_optimizer_goes_on_from_the_same_parameters(session):
    before = session.pull()["w"]
    wanted = dataclasses.replace(session.spec, optimizer=optimizers.SGD(learning_rate=0.5))
    transfers = session.update(wanted, expected_step=1)
    assert transfers[""] == optserve.StateTransfer("", (), ("m", "v"), (), False)
    assert isinstance(session.spec.optimizer, optimizers.SGD)
    result = session.step(GRADIENT, pull=True)
    assert (result.step, result.learning_rate) == (2, 0.5)
    np.testing.assert_allclose(result.parameters["w"], before - 0.5 * GRADIENT["w"], rtol=1e-15)


def test_a_schedule_takes_the_place_of_a_rate(session):
    schedule = schedules.Exponential(1.0, decay_steps=1, decay_rate=0.5)
    wanted = dataclasses.replace(session.spec, optimizer=optimizers.Adam(), schedule=schedule)
    transfers = session.update(wanted)
    assert transfers[""].carried == ("m", "v")
    assert session.step(GRADIENT).learning_rate == 0.5


def test_refusals_are_typed(session):
    with pytest.raises(errors.StepMismatch):
        session.update(session.spec, expected_step=7)
    group = optserve.ParameterGroup("g", tensors=["w"])
    with pytest.raises(errors.InvalidArgument) as caught:
        session.update(dataclasses.replace(session.spec, groups=(group,)))
    assert (caught.value.reason, caught.value.field) == (errors.Reason.CONFLICTING_FIELDS, "spec.groups")
    assert session.get().spec == session.spec
