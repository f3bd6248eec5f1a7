"""Reported metrics over a real socket."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from optserve.v1 import session_pb2
from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Client, expect_refusal, sgd
from tests.support.server import running_server

ONES = {"w": np.ones((2, 3), np.float32)}


@pytest.fixture
def session(client: Client) -> Iterator[session_pb2.Session]:
    spec = sgd(0.5)
    spec.reduce_on_plateau.patience, spec.reduce_on_plateau.factor = 1, 0.5
    spec.early_stopping.patience, spec.early_stopping.restore_best = 3, True
    session = client.create(ONES, spec)
    yield session
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))


def report(name: str, request_id: str = "", **metrics: float) -> pb.ReportMetricsRequest:
    values = [pb.Metric(name=metric, value=value) for metric, value in metrics.items()]
    return pb.ReportMetricsRequest(name=name, request_id=request_id, metrics=values)


def test_a_session_says_what_it_watches(client: Client, session: session_pb2.Session) -> None:
    plateau, stopping = session.spec.reduce_on_plateau, session.spec.early_stopping
    assert (plateau.monitor, plateau.threshold, plateau.patience) == ("val_loss", 1e-4, 1)
    assert plateau.patience_rule == session_pb2.PATIENCE_RULE_REACHED
    assert (stopping.monitor, stopping.mode) == ("val_loss", session_pb2.METRIC_MODE_MIN)
    assert not stopping.HasField("baseline")
    assert session.reduce_on_plateau == session_pb2.ReduceOnPlateauState(learning_rate_factor=1)
    assert session.early_stopping == session_pb2.EarlyStoppingState()


def test_from_the_first_report_to_the_end(client: Client, session: session_pb2.Session) -> None:
    client.step(session.name, ONES)
    answer = client.sessions.ReportMetrics(report(session.name, val_loss=2.0, accuracy=0.5))
    assert (answer.step, answer.learning_rate, answer.reduced, answer.stopped) == (1, 0.5, False, False)
    assert (answer.early_stopping.best_value, answer.early_stopping.best_step) == (2.0, 1)
    client.step(session.name, ONES)
    answer = client.sessions.ReportMetrics(report(session.name, val_loss=2.0))
    assert (answer.learning_rate, answer.reduced) == (0.25, True)
    assert client.step(session.name, ONES).result.learning_rate == 0.25
    client.sessions.ReportMetrics(report(session.name, val_loss=math.nan))
    answer = client.sessions.ReportMetrics(report(session.name, val_loss=3.0))
    assert (answer.stopped, answer.restored, answer.step) == (True, True, 3)
    assert (client.pull(session.name)["w"] == 0.5).all()
    now = client.get(session.name)
    assert (now.state, now.step) == (session_pb2.SESSION_STATE_STOPPED, 3)
    assert now.early_stopping == answer.early_stopping
    assert now.reduce_on_plateau == answer.reduce_on_plateau
    for refusal in (lambda: client.step(session.name, ONES),
                    lambda: client.sessions.ReportMetrics(report(session.name, val_loss=0.0))):  # fmt: skip
        with expect_refusal() as told:
            refusal()
        assert (told.code.name, told.reason) == ("FAILED_PRECONDITION", "TRAINING_STOPPED")
        assert told.metadata == {"monitor": "val_loss", "best_step": "1"}
    client.sessions.UpdateSession(pb.UpdateSessionRequest(name=session.name, spec=sgd(0.5)))
    assert client.step(session.name, ONES).result.step == 4


def test_a_report_is_counted_once(client: Client, session: session_pb2.Session) -> None:
    client.sessions.ReportMetrics(report(session.name, val_loss=1.0))
    request = report(session.name, f"{session.name}-2", val_loss=2.0)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(client.sessions.ReportMetrics, [request] * 8))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0].early_stopping.waited == 1
    assert client.get(session.name).early_stopping.waited == 1
    request.metrics[0].value = 3.0
    with expect_refusal() as told:
        client.sessions.ReportMetrics(request)
    assert told.reason == "REQUEST_ID_REUSED"
    assert client.get(session.name).early_stopping.waited == 1


@pytest.mark.parametrize(
    ("metrics", "reason", "field"),
    [
        ([], "FIELD_REQUIRED", "metrics"),
        ([pb.Metric(value=1.0)], "FIELD_REQUIRED", "metrics[0].name"),
        ([pb.Metric(name="a\n", value=1.0)], "MALFORMED_NAME", "metrics[0].name"),
        ([pb.Metric(name="val_loss")], "FIELD_REQUIRED", "metrics[0].value"),
        (
            [pb.Metric(name="a", value=1.0), pb.Metric(name="a", value=1.0)],
            "CONFLICTING_FIELDS",
            "metrics[1].name",
        ),
    ],
)
def test_wrong_metrics(
    client: Client, session: session_pb2.Session, metrics: list[pb.Metric], reason: str, field: str
) -> None:
    with expect_refusal() as told:
        client.sessions.ReportMetrics(pb.ReportMetricsRequest(name=session.name, metrics=metrics))
    assert (told.code.name, told.reason, told.fields) == ("INVALID_ARGUMENT", reason, [field])
    assert client.get(session.name) == session


def test_wrong_names_and_steps(client: Client, session: session_pb2.Session) -> None:
    with expect_refusal() as told:
        client.sessions.ReportMetrics(report("sessions/nobody", val_loss=1.0))
    assert told.reason == "SESSION_NOT_FOUND"
    request = report(session.name, val_loss=1.0)
    request.expected_step = 3
    with expect_refusal() as told:
        client.sessions.ReportMetrics(request)
    assert (told.code.name, told.reason, told.fields) == ("ABORTED", "STEP_MISMATCH", ["expected_step"])


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("factor", 1.0, "OUT_OF_RANGE"),
        ("patience", -1, "OUT_OF_RANGE"),
        ("threshold_mode", 9, "UNSUPPORTED_VALUE"),
    ],
)
def test_wrong_specifications(client: Client, field: str, value: float, reason: str) -> None:
    spec = sgd()
    setattr(spec.reduce_on_plateau, field, value)
    with expect_refusal() as told:
        client.create(ONES, spec)
    assert (told.reason, told.fields) == (reason, [f"spec.reduce_on_plateau.{field}"])


def test_a_copy_of_the_best_parameters_counts_against_the_limit() -> None:
    with running_server("numpy", max_session_bytes=24) as server, Client(server.address) as client:
        client.create(ONES, sgd())
        spec = sgd()
        spec.early_stopping.restore_best = True
        with expect_refusal() as told:
            client.create(ONES, spec)
        assert told.metadata == {"limit": "max_session_bytes", "value": "24"}
