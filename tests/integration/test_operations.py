"""What operators see: metrics, health, readiness, logs, and the events of a session."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import optserve
from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_pb2 import EXPIRY_ACTION_DELETE, SessionSpec
from optserve_server.operations import metrics
from tests.integration.client import Client, expect_refusal, plan_message, sgd, step_messages
from tests.service.sessions.support import session_of, spec_of
from tests.support.server import RunningServer, running_server

ROOT = Path(__file__).parents[2]
VALUES = {"w": np.ones(4, np.float32)}
GRADIENT = np.ones(4, np.float32).tobytes()
BIG = {"w": np.ones(200_000, np.float32)}


def page(server: RunningServer, path: str) -> tuple[int, str]:
    (told,) = [line for line in server.log() if line["message"] == "listening"]
    request = urllib.request.Request(f"http://127.0.0.1:{told['metrics_port']}{path}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert isinstance(answer, HTTPResponse)
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(server: RunningServer) -> dict[tuple[str, str], float]:
    """Every sample by its name and labels, sorted: ``("optserve_steps_total", "outcome=APPLIED")``."""
    status, text = page(server, "/metrics")
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if v)
            found[sample.name, labels] = sample.value
    return found


@pytest.fixture
def observed() -> Iterator[RunningServer]:
    with running_server(metrics_port=0) as server:
        yield server


def test_metrics_count_steps_bytes_calls_and_memory(observed: RunningServer) -> None:
    with Client(observed.address) as client:
        session = client.create(VALUES)
        client.stream(session.name, (m for _ in range(3) for m in step_messages(GRADIENT)))
        client.step(session.name, VALUES)
        client.step(session.name, VALUES, validate_only=True)
        with expect_refusal():
            client.get("sessions/nobody")
        big = client.create(BIG)
        client.step(big.name, BIG)
        found = samples(observed)
        service = "method=/optserve.v1.SessionService"
        assert found["optserve_steps_total", "outcome=APPLIED"] == 5
        assert found["optserve_steps_total", "outcome=VALIDATED"] == 1
        assert found["optserve_calls_total", f"code=OK,{service}/StepStream"] == 1
        assert found["optserve_calls_total", f"code=SESSION_NOT_FOUND,{service}/GetSession"] == 1
        assert found["optserve_call_seconds_count", f"{service}/Step"] == 3
        assert found["optserve_step_phase_seconds_count", "phase=compute"] >= 6
        assert found["optserve_step_phase_seconds_count", "phase=receive"] == 3
        assert found["optserve_step_phase_seconds_count", "phase=respond"] == 3
        assert 0 < found["optserve_step_phase_seconds_sum", "phase=compute"] < 10
        assert found["optserve_message_bytes_received_total", ""] > 1_600_000
        assert found["optserve_held_sessions", ""] == 2
        assert found["optserve_held_resident_bytes", ""] >= 800_000
        assert found["optserve_held_bytes_in_flight", ""] == 0
        assert found["optserve_process_memory_bytes", ""] > 10e6
        client.sessions.DeleteSession(pb.DeleteSessionRequest(name=big.name), timeout=5)
        found = samples(observed)
        assert found["optserve_steps_total", "outcome=APPLIED"] == 5
        assert found["optserve_held_sessions", ""] == 1
        assert found["optserve_held_resident_bytes", ""] < 20_000


def test_members_have_metrics(observed: RunningServer) -> None:
    with optserve.connect(observed.address) as client:
        coordination = optserve.CoordinationAsync()
        session = client.create_session(
            VALUES, optserve.optimizers.SGD(), session_id="shared", coordination=coordination
        )
        a, b = session.join("a"), session.join("b")
        a.step(VALUES)
        b.step(VALUES)
        found = samples(observed)
        of_a, of_b = (f"session=shared,worker={worker}" for worker in "ab")
        assert found["optserve_workers", "state=ACTIVE"] == 2
        assert found["optserve_workers", "state=WAITING"] == 0
        assert found["optserve_worker_contributions", of_a] == 1
        assert found["optserve_worker_staleness", of_b] == 1
        assert found["optserve_worker_steps_behind", of_a] == 1
        assert found["optserve_worker_waits", of_b] == 0
        a.leave()
        assert not [key for key in samples(observed) if "worker=a" in key[1]]
        assert samples(observed)["optserve_workers", "state=ACTIVE"] == 1
        b.close()


def test_further_members_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_WORKER_SERIES", 2)
    session = session_of(spec_of(), {"w": np.zeros(2)})
    for worker in "abc":
        session.coordinator.membership.join(worker, 10.0)
    namespace = SimpleNamespace(name="", store=SimpleNamespace(list_sessions=lambda: [session]))
    server = SimpleNamespace(namespaces=[namespace])
    families = {family.name: family for family in metrics.ServerCollector(server)._worker_metrics()}  # type: ignore[arg-type]
    assert [sample.value for sample in families["optserve_workers"].samples] == [3, 0]
    assert [sample.labels["worker"] for sample in families["optserve_worker_waits"].samples] == ["a", "b"]


def test_health_and_readiness_while_the_server_drains(observed: RunningServer) -> None:
    """A process that drains is healthy, and not ready."""
    over = threading.Event()

    def messages(name: str) -> Iterator[pb.StepStreamRequest]:
        yield plan_message(name)
        yield from list(step_messages(GRADIENT))[:1]
        over.wait(20)

    assert page(observed, "/healthz") == (200, "ok\n")
    status, body = page(observed, "/readyz")
    assert (status, json.loads(body)) == (200, {"ready": True, "troubles": []})
    assert page(observed, "/elsewhere")[0] == 404
    with Client(observed.address) as client:
        session = client.create(VALUES)
        stream = client.sessions.StepStream(messages(session.name), timeout=20)
        next(stream)  # the plan's answer: until then the server has not read the step, and may end the stream
        client.get(session.name)
        observed.process.terminate()
        deadline = time.monotonic() + 10
        while page(observed, "/readyz")[0] == 200:
            assert time.monotonic() < deadline
        status, body = page(observed, "/readyz")
        assert (status, json.loads(body)["troubles"]) == (503, ["the server is shutting down"])
        assert page(observed, "/healthz")[0] == 200
        stream.cancel()
        over.set()
        assert observed.process.wait(20) == 0


def test_a_second_server_does_without_the_usual_port() -> None:
    with running_server(metrics_port=0) as first:
        (told,) = [line for line in first.log() if line["message"] == "listening"]
        with (
            pytest.raises(RuntimeError, match="did not start"),
            running_server(metrics_port=told["metrics_port"]),
        ):
            pass


def watch(client: Client, name: str) -> Iterator[pb.WatchSessionResponse]:
    events = client.sessions.WatchSession(pb.WatchSessionRequest(name=name), timeout=60)
    assert next(events).began.name == name
    return events


def test_a_watcher_sees_what_happens_in_order(client: Client) -> None:
    session = client.create(VALUES)
    events = watch(client, session.name)
    client.step(session.name, VALUES, worker="w", sequence=1)
    client.step(session.name, VALUES, worker="w", sequence=1)
    client.step(session.name, VALUES, validate_only=True)
    client.stream(pb.StepPlan(session=session.name, worker="s"), step_messages(GRADIENT, sequence=1))
    client.push(pb.PushHeader(name=session.name), GRADIENT)
    client.sessions.UpdateSession(pb.UpdateSessionRequest(name=session.name, spec=stopping()), timeout=5)
    report = pb.ReportMetricsRequest(name=session.name)
    report.metrics.add(name="val_loss", value=1.0)
    client.sessions.ReportMetrics(report, timeout=5)
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name), timeout=5)
    told = list(events)
    assert [event.WhichOneof("event") for event in told] == [
        "step",
        "step",
        "pushed",
        "updated",
        "reported",
        "deleted",
    ]
    assert [event.step.step for event in told[:2]] == [1, 2]
    assert [(event.step.worker, event.step.sequence) for event in told[:2]] == [("w", 1), ("s", 1)]
    assert told[2].pushed.step == 2
    assert told[3].updated.spec.optimizer.sgd.learning_rate == 0.25
    assert told[4].reported.early_stopping.best_value == 1.0
    assert not told[5].deleted.expired
    assert all(event.dropped == 0 for event in told)
    times = [event.time.ToDatetime() for event in told]
    assert times == sorted(times)


def stopping() -> SessionSpec:
    spec = sgd(0.25)
    spec.early_stopping.patience = 5
    return spec


def test_a_large_sessions_steps_are_seen_too(client: Client) -> None:
    """They are taken in another thread."""
    session = client.create(BIG)
    events = watch(client, session.name)
    client.step(session.name, BIG)
    assert next(events).step.step == 1


def test_a_slow_watcher_misses_the_oldest_and_is_told_how_many() -> None:
    """1024 events wait; what fits into the network's own buffers is read as well, so they are large."""
    steps, many = 4000, {f"tensor-{i:03}": np.ones(1, np.float32) for i in range(300)}
    with running_server(metrics_port=0) as server, Client(server.address) as client:
        session = client.create(many)
        events = watch(client, session.name)
        gradient = np.ones(300, np.float32).tobytes()
        plan = plan_message(session.name, per_tensor_norms=True)
        sent = (m for _ in range(steps) for m in step_messages(gradient))
        for _ in client.sessions.StepStream(itertools.chain([plan], sent), timeout=240):
            pass
        client.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name), timeout=5)
        told = list(events)
        assert told[-1].WhichOneof("event") == "deleted"
        dropped = sum(event.dropped for event in told)
        assert dropped > 0
        assert dropped + len(told) == steps + 1
        seen = [event.step.step for event in told[:-1]]
        assert seen == sorted(seen)
        assert samples(server)["optserve_events_dropped_total", ""] == dropped


