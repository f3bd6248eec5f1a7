"""Schedules, at steps and on boundaries."""

from __future__ import annotations

import math

import pytest

from optserve_server.errors import DomainError, Reason
from optserve_server.schedules.base import Schedule
from optserve_server.schedules.cosine import Cosine
from optserve_server.schedules.exponential import Exponential
from optserve_server.schedules.inverse_time import InverseTime
from optserve_server.schedules.piecewise_constant import BoundarySide, PiecewiseConstant

STEPS = [0, 5, 10, 15, 25]
LR = {"initial_learning_rate": 0.1, "decay_steps": 10.0}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Exponential(**LR, decay_rate=0.25), [0.1, 0.05, 0.025, 0.0125, 0.1 / 32]),
        (Exponential(**LR, decay_rate=0.25, staircase=True), [0.1, 0.1, 0.025, 0.025, 0.1 / 16]),
        (InverseTime(**LR, decay_rate=2.0), [0.1, 0.05, 0.1 / 3, 0.025, 0.1 / 6]),
        (InverseTime(**LR, decay_rate=2.0, staircase=True), [0.1, 0.1, 0.1 / 3, 0.1 / 3, 0.02]),
        (InverseTime(**LR, decay_rate=0.0), [0.1] * 5),
        (PiecewiseConstant(boundaries=(5, 15), values=(3.0, 2.0, 1.0)), [3.0, 3.0, 2.0, 2.0, 1.0]),
        (
            PiecewiseConstant(boundaries=(5, 15), values=(3.0, 2.0, 1.0), boundary_side=BoundarySide.AFTER),
            [3.0, 2.0, 2.0, 1.0, 1.0],
        ),
    ],
)
def test_rates(schedule: Schedule, expected: list[float]) -> None:
    assert [schedule.rate(step) for step in STEPS] == pytest.approx(expected, rel=1e-15)


def test_a_periodic_cosine_keeps_its_digits_far_out() -> None:
    cosine = Cosine(initial_learning_rate=0.1, decay_steps=13.0, alpha=0.125, periodic=True)
    assert cosine.rate(26 * 10**9 + 5) == cosine.rate(5)
    assert cosine.rate(26 * 10**9 + 13) == 0.0125


@pytest.mark.parametrize("staircase", [False, True])
def test_growth_beyond_float64_is_infinite(staircase: bool) -> None:
    grown = Exponential(initial_learning_rate=1.0, decay_steps=1.0, decay_rate=10.0, staircase=staircase)
    assert grown.rate(2**62) == math.inf
    assert Exponential(initial_learning_rate=0.0, decay_steps=1.0, decay_rate=10.0).rate(2**62) == 0.0
    assert (
        InverseTime(initial_learning_rate=1.0, decay_steps=1e-308, decay_rate=10.0, staircase=staircase).rate(
            99
        )
        == 0
    )


@pytest.mark.parametrize(
    ("boundaries", "values", "reason", "field"),
    [
        ((), (1.0,), Reason.FIELD_REQUIRED, "boundaries"),
        ((2, 2), (1.0, 1.0, 1.0), Reason.OUT_OF_RANGE, "boundaries[1]"),
        ((3, 2), (1.0, 1.0, 1.0), Reason.OUT_OF_RANGE, "boundaries[1]"),
        ((-1, 2), (1.0, 1.0, 1.0), Reason.OUT_OF_RANGE, "boundaries[0]"),
        ((1, 2), (1.0, 1.0), Reason.CONFLICTING_FIELDS, "values"),
        ((1,), (1.0, 1.0, 1.0), Reason.CONFLICTING_FIELDS, "values"),
        ((1,), (1.0, -1.0), Reason.OUT_OF_RANGE, "values[1]"),
        ((1,), (math.nan, 1.0), Reason.OUT_OF_RANGE, "values[0]"),
        ((1,), (1.0, math.inf), Reason.OUT_OF_RANGE, "values[1]"),
    ],
)
def test_boundaries_and_values_fit(
    boundaries: tuple[int, ...], values: tuple[float, ...], reason: Reason, field: str
) -> None:
    with pytest.raises(DomainError) as caught:
        PiecewiseConstant(boundaries=boundaries, values=values)
    assert (caught.value.reason, caught.value.field) == (reason, field)
