"""Requests that make and delete snapshots: done once, and answered the same, whatever dies in between."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_pb2 import DurabilityMode
from optserve_server.storage.failpoints import VARIABLE
from tests.integration.client import Client, expect_refusal
from tests.recovery.test_durability import VALUES, adam, gradient, kill, running
from tests.recovery.test_snapshots import NAME, list_snapshots
from tests.support.tiers import slow_unless

CREATE = pb.CreateSnapshotRequest(name=NAME, request_id="create")


def create(client: Client) -> pb.CreateSnapshotResponse:
    return client.sessions.CreateSnapshot(CREATE, timeout=20)


def delete(client: Client, step: int, request_id: str = "") -> None:
    request = pb.DeleteSnapshotRequest(name=f"{NAME}/snapshots/{step}", request_id=request_id)
    client.sessions.DeleteSnapshot(request, timeout=20)


def list_kept_steps(client: Client) -> list[int]:
    return [snapshot.step for snapshot in list_snapshots(client) if snapshot.kept]


def train(client: Client, mode: DurabilityMode.ValueType) -> None:
    client.create(VALUES, adam(mode=mode, snapshot_seconds=1e6), session_id="a")
    for number in range(1, 4):
        client.step(NAME, gradient(number))


MODES = [DurabilityMode.DURABILITY_MODE_JOURNAL, DurabilityMode.DURABILITY_MODE_SNAPSHOT]


@pytest.mark.parametrize("mode", MODES, ids=["journal", "snapshot"])
def test_answers_survive_a_kill(tmp_path: Path, mode: DurabilityMode.ValueType) -> None:
    """And a second one, and a deletion of what was made."""
    with running(tmp_path) as (server, client):
        train(client, mode)
        answer = create(client)
        assert answer.snapshot.step == 3
        kill(server)
    with running(tmp_path) as (server, client):
        client.step(NAME, gradient(4))
        assert create(client) == answer
        assert list_snapshots(client)[0] == answer.snapshot
        assert list_kept_steps(client) == [3]
        with expect_refusal() as told:
            other = pb.CreateSnapshotRequest(name="sessions/b", request_id="create")
            client.create(VALUES, session_id="b")
            client.sessions.CreateSnapshot(other, timeout=20)
        assert told.reason == "REQUEST_ID_REUSED"
        delete(client, 3, "delete")
        assert list_kept_steps(client) == []
        kill(server)
    with running(tmp_path) as (_, client):
        client.step(NAME, gradient(5))
        assert create(client) == answer
        assert list_kept_steps(client) == []
        delete(client, 3, "delete")


@pytest.mark.parametrize(
    ("failpoint", "step"),
    [
        ("before-apply", 3),
        *(
            pytest.param(failpoint, step, marks=pytest.mark.slow)
            for failpoint, step in {"before-journal-write": 4, "after-apply": 3, "before-ack": 3}.items()
        ),
    ],
)
def test_a_kill_while_a_snapshot_is_made(tmp_path: Path, failpoint: str, step: int) -> None:
    """It is there once: as it was when the server died, or as it is when it is asked for again."""
    with running(tmp_path) as (server, client):
        train(client, MODES[0])
        kill(server)
    with running(tmp_path, variables={VARIABLE: failpoint}) as (server, client):
        with pytest.raises(grpc.RpcError):
            create(client)
        assert server.process.wait(10) == -9
    with running(tmp_path) as (server, client):
        client.step(NAME, gradient(4))
        answer = create(client)
        assert answer.snapshot.step == step
        assert [s for s in list_snapshots(client) if s.kept] == [answer.snapshot]
        kill(server)
    with running(tmp_path) as (_, client):
        assert create(client) == answer
        assert list_kept_steps(client) == [step]


@pytest.mark.parametrize(
    "failpoint", slow_unless("before-apply".__eq__, ["before-apply", "after-apply", "before-ack"])
)
def test_a_kill_while_a_snapshot_is_deleted(tmp_path: Path, failpoint: str) -> None:
    """The deletion was recorded, so it is completed; a snapshot that is made again stays."""
    with running(tmp_path) as (server, client):
        train(client, MODES[0])
        create(client)
        kill(server)
    with running(tmp_path, variables={VARIABLE: failpoint}) as (server, client):
        with pytest.raises(grpc.RpcError):
            delete(client, 3, "delete")
        assert server.process.wait(10) == -9
    with running(tmp_path) as (server, client):
        assert list_kept_steps(client) == []
        delete(client, 3, "delete")
        client.sessions.CreateSnapshot(pb.CreateSnapshotRequest(name=NAME), timeout=20)
        assert list_kept_steps(client) == [3]
        kill(server)
    with running(tmp_path) as (_, client):
        delete(client, 3, "delete")
        assert list_kept_steps(client) == [3]
