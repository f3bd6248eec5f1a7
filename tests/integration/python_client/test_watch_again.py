"""A watch whose connection is lost continues: no step is yielded twice, and those in between are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optserve
from optserve import StepResult
from optserve.events import Began, Deleted
from optserve.optimizers import SGD
from tests.integration.python_client.proxy import running_proxy
from tests.support.server import RunningServer, running_server

VALUES = {"w": np.ones(4, np.float32)}


def address_of(server: RunningServer) -> tuple[str, int]:
    host, _, port = server.address.partition(":")
    return host, int(port)


def read_steps(events: Any, count: int) -> list[int]:
    results = [next(events) for _ in range(count)]
    assert all(isinstance(event.what, StepResult) and not event.dropped for event in results)
    return [event.what.step for event in results]


def test_steps_of_a_lost_connection_are_counted() -> None:
    with (
        running_server() as server,
        running_proxy(address_of(server)) as proxy,
        optserve.connect(server.address) as direct,
        optserve.connect(proxy.address) as client,
    ):
        session = direct.create_session(VALUES, SGD(learning_rate=0.5))
        events: Any = client.session(session.name).watch()
        began = next(events)
        assert (began.what.session.step, began.dropped) == (0, 0)
        taken = 0
        for missed in (0, 3, 1):
            for _ in range(2):
                session.step(VALUES)
            assert read_steps(events, 2) == [taken + 1, taken + 2]
            taken += 2
            proxy.refuses = True
            proxy.cut()
            for _ in range(missed):
                session.step(VALUES)
            taken += missed
            proxy.refuses = False
            again = next(events)
            assert isinstance(again.what, Began)
            assert (again.what.session.step, again.dropped) == (taken, missed)
        session.delete()
        assert [event.what for event in events] == [Deleted(expired=False)]


def test_a_watch_continues_at_the_next_server(tmp_path: Path) -> None:
    journaled = optserve.Durability(mode=optserve.DurabilityMode.JOURNAL)
    with (
        running_server(data_dir=tmp_path) as server,
        running_proxy(address_of(server)) as proxy,
        optserve.connect(proxy.address) as client,
    ):
        session = client.create_session(VALUES, SGD(learning_rate=0.5), durability=journaled)
        events: Any = session.watch()
        assert isinstance(next(events).what, Began)
        session.step(VALUES)
        assert read_steps(events, 1) == [1]
        assert server.stop() == 0
        with running_server(data_dir=tmp_path) as second:
            proxy.route(address_of(second))
            again = next(events)
            assert (again.what.session.step, again.dropped) == (1, 0)
            session.step(VALUES)
            assert read_steps(events, 1) == [2]
            session.delete()
            assert isinstance(next(events).what, Deleted)


def test_a_watch_ends_with_an_error_when_no_server_comes_back() -> None:
    with running_server() as server, optserve.connect(server.address, timeout=1) as client:
        events: Any = client.create_session(VALUES, SGD(learning_rate=0.5)).watch()
        assert isinstance(next(events).what, Began)
        server.process.kill()
        server.process.wait(10)
        with pytest.raises(optserve.errors.Unavailable, match="tried"):
            next(events)
