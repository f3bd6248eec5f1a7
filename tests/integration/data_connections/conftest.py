"""Streams whose data connection is a bare socket, and the messages that they carry."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_pb2 import SessionSpec
from tests.integration.client import Array, Client, plan_message, step_messages
from tests.integration.raw_stream import RawStream
from tests.integration.test_operations import samples
from tests.support.server import RunningServer, running_server

VALUES: dict[str, Array] = {"b": np.ones(2), "w": np.ones(4, np.float32)}
RNG = np.random.default_rng(0)
LARGE = 300_007
"""Elements of a tensor that fills several chunks, the last one in part."""
TICKET = "data_connection.ticket"
"""The field that refusals of tickets name."""


def adam() -> SessionSpec:
    spec = SessionSpec()
    spec.optimizer.adam.learning_rate = 0.01
    return spec


def gradient(values: dict[str, Array]) -> bytes:
    """Random bytes of a gradient, in the layout's order: float64 before float32."""
    by_dtype = sorted(values.items(), key=lambda item: -item[1].dtype.itemsize)
    return b"".join(RNG.standard_normal(v.shape).astype(v.dtype).tobytes() for _, v in by_dtype)


def plan(name: str, worker: str = "", **fields: object) -> pb.StepStreamRequest:
    """A plan whose answers have every parameter."""
    return plan_message(name, worker=worker, pull=pb.PullOptions(), **fields)


def step(data: bytes, sequence: int = 0, chunk: int = 1 << 20) -> list[pb.StepStreamRequest]:
    return list(step_messages(data, chunk, sequence=sequence))


def small(sequence: int = 0) -> list[pb.StepStreamRequest]:
    return step(gradient(VALUES), sequence)


def whole(answers: list[bytes]) -> list[pb.StepStreamResponse]:
    return [pb.StepStreamResponse.FromString(answer) for answer in answers]


def calls_in_flight(server: RunningServer) -> float:
    return samples(server)["optserve_calls_in_flight", ""]


@pytest.fixture
def name(client: Client) -> Iterator[str]:
    session = client.create(VALUES, adam())
    yield session.name
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name), timeout=10)


@pytest.fixture
def stream(client: Client) -> Iterator[RawStream]:
    with RawStream(client) as stream:
        yield stream


@pytest.fixture(scope="module")
def own() -> Iterator[RunningServer]:
    """A server whose descriptors are opened by one test only."""
    with running_server(metrics_port=0) as server:
        yield server
