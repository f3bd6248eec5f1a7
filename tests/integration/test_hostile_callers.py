"""Callers that attack the transport: honest clients do not notice, and the server's memory is bounded."""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from optserve_server.rpc.authentication import tokens
from optserve_server.rpc.middleware.admission import MAX_HEALTH_CALLS
from tests.integration import exhausted_server
from tests.integration.client import Client, expect_refusal
from tests.integration.few_descriptors_server import LIMIT
from tests.integration.test_operations import page, samples
from tests.support.http2 import CANCEL, DATA, END_STREAM, RST_STREAM, Http2, call_headers, frame, message
from tests.support.server import RunningServer, running_server
from tests.support.watching import descriptors_of, resident, wait_until

VALUES = {"w": np.ones(4, np.float32)}
STEP, LIST = "/optserve.v1.SessionService/Step", "/optserve.v1.SessionService/ListSessions"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
MIB = 1 << 20


def check_health(client: Client) -> bytes:
    answer = client.channel.unary_unary(CHECK)(b"", timeout=10)
    assert isinstance(answer, bytes)
    return answer


@contextlib.contextmanager
def honest_steps(server: RunningServer) -> Iterator[list[float]]:
    """A client that steps until the block ends; gives the seconds that each step took."""
    seconds: list[float] = []
    over = threading.Event()

    def step() -> None:
        while not over.is_set():
            began = time.monotonic()
            assert client.step(name, VALUES).result.step == len(seconds) + 1
            seconds.append(time.monotonic() - began)

    with Client(server.address) as client, ThreadPoolExecutor(1) as pool:
        name = client.create(VALUES).name
        stepping = pool.submit(step)
        try:
            yield seconds
        finally:
            over.set()
        stepping.result(30)


def send_reset_calls(connection: Http2, first: int, count: int = 50) -> bool:
    """Begins and cancels calls; returns whether the connection is still open."""
    reset = CANCEL.to_bytes(4, "big")
    streams = range(1 + 2 * first, 1 + 2 * (first + count), 2)
    with contextlib.suppress(OSError):
        connection.send(b"".join(call_headers(n, STEP) + frame(RST_STREAM, 0, n, reset) for n in streams))
    return connection.is_open()


def send_resets(address: str, count: int) -> None:
    """Begins and cancels calls as fast as it can."""
    with Http2(address) as connection:
        for first in range(0, count, 50):
            if not send_reset_calls(connection, first):
                return


def test_calls_that_are_reset_at_once_stop_no_steps() -> None:
    with running_server() as server:
        with honest_steps(server) as seconds:
            send_resets(server.address, 50_000)
            wait_until(lambda: len(seconds) > 200)
        assert max(seconds) < 5
        assert len(server.log()) < 1500


def test_a_client_may_cancel_any_number_of_calls() -> None:
    with running_server() as server, Client(server.address) as client:
        name = client.create(VALUES).name
        for _ in range(1200):
            client.channel.unary_unary(STEP).future(b"").cancel()
        assert client.step(name, VALUES).result.step == 1


def test_health_watches_take_no_place_from_others() -> None:
    with running_server(metrics_port=0, max_concurrent_rpcs=100) as server, Client(server.address) as client:
        name = client.create(VALUES).name
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(Http2(server.address)) for _ in range(10)]
            for number in range(1, 201, 2):
                for connection in connections:
                    connection.send(call_headers(number, WATCH) + frame(DATA, END_STREAM, number, message(0)))
            assert check_health(client) == b"\x08\x01"
            assert client.step(name, VALUES).result.step == 1
            code = "code=LIMIT_EXCEEDED,method=/grpc.health.v1.Health/Watch"
            wait_until(lambda: samples(server)["optserve_calls_total", code] >= 1000 - MAX_HEALTH_CALLS)
            assert samples(server)["optserve_health_calls", ""] <= MAX_HEALTH_CALLS
            assert samples(server)["optserve_calls_in_flight", ""] == 0


def test_a_watch_is_told_when_the_server_drains() -> None:
    with running_server(grace_seconds=5) as server, Client(server.address) as client:
        held = client.create(VALUES).name
        stream = client.sessions.StepStream(iter([pb.StepStreamRequest(plan=pb.StepPlan(session=held))]))
        assert next(stream).HasField("planned")
        watch = client.channel.unary_stream(WATCH)(b"", timeout=20)
        assert next(watch) == b"\x08\x01"
        server.process.terminate()
        assert next(watch) == b"\x08\x02"


