"""The Python client whose data connection is lost, while its call is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import optserve
from optserve._transport import connection
from optserve._transport.data_channel import DataChannel
from optserve._transport.data_connection import MAX_WHOLE_BYTES
from tests.integration.client import Client
from tests.integration.python_client.conftest import call_of
from tests.integration.python_client.proxy import Proxy, running_proxy
from tests.integration.raw_stream import RawStream
from tests.support.server import RunningServer

FORWARDED = "127.0.0.3"
"""Where the server's own ports are forwarded, each by a proxy of its own."""

ELEMENTS = 300_000
assert 4 * ELEMENTS > MAX_WHOLE_BYTES  # an answer is received while it is read


@contextmanager
def forward(server: RunningServer) -> Iterator[tuple[Proxy, Proxy]]:
    """Proxies of the server's two ports."""
    host, port = server.address.split(":")
    with Client(server.address) as client, RawStream(client) as stream:
        data = stream.offer().port
    with (
        running_proxy((host, int(port)), (FORWARDED, int(port))) as calls,
        running_proxy((host, data), (FORWARDED, data)) as beside,
    ):
        yield calls, beside


def gradient(number: int) -> dict[str, np.ndarray]:
    return {"w": np.full(ELEMENTS, number, np.float32)}


@contextmanager
def training(address: str) -> Iterator[optserve.StepStream]:
    """A stream of a session that starts at 0, with a learning rate of 1."""
    with optserve.connect(address, shared_memory=False, timeout=20) as client:
        values = {"w": np.zeros(ELEMENTS, np.float32)}
        session = client.create_session(values, optserve.optimizers.SGD(learning_rate=1.0))
        with session.stream(pull=True) as stream:
            yield stream
        session.delete()


@pytest.mark.parametrize("alone", [True, False])
def test_an_answer_that_is_cut_off_in_its_middle_is_asked_for_again(
    server: RunningServer, alone: bool
) -> None:
    with forward(server) as (calls, beside), training(calls.address) as stream:

        def step(number: int) -> optserve.StepResult:
            taken = gradient(number)
            return stream.step(taken) if alone else stream.submit(taken).result()

        step(1)
        assert isinstance(call_of(stream), DataChannel)
        beside.downstream_budget = 2 * ELEMENTS
        result = step(2)
        assert beside.downstream_budget is None
        assert (result.step, result.replayed) == (2, True)
        assert (result.parameters["w"] == -3).all()
        assert (step(3).parameters["w"] == -6).all()


def test_a_connection_that_could_not_be_made_is_tried_again_later(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "NO_DATA_PAUSE_S", (0.2, 0.2))
    with forward(server) as (calls, beside), training(calls.address) as stream:
        stream.step(gradient(1))
        beside.refuses = True
        beside.cut()
        assert (stream.step(gradient(2)).parameters["w"] == -3).all()
        assert not isinstance(call_of(stream), DataChannel)
        beside.refuses = False
        time.sleep(0.3)
        calls.cut()
        assert (stream.step(gradient(3)).parameters["w"] == -6).all()
        assert isinstance(call_of(stream), DataChannel)
