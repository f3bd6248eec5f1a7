"""Reporting metrics through the Python client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import optserve
from optserve import EarlyStopping, MetricMode, ReduceOnPlateau, errors, optimizers

ONE = {"w": np.ones(3)}


@pytest.fixture
def watching(client):
    session = client.create_session(
        {"w": np.arange(3.0)},
        optimizers.SGD(convention=optserve.TORCH, learning_rate=1.0),
        reduce_on_plateau=ReduceOnPlateau(factor=0.5, patience=0),
        early_stopping=EarlyStopping(patience=2, restore_best=True),
    )
    yield session
    session.delete()


def test_a_training_to_its_end(watching):
    assert watching.spec.reduce_on_plateau.patience_rule is optserve.PatienceRule.EXCEEDED
    assert watching.spec.reduce_on_plateau.min_change == 1e-8
    assert watching.spec.early_stopping.mode is MetricMode.MIN
    losses = [3.0, 2.0, 2.5, 2.0]
    reports = []
    for loss in losses:
        watching.step(ONE, timeout=20)
        reports.append(watching.report({"val_loss": loss, "accuracy": 0.5}))
    assert [report.learning_rate for report in reports] == [1.0, 1.0, 0.5, 0.25]
    assert [report.reduced for report in reports] == [False, False, True, True]
    assert [report.stopped for report in reports] == [False, False, False, True]
    assert reports[-1].restored
    assert reports[-1].early_stopping == optserve.StoppingState(2.0, 2, 2, True)
    assert reports[-1].reduce_on_plateau == optserve.PlateauState(2.0, 2, 0, 0, 0.25)
    np.testing.assert_array_equal(watching.pull()["w"], np.arange(3.0) - 2)
    info = watching.get()
    assert (info.ready, info.step) == (False, 4)
    assert info.early_stopping == reports[-1].early_stopping
    assert info.reduce_on_plateau == reports[-1].reduce_on_plateau


def test_after_the_end_an_error_of_its_own_says_so(client, watching):
    for loss in (1.0, 2.0, 2.0):
        report = watching.report({"val_loss": loss})
    assert report.stopped
    with pytest.raises(errors.TrainingStopped) as step:
        watching.step(ONE)
    with pytest.raises(errors.TrainingStopped), watching.stream() as stream:
        stream.step(ONE).result()
    with pytest.raises(errors.TrainingStopped):
        client.session(watching.name).report({"val_loss": 0.0})
    assert step.value.best_step == 0
    assert isinstance(step.value, errors.FailedPrecondition)


def test_before_the_first_value_there_is_no_best(watching):
    report = watching.report({"val_loss": float("nan")})
    assert report.early_stopping == optserve.StoppingState(None, 0, 1, False)
    assert report.reduce_on_plateau.best_value is None


def test_what_cannot_be_reported(watching):
    with pytest.raises(errors.ResourceExhausted) as many:
        watching.report({f"metric {i}": 0.5 for i in range(65)})
    assert (many.value.field, many.value.metadata["limit"]) == ("metrics", "metrics")
    with pytest.raises(errors.StepMismatch) as late:
        watching.report({"val_loss": 0.5}, expected_step=7)
    assert late.value.current_step == 0


def test_a_session_that_watches_nothing_takes_reports(session):
    report = session.report({"val_loss": np.float32(0.5)})
    assert (report.learning_rate, report.reduced, report.stopped) == (1.0, False, False)
    assert (report.reduce_on_plateau, report.early_stopping) == (None, None)


def test_the_history_has_steps_and_metrics(session):
    session.step({"w": np.ones(session.layout["w"].shape, np.float32)})
    report = session.report({"val_loss": 0.5, "accuracy": 1})
    assert report.metrics == {"val_loss": 0.5, "accuracy": 1.0}
    history = session.history()
    assert history.steps[["number", "step", "contributions", "worker"]].tolist()[0][:3] == (1, 1, 0)
    assert history.steps["outcome"].tolist() == [optserve.StepOutcome.APPLIED]
    assert history.steps["gradient_norm"].dtype == np.float64
    assert {name: values["value"].tolist() for name, values in history.metrics.items()} == {
        "val_loss": [0.5],
        "accuracy": [1.0],
    }
    assert history.steps["time"][0] <= history.metrics["val_loss"]["time"][0] <= np.datetime64("now") + 1


def test_a_report_whose_answer_was_lost_is_counted_once(watching, proxy, until):
    with ThreadPoolExecutor(1) as pool, optserve.connect(proxy.address, timeout=20) as client:
        distant = client.session(watching.name)
        distant.report({"val_loss": 1.0})
        proxy.answers.clear()
        answer = pool.submit(distant.report, {"val_loss": 2.0})
        until(lambda: watching.get().early_stopping.waited == 1)
        proxy.cut()
        proxy.answers.set()
        report = answer.result(20)
    assert (report.reduced, report.stopped, report.early_stopping.waited) == (True, False, 1)
    assert watching.get().early_stopping.waited == 1
