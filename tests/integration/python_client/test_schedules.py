"""Schedules within schedules, many points at once, and rates without a schedule."""

from __future__ import annotations

import numpy as np
import pytest

import optserve
from optserve import ParameterPoint, errors, optimizers, schedules

MILLION = 1_000_000


def compose() -> schedules.Schedule:
    decay = schedules.Cosine(0.1, decay_steps=900_000, alpha=0.01)
    later = schedules.LegacyDecay(schedules.ConstantSchedule(0.01), decay=1e-3)
    return schedules.Join(
        schedules=[schedules.Warmup(decay, warmup_steps=1000, initial_learning_rate=0.001), later],
        boundaries=[500_000],
    )


def test_a_million_points_of_a_composed_schedule_in_one_call(client):
    over = client.evaluate_schedule(compose(), range(MILLION))
    listed = client.evaluate_schedule(compose(), np.arange(MILLION)[::-1])
    assert over.shape == listed.shape == (MILLION,)
    assert np.array_equal(over, listed[::-1])
    assert over[[0, 500, 1000]] == pytest.approx([0.001, 0.001 + 0.099 / 2, 0.1])
    assert over[[500_000, 501_000]] == pytest.approx([0.01, 0.005])


def test_a_session_steps_by_a_composed_schedule(client):
    schedule = schedules.Warmup(schedules.ConstantSchedule(1.0), warmup_steps=2)
    with client.create_session({"w": np.zeros(1)}, optimizers.SGD(), schedule=schedule) as session:
        rates = [session.step({"w": np.ones(1)}).learning_rate for _ in range(4)]
        echo = session.get().spec.schedule
    assert rates == [0.0, 0.5, 1.0, 1.0]
    assert isinstance(echo, schedules.Warmup)
    assert echo.schedule == schedules.ConstantSchedule(1.0, convention=optserve.KERAS)


def test_errors_within_a_schedule_name_their_place(client):
    with pytest.raises(errors.InvalidArgument) as caught:
        client.evaluate_schedule(
            schedules.Join(schedules=[compose(), schedules.ConstantSchedule(-1.0)], boundaries=[3]), 0
        )
    assert caught.value.reason is optserve.Reason.OUT_OF_RANGE
    assert caught.value.field == "schedule.join.schedules[1].constant.value"


@pytest.mark.parametrize(
    "optimizer",
    [optimizers.ScheduleFreeSGD(learning_rate=0.5), optimizers.ScheduleFreeAdamW(learning_rate=0.05)],
    ids=lambda spec: type(spec).__name__,
)
def test_schedule_free_training_takes_gradients_ahead_and_keeps_the_average(client, optimizer):
    rng = np.random.default_rng(3)
    x, truth = rng.normal(size=(64, 4)), np.array([1.0, -2.0, 0.5, 3.0])
    with client.create_session({"w": np.zeros(4)}, optimizer) as session:
        ahead = session.pull(point=ParameterPoint.LOOKAHEAD)["w"]
        for _ in range(400):
            gradient = x.T @ (x @ ahead - x @ truth) / len(x)
            result = session.step({"w": gradient}, pull=ParameterPoint.LOOKAHEAD)
            ahead = result.parameters["w"]
        kept = session.pull()["w"]
    np.testing.assert_allclose(kept, truth, atol=0.15)
    assert not np.array_equal(kept, ahead)
