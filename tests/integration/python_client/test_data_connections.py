"""Data connections that the client opens automatically, and its fallback to gRPC."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time

import numpy as np
import pytest

import optserve
from optserve import optimizers
from optserve._transport import connection, data_connection
from optserve._transport.data_channel import DataChannel
from optserve._transport.data_connection import host_and_port
from optserve._transport.grpc_channel import GrpcChannel
from tests.integration.python_client.conftest import LARGE, NEAR, ONE, call_of, connect_remotely
from tests.integration.python_client.proxy import running_proxy
from tests.support.certificates import Authority
from tests.support.server import running_server

NOT_HERE = "steps go over gRPC, and not over a connection of their own: "


@pytest.fixture
def said(caplog):
    """What the client's logger says of doing without."""
    caplog.set_level(logging.INFO, "optserve")
    return lambda: [r.getMessage().removeprefix(NOT_HERE) for r in caplog.records if NOT_HERE in r.message]


@pytest.fixture
def address(server):
    host, port = server.address.split(":")
    return host, int(port)


def steps_go_by(session, kind):
    """Takes lone steps and some that are submitted."""
    with session.stream(pull=True) as stream:
        for _ in range(3):
            begun = stream.step(ONE).step
            assert isinstance(call_of(stream), kind)
        steps = [p.result().step for p in [stream.submit(ONE) for _ in range(5)]]
        assert steps == list(range(begun + 1, begun + 6))
        assert isinstance(call_of(stream), kind)
        return stream.step(ONE)


def test_a_client_makes_them_by_itself(server, session, said):
    with connect_remotely(server.address) as client:
        result = steps_go_by(client.session(session.name), DataChannel)
    np.testing.assert_array_equal(result.parameters["w"], np.arange(3.0) - 9)
    assert said() == []


def test_a_client_may_be_told_to_make_none(server, session, said):
    with connect_remotely(server.address, data_connections=False) as client:
        steps_go_by(client.session(session.name), GrpcChannel)
    assert said() == []


@pytest.mark.parametrize("wire_dtype", [None, "bfloat16"])
def test_large_steps_have_the_same_bits(server, client, wire_dtype):
    start = {"w": np.zeros(LARGE, np.float32), "b": np.zeros((3, 5))}
    rng = np.random.default_rng(0)
    gradients = [
        {n: rng.standard_normal(a.shape).astype(a.dtype) for n, a in start.items()} for _ in range(4)
    ]
    taken = []
    for data in (True, False):
        session = client.create_session(start, optimizers.Adam())
        with (
            connect_remotely(server.address, data_connections=data) as other,
            other.session(session.name).stream(pull=True, wire_dtype=wire_dtype) as stream,
        ):
            results = [stream.step(gradients[0]), *stream.steps(gradients[1:])]
            assert isinstance(call_of(stream), DataChannel if data else GrpcChannel)
        taken.append([{n: a.tobytes() for n, a in r.parameters.items()} for r in results])
        session.delete()
    assert taken[0] == taken[1]


def test_lone_submitted_and_shared_steps_take_turns(server, large):
    """Each kind of step on one stream, and the client's own sum beside them."""
    total = np.zeros(LARGE, np.float32)
    rng = np.random.default_rng(1)

    def fresh():
        nonlocal total
        gradient = rng.integers(-3, 4, LARGE).astype(np.float32)
        total = total - gradient
        return gradient

    with (
        optserve.connect(server.address, timeout=20) as client,
        client.session(large.name).stream(pull=True) as stream,
    ):
        for turn in range(12):
            if turn % 3 == 0:
                place = stream.gradients
                place["w"][...] = fresh()
                result = stream.step(place)
            elif turn % 3 == 1:
                result = [stream.submit({"w": fresh()}) for _ in range(2)][-1].result()
            else:
                result = stream.step({"w": fresh()})
            assert result.parameters["w"].tobytes() == total.tobytes()
    assert large.get().step == 16


def test_the_server_offers_none(said):
    with running_server(data_port="off") as server, connect_remotely(server.address) as client:
        session = client.create_session({"w": np.zeros(3)}, optimizers.SGD())
        steps_go_by(session, GrpcChannel)
        steps_go_by(session, GrpcChannel)
    assert said() == ["the server offers none"], "which is said and tried once"


def test_a_mapped_port(address, session, said):
    with running_proxy(address) as mapped, connect_remotely(mapped.address) as client:
        steps_go_by(client.session(session.name), GrpcChannel)
    assert len(said()) == 1


def test_an_older_server(session, said):
    """It knows no such request, and takes it for a step without a header."""
    with (
        running_server(module="tests.integration.python_client.older_server") as server,
        connect_remotely(server.address) as client,
    ):
        made = client.create_session({"w": np.zeros(3)}, optimizers.SGD())
        steps_go_by(made, GrpcChannel)
    assert said() == ["the server has no data connections"]


