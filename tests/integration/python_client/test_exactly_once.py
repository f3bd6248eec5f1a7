"""A step is applied once, wherever the connection is lost; shown with a proxy that cuts it."""

from __future__ import annotations

import time

import numpy as np
import pytest

import optserve
from optserve import Retry, errors, optimizers
from tests.integration.python_client.conftest import LARGE, ONE, call_of


def lose_the_answer(proxy, until, condition):
    """Cuts the connection once the server has done its part, before it could say so."""
    until(condition)
    proxy.cut()
    proxy.answers.set()


def names(client):
    return [info.name for info in client.sessions()]


def test_a_step_whose_answer_was_lost_is_applied_once(session, distant, proxy, pool, until):
    distant.step(ONE, pull=True)
    proxy.answers.clear()
    answer = pool.submit(distant.step, ONE, pull=True)
    lose_the_answer(proxy, until, lambda: session.get().step == 2)
    result = answer.result(20)
    assert (result.step, result.replayed) == (2, True)
    np.testing.assert_array_equal(result.parameters["w"], np.arange(3.0) - 2)
    assert session.get().step == 2
    assert distant.step(ONE).step == 3


@pytest.mark.parametrize("budget", [100, 700_000, 2_000_000])
def test_a_large_step_cut_on_its_way_up_is_applied_once(large, proxy, budget):
    gradient = np.ones(LARGE, np.float32)
    with optserve.connect(proxy.address, timeout=20, shared_memory=False) as client:
        distant = client.session(large.name)
        proxy.upstream_budget = budget
        result = distant.step({"w": gradient}, pull=True)
    assert proxy.cuts == 1
    assert (result.step, large.get().step) == (1, 1)
    assert result.parameters["w"].tobytes() == (-gradient).tobytes()


@pytest.mark.parametrize("budget", [100, 2_000_000])
def test_a_large_step_whose_parameters_were_cut_is_applied_once(large, proxy, budget):
    gradient = np.ones(LARGE, np.float32)
    with optserve.connect(proxy.address, timeout=20, shared_memory=False) as client:
        distant = client.session(large.name)
        proxy.downstream_budget = budget
        result = distant.step({"w": gradient}, pull=True)
    assert proxy.cuts == 1
    assert large.get().step == 1
    assert result.parameters["w"].tobytes() == (-gradient).tobytes()


def test_a_pipelined_stream_takes_up_where_it_was_cut(way, session, distant, proxy, until):
    with distant.stream(pull=True) as stream:
        first = stream.submit(ONE).result()
        proxy.answers.clear()
        pending = [stream.submit(ONE) for _ in range(6)]
        lose_the_answer(proxy, until, lambda: session.get().step == 7)
        results = [step.result() for step in pending]
        last = stream.step(ONE)
    assert [r.step for r in [first, *results, last]] == list(range(1, 9))
    assert [r.replayed for r in results] == [True] * 6
    assert not last.replayed
    assert session.get().step == 8
    np.testing.assert_array_equal(session.pull()["w"], np.arange(3.0) - 8)


def test_a_stream_cut_again_and_again_loses_and_doubles_nothing(session, distant, proxy):
    with distant.stream(window=4) as stream:
        steps = []
        for i, result in enumerate(stream.steps([ONE] * 60)):
            steps.append(result.step)
            if i % 12 == 5:
                proxy.cut()
    assert proxy.cuts == 5
    assert steps == list(range(1, 61))
    assert session.get().step == 60


def test_lone_steps_cut_again_and_again_lose_and_double_nothing(way, session, distant, proxy):
    with distant.stream(pull=True) as stream:
        steps = []
        for i in range(40):
            if i % 8 == 5:
                proxy.cut()
            steps.append(stream.step(ONE).step)
            assert isinstance(call_of(stream), way)
    assert proxy.cuts == 5
    assert steps == list(range(1, 41))
    np.testing.assert_array_equal(session.pull()["w"], np.arange(3.0) - 40)


@pytest.mark.parametrize("direction", ["upstream", "downstream"])
@pytest.mark.parametrize("budget", [100, 700_000, 2_000_000])
def test_a_large_lone_step_cut_on_its_way_is_applied_once(way, large, proxy, direction, budget):
    gradient = np.ones(LARGE, np.float32)
    with (
        optserve.connect(proxy.address, timeout=20, shared_memory=False) as client,
        client.session(large.name).stream(pull=True) as stream,
    ):
        stream.step({"w": gradient})
        setattr(proxy, f"{direction}_budget", budget)
        result = stream.step({"w": gradient})
        assert isinstance(call_of(stream), way)
    assert proxy.cuts == 1
    assert (result.step, large.get().step) == (2, 2)
    assert result.parameters["w"].tobytes() == (-2 * gradient).tobytes()


def test_large_pipelined_steps_survive_a_cut(large, proxy):
    gradient = {"w": np.ones(LARGE, np.float32)}
    with (
        optserve.connect(proxy.address, timeout=20, shared_memory=False) as client,
        client.session(large.name).stream(pull=True, window=3) as stream,
    ):
        proxy.upstream_budget = 7_000_000
        values = [float(result.parameters["w"][-1]) for result in stream.steps([gradient] * 6)]
    assert proxy.cuts == 1
    assert large.get().step == 6
    assert values[-1] == -6


