"""State that is restored after a kill, and what the server reported of it before."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_pb2 import DurabilityMode, Session, SessionSpec
from tests.integration.client import Client, expect_refusal, sgd, step_messages
from tests.support.server import RunningServer, run_to_end, running_server

VALUES: dict[str, np.ndarray] = {"w": np.linspace(-1, 1, 1000, dtype=np.float32), "b": np.zeros(3)}
LARGE = {"w": np.linspace(-1, 1, 200_000, dtype=np.float32)}


def gradient(seed: int, values: dict[str, np.ndarray] = VALUES) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(v.shape).astype(v.dtype) for name, v in values.items()}


def adam(**durability: object) -> SessionSpec:
    spec = SessionSpec()
    spec.optimizer.adam.learning_rate = 0.01
    for name, value in durability.items():
        setattr(spec.durability, name, value)
    return spec


@contextmanager
def running(root: Path, **settings: object) -> Iterator[tuple[RunningServer, Client]]:
    with running_server("numpy", data_dir=root, **settings) as server, Client(server.address) as client:
        yield server, client


def kill(server: RunningServer) -> None:
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(10)


def state(client: Client, name: str) -> tuple[Session, dict[str, bytes]]:
    return client.get(name), {n: v.tobytes() for n, v in client.pull(name).items()}


@pytest.mark.parametrize("values", [VALUES, LARGE], ids=["small", "large"])
def test_acknowledged_steps_survive_a_kill(tmp_path: Path, values: dict[str, np.ndarray]) -> None:
    with running(tmp_path) as (server, client):
        session = client.create(values, adam(), session_id="a", request_id="make")
        assert session.spec.durability.mode == DurabilityMode.DURABILITY_MODE_JOURNAL
        results = []
        for number in range(1, 6):
            made = client.step("sessions/a", gradient(number, values), worker="x", sequence=number)
            results.append(made.result)
            assert made.result.durable_step == number
        before = state(client, "sessions/a")
        kill(server)
    with running(tmp_path) as (server, client):
        assert state(client, "sessions/a") == before
        again = client.step("sessions/a", gradient(5, values), worker="x", sequence=5).result
        assert again.replayed
        again.replayed = False
        assert again == results[-1]
        assert client.create(values, adam(), session_id="a", request_id="make") == session
        with expect_refusal() as told:
            client.create(values, adam(), session_id="a")
        assert told.reason == "SESSION_EXISTS"
        client.step("sessions/a", gradient(6, values), worker="x", sequence=6)
        before = state(client, "sessions/a")
        assert server.stop() == 0
    with running(tmp_path) as (_, client):
        assert state(client, "sessions/a") == before


def test_every_change_survives_a_kill(tmp_path: Path) -> None:
    def changes(client: Client) -> list[object]:
        name = "sessions/a"
        answers: list[object] = []
        push = pb.PushHeader(name=name, request_id="push", tensors=["b"], reset_state=True)
        answers.append(client.push(push, np.arange(3.0).tobytes()))
        spec = sgd(0.25)
        spec.reduce_on_plateau.monitor = "loss"
        spec.reduce_on_plateau.patience = 0
        update = pb.UpdateSessionRequest(name=name, request_id="update", spec=spec)
        answers.append(client.sessions.UpdateSession(update, timeout=20))
        for number, loss in enumerate([1.0, 2.0, float("nan")]):
            report = pb.ReportMetricsRequest(name=name, request_id=f"report {number}")
            report.metrics.add(name="loss", value=loss)
            answers.append(client.sessions.ReportMetrics(report, timeout=20))
        return answers

    with running(tmp_path) as (server, client):
        client.create(VALUES, adam(), session_id="a")
        client.step("sessions/a", gradient(1))
        first = changes(client)
        plan = pb.StepPlan(session="sessions/a", tensors=["w"])
        client.stream(plan, step_messages(gradient(2)["w"].tobytes()))
        before = state(client, "sessions/a")
        kill(server)
    with running(tmp_path) as (_, client):
        assert state(client, "sessions/a") == before
        assert [str(answer) for answer in changes(client)] == [str(answer) for answer in first]
        assert state(client, "sessions/a") == before


def test_a_deletion_survives_a_kill(tmp_path: Path) -> None:
    request = pb.DeleteSessionRequest(name="sessions/a", request_id="delete")
    with running(tmp_path) as (server, client):
        client.create(VALUES, session_id="a")
        client.step("sessions/a", gradient(1))
        client.sessions.DeleteSession(request, timeout=20)
        kill(server)
    with running(tmp_path) as (server, client):
        with expect_refusal() as told:
            client.get("sessions/a")
        assert told.reason == "SESSION_NOT_FOUND"
        client.sessions.DeleteSession(request, timeout=20)
        client.create(VALUES, session_id="a")
        before = state(client, "sessions/a")
        kill(server)
    with running(tmp_path) as (_, client):
        assert state(client, "sessions/a") == before


def test_snapshot_durability_says_where_to_go_on(tmp_path: Path) -> None:
    mode = DurabilityMode.DURABILITY_MODE_SNAPSHOT
    with running(tmp_path) as (server, client):
        client.create(VALUES, adam(mode=mode, snapshot_steps=3), session_id="a")
        states, durable = {}, 0
        deadline = time.monotonic() + 20
        for number in range(1, 100):
            durable = client.step("sessions/a", gradient(number)).result.durable_step
            states[number] = state(client, "sessions/a")[1]
            if durable >= 3 or time.monotonic() > deadline:
                break
        assert durable >= 3
        kill(server)
    with running(tmp_path) as (server, client):
        found, values = state(client, "sessions/a")
        assert found.step >= durable
        assert values == states[found.step]
        client.step("sessions/a", gradient(1))
        before = state(client, "sessions/a")
        assert server.stop() == 0  # which saves
    with running(tmp_path) as (_, client):
        after = state(client, "sessions/a")
        assert after[1] == before[1]
        assert after[0].durable_step == after[0].step == before[0].step


def test_a_second_server_says_whose_directory_it_is(tmp_path: Path) -> None:
    with running(tmp_path) as (server, client):
        client.create(VALUES, adam(), session_id="a")
        ended = run_to_end("--data-dir", str(tmp_path), "--port=0", "--metrics-port=off", "--backend=numpy")
        assert ended.returncode == 1
        assert f"in use by another server (process {server.process.pid} on " in ended.stderr
        assert "Traceback" not in ended.stderr
        assert client.step("sessions/a", gradient(1)).result.durable_step == 1


def test_ephemeral_sessions_leave_nothing(tmp_path: Path) -> None:
    mode = DurabilityMode.DURABILITY_MODE_EPHEMERAL
    with running(tmp_path) as (_, client):
        client.create(VALUES, adam(mode=mode), session_id="a")
        assert client.step("sessions/a", gradient(1)).result.durable_step == 0
        assert list((tmp_path / "sessions").iterdir()) == []
    with running(tmp_path, durability="ephemeral") as (_, client):
        assert list(client.sessions.ListSessions(pb.ListSessionsRequest()).sessions) == []
        made = client.create(VALUES, session_id="b")
        assert made.spec.durability.mode == mode
        with expect_refusal() as told:
            spec = adam(mode=DurabilityMode.DURABILITY_MODE_JOURNAL)
            client.sessions.UpdateSession(pb.UpdateSessionRequest(name="sessions/b", spec=spec), timeout=20)
        assert (told.reason, told.fields) == ("CONFLICTING_FIELDS", ["spec.durability.mode"])


def test_a_server_without_a_directory_says_so(client: Client) -> None:
    with expect_refusal() as told:
        client.create(VALUES, adam(mode=DurabilityMode.DURABILITY_MODE_JOURNAL))
    assert (told.reason, told.fields) == ("DURABILITY_UNAVAILABLE", ["spec.durability.mode"])
    made = client.create(VALUES)
    assert made.spec.durability.mode == DurabilityMode.DURABILITY_MODE_EPHEMERAL
    with expect_refusal() as told:
        client.sessions.CreateSnapshot(pb.CreateSnapshotRequest(name=made.name), timeout=20)
    assert told.reason == "DURABILITY_UNAVAILABLE"


def test_a_mode_may_change_between_journal_and_snapshot(tmp_path: Path) -> None:
    journal, snapshot = DurabilityMode.DURABILITY_MODE_JOURNAL, DurabilityMode.DURABILITY_MODE_SNAPSHOT
    with running(tmp_path) as (server, client):
        client.create(VALUES, adam(mode=snapshot), session_id="a")
        for number, mode in enumerate((journal, snapshot, journal)):
            client.step("sessions/a", gradient(2 * number))
            update = pb.UpdateSessionRequest(name="sessions/a", spec=adam(mode=mode))
            client.sessions.UpdateSession(update, timeout=20)
            result = client.step("sessions/a", gradient(2 * number + 1)).result
            assert mode != journal or result.durable_step == result.step
        before = state(client, "sessions/a")
        kill(server)
    with running(tmp_path) as (_, client):
        assert state(client, "sessions/a") == before
