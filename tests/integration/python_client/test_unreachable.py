"""Calls to a server that cannot be reached: how long they are made again, and what the error says."""

from __future__ import annotations

import re
import socket
import time

import numpy as np
import pytest

import optserve
from optserve import Retry, errors, optimizers
from optserve._transport.diagnosis import diagnose_connection
from tests.integration.python_client.conftest import ONE
from tests.support.certificates import Authority
from tests.support.server import running_server

QUICK = Retry(initial=0.01, maximum=0.02)


@pytest.fixture
def nowhere():
    """A port of this machine that nothing listens at."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def attempts_of(error):
    found = re.search(r"tried (\d+) times in ([\d.]+) s", error.message)
    assert found is not None, error.message
    return int(found[1]), float(found[2])


def test_a_call_is_made_again_until_its_deadline(nowhere):
    with optserve.connect(nowhere, retry=QUICK, timeout=1) as client:
        began = time.monotonic()
        with pytest.raises(errors.Unavailable) as caught:
            client.capabilities()
        seconds = time.monotonic() - began
    count, stated = attempts_of(caught.value)
    assert count > 8
    assert 0.8 < stated <= seconds + 0.001 < 4  # it is stated in milliseconds
    assert caught.value.applied is None
    assert caught.value.message.endswith(f"no server listens at {nowhere}")


@pytest.mark.parametrize("by", ["handle", "stream"])
def test_a_step_is_sent_again_until_its_deadline(by):
    with running_server("numpy") as server, optserve.connect(server.address, retry=QUICK) as client:
        session = client.create_session({"w": np.zeros(3)}, optimizers.SGD())
        taker = session if by == "handle" else session.stream()
        taker.step(ONE)
        server.process.kill()
        server.process.wait(20)
        began = time.monotonic()
        with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)) as caught:
            taker.step(ONE, timeout=1.5)
        assert 1.2 < time.monotonic() - began < 5
        assert attempts_of(caught.value)[0] > 8
        assert caught.value.applied is None


def test_a_number_of_attempts_may_be_set(nowhere):
    with optserve.connect(nowhere, retry=Retry(attempts=3, initial=0.01)) as client:
        with pytest.raises(errors.Unavailable) as caught:
            client.capabilities()
        assert attempts_of(caught.value)[0] == 3


def test_plaintext_to_a_tls_port_is_named(tmp_path):
    with running_server(**Authority().pair().write(tmp_path)) as server:
        with (
            optserve.connect(server.address, timeout=1) as client,
            pytest.raises(errors.Unavailable) as caught,
        ):
            client.capabilities()
        expected = f"the server at {server.address} speaks TLS: pass credentials to connect"
        assert caught.value.message.endswith(expected)


def test_tls_to_a_plaintext_port_is_named(server):
    credentials = optserve.tls.credentials()
    with (
        optserve.connect(server.address, timeout=1, credentials=credentials) as client,
        pytest.raises(errors.Unavailable) as caught,
    ):
        client.capabilities()
    assert f"the server at {server.address} does not speak TLS" in caught.value.message


def test_a_proxy_is_not_used_for_this_machine(server, nowhere, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{nowhere}")
    with optserve.connect(server.address, timeout=5) as client:
        assert client.health()


def test_a_proxy_is_named(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    told = diagnose_connection(("far.example", 50051), is_tls=False, uses_proxy=True)
    assert told == (
        "http_proxy is set, so calls go through that proxy; no_proxy=far.example would go without"
    )


def test_a_name_that_leads_nowhere_is_named(monkeypatch):
    def fails(*args, **options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", fails)
    told = diagnose_connection(("far.example", 50051), is_tls=False, uses_proxy=False)
    assert told == "the host name 'far.example' cannot be resolved"


def test_nothing_is_said_of_a_server_that_answers(server):
    host, port = server.address.split(":")
    assert diagnose_connection((host, int(port)), is_tls=False, uses_proxy=False) == ""
