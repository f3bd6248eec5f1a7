"""History: thinning, memory, and the way into a snapshot and back."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optserve_server.errors import DomainError, Reason
from optserve_server.resources.budget import UNBOUNDED, Budget, Kind
from optserve_server.state import history as module
from optserve_server.state.history import MAX_METRICS, METRIC_POINT, History, Series, pack_value
from optserve_server.state.step_result import StepOutcome, StepResult


def series_of(count: int, recent: int, older: int, budget: Budget = UNBOUNDED) -> Series:
    series = Series(METRIC_POINT, recent, older, budget)
    for number in range(1, count + 1):
        series.append(pack_value(number, number / 10, number, -number))
    return series


def model(count: int, recent: int, older: int) -> list[int]:
    """Numbers that are left: of each level the last ones, of those that fell from the one before it."""
    numbers, found, level, capacity = list(range(1, count + 1)), [], 0, recent
    while numbers:
        found = numbers[-capacity:] + found
        level += 1
        numbers = [number for number in numbers[:-capacity] if number % 2**level == 0]
        capacity = older
    return found


@given(st.integers(0, 500), st.integers(1, 20), st.integers(1, 8))
def test_older_points_are_thinned(count: int, recent: int, older: int) -> None:
    points = series_of(count, recent, older).read_history_points()
    assert points["number"].tolist() == model(count, recent, older)
    assert (points["step"] == points["number"]).all()
    assert (points["value"] == -points["number"]).all()


@given(st.integers(0, 200), st.integers(0, 250), st.integers(1, 60))
def test_pages_follow_each_other(count: int, after: int, limit: int) -> None:
    series = series_of(count, 16, 4)
    every = series.read_history_points()["number"]
    assert (
        series.read_history_points(after, limit)["number"].tolist() == every[every > after][:limit].tolist()
    )


@given(st.integers(0, 300), st.integers(0, 100))
def test_a_restored_series_goes_on_as_the_first(count: int, more: int) -> None:
    first = series_of(count, 16, 4)
    other = Series(METRIC_POINT, 16, 4, UNBOUNDED)
    other.restore(first.read_history_points().view(np.uint8), first.count)
    for series in (first, other):
        for number in range(count + 1, count + more + 1):
            series.append(pack_value(number, 0.0, number, 1.0))
    assert other.read_history_points().tobytes() == first.read_history_points().tobytes()
    assert other.count == first.count


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda points: points[::-1], 9),
        (lambda points: points[:-1], 9),
        (lambda points: points[:0], 9),
        (lambda points: np.concatenate([points, points[-1:]]), 9),
        (lambda points: points, 10),
        (lambda points: points, 9.5),
    ],
)
def test_other_points_are_rejected(change: Any, count: int) -> None:
    points = series_of(9, 16, 4).read_history_points()
    with pytest.raises(ValueError, match="missing, or not in order"):
        Series(METRIC_POINT, 16, 4, UNBOUNDED).restore(
            np.ascontiguousarray(change(points)).view(np.uint8), count
        )


@pytest.mark.parametrize("time", [-1.0, np.nan, np.inf, 1e12])
def test_times_that_no_message_can_state_are_rejected(time: float) -> None:
    points = series_of(9, 16, 4).read_history_points().copy()
    points["time"][4] = time
    with pytest.raises(ValueError, match="out of range"):
        Series(METRIC_POINT, 16, 4, UNBOUNDED).restore(points.view(np.uint8), 9)


def test_a_full_budget_thins_further_and_rejects_nothing() -> None:
    point_bytes = METRIC_POINT.itemsize + module.OBJECT_BYTES
    budget = Budget({"max_resident_bytes": 2 * module.CHARGED_POINTS * point_bytes})
    series = series_of(1000, 1024, 4, budget)
    assert series.read_history_points()["number"].tolist() == list(
        range(1000 - 2 * module.CHARGED_POINTS + 1, 1001)
    )
    assert budget.usage(Kind.RESIDENT) == 2 * module.CHARGED_POINTS * point_bytes
    del series
    assert budget.usage(Kind.RESIDENT) == 0


def result(step: int, worker: str = "", outcome: StepOutcome = StepOutcome.APPLIED) -> StepResult:
    return StepResult(step, outcome, 0.1, 1.5, 1.0, worker=worker)


def test_a_million_steps_take_at_most_four_megabytes() -> None:
    budget = Budget({"max_resident_bytes": 1 << 40})
    history = History(budget)
    for step in range(1, 1_000_001):
        history.add_step(result(step), 1e9 + step)
    levels = history.steps._levels
    held = sum(sys.getsizeof(level) + sum(map(sys.getsizeof, level)) for level in levels)
    assert held <= budget.usage(Kind.RESIDENT) * 1.05 <= 4 << 20
    numbers = history.steps.read_history_points()["number"]
    assert numbers[0] <= 2048
    assert numbers[-4096:].tolist() == list(range(995_905, 1_000_001))


def test_names_of_workers_that_no_point_has_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECENT_STEPS", 4)
    monkeypatch.setattr(module, "OLDER_STEPS", 2)
    monkeypatch.setattr(module, "MIN_WORKER_NAMES", 8)
    history = History(UNBOUNDED)
    for step in range(1, 200):
        history.add_step(result(step, f"worker {step}"), 1.0)
    assert len(history.workers) < 60
    names = history.list_workers()
    for point in history.steps.read_history_points():
        assert names[point["worker"]] == f"worker {point['number']}"


def make_filled_history() -> History:
    history = History(UNBOUNDED)
    for step in range(1, 6000):
        outcome = StepOutcome.SKIPPED if step % 7 == 0 else StepOutcome.APPLIED
        history.add_step(result(step, f"w{step % 3}", outcome), float(step))
    for value in range(2000):
        history.add_values({"loss": 1 / (1 + value), "é": float("nan")}, value, 1.0)
    return history


def test_a_decoded_history_is_the_same() -> None:
    first = make_filled_history()
    facts, points = first.encode()
    other = History.decode(facts, points, UNBOUNDED)
    for history in (first, other):
        history.add_step(result(6000, "w9"), 2.0)
        history.add_values({"é": 1.0}, 6000, 2.0)
    assert other.encode()[0] == first.encode()[0]
    assert [part.tobytes() for part in other.encode()[1]] == [part.tobytes() for part in first.encode()[1]]


@pytest.mark.parametrize(
    "changed",
    [
        {"workers": ["", "a"]},
        {"workers": []},
        {"workers": ["", "a", "a", "b"]},
        {"metrics": ["loss", "loss"]},
        {"metrics": ["loss", 1]},
        {"counts": [6000]},
        {"counts": [0, 2000, 2000]},
        {"metrics": [str(i) for i in range(MAX_METRICS + 1)]},
    ],
)
def test_facts_that_do_not_fit_are_rejected(changed: dict[str, Any]) -> None:
    facts, points = make_filled_history().encode()
    with pytest.raises(ValueError, match=r"missing|twice|order|too many|range|shorter|longer|names"):
        History.decode({**facts, **changed}, points, UNBOUNDED)


def test_a_session_has_a_bounded_number_of_metrics() -> None:
    history = History(UNBOUNDED)
    history.add_values({str(i): 0.0 for i in range(MAX_METRICS)}, 0, 1.0)
    history.check_names(["0", "63"])
    with pytest.raises(DomainError, match="'64' would be one more") as caught:
        history.check_names(["0", "64"])
    assert (caught.value.reason, caught.value.field) == (Reason.LIMIT_EXCEEDED, "metrics")
