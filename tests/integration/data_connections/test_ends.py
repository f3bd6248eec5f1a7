"""How data connections end: by their clients, by a drain, and by silence; and what they leave."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import grpc
import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Client, expect_refusal, sgd
from tests.integration.data_connections.conftest import (
    LARGE,
    VALUES,
    calls_in_flight,
    plan,
    small,
    step,
    whole,
)
from tests.integration.raw_stream import ACCEPTED, GREETING, SECONDS, RawStream, frame, receive_rest, reset
from tests.support.server import RunningServer, running_server
from tests.support.watching import descriptors_of, wait_until


def status_of(stream: RawStream) -> grpc.StatusCode:
    """How a call ended that has no answers."""
    with pytest.raises(grpc.RpcError) as error:
        next(stream.call)
    code: grpc.StatusCode = error.value.code()
    return code


def send_half_an_upload(stream: RawStream, name: str) -> None:
    stream.go_over().plan(plan(name))
    data = frame(step(bytes(4 * LARGE)))
    stream.socket.sendall(data[: len(data) // 2])


def vanish_within_an_upload(stream: RawStream, name: str) -> None:
    send_half_an_upload(stream, name)
    reset(stream.socket)
    assert status_of(stream) is not grpc.StatusCode.DEADLINE_EXCEEDED


def vanish_before_a_step(stream: RawStream, name: str) -> None:
    reset(stream.go_over().plan(plan(name)).socket)
    assert status_of(stream) is not grpc.StatusCode.DEADLINE_EXCEEDED


def close_within_an_upload(stream: RawStream, name: str) -> None:
    send_half_an_upload(stream, name)
    stream.socket.close()
    assert status_of(stream) is grpc.StatusCode.INVALID_ARGUMENT


def cancel_the_call(stream: RawStream, name: str) -> None:
    send_half_an_upload(stream, name)
    stream.call.cancel()
    assert receive_rest(stream.socket) == b""


def cancel_before_the_ticket(stream: RawStream, name: str) -> None:
    offer = stream.offer()
    assert stream.knock(GREETING + offer.ticket, offer.port) == ACCEPTED
    stream.call.cancel()
    assert receive_rest(stream.socket) == b""


VANISHINGS = [
    vanish_within_an_upload,
    vanish_before_a_step,
    close_within_an_upload,
    cancel_the_call,
    cancel_before_the_ticket,
]


@pytest.mark.parametrize("vanish", VANISHINGS)
def test_clients_that_vanish_leave_nothing(own: RunningServer, vanish: Callable[..., None]) -> None:
    with Client(own.address) as client:
        name = client.create({"w": np.ones(LARGE, np.float32)}, sgd()).name
        with RawStream(client) as stream:
            vanish(stream, name)
        wait_until(lambda: calls_in_flight(own) == 0)
        before = descriptors_of(own.process.pid)
        for _ in range(20):
            with RawStream(client) as stream:
                vanish(stream, name)
        wait_until(lambda: calls_in_flight(own) == 0)
        wait_until(lambda: descriptors_of(own.process.pid) <= before)
        assert client.get(name).step == 0
        client.sessions.DeleteSession(pb.DeleteSessionRequest(name=name), timeout=10)
    assert not [line for line in own.log() if line["level"] in ("warning", "error")]


def test_fifty_streams_that_end_well_leave_nothing(own: RunningServer) -> None:
    with Client(own.address) as client:
        name = client.create(VALUES).name
        counts = []
        for _ in range(51):
            with RawStream(client) as stream:
                stream.go_over().plan(plan(name)).send(*small())
                assert len(stream.finish()) == 1
            counts.append(descriptors_of(own.process.pid))
        wait_until(lambda: descriptors_of(own.process.pid) <= counts[0])
        assert client.get(name).step == 51


def test_an_answer_that_nobody_reads_holds_nobody_up(own: RunningServer) -> None:
    with Client(own.address) as client:
        name = client.create({"w": np.ones(LARGE, np.float32)}, sgd()).name
        other = client.create(VALUES).name
        messages = frame(m for _ in range(40) for m in step(bytes(4 * LARGE)))
        with RawStream(client) as deaf, RawStream(client) as stream:
            deaf.go_over().plan(plan(name)).socket.settimeout(0.5)
            with pytest.raises(TimeoutError):  # the server waits until its answers are read
                deaf.socket.sendall(messages)
            stream.go_over().plan(plan(other))
            for i in range(5):
                stream.send(*small())
                answer = stream.answer()
                assert answer is not None
                assert pb.StepStreamResponse.FromString(answer).result.step == i + 1
        wait_until(lambda: calls_in_flight(own) == 0)


def test_a_drain_ends_an_idle_data_connection_at_once() -> None:
    with running_server(grace_seconds=60) as server, Client(server.address) as client:
        name = client.create(VALUES).name
        with RawStream(client) as stream:
            stream.go_over().plan(plan(name)).send(*small())
            assert stream.answer()
            server.process.terminate()
            assert stream.answer() is None
            with expect_refusal() as why:
                next(stream.call)
            assert (why.code, why.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert server.process.wait(10) == 0


def test_a_drain_finishes_the_step_that_has_begun() -> None:
    with running_server(grace_seconds=20) as server, Client(server.address) as client:
        name = client.create(VALUES).name
        with RawStream(client) as stream:
            first, rest = small()
            stream.go_over().plan(plan(name)).send(first)
            client.get(name)
            time.sleep(0.1)
            server.process.terminate()
            wait_until(lambda: "SHUTTING_DOWN" in refusal_of(client, name))
            stream.send(rest)
            assert [m.result.step for m in whole(list(stream.answers()))] == [1]
            with expect_refusal() as why:
                next(stream.call)
            assert why.reason == "SHUTTING_DOWN"
        assert server.process.wait(10) == 0


def refusal_of(client: Client, name: str) -> str:
    try:
        client.get(name)
    except grpc.RpcError as error:
        return "SHUTTING_DOWN" if "shutting down" in str(error.details()) else ""
    return ""


def test_a_drain_gives_up_strangers_and_streams_after_its_grace() -> None:
    with running_server(grace_seconds=0.3) as server, Client(server.address) as client:
        name = client.create(VALUES).name
        with RawStream(client) as stream, RawStream(client) as waiting:
            stream.go_over().plan(plan(name)).send(small()[0])
            offer = waiting.offer()
            silent = socket.create_connection(("127.0.0.1", offer.port), SECONDS)
            with silent:
                assert waiting.knock(GREETING + offer.ticket, offer.port) == ACCEPTED
                server.process.terminate()
                assert server.process.wait(10) == 0
                assert (
                    receive_rest(silent) == receive_rest(stream.socket) == receive_rest(waiting.socket) == b""
                )


def test_a_silent_data_connection_ends() -> None:
    with running_server(stream_idle_seconds=1) as server, Client(server.address) as client:
        name = client.create(VALUES).name
        with RawStream(client) as stream:
            stream.go_over().plan(plan(name))
            for _ in range(3):
                time.sleep(0.6)
                stream.send(*small())
                assert stream.answer(), "one that moves lives"
            began = time.monotonic()
            assert stream.answer() is None
            assert 0.9 < time.monotonic() - began < 4
            with expect_refusal() as why:
                next(stream.call)
            assert why.reason == "STREAM_IDLE"
        assert client.get(name).step == 3