def test_a_pull_and_a_push_start_again(large, proxy):
    with optserve.connect(proxy.address, timeout=20) as client:
        distant = client.session(large.name)
        proxy.upstream_budget = 1_500_000
        distant.push({"w": np.full(LARGE, 3, np.float32)})
        proxy.downstream_budget = 1_500_000
        pulled = distant.pull()
    assert proxy.cuts == 2
    assert set(np.unique(pulled["w"])) == {3.0}


def test_creating_and_deleting_are_done_once(client, proxy, pool, until):
    with optserve.connect(proxy.address, timeout=20) as distant:
        distant.health()
        proxy.answers.clear()
        made = pool.submit(distant.create_session, {"w": np.zeros(1)}, optimizers.SGD(), session_id="once")
        lose_the_answer(proxy, until, lambda: "sessions/once" in names(client))
        session = made.result(20)
        assert session.name == "sessions/once"
        proxy.answers.clear()
        deleted = pool.submit(session.delete)
        lose_the_answer(proxy, until, lambda: "sessions/once" not in names(client))
        deleted.result(20)


def reachable(client):
    try:
        return client.health()
    except errors.Unavailable:
        return False


def test_a_step_that_never_arrived_gives_its_number_to_the_next(session, proxy, until):
    with optserve.connect(proxy.address, retry=Retry(initial=0.02), timeout=20) as client:
        distant = client.session(session.name)
        proxy.refuses = True
        proxy.cut()
        began = time.monotonic()
        with pytest.raises(errors.Unavailable):
            distant.step(ONE, timeout=1)
        assert time.monotonic() - began < 10  # the client's own limit is 20
        proxy.refuses = False
        until(lambda: reachable(client))  # gRPC itself waits before it connects again
        result = distant.step({"w": np.full(3, 2.0)}, pull=True)
    assert (result.step, result.replayed) == (1, False)
    np.testing.assert_array_equal(result.parameters["w"], np.arange(3.0) - 2)


def test_a_deadline_of_a_stream_leaves_the_step_pending(way, session, distant, proxy):
    with distant.stream() as stream:
        stream.step(ONE)
        proxy.answers.clear()
        pending = stream.submit(ONE)
        began = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            pending.result(timeout=0.3)
        assert time.monotonic() - began < 5
        assert not pending.done()
        proxy.answers.set()
        assert pending.result().step == 2
    assert session.get().step == 2


def test_an_answer_that_comes_with_its_deadline_leaves_the_stream_whole(
    way, session, distant, until, monkeypatch
):
    with distant.stream() as stream:
        stream.step(ONE)
        first, second = stream.submit(ONE), stream.submit(ONE)
        until(lambda: session.get().step == 3)
        read = stream._engine._accept_fields

        def slowly(*args, **kwargs):
            result = read(*args, **kwargs)
            time.sleep(0.3)  # the thread gets no turn, while the deadline passes
            return result

        with monkeypatch.context() as patch:
            patch.setattr(stream._engine, "_accept_fields", slowly)
            assert first.result(timeout=0.1).step == 2
        assert second.result().step == 3
        assert stream.step(ONE).step == 4
    assert session.get().step == 4


def test_a_gradient_may_be_overwritten_after_a_deadline(way, session, distant, proxy, until):
    buffer = np.ones(3)
    with distant.stream() as stream:
        stream.step({"w": buffer})
        assert isinstance(call_of(stream), way)
        proxy.answers.clear()
        with pytest.raises(errors.DeadlineExceeded):
            stream.step({"w": buffer}, timeout=0.3)
        until(lambda: session.get().step == 2)
        buffer[:] = 100
        proxy.answers.set()
        assert stream.step({"w": buffer}).step == 3
    np.testing.assert_array_equal(session.pull()["w"], np.arange(3.0) - 102)


@pytest.mark.parametrize("by", ["stream", "handle"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("data", [True, False])
def test_a_lone_step_that_timed_out_and_is_taken_again_is_applied_once(
    session, proxy, until, by, shared, data
):
    """Over shared memory, a data connection and gRPC; then another gradient in its place."""
    options = {"shared_memory": shared, "data_connections": data}
    with optserve.connect(proxy.address, timeout=20, **options) as client:
        distant = client.session(session.name)
        steps = distant.stream() if by == "stream" else distant
        for start in (0, 3):
            assert steps.step(ONE).step == start + 1
            proxy.answers.clear()
            with pytest.raises(errors.DeadlineExceeded) as caught:
                steps.step(ONE, timeout=0.5)
            assert caught.value.applied is None
            until(lambda start=start: session.get().step == start + 2)
            proxy.answers.set()
            if start == 0:
                result = steps.step(ONE)
                assert (result.step, result.replayed) == (2, True)
                assert steps.step(ONE).step == 3
            else:
                result = steps.step({"w": np.full(3, 2.0)})
                assert (result.step, result.replayed) == (6, False)
    assert session.get().step == 6
    np.testing.assert_array_equal(session.pull()["w"], np.arange(3.0) - 7)


@pytest.mark.parametrize("act", ["pull", "get", "push"])
def test_every_call_ends_with_its_deadline(distant, proxy, act):
    proxy.answers.clear()
    began = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        getattr(distant, act)(*[ONE] * (act == "push"), timeout=0.3)
    assert time.monotonic() - began < 5
    proxy.answers.set()
