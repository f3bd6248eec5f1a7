"""The server as a process: start, log and ports, and stop."""

from __future__ import annotations

import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from optserve.v1 import session_service_pb2 as pb
from optserve_server import __version__
from tests.integration.client import Client, expect_refusal, plan_message, sgd, step_messages
from tests.support.server import run_to_end, running_server

SERVICES = {f"optserve.v1.{name}Service" for name in ("Session", "Function", "Capabilities")}
VALUES = {"w": np.zeros(4, np.float32)}


def test_health_knows_every_service(client: Client) -> None:
    stub = health_pb2_grpc.HealthStub(client.channel)
    for service in ("", *SERVICES):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services(client: Client) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=20)
    assert {service.name for service in answer.list_services_response.service} >= SERVICES


def test_a_request_keeps_its_id(client: Client) -> None:
    call = client.sessions.ListSessions.with_call
    _, ended = call(pb.ListSessionsRequest(), metadata=(("x-request-id", "mine"),))
    assert dict(ended.trailing_metadata())["x-request-id"] == "mine"
    _, ended = call(pb.ListSessionsRequest(), metadata=(("x-request-id", "not one word"),))
    assert dict(ended.trailing_metadata())["x-request-id"] not in ("", "not one word")


def test_calls_are_logged_as_json() -> None:
    """Unary calls that succeed are logged at debug, failures and streams at info."""
    with running_server("numpy", log_level="debug") as server, Client(server.address) as client:
        client.create(VALUES, session_id="logged")
        client.step("sessions/logged", VALUES, worker="w", sequence=1)
        with expect_refusal():
            client.get("sessions/missing")
        assert server.stop() == 0
        made, stepped, missed = [line for line in server.log() if line["message"].startswith("/optserve.v1.")]
    assert (made["message"], made["code"]) == ("/optserve.v1.SessionService/CreateSession", "OK")
    assert (made["session"], made["level"]) == ("logged", "debug")
    assert (missed["session"], missed["level"]) == ("missing", "info")
    assert (stepped["session"], stepped["worker"], stepped["namespace"]) == ("logged", "w", "")
    assert (stepped["code"], stepped["milliseconds"] > 0) == ("OK", True)
    assert missed["code"] == "SESSION_NOT_FOUND"
    assert made["request_id"] != missed["request_id"]