def announce(address: str, method: str, length: int, **headers: str) -> Http2:
    """Begins a call, and sends its request but for the last byte, as far as the server reads it."""
    connection = Http2(address)
    connection.send(call_headers(1, method, **headers))
    connection.send_body(1, message(length, bytes(length - 1)), patience=0.3)
    return connection


def announce_many(server: RunningServer, method: str, count: int, length: int, **headers: str) -> int:
    """Makes calls whose requests do not end; returns by how many bytes the server grew."""
    before = resident(server.process.pid)
    with ThreadPoolExecutor(count) as pool, contextlib.ExitStack() as stack:
        begun = [pool.submit(announce, server.address, method, length, **headers) for _ in range(count)]
        for one in begun:
            stack.enter_context(one.result(60))
        return resident(server.process.pid) - before


def test_health_checks_that_do_not_end_hold_little_memory() -> None:
    with running_server(metrics_port=0) as server, Client(server.address) as client:
        name = client.create(VALUES).name
        assert announce_many(server, CHECK, 20, 60 * MIB) < 400 * MIB
        assert check_health(client) == b"\x08\x01"
        assert client.step(name, VALUES).result.step == 1
        wait_until(lambda: samples(server)["optserve_health_calls", ""] == 0)


def test_a_health_check_has_a_small_request() -> None:
    with running_server() as server, Client(server.address) as client, expect_refusal() as told:
        client.channel.unary_unary(CHECK)(bytes([10, 255, 255, 3]) + bytes(65535), timeout=10)
    assert (told.reason, told.fields) == ("LIMIT_EXCEEDED", ["service"])


def test_a_namespace_holds_few_requests_that_do_not_end(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    token = tokens.add_token(path, "mallory", "small")
    path.write_text(path.read_text() + "\n[namespaces.small]\nmax_bytes = 20000000\n")
    with running_server(tokens_file=path) as server:
        headers = {"authorization": f"Bearer {token}"}
        assert announce_many(server, STEP, 20, 60 * MIB, **headers) < 500 * MIB
        with Client(server.address, token=token) as client:
            assert client.step(client.create(VALUES).name, VALUES).result.step == 1


def test_calls_without_a_token_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    tokens.add_token(path, "alice", "alice")
    with running_server(tokens_file=path) as server, Client(server.address) as client:
        assert announce_many(server, STEP, 20, 60 * MIB) < 200 * MIB
        for _ in range(300):
            with expect_refusal() as told:
                client.sessions.ListSessions(pb.ListSessionsRequest(), timeout=10)
            assert told.reason == "UNAUTHENTICATED"
        lines = [line for line in server.log() if line.get("code") == "UNAUTHENTICATED"]
        assert len(lines) < 250
        assert lines[0]["peer"].startswith("ipv4:127.0.0.1:")


@pytest.mark.parametrize("speaks", [False, True], ids=["silent", "idle"])
def test_connections_without_calls_are_closed(speaks: bool) -> None:
    with (
        running_server(handshake_seconds=1, connection_idle_seconds=1) as server,
        Client(server.address) as client,
        contextlib.ExitStack() as stack,
    ):
        name = client.create(VALUES).name
        unused = [stack.enter_context(Http2(server.address, speaks=speaks)) for _ in range(50)]
        wait_until(lambda: not any(connection.is_open() for connection in unused))
        assert client.step(name, VALUES).result.step == 1


def test_connections_are_limited() -> None:
    with running_server(max_connections=20) as server, Client(server.address) as client:
        name = client.create(VALUES).name
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(Http2(server.address)) for _ in range(60)]
            wait_until(lambda: sum(connection.is_open() for connection in others) <= 20)
            assert client.step(name, VALUES).result.step == 1
        with Client(server.address) as later:
            assert later.get(name).step == 1


ATTACKER = "127.0.0.2"


def is_dropped(address: str) -> bool:
    """Whether the server's host drops a new connection of the attacker."""
    try:
        Http2(address, source=ATTACKER, seconds=0.5).close()
    except TimeoutError:
        return True
    return False


