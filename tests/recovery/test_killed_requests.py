"""Requests that create, delete and restore a session: made once, wherever the server is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from optserve.v1 import session_service_pb2 as pb
from optserve_server.storage.failpoints import VARIABLE
from tests.integration.client import Client, expect_refusal
from tests.recovery.test_durability import VALUES, adam, gradient, kill, running, state
from tests.support.tiers import slow_unless

NAME = "sessions/a"
PLACES = slow_unless(
    "after-journal-fsync".__eq__,
    ["before-journal-write", "after-journal-fsync", "before-apply", "after-apply", "before-ack"],
)


def create(client: Client) -> object:
    return client.create(VALUES, adam(), session_id="a", request_id="create")


def delete(client: Client) -> object:
    return client.sessions.DeleteSession(pb.DeleteSessionRequest(name=NAME, request_id="delete"), timeout=20)


def restore(client: Client) -> object:
    request = pb.RestoreSnapshotRequest(name=f"{NAME}/snapshots/0", request_id="restore", expected_step=1)
    return client.sessions.RestoreSnapshot(request, timeout=20)


def dies(ask: Callable[[Client], object], client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(client)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("place", PLACES)
def test_a_kill_while_a_session_is_created(tmp_path: Path, place: str) -> None:
    with running(tmp_path, variables={VARIABLE: place}) as (server, client):
        dies(create, client)
        assert server.process.wait(10) == -9
    with running(tmp_path) as (_, client):
        answer = create(client)
        assert create(client) == answer == client.get(NAME)
        assert client.step(NAME, gradient(1)).result.durable_step == 1


@pytest.mark.parametrize("place", PLACES)
def test_a_kill_while_a_session_is_deleted(tmp_path: Path, place: str) -> None:
    with running(tmp_path, variables={VARIABLE: f"{place}:2"}) as (server, client):
        create(client)
        dies(delete, client)
        assert server.process.wait(10) == -9
    with running(tmp_path) as (server, client):
        for _ in range(2):
            delete(client)
        with expect_refusal() as told:
            client.get(NAME)
        assert told.reason == "SESSION_NOT_FOUND"
        # A repeat deletes no session that was made since.
        client.create(VALUES, adam(), session_id="a", request_id="another")
        delete(client)
        before = state(client, NAME)
        kill(server)
    with running(tmp_path) as (_, client):
        delete(client)
        assert state(client, NAME) == before


@pytest.mark.parametrize("place", PLACES)
def test_a_kill_while_a_session_is_restored(tmp_path: Path, place: str) -> None:
    with running(tmp_path, variables={VARIABLE: f"{place}:3"}) as (server, client):
        created = create(client)
        values = client.pull(NAME)["w"].tobytes()
        client.step(NAME, gradient(1))
        dies(restore, client)
        assert server.process.wait(10) == -9
    with running(tmp_path) as (server, client):
        assert client.get(NAME).step == (1 if place == "before-journal-write" else 0)
        answer = restore(client)
        assert client.get(NAME) == created
        assert client.pull(NAME)["w"].tobytes() == values
        client.step(NAME, gradient(2))
        assert restore(client) == answer
        before = state(client, NAME)
        kill(server)
    with running(tmp_path) as (_, client):
        assert restore(client) == answer
        assert state(client, NAME) == before