def test_nobody_watches_what_is_not_there(client: Client) -> None:
    with expect_refusal() as told:
        list(client.sessions.WatchSession(pb.WatchSessionRequest(name="sessions/nobody"), timeout=5))
    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")


def test_a_drain_ends_a_watch() -> None:
    with running_server(grace_seconds=60) as server, Client(server.address) as client:
        events = watch(client, client.create(VALUES).name)
        server.process.terminate()
        with expect_refusal() as told:
            next(events)
        assert told.reason == "SHUTTING_DOWN"
        assert server.process.wait(10) == 0


def test_a_lease_deletes_what_nobody_uses_and_tells_watchers(observed: RunningServer) -> None:
    """Only where the specification says so; and use keeps alive."""
    spec = sgd()
    spec.lease.seconds, spec.lease.on_expiry = 1.0, EXPIRY_ACTION_DELETE
    lasting = sgd()
    lasting.lease.seconds = 1.0
    with Client(observed.address) as client:
        leased, kept = client.create(VALUES, spec), client.create(VALUES, lasting)
        assert leased.spec.lease.on_expiry == EXPIRY_ACTION_DELETE
        assert kept.spec.lease.on_expiry != EXPIRY_ACTION_DELETE
        events = watch(client, leased.name)
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            client.step(leased.name, VALUES)
            time.sleep(0.1)
        told = list(events)
        assert {event.WhichOneof("event") for event in told[:-1]} == {"step"}
        assert told[-1].deleted.expired
        with expect_refusal() as missing:
            client.get(leased.name)
        assert missing.reason == "SESSION_NOT_FOUND"
        assert client.get(kept.name).step == 0
        assert samples(observed)["optserve_sessions_expired_total", "action=DELETE"] == 1


def test_the_dashboard_asks_for_metrics_that_there_are(observed: RunningServer) -> None:
    dashboard = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for text in expressions for name in re.findall(r"optserve_\w+", text)}
    status, text = page(observed, "/metrics")
    assert status == 200
    served = {family.name for family in text_string_to_metric_families(text)}
    bare = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked}
    assert len(bare) >= 14
    assert bare <= served
