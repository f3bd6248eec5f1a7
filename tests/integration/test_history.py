"""GetHistory over a real socket: pages, metrics, workers, restarts, snapshots."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest

import optserve
from optserve.specs.enums import StepOutcome
from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_pb2 import NON_FINITE_POLICY_SKIP
from tests.integration.client import Client, expect_refusal, sgd
from tests.support.server import RunningServer, running_server

ONES = {"w": np.ones((2, 3), np.float32)}
NANS = {"w": np.full((2, 3), np.nan, np.float32)}


def read(client: Client, name: str, **request: object) -> pb.GetHistoryResponse:
    return client.sessions.GetHistory(pb.GetHistoryRequest(name=name, **request), timeout=20)


def report(client: Client, name: str, **values: float) -> None:
    metrics = [pb.Metric(name=metric, value=value) for metric, value in values.items()]
    client.sessions.ReportMetrics(pb.ReportMetricsRequest(name=name, metrics=metrics), timeout=20)


def test_steps_and_metrics_are_in_order(client: Client) -> None:
    spec = sgd(0.5)
    spec.gradient.non_finite = NON_FINITE_POLICY_SKIP
    spec.gradient.clip.by_global_norm.max_norm = 1.0
    before = time.time()
    name = client.create(ONES, spec).name
    client.step(name, ONES, worker="a", sequence=1)
    client.step(name, NANS)
    client.step(name, ONES, validate_only=True)
    report(client, name, loss=2.0)
    client.step(name, ONES, worker="a", sequence=1)  # a repeat is no other step
    client.step(name, ONES, worker="b", sequence=1)
    report(client, name, loss=math.inf, acc=0.5)
    page = read(client, name)
    assert [(p.number, p.step, p.outcome, p.worker) for p in page.steps] == [
        (1, 1, pb.STEP_OUTCOME_APPLIED, "a"),
        (2, 1, pb.STEP_OUTCOME_SKIPPED, ""),
        (3, 2, pb.STEP_OUTCOME_APPLIED, "b"),
    ]
    assert page.steps[0].learning_rate == 0.5
    assert page.steps[0].gradient_norm == pytest.approx(math.sqrt(6))
    assert page.steps[0].clipped_gradient_norm == pytest.approx(1.0)
    assert page.steps[1].non_finite_count == 6
    times = [point.time.ToMicroseconds() / 1e6 for point in page.steps]
    assert before - 0.01 <= times[0] <= times[1] <= times[2] <= time.time() + 0.01
    assert (list(page.metrics), page.last_number) == (["loss", "acc"], 3)
    loss = read(client, name, metric="loss")
    assert [(p.number, p.step, p.value) for p in loss.values] == [(1, 1, 2.0), (2, 2, math.inf)]
    assert not loss.steps
    first = read(client, name, page_size=2)
    rest = read(client, name, page_size=2, after_number=first.steps[-1].number)
    assert [*first.steps, *rest.steps] == list(page.steps)
    unknown = read(client, name, metric="los")
    assert (list(unknown.values), unknown.last_number) == ([], 0)


@pytest.mark.parametrize("field", ["after_number", "page_size"])
def test_wrong_numbers(client: Client, field: str) -> None:
    name = client.create(ONES, sgd(0.5)).name
    with expect_refusal() as told:
        read(client, name, **{field: -1})
    assert (told.code.name, told.reason, told.fields) == ("INVALID_ARGUMENT", "OUT_OF_RANGE", [field])
    with expect_refusal() as told:
        read(client, "sessions/missing")
    assert told.reason == "SESSION_NOT_FOUND"


def test_a_session_has_a_bounded_number_of_metrics(client: Client) -> None:
    name = client.create(ONES, sgd(0.5)).name
    metrics = [pb.Metric(name=str(i), value=0.0) for i in range(65)]
    with expect_refusal() as told:
        client.sessions.ReportMetrics(pb.ReportMetricsRequest(name=name, metrics=metrics))
    assert (told.code.name, told.reason, told.fields) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED", ["metrics"])
    assert list(read(client, name).metrics) == []
    client.sessions.ReportMetrics(pb.ReportMetricsRequest(name=name, metrics=metrics[:64]))
    assert len(read(client, name).metrics) == 64


def histories(server: RunningServer, session_id: str) -> tuple[bytes, dict[str, bytes]]:
    with optserve.connect(server.address) as client:
        history = client.session(session_id).history()
        steps = repr(history.steps.tolist()).encode()
        return steps, {name: values.tobytes() for name, values in history.metrics.items()}


@pytest.mark.parametrize("mode", [optserve.DurabilityMode.JOURNAL, optserve.DurabilityMode.SNAPSHOT])
def test_the_history_survives_a_restart(tmp_path: Path, mode: optserve.DurabilityMode) -> None:
    """After a kill under JOURNAL; after SIGTERM, which saves, under SNAPSHOT."""
    with running_server(data_dir=tmp_path) as server:
        with optserve.connect(server.address) as client:
            session = client.create_session(
                ONES, optserve.optimizers.SGD(0.1), session_id="a", durability=optserve.Durability(mode=mode)
            )
            for number in range(1, 6):
                session.step(ONES)
                session.report({"loss": 1 / number})
            session.snapshots.create()
            session.step(ONES)
            session.report({"accuracy": 0.5})
        before = histories(server, "a")
        if mode is optserve.DurabilityMode.JOURNAL:
            server.process.kill()
            server.process.wait(20)
    with running_server(data_dir=tmp_path) as server:
        assert histories(server, "a") == before
        with optserve.connect(server.address) as client:
            session = client.session("a")
            session.snapshots.fork(5, session_id="b")
            session.snapshots.restore(5)
            for one in (client.session("b"), session):
                history = one.history()
                assert history.steps["step"].tolist() == [1, 2, 3, 4, 5]
                assert list(history.metrics) == ["loss"]
            session.step(ONES)
            assert session.history().steps["number"].tolist() == [1, 2, 3, 4, 5, 6]


def test_steps_of_several_workers(server: RunningServer) -> None:
    with optserve.connect(server.address) as client:
        sync = optserve.CoordinationSync(replicas_to_aggregate=1)
        session = client.create_session(ONES, optserve.optimizers.SGD(0.1), coordination=sync)
        with session.join("a") as member:
            for _ in range(3):
                member.step(ONES)
        steps = session.history().steps
        assert steps["contributions"].tolist() == [1, 1, 1]
        assert steps["worker"].tolist() == ["", "", ""]
        damped = client.create_session(
            ONES,
            optserve.optimizers.SGD(0.1),
            coordination=optserve.CoordinationAsync(max_staleness=5),
        )
        with damped.join("a") as one, damped.join("b") as other:
            one.pull()
            other.pull()
            one.step(ONES)
            one.step(ONES)
            other.step(ONES, parameters_step=0)
        steps = damped.history().steps
        assert steps["worker"].tolist() == ["a", "a", "b"]
        assert steps["staleness"].tolist()[-1] == 2
        assert set(steps["outcome"]) == {StepOutcome.APPLIED}


def test_ten_thousand_points_come_in_pages(server: RunningServer) -> None:
    with optserve.connect(server.address) as client:
        session = client.create_session({"w": np.ones(1, np.float32)}, optserve.optimizers.SGD(0.1))
        with session.stream() as stream:
            for _ in range(6000):
                stream.submit({"w": np.ones(1, np.float32)})
        steps = session.history().steps
        assert steps["step"].tolist()[-4096:] == list(range(1905, 6001))
        assert steps["step"].tolist()[0] == 2