def test_calls_are_logged_as_text() -> None:
    server_of = running_server("numpy", log_level="debug", log_format="text")
    with server_of as server, Client(server.address) as client:
        client.create(VALUES, session_id="logged")
        client.step("sessions/logged", VALUES, worker="a worker", sequence=1)
        assert server.stop() == 0
        lines = server.log_path.read_text().splitlines()
    (stepped,) = [line for line in lines if "/Step " in line]
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00 DEBUG   /optserve\.v1\.SessionService/Step request_id=\S+"
        r' session=logged worker="a worker" code=OK milliseconds=[\d.]+',
        stepped,
    )
    assert any(" INFO    listening host=127.0.0.1 port=" in line for line in lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server(number: signal.Signals) -> None:
    with running_server("numpy", log_level="warning") as server:
        server.process.send_signal(number)
        assert server.process.wait(10) == 0


def test_a_drain_finishes_the_step_that_has_begun() -> None:
    """The gradient's second half is sent after SIGTERM, and its step is still answered."""
    begun, rest = threading.Event(), threading.Event()

    def messages(name: str) -> Iterator[pb.StepStreamRequest]:
        first, chunk = step_messages(np.ones(4, np.float32).tobytes())
        yield plan_message(name)
        yield first
        begun.set()  # gRPC asks for the next message once this one was sent
        assert rest.wait(20)
        yield chunk
        rest.clear()
        rest.wait(20)

    with running_server("numpy", grace_seconds=20) as server, Client(server.address) as client:
        session = client.create(VALUES, sgd())
        stream = client.sessions.StepStream(messages(session.name), timeout=20)
        assert next(stream).HasField("planned")
        assert begun.wait(20)
        client.get(session.name)  # over the same connection, so the server has the step's beginning by now
        server.process.terminate()
        with expect_refusal() as told:
            _call_until_refused(client)
        assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert told.retry_seconds == 1
        health = health_pb2_grpc.HealthStub(client.channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
        rest.set()
        assert next(stream).result.step == 1
        with expect_refusal() as told:
            next(stream)
        rest.set()
        assert told.reason == "SHUTTING_DOWN"
        assert server.process.wait(10) == 0


def test_a_drain_ends_an_idle_stream_at_once() -> None:
    over = threading.Event()

    def messages(name: str) -> Iterator[pb.StepStreamRequest]:
        yield plan_message(name)
        yield from step_messages(np.ones(4, np.float32).tobytes())
        over.wait(20)

    with running_server("numpy", grace_seconds=60) as server, Client(server.address) as client:
        session = client.create(VALUES, sgd())
        stream = client.sessions.StepStream(messages(session.name), timeout=20)
        assert next(stream).HasField("planned")
        assert next(stream).result.step == 1
        server.process.terminate()
        with expect_refusal() as told:
            next(stream)
        over.set()
        assert told.reason == "SHUTTING_DOWN"
        assert server.process.wait(10) == 0


def test_a_drain_gives_up_after_its_grace() -> None:
    over = threading.Event()

    def messages(name: str) -> Iterator[pb.StepStreamRequest]:
        yield plan_message(name)
        yield from list(step_messages(np.ones(4, np.float32).tobytes()))[:1]
        over.wait(20)

    with running_server("numpy", grace_seconds=0.3) as server, Client(server.address) as client:
        session = client.create(VALUES, sgd())
        stream = client.sessions.StepStream(messages(session.name), timeout=20)
        stream.initial_metadata()
        assert next(stream).HasField("planned")
        assert server.stop() == 0
        with expect_refusal():
            next(stream)
        over.set()


def _call_until_refused(client: Client) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        client.sessions.ListSessions(pb.ListSessionsRequest(), timeout=5)
        time.sleep(0.01)


def test_a_server_may_open_as_many_files_as_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with running_server() as server:
            found, _ = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found == (1 << 20 if hard == resource.RLIM_INFINITY else min(hard, 1 << 20))


def test_settings_flags_over_environment_over_file(tmp_path: Path) -> None:
    """The port that is taken tells whose setting counted."""
    config = tmp_path / "server.toml"
    config.write_text('host = "127.0.0.1"\nport = 1\nlog_level = "error"\n')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        by_environment = run_to_end("--config", str(config), OPTSERVE_PORT=port)
        by_flag = run_to_end("--config", str(config), "--port", port, OPTSERVE_PORT="2")
    for ended in (by_environment, by_flag):
        assert ended.returncode == 1
        assert f"127.0.0.1:{port}" in ended.stderr


def test_a_wrong_setting_is_named_with_its_origin() -> None:
    ended = run_to_end(OPTSERVE_PORT="many")
    assert ended.returncode == 2
    assert ended.stderr == (
        "optserve-server: port is 'many', but must be a whole number from 0 to 65535"
        " (from environment variable OPTSERVE_PORT)\n"
    )


def test_version_and_help() -> None:
    assert run_to_end("--version").stdout == f"optserve-server {__version__}\n"
    assert {"serve", "health", "token"} <= set(run_to_end("--help").stdout.split())
    assert "--max-session-bytes" in run_to_end("serve", "--help").stdout


def test_serve_is_the_default_command() -> None:
    for command in ((), ("serve",)):
        ended = run_to_end(*command, "--durability=journal")
        assert (ended.returncode, ended.stderr) == (
            2,
            "optserve-server: durability is 'journal', which needs data_dir; set data_dir, or durability to"
            " 'ephemeral'\n",
        )


def test_an_unknown_environment_variable_ends_the_command() -> None:
    ended = run_to_end(OPTSERVE_MAX_SESSION="3")
    assert (ended.returncode, ended.stderr) == (
        2,
        "optserve-server: unknown environment variable 'OPTSERVE_MAX_SESSION'; the nearest known name is"
        " 'OPTSERVE_MAX_SESSIONS'\n",
    )
