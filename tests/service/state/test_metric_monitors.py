"""Reported metrics: lowered learning rates, ended trainings, restored parameters.

The corpus (tests/conformance/vectors/metrics) proves what a sequence of values leads to; here
is what that does to a session.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.errors import DomainError, Reason
from optserve_server.hyperparameters import Chosen
from optserve_server.optimizers.adam import Adam
from optserve_server.schedules.piecewise_constant import PiecewiseConstant
from optserve_server.sessions.session import Session
from optserve_server.sessions.store import Limits, Store
from optserve_server.spec.early_stopping import EarlyStoppingSpec
from optserve_server.spec.metric_comparison import MetricMode
from optserve_server.spec.plateau import ReduceOnPlateauSpec
from optserve_server.spec.session_spec import ParameterGroup, SessionSpec
from optserve_server.state.metrics_report import MetricsReport
from tests.service.sessions.support import Arrays, parameters, session_of, spec_of, step

START: Arrays = {"w": np.array([1.0, -2.0, 3.0]), "b": np.array([0.5], np.float32)}
GRADIENT: Arrays = {"w": np.ones(3), "b": np.ones(1, np.float32)}
HALVED = ReduceOnPlateauSpec(factor=0.5, patience=1)


def loss(session: Session, *values: float) -> MetricsReport:
    """The last of several reports."""
    return [session.report_metrics({"val_loss": value}) for value in values][-1]


def stop_at(best_step: int, **fields: Any) -> Session:
    """A session that took three steps, was best at one of them, and ended."""
    session = session_of(spec_of(early_stopping=EarlyStoppingSpec(patience=1, **fields)), START)
    while session.step < 3:
        step(session, GRADIENT)
        if session.step == best_step:
            loss(session, 1.0)
    assert loss(session, 2.0).stopped
    return session


def refusal(call: Any, *arguments: Any, **options: Any) -> DomainError:
    with pytest.raises(DomainError) as caught:
        call(*arguments, **options)
    error: DomainError = caught.value
    return error


def test_a_reduction_holds_from_the_next_step_on() -> None:
    session = session_of(spec_of(reduce_on_plateau=HALVED), START)
    assert step(session, GRADIENT).learning_rate == 0.1
    report = loss(session, 1.0, 1.0)
    assert (report.reduced, report.learning_rate) == (True, 0.05)
    before = parameters(session)["w"]
    assert step(session, GRADIENT).learning_rate == 0.05
    np.testing.assert_array_equal(parameters(session)["w"], before - 0.05)
    assert not loss(session, 0.5).reduced
    assert step(session, GRADIENT).learning_rate == 0.05


def test_a_reduction_goes_on_top_of_a_schedule() -> None:
    schedule = PiecewiseConstant(boundaries=(0, 1), values=(0.4, 0.2, 0.8))
    session = session_of(spec_of(Adam(), schedule=Chosen(schedule), reduce_on_plateau=HALVED), START)
    assert step(session, GRADIENT).learning_rate == 0.4
    loss(session, 1.0, 1.0)
    assert [step(session, GRADIENT).learning_rate for _ in range(2)] == [0.1, 0.4]


def test_the_floor_holds_reductions_and_leaves_low_rates_alone() -> None:
    schedule = PiecewiseConstant(boundaries=(0, 1), values=(0.01, 0.2, 0.5))
    floored = ReduceOnPlateauSpec(factor=0.1, patience=1, min_learning_rate=0.03)
    session = session_of(spec_of(Adam(), schedule=Chosen(schedule), reduce_on_plateau=floored), START)
    assert step(session, GRADIENT).learning_rate == 0.01
    assert loss(session, 1.0, 1.0).learning_rate == 0.03
    assert [step(session, GRADIENT).learning_rate for _ in range(2)] == [0.03, 0.05]


def test_each_group_has_the_floor_to_itself() -> None:
    groups = (ParameterGroup(name="g", tensors=("b",), learning_rate_factor=4.0),)
    floored = ReduceOnPlateauSpec(factor=0.5, patience=1, min_learning_rate=0.1)
    session = session_of(spec_of(groups=groups, reduce_on_plateau=floored), START)
    assert loss(session, 1.0, 1.0).reduced
    before = parameters(session)
    assert step(session, GRADIENT).learning_rate == 0.1
    np.testing.assert_array_equal(parameters(session)["w"], before["w"] - 0.1)
    np.testing.assert_array_equal(parameters(session)["b"], before["b"] - np.float32(0.2))
    assert loss(session, 1.0).reduced
    # Now every group is at the floor.
    assert not loss(session, 1.0).reduced


def test_metrics_that_are_not_monitored_change_no_monitor() -> None:
    session = session_of(spec_of(reduce_on_plateau=HALVED), START)
    before = session.monitors
    assert session.report_metrics({"val_lose": 1.0}).monitors == before
    plateau = session.report_metrics({"val_loss": 1.0, "val_lose": 0.5}).monitors.plateau
    assert plateau is not None
    assert plateau.best_value == 1.0
    values = {
        name: series.read_history_points()["value"].tolist()
        for name, series in session.history.metrics.items()
    }
    assert values == {"val_lose": [1.0, 0.5], "val_loss": [1.0]}


def test_a_session_that_watches_nothing_takes_any_report() -> None:
    session = session_of(spec_of(), START)
    report = session.report_metrics({"val_loss": 1.0})
    assert (report.learning_rate, report.reduced, report.stopped, report.restored) == (
        0.1,
        False,
        False,
        False,
    )


def test_two_metrics_are_watched_apart() -> None:
    stopping = EarlyStoppingSpec(monitor="accuracy", mode=MetricMode.MAX, patience=2)
    session = session_of(spec_of(reduce_on_plateau=HALVED, early_stopping=stopping), START)
    session.report_metrics({"accuracy": 0.5, "val_loss": 1.0})
    assert session.report_metrics({"val_loss": 2.0}).reduced
    assert session.monitors.stopping is not None
    assert (session.monitors.stopping.seen, session.monitors.stopping.best_value) == (1, 0.5)
    session.report_metrics({"accuracy": 0.4})
    assert session.report_metrics({"accuracy": 0.5}).stopped


def test_after_the_end_steps_and_reports_are_refused() -> None:
    session = stop_at(2)
    before = parameters(session)["w"].tobytes(), session.step, session.monitors
    for error in (
        refusal(step, session, GRADIENT),
        refusal(step, session, GRADIENT, validate_only=True),
        refusal(loss, session, 0.0),
    ):
        assert error.reason is Reason.TRAINING_STOPPED
        assert error.metadata == {"monitor": "val_loss", "best_step": "2"}
    assert (parameters(session)["w"].tobytes(), session.step, session.monitors) == before


def test_a_step_from_before_the_end_is_answered_again() -> None:
    session = session_of(spec_of(early_stopping=EarlyStoppingSpec()), START)
    first = step(session, GRADIENT, worker="a", sequence=1)
    assert loss(session, 1.0, 1.0).stopped
    assert step(session, GRADIENT, worker="a", sequence=1).step == first.step
    assert refusal(step, session, GRADIENT, worker="a", sequence=2).reason is Reason.TRAINING_STOPPED


@pytest.mark.parametrize("best_step", [1, 2, 3])
def test_the_best_parameters_come_back(best_step: int) -> None:
    session = stop_at(best_step, restore_best=True)
    until_then = session_of(spec_of(), START)
    for _ in range(best_step):
        step(until_then, GRADIENT)
    assert session.step == 3
    for name, value in parameters(session).items():
        np.testing.assert_array_equal(value, parameters(until_then)[name], strict=True)


def test_nothing_comes_back_unless_it_is_asked_for() -> None:
    session = stop_at(1)
    np.testing.assert_allclose(parameters(session)["w"], START["w"] - 0.3, rtol=1e-15)


def test_nothing_comes_back_where_nothing_was_best() -> None:
    stopping = EarlyStoppingSpec(patience=1, restore_best=True)
    session = session_of(spec_of(early_stopping=stopping), START)
    report = loss(session, math.nan, math.nan)
    assert (report.stopped, report.restored) == (True, False)
    np.testing.assert_array_equal(parameters(session)["w"], START["w"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_bad_and_never_the_best(value: float) -> None:
    stopping = EarlyStoppingSpec(patience=5)
    session = session_of(spec_of(reduce_on_plateau=HALVED, early_stopping=stopping), START)
    assert loss(session, value).reduced
    assert session.monitors.stopping is not None
    assert (session.monitors.stopping.best_value, session.monitors.stopping.waited) == (None, 1)
    assert not loss(session, 3.0).reduced
    assert session.monitors.plateau is not None
    assert session.monitors.plateau.best_value == 3.0


def test_a_copy_of_the_best_counts_as_memory() -> None:
    plain = session_of(spec_of(), START)
    keeping = spec_of(early_stopping=EarlyStoppingSpec(restore_best=True))
    session = session_of(keeping, START)
    assert session.resident_bytes == plain.resident_bytes + 3 * 8 + 4
    store = Store(NumpyBackend(), Limits(max_session_bytes=plain.resident_bytes))
    session_of(spec_of(early_stopping=EarlyStoppingSpec()), START, store)
    assert refusal(session_of, keeping, START, store).metadata["limit"] == "max_session_bytes"
    plain.update_spec(keeping)
    assert plain.resident_bytes == session.resident_bytes


def update(session: Session, **changes: Any) -> None:
    fields = {
        "reduce_on_plateau": session.spec.reduce_on_plateau,
        "early_stopping": session.spec.early_stopping,
    }
    session.update_spec(spec_of(**fields | changes))


def test_an_update_keeps_what_it_leaves_alone() -> None:
    stopping = EarlyStoppingSpec(patience=3, restore_best=True)
    session = session_of(spec_of(reduce_on_plateau=HALVED, early_stopping=stopping), START)
    loss(session, 1.0, 2.0)
    step(session, GRADIENT)
    monitors = session.monitors
    session.update_spec(spec_of(Adam(learning_rate=0.4), reduce_on_plateau=HALVED, early_stopping=stopping))
    assert session.monitors == monitors
    assert step(session, GRADIENT).learning_rate == 0.2
    assert loss(session, 2.0, 2.0).restored
    np.testing.assert_array_equal(parameters(session)["w"], START["w"])


def test_an_update_starts_anew_what_it_changes() -> None:
    stopping = EarlyStoppingSpec(patience=5)
    session = session_of(spec_of(reduce_on_plateau=HALVED, early_stopping=stopping), START)
    loss(session, 1.0, 2.0)
    update(session, reduce_on_plateau=ReduceOnPlateauSpec(factor=0.25))
    assert step(session, GRADIENT).learning_rate == 0.1
    assert session.monitors.stopping is not None
    assert session.monitors.stopping.waited == 1
    update(session, early_stopping=EarlyStoppingSpec(patience=6))
    assert session.monitors.stopping.waited == 0
    update(session, reduce_on_plateau=None, early_stopping=None)
    assert (session.monitors.learning_rate_factor, session.monitors.stopped) == (1.0, False)


def test_an_update_lets_a_training_go_on() -> None:
    session = stop_at(1, restore_best=True)
    update(session, early_stopping=session.spec.early_stopping)
    assert refusal(step, session, GRADIENT).reason is Reason.TRAINING_STOPPED
    update(session, early_stopping=EarlyStoppingSpec(patience=2))
    assert step(session, GRADIENT).step == 4


def test_refused_reports_change_nothing() -> None:
    session = session_of(spec_of(reduce_on_plateau=HALVED), START)
    loss(session, 1.0)
    monitors = session.monitors
    assert refusal(session.report_metrics, {"val_loss": 2.0}, expected_step=1).reason is Reason.STEP_MISMATCH
    assert session.monitors == monitors
    assert session.report_metrics({"val_loss": 2.0}, expected_step=0).reduced


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (ReduceOnPlateauSpec, "factor", 1.0),
        (ReduceOnPlateauSpec, "patience", -1),
        (ReduceOnPlateauSpec, "threshold", -0.1),
        (ReduceOnPlateauSpec, "min_learning_rate", math.inf),
        (EarlyStoppingSpec, "min_delta", -1.0),
        (EarlyStoppingSpec, "baseline", math.nan),
        (EarlyStoppingSpec, "start_from", -1),
    ],
)
def test_ranges(kind: Any, field: str, value: float) -> None:
    error = refusal(kind, **{field: value})
    assert (error.reason, error.field) == (Reason.OUT_OF_RANGE, field)


def test_reports_wait_for_the_parameters() -> None:
    store = Store(NumpyBackend())
    session = Session("x", SessionSpec(optimizer=Chosen(Adam())), session_of(spec_of(), START, store).layout,
                      store.backend, pending=["w"])  # fmt: skip
    assert refusal(session.report_metrics, {"val_loss": 1.0}).reason is Reason.PARAMETERS_PENDING
