"""A client of the one server that all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.client import Client
from tests.support.server import RunningServer


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client
