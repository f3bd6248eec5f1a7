"""A client of the shared server, and one behind a proxy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import optserve
from optserve import connection, direct_call
from tests.integration.python_client.proxy import Proxy, running_proxy
from tests.support.server import RunningServer


@pytest.fixture
def client(server: RunningServer) -> Iterator[optserve.Client]:
    with optserve.connect(server.address, timeout=20) as client:
        yield client


@pytest.fixture
def session(client: optserve.Client) -> Iterator[optserve.SessionHandle]:
    """Two small tensors of different types under plain gradient descent with rate 1."""
    initial = {"w": np.arange(3.0), "b": np.ones((2, 2), np.float32)}
    session = client.create_session(initial, optserve.optimizers.Sgd(learning_rate=1.0))
    yield session
    session.delete()


@pytest.fixture
def proxy(server: RunningServer) -> Iterator[Proxy]:
    host, port = server.address.split(":")
    with running_proxy((host, int(port))) as proxy:
        yield proxy


@pytest.fixture
def distant(proxy: Proxy, session: optserve.SessionHandle) -> Iterator[optserve.SessionHandle]:
    """The same session through the proxy."""
    with optserve.connect(proxy.address, timeout=20) as client:
        yield client.session(session.name)


@pytest.fixture(params=["data", "direct", "queued"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How lone steps of a stream go: over a data connection, gRPC's internals or its public interface.

    To be named first.
    """
    monkeypatch.setattr(connection, "is_local", lambda target: False)
    if request.param != "data":
        monkeypatch.setattr(connection, "host_and_port", lambda target: None)
    if request.param == "direct":
        assert direct_call.available()
    else:
        monkeypatch.setattr(direct_call, "available", lambda: False)
    return str(request.param)


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Waits for a condition, and fails when it does not come true."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.01)

    return wait
