"""Lines that are cut or held up, calls and data connections alike; test_exactly_once.py has more."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from optserve import Retry, errors
from optserve._transport import connection
from optserve._transport.data_channel import DataChannel
from tests.integration.python_client.conftest import LARGE, ONE, call_of, connect_remotely


class Model:
    """What a session is after each step of a history, computed beside it."""

    def __init__(self):
        self.history = [np.arange(3.0)]

    @property
    def step(self):
        return len(self.history) - 1

    def take(self, gradients):
        for gradient in gradients:
            self.history.append(self.history[-1] - gradient)

    def agrees(self, results):
        """A step that was answered before comes with the parameters as they are now."""
        for step, result in enumerate(reversed(results)):
            assert result.step == self.step - step
            assert result.parameters.step == result.step or result.replayed
            np.testing.assert_array_equal(result.parameters["w"], self.history[result.parameters.step])


@pytest.mark.parametrize("seed", range(3))
def test_steps_cut_at_random_are_each_applied_once(session, proxy, seed, monkeypatch):
    """Lone and submitted ones; every cut is some bytes after the one before it, in one direction."""
    monkeypatch.setattr(connection, "NO_DATA_PAUSE_S", (0.01, 0.01))  # where the cut was in a handshake
    chance, model = random.Random(seed), Model()
    patient = Retry(initial=0.005, maximum=0.05)
    kinds = set()
    with (
        connect_remotely(proxy.address, retry=patient) as client,
        client.session(session.name).stream(pull=True) as stream,
    ):
        for turn in range(40):
            if turn % 2:
                direction = chance.choice(("upstream", "downstream"))
                setattr(proxy, f"{direction}_budget", chance.randrange(1, 400))
            gradients = [float(chance.randrange(-4, 5)) for _ in range(chance.choice((1, 1, 1, 4)))]
            if len(gradients) == 1:
                results = [stream.step({"w": np.full(3, gradients[0])})]
            else:
                results = [p.result() for p in [stream.submit({"w": np.full(3, g)}) for g in gradients]]
            kinds.add(type(call_of(stream)))
            model.take(gradients)
            model.agrees(results)
    assert proxy.cuts > 8
    assert kinds >= {DataChannel}
    assert session.get().step == model.step


def test_large_steps_cut_at_random_are_each_applied_once(large, proxy):
    chance, gradient = random.Random(0), {"w": np.ones(LARGE, np.float32)}
    with (
        connect_remotely(proxy.address) as client,
        client.session(large.name).stream(pull=True, window=3) as stream,
    ):
        for turn in range(6):
            direction = chance.choice(("upstream", "downstream"))
            setattr(proxy, f"{direction}_budget", chance.randrange(1, 8_000_000))
            last = stream.step(gradient) if turn % 2 else list(stream.steps([gradient] * 3))[-1]
            assert last.parameters["w"].tobytes() == np.full(LARGE, -last.step, np.float32).tobytes()
    assert proxy.cuts >= 3
    assert large.get().step == last.step == 12


@pytest.mark.parametrize("kind", ["lone", "submitted"])
@pytest.mark.parametrize("hole", ["answers", "requests"])
def test_in_a_black_hole_a_deadline_ends_the_wait(session, proxy, kind, hole):
    with connect_remotely(proxy.address) as client, client.session(session.name).stream(pull=True) as stream:
        stream.step(ONE) if kind == "lone" else stream.submit(ONE).result()
        getattr(proxy, hole).clear()
        began = time.monotonic()
        pending = None if kind == "lone" else stream.submit(ONE)
        with pytest.raises(errors.DeadlineExceeded):
            stream.step(ONE, timeout=0.3) if pending is None else pending.result(timeout=0.3)
        with pytest.raises(errors.DeadlineExceeded):  # nor does a new line lead anywhere
            stream.step(ONE, timeout=0.3)
        assert time.monotonic() - began < 4
        getattr(proxy, hole).set()
        if pending is not None:
            assert pending.result().step == 2
        result = stream.step(ONE)
    expected = 2 if pending is None else 3  # the same gradient again is the same step
    assert result.step == session.get().step == expected
    np.testing.assert_array_equal(result.parameters["w"], np.arange(3.0) - expected)


def test_within_a_payload_a_deadline_ends_the_wait(large, proxy):
    """An answer of which only the beginning has come."""
    gradient = {"w": np.ones(LARGE, np.float32)}
    with connect_remotely(proxy.address) as client, client.session(large.name).stream(pull=True) as stream:
        for _ in range(3):
            stream.step(gradient)
        assert isinstance(call_of(stream), DataChannel)
        proxy.delay = 0.2  # for each block of 64 KiB
        began = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            stream.step(gradient, timeout=1)
        assert time.monotonic() - began < 4
        proxy.delay = 0.0
        assert stream.step(gradient).step == 4
        assert stream.step(gradient).step == 5
    assert large.get().step == 5


def test_a_deadline_does_not_cost_a_data_connection(session, proxy):
    """A new one is made once the unanswered steps are settled."""
    with connect_remotely(proxy.address) as client, client.session(session.name).stream() as stream:
        stream.step(ONE)
        proxy.answers.clear()
        with pytest.raises(errors.DeadlineExceeded):
            stream.step(ONE, timeout=0.3)
        proxy.answers.set()
        assert [stream.step(ONE).step for _ in range(2)] == [2, 3]
        assert isinstance(call_of(stream), DataChannel)
