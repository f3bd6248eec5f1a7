"""Real servers for the corpus, one a backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.served import Client
from tests.support.server import running_server

GPU = pytest.param("cupy", marks=pytest.mark.gpu)


@pytest.fixture(scope="session", params=["numpy", GPU])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    yield from connect(request.param)


@pytest.fixture(scope="session")
def numba_client() -> Iterator[Client]:
    yield from connect("numba")


def connect(backend: str) -> Iterator[Client]:
    """A client of a new server that computes on ``backend``."""
    with running_server(backend) as server:
        client = Client(server.address)
        yield client
        client.close()
