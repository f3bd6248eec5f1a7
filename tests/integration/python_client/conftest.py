"""A client of the shared server, and one behind a proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import optserve
from optserve._transport import connection
from optserve._transport.data_channel import DataChannel
from optserve._transport.grpc_channel import GrpcChannel
from tests.integration import client as raw
from tests.integration.python_client.proxy import Proxy, running_proxy
from tests.integration.raw_stream import RawStream
from tests.support.server import RunningServer
from tests.support.watching import wait_until

NEAR = "127.0.0.2"
"""An address of this machine that the shared server does not listen at."""

ONE = {"w": np.ones(3)}
"""A step's gradient."""

LARGE = 700_003
"""Elements of a tensor that fills several chunks, the last one in part."""


def connect_remotely(target: str, **options: Any) -> optserve.Client:
    """A client whose steps lie in no shared memory."""
    return optserve.connect(target, timeout=20, shared_memory=False, **options)


def call_of(stream: optserve.StepStream | optserve.SessionHandle) -> object:
    """The channel of a stream or a handle."""
    return stream._engine._channel


@pytest.fixture
def client(server: RunningServer) -> Iterator[optserve.Client]:
    with optserve.connect(server.address, timeout=20) as client:
        yield client


@pytest.fixture
def session(client: optserve.Client) -> Iterator[optserve.SessionHandle]:
    """Two small tensors of different types under plain gradient descent with rate 1."""
    initial = {"w": np.arange(3.0), "b": np.ones((2, 2), np.float32)}
    session = client.create_session(initial, optserve.optimizers.SGD(learning_rate=1.0))
    yield session
    session.delete()


@pytest.fixture
def large(client: optserve.Client) -> Iterator[optserve.SessionHandle]:
    """A large tensor under plain gradient descent with rate 1."""
    initial = {"w": np.zeros(LARGE, np.float32)}
    session = client.create_session(initial, optserve.optimizers.SGD(learning_rate=1.0))
    yield session
    session.delete()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """One further thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture(scope="session")
def data_port(server: RunningServer) -> int:
    """Where the shared server takes data connections."""
    with raw.Client(server.address) as client, RawStream(client) as stream:
        return stream.offer().port


@pytest.fixture
def proxy(server: RunningServer, data_port: int) -> Iterator[Proxy]:
    """Between clients and the server, for calls and data connections: its ports are the server's."""
    host, port = server.address.split(":")
    with running_proxy((host, int(port)), (NEAR, int(port))) as proxy:
        proxy.forward((host, data_port), (NEAR, data_port))
        yield proxy


@pytest.fixture
def distant(proxy: Proxy, session: optserve.SessionHandle) -> Iterator[optserve.SessionHandle]:
    """The same session through the proxy."""
    with optserve.connect(proxy.address, timeout=20) as client:
        yield client.session(session.name)


@pytest.fixture(params=[DataChannel, GrpcChannel])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type:
    """Steps are sent over a data connection, or over gRPC's public interface.

    To be named before whatever makes a client.
    """
    monkeypatch.setattr(connection, "is_local", lambda target: False)
    if request.param is GrpcChannel:
        monkeypatch.setattr(connection, "host_and_port", lambda target: None)
    assert isinstance(request.param, type)
    return request.param


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Waits for a condition, and fails when it does not come true."""
    return wait_until
