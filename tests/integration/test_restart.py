"""Graceful restarts: every call gets a reason, loops continue, and the server ends within its grace."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np

from optserve import errors
from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from optserve_server.rpc.authentication import tokens
from tests.integration.client import Client, Refusal, refusal, sgd
from tests.support.server import RunningServer, running_server

VALUES = {"w": np.ones(100, np.float32)}


def test_restarts_end_no_loop_and_tell_every_call(tmp_path: Path, unused_port: int) -> None:
    command = [sys.executable, "-m", "tests.integration.restarted_loops", str(tmp_path), str(unused_port)]
    told = json.loads(subprocess.run(command, check=True, timeout=120, stdout=subprocess.PIPE).stdout)
    # While no server listens, there is no connection either.
    assert set(told) <= {"SHUTTING_DOWN", "UNAVAILABLE"}


def test_cancellations_of_the_other_end_are_tried_again() -> None:
    def make_failure(details: str) -> Any:
        return SimpleNamespace(
            code=lambda: grpc.StatusCode.CANCELLED, details=lambda: details, trailing_metadata=tuple
        )

    for details in ("CANCELLED", "Received RST_STREAM with error code 8"):
        assert type(errors.from_call(make_failure(details))) is errors.Unavailable
    assert type(errors.from_call(make_failure("Locally cancelled by application!"))) is errors.Cancelled


def slow_session() -> pb.CreateSessionRequest:
    """A request for a session whose initial values take many seconds."""
    request = pb.CreateSessionRequest(spec=sgd())
    for number in range(20):
        parameter = request.parameters.add(name=f"w{number}")
        parameter.initializer.shape.extend([2500, 2500])
        parameter.initializer.dtype = tensor_pb2.DATA_TYPE_FLOAT32
        parameter.initializer.spec.orthogonal.SetInParent()
    return request


@contextlib.contextmanager
def busy_server(tmp_path: Path, **flags: object) -> Iterator[tuple[RunningServer, list[Any], str]]:
    """A server that makes slow sessions of one namespace; gives the calls, and a token of another."""
    path = tmp_path / "tokens.toml"
    busy, other = tokens.add_token(path, "busy", "busy"), tokens.add_token(path, "other", "other")
    with running_server(tokens_file=path, **flags) as server, Client(server.address, token=busy) as client:
        calls = [client.sessions.CreateSession.future(slow_session(), timeout=100) for _ in range(4)]
        yield server, calls, other


def test_a_slow_session_delays_no_other_namespace(tmp_path: Path) -> None:
    with (
        busy_server(tmp_path, grace_seconds=0) as (server, calls, token),
        Client(server.address, token=token) as client,
    ):
        for _ in range(5):
            began = time.monotonic()
            name = client.create(VALUES).name
            snapshot = pb.ForkSessionRequest(name=name)
            client.sessions.ForkSession(snapshot, timeout=20)
            assert time.monotonic() - began < 3
        assert not any(one.done() for one in calls)


def test_a_server_ends_within_its_grace_whatever_runs(tmp_path: Path) -> None:
    with busy_server(tmp_path, grace_seconds=1, data_dir=tmp_path / "data") as (server, calls, token):
        with Client(server.address, token=token) as client:
            client.create(VALUES)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5
        told = [refusal(one.exception(10)) for one in calls]
        assert {(met.reason, met.applied) for met in told} == {("SHUTTING_DOWN", "unknown")}
        assert {met.retry_seconds for met in told} == {1.0}
        (cut,) = [line for line in server.log() if line["message"] == "calls cut"]
        assert cut["methods"] == {"/optserve.v1.SessionService/CreateSession": 4}


def test_one_session_of_each_id(tmp_path: Path) -> None:
    def create(client: Client) -> Refusal | None:
        try:
            client.create(VALUES, session_id="one")
        except grpc.RpcError as error:
            return refusal(error)
        return None

    with running_server(data_dir=tmp_path) as server, Client(server.address) as client:
        with ThreadPoolExecutor(16) as pool:
            told = list(pool.map(create, [client] * 16))
        assert told.count(None) == 1
        assert {met.reason for met in told if met is not None} == {"SESSION_EXISTS"}