def test_a_peer_that_resets_calls_is_disconnected_and_cannot_come_back() -> None:
    numbers = itertools.count(0, 50)
    with (
        running_server(metrics_port=0) as server,
        Http2(server.address) as neighbour,
        Http2(server.address, source=ATTACKER) as attacker,
    ):
        wait_until(lambda: not send_reset_calls(attacker, next(numbers)))
        wait_until(lambda: is_dropped(server.address))
        assert neighbour.is_open()
        with Client(server.address) as client:
            assert client.step(client.create(VALUES).name, VALUES).result.step == 1
        found = samples(server)
        assert found["optserve_blocked_peers", ""] == 1
        assert found["optserve_connections_closed_total", "limit=resets"] >= 1
        (line,) = [line for line in server.log() if line["message"] == "new connections of peers are dropped"]
        assert line["peers"] == {ATTACKER: "resets"}


def test_connections_of_a_peer_are_limited() -> None:
    """Its oldest stay, and further ones are dropped until it has fewer."""
    with running_server(max_connections_per_peer=10, metrics_port=0) as server:
        first = [Http2(server.address, source=ATTACKER) for _ in range(8)]
        wait_until(lambda: samples(server)["optserve_connections", "kind=grpc"] == 8)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(TimeoutError):
                for _ in range(40):
                    stack.enter_context(Http2(server.address, source=ATTACKER, seconds=0.5))
            wait_until(lambda: samples(server)["optserve_connections", "kind=grpc"] == 10)
            assert all(connection.is_open() for connection in first)
            assert is_dropped(server.address)
            with Client(server.address) as client:
                assert client.step(client.create(VALUES).name, VALUES).result.step == 1
            for connection in first:
                connection.close()
        wait_until(lambda: not is_dropped(server.address))


def test_connections_leave_descriptors_for_the_journal_and_the_pages(tmp_path: Path) -> None:
    """More idle connections than the process may open files; segments of the journal are small."""
    flags = {"data_dir": tmp_path, "journal_bytes": "1MiB", "metrics_port": 0}
    flags["max_connections_per_peer"] = LIMIT
    with (
        running_server(module="tests.integration.few_descriptors_server", **flags) as server,
        Client(server.address) as client,
        contextlib.ExitStack() as stack,
    ):
        values = {"w": np.ones(50_000, np.float32)}
        name = client.create(values).name
        for _ in range(2 * LIMIT):
            stack.enter_context(Http2(server.address))
        for number in range(1, 21):
            assert client.step(name, values).result.durable_step == number
        found = samples(server)
        assert found["optserve_max_descriptors", ""] == LIMIT
        assert LIMIT // 8 < found["optserve_connections", "kind=grpc"] <= LIMIT // 4
        assert found["optserve_open_descriptors", ""] < LIMIT * 5 // 8


def test_journalled_steps_and_pages_go_on_without_a_free_descriptor(tmp_path: Path) -> None:
    """A segment of the journal is full after a few steps, and snapshots are due often."""
    flags = {"data_dir": tmp_path, "journal_bytes": "1MiB", "metrics_port": 0}
    with (
        running_server(module="tests.integration.exhausted_server", **flags) as server,
        Client(server.address) as client,
    ):
        values = {"w": np.ones(50_000, np.float32)}
        name = client.create(values).name
        assert client.step(name, values).result.durable_step == 1
        server.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: descriptors_of(server.process.pid) == exhausted_server.LIMIT)
        with Client(server.address) as late, pytest.raises(grpc.RpcError):
            late.sessions.ListSessions(pb.ListSessionsRequest(), timeout=2)
        for number in range(2, 82):
            assert client.step(name, values).result.durable_step == number
        assert samples(server)["optserve_open_descriptors", ""] >= exhausted_server.LIMIT - 1
        assert page(server, "/readyz")[0] == 200
        server.process.kill()
        server.process.wait(10)
    with running_server(data_dir=tmp_path) as server, Client(server.address) as client:
        assert client.get(name).step == 81


def test_the_operators_pages_answer_beside_silent_connections() -> None:
    with running_server(metrics_port=0) as server:
        (told,) = [line for line in server.log() if line["message"] == "listening"]
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                address = "127.0.0.1", told["metrics_port"]
                stack.enter_context(socket.create_connection(address, timeout=10))
            began = time.monotonic()
            assert page(server, "/healthz") == (200, "ok\n")
            assert time.monotonic() - began < 2
