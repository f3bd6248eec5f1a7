"""Clients for asyncio, of the shared server and of servers that are killed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import optserve
from tests.integration.python_client.proxy import Proxy, running_proxy
from tests.support.server import RunningServer

INITIAL: dict[str, Any] = {"w": np.arange(3.0), "b": np.ones((2, 2), np.float32)}
ONE = {"w": np.ones(3)}
"""A step's gradient."""


def sgd() -> Any:
    """Plain gradient descent with rate 1."""
    return optserve.optimizers.SGD(learning_rate=1.0)


@pytest.fixture
def client(server: RunningServer) -> Iterator[optserve.Client]:
    """A client with threads, to look at what that for asyncio has done."""
    with optserve.connect(server.address, timeout=20) as client:
        yield client


@pytest.fixture
def proxy(server: RunningServer) -> Iterator[Proxy]:
    """Between clients and the server."""
    host, port = server.address.split(":")
    with running_proxy((host, int(port))) as proxy:
        yield proxy
