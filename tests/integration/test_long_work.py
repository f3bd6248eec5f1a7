"""Work that takes minutes ends when its caller leaves, and holds up neither others nor the server's end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from optserve_server.rpc.execution.execution import MAX_CREATIONS
from tests.integration.client import Client, expect_refusal, sgd
from tests.integration.test_namespaces import token_for
from tests.integration.test_operations import samples
from tests.support.server import RunningServer, running_server
from tests.support.watching import resident, wait_until

VALUES = {"w": np.ones(4, np.float32)}

SIZE = 10_000
"""Rows and columns of a matrix whose orthogonal initial value takes a minute or more in one thread."""

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}

MATRIX_BYTES = SIZE * SIZE * 8


def long_creation(session_id: str, size: int = SIZE, **fields: Any) -> pb.CreateSessionRequest:
    request = pb.CreateSessionRequest(session_id=session_id, spec=sgd(), **fields)
    drawn = request.parameters.add(name="w").initializer
    drawn.dtype, drawn.shape[:] = tensor_pb2.DATA_TYPE_FLOAT32, [size, size]
    drawn.spec.orthogonal.SetInParent()
    return request


def begin_long_work(client: Client, server: RunningServer, request: pb.CreateSessionRequest) -> Any:
    """Calls CreateSession, and returns the call when its work has begun."""
    before = resident(server.process.pid)
    call = client.sessions.CreateSession.future(request, timeout=120)
    wait_until(lambda: resident(server.process.pid) > before + MATRIX_BYTES // 2, 60)
    return call


def list_ids(client: Client) -> list[str]:
    listed = client.sessions.ListSessions(pb.ListSessionsRequest(), timeout=20)
    return [session.name.removeprefix("sessions/") for session in listed.sessions]


@contextlib.contextmanager
def server_and_client(**flags: Any) -> Iterator[tuple[RunningServer, Client]]:
    with running_server(variables=ONE_THREAD, **flags) as server, Client(server.address) as client:
        yield server, client


def test_an_initializer_ends_when_its_caller_leaves() -> None:
    with server_and_client() as (server, client):
        before = resident(server.process.pid)
        call = begin_long_work(client, server, long_creation("left"))
        call.cancel()
        wait_until(lambda: resident(server.process.pid) < before + MATRIX_BYTES // 4)
        client.create(VALUES, session_id="left")
        assert list_ids(client) == ["left"]
        assert client.pull("sessions/left")["w"].shape == (4,)


def test_a_request_with_an_id_is_abandoned_later() -> None:
    with server_and_client(module="tests.integration.impatient_server") as (server, client):
        before = resident(server.process.pid)
        call = begin_long_work(client, server, long_creation("left", request_id="mine"))
        call.cancel()
        wait_until(lambda: resident(server.process.pid) < before + MATRIX_BYTES // 4)
        repeat = begin_long_work(client, server, long_creation("left", request_id="mine"))
        repeat.cancel()
        wait_until(lambda: resident(server.process.pid) < before + MATRIX_BYTES // 4)
        assert list_ids(client) == []


def test_a_repeat_gets_the_result_of_work_whose_first_caller_left() -> None:
    flags = {"module": "tests.integration.impatient_server", "metrics_port": 0}
    with server_and_client(**flags) as (server, client):
        request = long_creation("kept", 2000, request_id="mine")
        first = client.sessions.CreateSession.future(request, timeout=120)
        wait_until(lambda: samples(server)["optserve_calls_waiting", ""] == 1)
        first.cancel()
        answer = client.sessions.CreateSession(request, timeout=120)
        assert answer.session.name == "sessions/kept"
        assert client.sessions.CreateSession(request, timeout=120) == answer


def test_queued_work_of_callers_who_left_is_not_begun(tmp_path: Path) -> None:
    """Both of a namespace's threads are busy: what waits for them is dropped, and others are served."""
    tokens = tmp_path / "tokens.toml"
    alice, bob = (token_for(tokens, name, "--name", name) for name in ("alice", "bob"))
    flags = {"tokens_file": tokens, "metrics_port": 0}
    with (
        running_server(variables=ONE_THREAD, **flags) as server,
        Client(server.address, token=alice) as busy,
        Client(server.address, token=bob) as other,
    ):
        running = [
            busy.sessions.CreateSession.future(long_creation(f"long-{n}", SIZE), timeout=120)
            for n in range(MAX_CREATIONS)
        ]
        wait_until(lambda: samples(server)["optserve_calls_waiting", ""] == MAX_CREATIONS)
        queued = [busy.sessions.CreateSession.future(long_creation(f"queued-{n}", 8)) for n in range(20)]
        wait_until(lambda: samples(server)["optserve_calls_waiting", ""] == MAX_CREATIONS + len(queued), 60)
        name = other.create(VALUES).name
        assert other.step(name, VALUES).result.step == 1
        for call in queued:
            call.cancel()
        wait_until(lambda: samples(server)["optserve_calls_waiting", ""] == MAX_CREATIONS)
        assert not any(call.done() for call in running)
        for call in running:
            call.cancel()
        busy.create(VALUES, session_id="last")  # which waits for those before it
        assert list_ids(busy) == ["last"]


@pytest.mark.parametrize("key", ["", "mine"])
def test_a_server_stops_within_its_grace_whatever_runs(key: str, tmp_path: Path) -> None:
    with server_and_client(grace_seconds=0.5, data_dir=tmp_path) as (server, client):
        name = client.create(VALUES, session_id="stepped").name
        assert client.step(name, VALUES).result.step == 1
        call = begin_long_work(client, server, long_creation("long", request_id=key))
        assert server.stop() == 0
        with expect_refusal() as told:
            call.result()
        assert told.reason == "SHUTTING_DOWN"
    with running_server(data_dir=tmp_path) as server, Client(server.address) as client:
        assert list_ids(client) == ["stepped"]
        assert client.get("sessions/stepped").step == 1