def test_tls_has_none(tmp_path, said):
    authority = Authority()
    with running_server(**authority.pair().write(tmp_path)) as server:
        trusted = tmp_path / "authority.pem"
        trusted.write_bytes(authority.pem)
        credentials = optserve.tls.credentials(trusted)
        with connect_remotely(server.address, credentials=credentials) as client:
            session = client.create_session({"w": np.zeros(3)}, optimizers.SGD())
            steps_go_by(session, GrpcChannel)
    assert said() == []


def test_a_unix_socket_has_none(tmp_path, said):
    with (
        running_server(unix_socket=tmp_path / "socket"),
        connect_remotely(f"unix:{tmp_path / 'socket'}") as client,
    ):
        session = client.create_session({"w": np.zeros(3)}, optimizers.SGD())
        steps_go_by(session, GrpcChannel)
    assert said() == []


def talkative(word):
    """Says a word to everyone, and then listens."""

    def serve(listener, over):
        with contextlib.ExitStack() as stack:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    peer = stack.enter_context(listener.accept()[0])
                    peer.sendall(word)

    return serve


def curt(listener, over):
    """Hangs up on everyone."""
    while not over.is_set():
        with contextlib.suppress(TimeoutError):
            listener.accept()[0].close()


@contextlib.contextmanager
def listening(port, serve):
    """Something at the port of data connections that is no server of ours."""
    over = threading.Event()
    with socket.create_server((NEAR, port)) as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=serve, args=(listener, over))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(10)


@contextlib.contextmanager
def full(port):
    """A listener whose queue is full, so that further connections get no answer at all."""
    with socket.create_server((NEAR, port), backlog=0), contextlib.ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((NEAR, port))
        time.sleep(0.1)
        yield


THERE = {
    "nothing": lambda port: contextlib.nullcontext(),
    "garbage": lambda port: listening(port, talkative(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    "silence": lambda port: listening(port, talkative(b"")),
    "an end": lambda port: listening(port, curt),
    "no answer": full,
}


@pytest.mark.parametrize("there", THERE)
def test_something_else_is_at_the_port(address, data_port, session, said, there):
    """The call's port leads to the server, and that of data connections does not."""
    with (
        running_proxy(address, (NEAR, address[1])) as proxy,
        THERE[there](data_port),
        connect_remotely(proxy.address) as client,
        client.session(session.name).stream() as stream,
    ):
        began = time.monotonic()
        assert stream.step(ONE).step == 1
        assert time.monotonic() - began < data_connection.CONNECT_TIMEOUT_S + 1.5
        assert isinstance(call_of(stream), GrpcChannel)
        assert stream.submit(ONE).result().step == 2
        assert isinstance(call_of(stream), GrpcChannel)
    assert len(said()) == 1
    assert session.get().step == 2


def test_submitted_steps_find_something_else_there(address, data_port, session, said):
    with (
        running_proxy(address, (NEAR, address[1])) as proxy,
        THERE["garbage"](data_port),
        connect_remotely(proxy.address) as client,
        client.session(session.name).stream() as stream,
    ):
        assert [r.step for r in stream.steps([ONE] * 20)] == list(range(1, 21))
        assert isinstance(call_of(stream), GrpcChannel)
    assert len(said()) == 1


def test_what_could_not_be_made_is_tried_again_later(address, data_port, session, said, monkeypatch):
    monkeypatch.setattr(connection, "NO_DATA_PAUSE_S", (0.3, 10.0))
    with (
        running_proxy(address, (NEAR, address[1])) as proxy,
        connect_remotely(proxy.address) as client,
    ):
        distant = client.session(session.name)
        with distant.stream() as stream:
            stream.step(ONE)
            assert isinstance(call_of(stream), GrpcChannel)
        proxy.forward((address[0], data_port), (NEAR, data_port))
        time.sleep(0.4)
        with distant.stream() as stream:
            stream.step(ONE)
            assert isinstance(call_of(stream), DataChannel)
    assert len(said()) == 1
    assert session.get().step == 2


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("localhost:50051", ("localhost", 50051)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("dns:host:7", ("host", 7)),
        ("dns:///host:7", ("host", 7)),
        ("dns://8.8.8.8/host:7", ("host", 7)),
        ("ipv4:1.2.3.4:5", ("1.2.3.4", 5)),
        ("ipv6:[::1]:5", ("::1", 5)),
        ("[::1]:5", ("::1", 5)),
        ("[fe80::1%eth0]:5", ("fe80::1%eth0", 5)),
        ("dns:///[::1]:5", ("::1", 5)),
        ("ipv4:1.2.3.4:5,1.2.3.5:5", None),
        ("ipv6:[::1]:5,[::2]:5", None),
        ("unix:/tmp/socket", None),
        ("unix:///tmp/socket", None),
        ("unix:/tmp/socket:5", None),
        ("unix-abstract:name", None),
        ("xds:///service", None),
        ("xds:///service:5", None),
        ("vsock:2:5", None),
        ("host", None),
        ("host:", None),
        ("host:http", None),
        ("host:٣", None),
        (":5", None),
        ("[]:5", None),
        ("", None),
    ],
)
def test_which_targets_name_a_host_and_a_port(target, expected):
    assert host_and_port(target) == expected
