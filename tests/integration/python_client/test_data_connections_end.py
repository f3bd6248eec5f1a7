"""How the client ends its data connections, and that nothing is left of them."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import time

import numpy as np
import pytest

from optserve import errors, optimizers
from optserve._transport.data_channel import DataChannel
from tests.integration.python_client.conftest import LARGE, ONE, call_of, connect_remotely
from tests.support.server import running_server
from tests.support.watching import descriptors_of, wait_until


@pytest.mark.parametrize("where", ["small", "large"])
def test_a_client_closed_by_another_thread_ends_the_wait(session, large, proxy, pool, where):
    target = session if where == "small" else large
    gradient = ONE if where == "small" else {"w": np.ones(LARGE, np.float32)}
    client = connect_remotely(proxy.address)
    stream = client.session(target.name).stream(pull=True)
    for _ in range(2):
        stream.step(gradient)
    assert isinstance(call_of(stream), DataChannel)
    proxy.delay, began = 0.3, time.monotonic()
    waiting = pool.submit(stream.step, gradient)
    time.sleep(0.15 if where == "small" else 1.0)
    client.close()
    with pytest.raises(errors.Cancelled):
        waiting.result(10)
    assert time.monotonic() - began < 5
    stream.close()
    proxy.delay = 0.0


def test_ends_of_all_kinds_after_each_other(server, session):
    """Closing twice, a client before its stream, and a stream that was never used."""
    for _ in range(2):
        client = connect_remotely(server.address)
        distant = client.session(session.name)
        distant.stream().close()
        stream = distant.stream()
        stream.step(ONE)
        stream.close()
        stream.close()
        other = distant.stream()
        other.submit(ONE)
        client.close()
        other.close()
        client.close()
        with pytest.raises(RuntimeError):
            stream.step(ONE)


def close(stream):
    stream.close()


def leave(stream):
    """With steps under way."""
    for _ in range(3):
        stream.submit(ONE)
    stream.close()


def forget(stream):
    """The caller does not close it."""


@pytest.mark.parametrize("kind", ["lone", "submitted"])
@pytest.mark.parametrize("end", [close, leave, forget])
def test_fifty_streams_leave_neither_threads_nor_descriptors(server, session, kind, end):
    with connect_remotely(server.address) as client:
        distant = client.session(session.name)
        before = None
        for turn in range(50):
            stream = distant.stream()
            (stream.step(ONE) if kind == "lone" else stream.submit(ONE).result())
            end(stream)
            del stream
            if turn == 3:
                gc.collect()
                time.sleep(0.3)
                before = descriptors_of(os.getpid()), threading.active_count()
        gc.collect()
        assert before is not None
        wait_until(lambda: descriptors_of(os.getpid()) <= before[0])
        wait_until(lambda: threading.active_count() <= before[1])


def test_a_server_that_ends_well_is_followed_by_its_next(tmp_path):
    """The same ports, as behind a service's name; the next server knows the session by its disk."""
    with contextlib.ExitStack() as held:
        ports = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        port, data_port = (listener.getsockname()[1] for listener in ports)
    settings = {"port": port, "data_port": data_port, "data_dir": tmp_path / "data", "grace_seconds": 5}
    with contextlib.ExitStack() as client_stack:
        with running_server(**settings) as server:
            client = client_stack.enter_context(connect_remotely(server.address))
            session = client.create_session({"w": np.zeros(3)}, optimizers.SGD(learning_rate=1.0))
            stream = client_stack.enter_context(session.stream(pull=True))
            assert stream.step(ONE).step == 1
            server.process.kill()
            server.process.wait(10)
        with running_server(**settings):
            assert stream.step(ONE).step == 2
            assert isinstance(call_of(stream), DataChannel)
            stream.close()
