"""Handles and streams under a worker's name, as of a program that was started again."""

from __future__ import annotations

import numpy as np
import pytest

import optserve
from tests.support.server import RunningServer

GRADIENT = {"w": np.ones(3, np.float32)}


def test_a_name_continues_after_its_last_step(server: RunningServer) -> None:
    for number in range(1, 4):
        with optserve.connect(server.address) as client:
            if number == 1:
                name = client.create_session({"w": np.zeros(3, np.float32)}, "sgd").name
            session = client.session(name, worker="trainer")
            result = session.step(GRADIENT)
            assert (result.step, result.sequence, result.worker) == (number, number, "trainer")
    with (
        optserve.connect(server.address) as client,
        client.session(name).stream(worker="trainer", window=2) as stream,
    ):
        assert [result.sequence for result in stream.steps([GRADIENT] * 3)] == [4, 5, 6]


def test_a_handle_without_a_name_is_another_worker(server: RunningServer) -> None:
    with optserve.connect(server.address) as client:
        session = client.create_session({"w": np.zeros(3, np.float32)}, "sgd")
        first, other = session.step(GRADIENT), client.session(session).step(GRADIENT)
        assert (first.sequence, other.sequence) == (1, 1)
        assert first.worker != other.worker


def test_a_name_is_text(server: RunningServer) -> None:
    with optserve.connect(server.address) as client:
        session = client.create_session({"w": np.zeros(3, np.float32)}, "sgd")
        with pytest.raises(TypeError, match="worker"):
            client.session(session, worker=3)
        with pytest.raises(TypeError, match="worker"):
            session.stream(worker=3)
