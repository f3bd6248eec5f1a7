"""Who may have a data connection, and where: tokens, TLS, ports and addresses."""

from __future__ import annotations

import socket
from pathlib import Path

import grpc
import pytest

from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Client, expect_refusal
from tests.integration.data_connections.conftest import TICKET, VALUES, plan, small
from tests.integration.raw_stream import RawStream, asking
from tests.integration.test_namespaces import token_for
from tests.support.certificates import Authority
from tests.support.server import run_to_end, running_server


def test_tokens_hold_for_data_connections(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    alices, bobs = token_for(path, "alice"), token_for(path, "bob")
    with (
        running_server(tokens_file=path) as server,
        Client(server.address, token=alices) as alice,
        Client(server.address, token=bobs) as bob,
        Client(server.address) as nobody,
    ):
        name = alice.create(VALUES).name
        with RawStream(nobody) as stream:
            stream.say(asking())
            with expect_refusal() as why:
                next(stream.call)
            assert why.reason == "UNAUTHENTICATED"
        with RawStream(bob) as stream:
            stream.go_over().send(plan(name))
            assert stream.answer() is None
            with expect_refusal() as why:
                next(stream.call)
            assert (why.code, why.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
        with RawStream(alice) as stream:
            stream.go_over().plan(plan(name)).send(*small())
            assert stream.answer()
            text = path.read_text()
            path.write_text(text[text.rindex("[[tokens]]") :])  # bob's alone
            assert stream.answer() is None
            with expect_refusal() as why:
                next(stream.call)
            assert why.reason == "UNAUTHENTICATED"


@pytest.mark.parametrize("how", ["off", "TLS", "unix"])
def test_where_none_are_offered(tmp_path: Path, how: str) -> None:
    authority, credentials, settings = Authority(), None, {"data_port": "off"}
    if how == "TLS":
        settings = {k: str(v) for k, v in authority.pair().write(tmp_path).items()}
        credentials = authority.credentials()
    elif how == "unix":
        settings = {"unix_socket": str(tmp_path / "socket")}
    with running_server(**settings) as server:
        address = f"unix:{tmp_path / 'socket'}" if how == "unix" else server.address
        with Client(address, credentials) as client, RawStream(client) as stream:
            assert stream.offer() == pb.DataConnectionOffer()
            name = client.create(VALUES).name
            stream.plan(plan(name)).say(*small())
            assert stream.read_answer().result.step == 1, "and steps go over the call"
            stream.say(asking(b"x" * 32))
            with expect_refusal() as why:
                next(stream.call)
            assert (why.reason, why.fields) == ("STREAM_PROTOCOL", [TICKET])


def test_a_port_that_was_chosen_is_taken(unused_port: int) -> None:
    with (
        running_server(data_port=unused_port) as server,
        Client(server.address) as client,
        RawStream(client) as stream,
    ):
        assert stream.offer().port == unused_port
        assert server.stop() == 0
    socket.create_server(("127.0.0.1", unused_port)).close()


def test_a_port_that_is_in_use_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        done = run_to_end("--backend=numpy", "--port=0", "--metrics-port=off", f"--data-port={port}")
    assert done.returncode == 1
    assert f"data_port {port} cannot be bound" in done.stderr
    assert "Traceback" not in done.stderr


def test_connections_over_ipv6() -> None:
    with running_server(host="::1") as server:
        port = server.address.rpartition(":")[2]
        with Client(f"[::1]:{port}") as client, RawStream(client, "::1") as stream:
            name = client.create(VALUES).name
            stream.go_over().plan(plan(name)).send(*small())
            assert len(stream.finish()) == 1


def test_a_server_of_all_addresses_is_reached_at_each() -> None:
    flags = {"host": "0.0.0.0", "allow_plaintext_beyond_loopback": "true"}
    with running_server(**flags) as server:
        port = server.address.rpartition(":")[2]
        for host in ("127.0.0.1", "127.0.0.2"):
            with Client(f"{host}:{port}") as client, RawStream(client, host) as stream:
                name = client.create(VALUES).name
                stream.go_over().plan(plan(name)).send(*small())
                assert len(stream.finish()) == 1
