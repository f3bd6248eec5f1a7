"""Tests of adapters need the frameworks, which only the environment of ``make test-adapters`` has."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

import optserve
from tests.support.server import running_server

collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def _use_one_thread() -> None:
    """Small tensors take longer with several threads, which other tests need."""
    if find_spec("torch"):
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The address of a server."""
    with running_server() as server:
        yield server.address


@pytest.fixture
def client(address: str) -> Iterator[optserve.Client]:
    """A client on the server's host, with which it shares memory."""
    with optserve.connect(address) as made:
        yield made


@pytest.fixture(params=["shared memory", "data connection", "gRPC"])
def any_client(address: str, request: pytest.FixtureRequest) -> Iterator[optserve.Client]:
    """A client for each way of a step to the server."""
    shared, connected = request.param == "shared memory", request.param == "data connection"
    with optserve.connect(address, shared_memory=shared, data_connections=connected) as made:
        yield made
