"""A client of the one server that all tests share."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.integration.client import Client
from tests.support.server import RunningServer


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


@pytest.fixture
def unused_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
