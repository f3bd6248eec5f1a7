"""Workers of one session through the Python client."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

import optserve
from optserve import errors, events
from optserve.v1.worker_service_pb2 import ReleaseShardsRequest
from optserve.v1.worker_service_pb2_grpc import WorkerServiceStub
from tests.integration.python_client.conftest import connect_remotely
from tests.integration.python_client.proxy import running_proxy
from tests.support.server import RunningServer
from tests.support.watching import wait_until

START: dict[str, np.ndarray] = {"w": np.zeros(3), "b": np.ones((2, 2), np.float32)}


def gradient(value: float) -> dict[str, np.ndarray]:
    return {name: np.full(array.shape, value, array.dtype) for name, array in START.items()}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def create(client: optserve.Client, coordination: optserve.Coordination) -> optserve.SessionHandle:
    optimizer = optserve.optimizers.SGD(learning_rate=1.0)
    return client.create_session(START, optimizer, coordination=coordination)


def test_workers_train_together(client: optserve.Client, pool: ThreadPoolExecutor) -> None:
    session = create(client, optserve.CoordinationSync(min_replicas=2))
    joined = threading.Barrier(2)

    def train(value: float) -> list[optserve.StepResult]:
        with session.join() as member:
            joined.wait(20)
            results = [member.step(gradient(value)) for _ in range(3)]
            assert member.parameters_step == 3
            joined.wait(20)
            return results

    for results in pool.map(train, (1.0, 3.0)):
        assert [(r.step, r.contributions, r.weight) for r in results] == [(i, 2, 0.5) for i in (1, 2, 3)]
        np.testing.assert_array_equal(results[-1].parameters["w"], np.full(3, -6.0))
    assert {worker.state for worker in session.workers()} == {optserve.WorkerState.LEFT}


def test_the_lease_is_renewed_while_the_worker_computes(client: optserve.Client) -> None:
    session = create(client, optserve.CoordinationAsync())
    with session.join("w", lease=0.6) as member:
        epoch, ends = member.epoch, time.monotonic() + 1.5
        wait_until(lambda: time.monotonic() > ends)
        assert session.workers()[0].state is optserve.WorkerState.ACTIVE
        assert member.step(gradient(1.0)).step == 1
        assert (member.error, member.epoch) == (None, epoch)
    (worker,) = session.workers()
    assert (worker.worker, worker.contributions, worker.last_step) == ("w", 1, 1)


def test_a_worker_that_stops_is_expired_and_fenced(client: optserve.Client) -> None:
    session = create(client, optserve.CoordinationAsync())
    member = session.join("w", lease=0.3)
    member.close()
    wait_until(lambda: session.workers()[0].state is optserve.WorkerState.EXPIRED)
    again = session.join("w")
    assert again.epoch == member.epoch + 1
    with pytest.raises(errors.Fenced) as fenced:
        member.renew()
    assert fenced.value.metadata["current"] == str(again.epoch)
    assert again.step(gradient(1.0)).sequence == 1
    again.leave()
    with pytest.raises(errors.Fenced):
        again.renew()


def test_a_second_incarnation_goes_on_with_the_numbers(client: optserve.Client) -> None:
    session = create(client, optserve.CoordinationAsync())
    first = session.join("w")
    first.step(gradient(1.0))
    second = session.join("w")
    assert second.step(gradient(1.0)).sequence == 2
    with pytest.raises(errors.Fenced):
        first.step(gradient(5.0))
    assert session.get().step == 2


def test_errors_say_what_to_do_and_it_helps(client: optserve.Client) -> None:
    session = create(client, optserve.CoordinationAsync(max_staleness=0))
    with pytest.raises(errors.NotAMember, match="join the session"):
        session.step(gradient(1.0))
    a, b = session.join("a"), session.join("b")
    a.step(gradient(1.0))
    with pytest.raises(errors.Stale, match="pull, and compute the gradient again") as stale:
        b.step(gradient(1.0))
    assert stale.value.current_step == 1
    assert b.pull().step == 1
    assert b.step(gradient(1.0)).step == 2
    again = session.join("b")
    with pytest.raises(errors.Fenced, match="join again and continue with next_sequence"):
        b.step(gradient(1.0))
    assert again.step(gradient(1.0)).step == 3


def test_a_member_of_a_round_that_is_closed_takes_part_in_the_next(client: optserve.Client) -> None:
    session = create(client, optserve.CoordinationRounds(1, max_active=2))
    a, b = session.join("a"), session.join("b")
    with pytest.raises(errors.ResourceExhausted, match="join when one of them has left"):
        session.join("c", timeout=0.5)
    a.step(gradient(1.0))
    with pytest.raises(errors.RoundClosed, match="pull, and take part in the current one"):
        b.step(gradient(1.0))
    assert b.pull().step == 1
    b.step(gradient(1.0))
    assert session.get().step == 2
    b.leave()
    assert session.join("c").rank == 1


def test_a_worker_that_lost_a_shard_goes_on_with_others(
    server: RunningServer, client: optserve.Client
) -> None:
    plan = optserve.DataPlan(4, 1)
    session = client.create_session(START, optserve.optimizers.SGD(learning_rate=1.0), data_plan=plan)
    member = session.join("w")
    shards = member.shards()
    next(shards)
    with grpc.insecure_channel(server.address) as channel:
        request = ReleaseShardsRequest(session=session.name, worker="w", worker_epoch=member.epoch)
        WorkerServiceStub(channel).ReleaseShards(request, timeout=20)
    with pytest.raises(errors.ShardNotHeld, match="acquire shards, and compute another contribution"):
        member.step(gradient(0.0))
    done = sum(member.step(gradient(0.0)).outcome is optserve.StepOutcome.APPLIED for _ in member.shards())
    assert done == 4


def test_a_watch_shows_what_workers_do(client: optserve.Client, pool: ThreadPoolExecutor) -> None:
    session = create(client, optserve.CoordinationSync(min_replicas=2))
    watch = session.watch()
    assert isinstance(next(watch).what, events.Began)
    a, b = session.join("a"), session.join("b", lease=0.5)
    waiting = pool.submit(a.step, gradient(1.0))
    b.step(gradient(3.0))
    waiting.result(20)
    a.leave()
    b.close()
    seen = [next(watch).what for _ in range(7)]
    joined = [what.worker for what in seen if isinstance(what, events.Joined)]
    assert [(one.worker, one.epoch, one.state) for one in joined] == [
        ("a", 1, optserve.WorkerState.ACTIVE),
        ("b", 2, optserve.WorkerState.ACTIVE),
    ]
    parts = [what.result for what in seen if isinstance(what, events.Contributed)]
    assert [(one.worker, one.sequence, one.step, one.weight) for one in parts] == [
        ("a", 1, 1, 0.5),
        ("b", 1, 1, 0.5),
    ]
    (step,) = (what for what in seen if isinstance(what, optserve.StepResult))
    assert (step.worker, step.step) == ("", 1)
    ended = [what.worker for what in seen if isinstance(what, events.Ended)]
    assert [(one.worker, one.contributions, one.state) for one in ended] == [
        ("a", 1, optserve.WorkerState.LEFT),
        ("b", 1, optserve.WorkerState.EXPIRED),
    ]


def test_rounds(client: optserve.Client, pool: ThreadPoolExecutor) -> None:
    session = create(client, optserve.CoordinationRounds(2))
    a, b = session.join("a"), session.join("b")
    waiting = pool.submit(lambda: a.pull(newer_than_step=0, timeout=20))
    a.step(gradient(2.0), example_count=1)
    last = b.step(gradient(5.0), example_count=2)
    assert last.outcome is optserve.StepOutcome.ACCUMULATED
    values = waiting.result()
    assert values.step == 1
    np.testing.assert_array_equal(values["w"], np.full(3, 4.0))
    with pytest.raises(errors.RoundClosed):
        b.step(gradient(1.0), parameters_step=0)


def test_a_step_that_waits_survives_a_lost_connection(
    server: RunningServer, client: optserve.Client, pool: ThreadPoolExecutor
) -> None:
    session = create(client, optserve.CoordinationSync(min_replicas=2))
    host, _, port = server.address.rpartition(":")
    with (
        running_proxy((host, int(port))) as proxy,
        connect_remotely(proxy.address, data_connections=False) as other,
    ):
        a, b = other.session(session.name).join("a"), session.join("b")
        first = pool.submit(a.step, gradient(1.0))
        wait_until(lambda: session.workers()[0].state is optserve.WorkerState.WAITING)
        proxy.cut()
        assert b.step(gradient(3.0)).contributions == 2
        assert first.result(20).step == 1
    assert session.get().step == 1


@pytest.mark.parametrize("wire_dtype", [None, "float16"])
def test_an_upload_that_breaks_off_is_resumed(
    server: RunningServer, client: optserve.Client, wire_dtype: str | None
) -> None:
    """The connection is lost after 30 MB; only what was on its way is sent again."""
    change = np.arange(20_000_000, dtype=np.float32) % 1000
    session = client.create_session(
        {"w": np.zeros_like(change)},
        optserve.optimizers.SGD(learning_rate=1.0),
        coordination=optserve.CoordinationRounds(1),
    )
    host, _, port = server.address.rpartition(":")
    with (
        running_proxy((host, int(port))) as proxy,
        connect_remotely(proxy.address, data_connections=False) as other,
    ):
        member = other.session(session.name).join("w")
        proxy.upstream_budget = 30_000_000
        result = member.step({"w": change}, pull=None, wire_dtype=wire_dtype, timeout=60)
        assert result.outcome is optserve.StepOutcome.ACCUMULATED
        assert (result.replayed, proxy.cuts) == (False, 1)
        assert proxy.upstream_bytes < change.size * np.dtype(wire_dtype or np.float32).itemsize + 25_000_000
    np.testing.assert_array_equal(session.pull()["w"], change)
