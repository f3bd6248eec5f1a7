"""Workers of one session on a real server: members, modes, fencing, waits."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import worker_service_pb2 as workers
from optserve.v1.session_pb2 import LATE_CONTRIBUTION_CARRY, Session, SessionSpec
from optserve.v1.worker_service_pb2_grpc import WorkerServiceStub
from tests.integration.client import (
    Client,
    chunk_message,
    expect_refusal,
    plan_message,
    sgd,
    step_messages,
    unpack,
)
from tests.integration.raw_stream import RawStream, frame
from tests.support.server import running_server

ONES: dict[str, np.ndarray] = {"w": np.ones(4, np.float32), "b": np.ones(2, np.float64)}
WAIT = 20.0


class Member:
    """A worker that has joined, and counts its steps."""

    def __init__(self, client: Client, session: str, worker: str, lease: float = 30.0) -> None:
        self.client, self.session, self.worker = client, session, worker
        self.service = WorkerServiceStub(client.channel)
        request = workers.JoinSessionRequest(session=session, worker=worker, lease_seconds=lease)
        self.joined = self.service.JoinSession(request, timeout=WAIT)
        self.epoch, self.sequence = self.joined.epoch, self.joined.next_sequence - 1

    def step(self, value: float, at: int | None, timeout: float = WAIT, **options: Any) -> pb.StepResult:
        """Takes a step with gradients of ``value``, computed at step ``at``."""
        self.sequence += 1
        return self.repeat(value, at, timeout, **options).result

    def repeat(self, value: float, at: int | None, timeout: float = WAIT, **options: Any) -> pb.StepResponse:
        """Sends the last step again."""
        stated = pb.StepOptions(
            worker=self.worker, sequence=self.sequence, worker_epoch=self.epoch, parameters_step=at, **options
        )
        request = pb.StepRequest(name=self.session, options=stated)
        for name, ones in ONES.items():
            data = (value * ones).tobytes()
            request.gradients.add(name=name).tensor.MergeFrom(_tensor(ones, data))
        return self.client.sessions.Step(request, timeout=timeout)

    def renew(self) -> int:
        request = workers.RenewLeaseRequest(session=self.session, worker=self.worker, worker_epoch=self.epoch)
        return self.service.RenewLease(request, timeout=WAIT).step

    def leave(self) -> None:
        request = workers.LeaveSessionRequest(
            session=self.session, worker=self.worker, worker_epoch=self.epoch
        )
        self.service.LeaveSession(request, timeout=WAIT)


def _tensor(like: np.ndarray, data: bytes) -> Any:
    from tests.integration.client import tensor

    made = tensor(like)
    made.data = data
    return made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def list_workers(client: Client, name: str) -> dict[str, workers.Worker]:
    response = WorkerServiceStub(client.channel).ListWorkers(
        workers.ListWorkersRequest(session=name), timeout=WAIT
    )
    return {worker.worker: worker for worker in response.workers}


def waits(client: Client, name: str, *expected: str) -> None:
    """Returns when steps of exactly these workers wait."""
    ends = time.monotonic() + WAIT
    while time.monotonic() < ends:
        found = list_workers(client, name)
        if sorted(expected) == sorted(
            w for w, one in found.items() if one.state == workers.WORKER_STATE_WAITING
        ):
            return
    raise AssertionError(f"{expected} do not wait")


def spec_of(**mode: Any) -> SessionSpec:
    spec = sgd(0.5)
    for name, fields in mode.items():
        getattr(spec.coordination, name).SetInParent()
        for field, value in fields.items():
            setattr(getattr(spec.coordination, name), field, value)
    return spec


def start(pool: ThreadPoolExecutor, member: Member, value: float, at: int, **options: Any) -> Future[Any]:
    return pool.submit(partial(member.step, value, at, **options))


def create(client: Client, **mode: Any) -> str:
    session: Session = client.create(ONES, spec_of(**mode))
    return session.name


def test_sync_steps_with_the_mean_and_each_contributor_gets_the_result(
    client: Client, pool: ThreadPoolExecutor
) -> None:
    name = create(client, sync={})
    a, b, c = (Member(client, name, worker) for worker in "abc")
    assert [m.joined.rank for m in (a, b, c)] == [0, 1, 2]
    first = start(pool, c, 3.0, 0)
    waits(client, name, "c")
    second = start(pool, a, 1.0, 0)
    waits(client, name, "a", "c")
    assert client.get(name).step == 0
    results = [b.step(2.0, 0), first.result(), second.result()]
    assert [(r.step, r.outcome, r.contributions) for r in results] == [(1, pb.STEP_OUTCOME_APPLIED, 3)] * 3
    assert {r.worker: round(r.weight, 6) for r in results} == dict.fromkeys("abc", round(1 / 3, 6))
    np.testing.assert_array_equal(client.pull(name)["w"], np.zeros(4, np.float32))
    again = b.repeat(2.0, 0).result
    assert again.replayed
    assert again.step == 1
    assert client.get(name).step == 1


def test_a_late_contribution_is_dropped_or_carried(client: Client, pool: ThreadPoolExecutor) -> None:
    name = create(client, sync={"replicas_to_aggregate": 1})
    a, b = Member(client, name, "a"), Member(client, name, "b")
    assert a.step(1.0, 0).step == 1
    late = b.step(1.0, 0)
    assert (late.outcome, late.step, late.staleness) == (pb.STEP_OUTCOME_DROPPED, 1, 1)
    assert client.get(name).step == 1
    assert b.repeat(1.0, 0).result.replayed
    spec = spec_of(sync={"replicas_to_aggregate": 1, "late": LATE_CONTRIBUTION_CARRY})
    client.sessions.UpdateSession(pb.UpdateSessionRequest(name=name, spec=spec), timeout=WAIT)
    carried = b.step(1.0, 0)
    assert (carried.outcome, carried.step, carried.staleness) == (pb.STEP_OUTCOME_APPLIED, 2, 1)


def test_a_straggler_is_not_waited_for_after_the_time_out(client: Client, pool: ThreadPoolExecutor) -> None:
    name = create(client, sync={"straggler_timeout_seconds": 0.3, "min_replicas": 2})
    a, b, _ = (Member(client, name, worker) for worker in "abc")
    first = start(pool, a, 1.0, 0)
    waits(client, name, "a")
    second = b.step(3.0, 0)
    assert (second.contributions, first.result().step, client.get(name).step) == (2, 1, 1)


def test_a_lost_member_is_expired_and_the_others_go_on(client: Client, pool: ThreadPoolExecutor) -> None:
    name = create(client, sync={})
    lost = Member(client, name, "lost", lease=0.5)
    a, b = Member(client, name, "a", lease=0.5), Member(client, name, "b")
    first = start(pool, a, 1.0, 0)
    assert b.step(3.0, 0).contributions == 2
    assert first.result().step == 1
    assert list_workers(client, name)["lost"].state == workers.WORKER_STATE_EXPIRED
    with expect_refusal() as told:
        lost.step(1.0, 1)
    assert (told.reason, told.code) == ("FENCED", grpc.StatusCode.FAILED_PRECONDITION)
    assert told.metadata == {"worker": "lost", "epoch": "1", "current": "1"}
    assert client.get(name).step == 1


def test_an_epoch_that_has_ended_is_fenced(client: Client, pool: ThreadPoolExecutor) -> None:
    name = create(client, sync={"min_replicas": 2})
    old = Member(client, name, "w")
    waiting = start(pool, old, 1.0, 0)
    waits(client, name, "w")
    new = Member(client, name, "w")
    assert (new.epoch, new.joined.rank, new.joined.next_sequence) == (2, 0, 1)
    with expect_refusal() as told:
        waiting.result()
    assert told.reason == "FENCED"
    with expect_refusal() as told:
        old.renew()
    assert told.reason == "FENCED"
    old.leave()
    assert list_workers(client, name)["w"].state == workers.WORKER_STATE_ACTIVE
    new.leave()
    assert list_workers(client, name)["w"].state == workers.WORKER_STATE_LEFT
    assert client.get(name).step == 0


def test_steps_of_others_are_rejected_where_members_alone_step(client: Client) -> None:
    name = create(client, **{"async": {}})
    with expect_refusal() as told:
        client.step(name, ONES, worker="x", sequence=1)
    assert (told.reason, told.metadata) == ("NOT_A_MEMBER", {"worker": "x"})
    member = Member(client, name, "w")
    member.worker = "y"
    member.epoch = 99
    with expect_refusal() as told:
        member.step(1.0, 0)
    assert told.reason == "NOT_A_MEMBER"


def test_async_states_the_true_staleness_and_damps_the_rate(client: Client) -> None:
    from optserve.v1.session_pb2 import DAMPING_INVERSE

    name = create(client, **{"async": {"damping": DAMPING_INVERSE, "max_staleness": 2}})
    a, b = Member(client, name, "a"), Member(client, name, "b")
    for step in range(2):
        result = a.step(0.0, step)
        assert (result.staleness, result.learning_rate) == (0, 0.5)
    stale = b.step(3.0, 0)
    assert (stale.staleness, stale.step) == (2, 3)
    assert stale.learning_rate == pytest.approx(0.5 / 3)
    np.testing.assert_allclose(client.pull(name)["w"], np.full(4, 0.5))
    with expect_refusal() as told:
        b.step(1.0, 0)
    assert (told.reason, told.code) == ("STALE", grpc.StatusCode.ABORTED)
    assert told.metadata == {"parameters_step": "0", "current": "3", "limit": "2"}
    with expect_refusal() as told:
        b.repeat(1.0, None)
    assert (told.reason, told.fields) == ("FIELD_REQUIRED", ["options.parameters_step"])


def test_bounded_waits_for_the_slowest_member(client: Client, pool: ThreadPoolExecutor) -> None:
    name = create(client, bounded={"max_lead": 2})
    fast, slow = Member(client, name, "fast"), Member(client, name, "slow")
    assert [fast.step(0.0, None).step for _ in range(2)] == [1, 2]
    third = pool.submit(fast.step, 0.0, None)
    waits(client, name, "fast")
    assert client.get(name).step == 2
    assert slow.step(0.0, None).step == 3
    assert third.result().step == 4
    fourth = pool.submit(fast.step, 0.0, None)
    waits(client, name, "fast")
    slow.leave()
    assert fourth.result().step == 5


def test_a_round_closes_when_it_is_full(client: Client) -> None:
    spec = sgd(1.0)
    spec.coordination.rounds.buffer_size = 2
    name = client.create(ONES, spec).name
    a, b = Member(client, name, "a"), Member(client, name, "b")
    first = a.step(1.0, 0, example_count=1)
    assert (first.outcome, first.accumulated, first.step) == (pb.STEP_OUTCOME_ACCUMULATED, 1, 0)
    assert client.get(name).step == 0
    b.step(4.0, 0, example_count=2)
    assert client.get(name).step == 1
    np.testing.assert_array_equal(client.pull(name)["w"], np.full(4, 4.0, np.float32))
    with expect_refusal() as told:
        a.step(1.0, 0)
    assert (told.reason, told.code) == ("ROUND_CLOSED", grpc.StatusCode.ABORTED)
    assert told.metadata == {"parameters_step": "0", "current": "1", "limit": "0"}


def test_a_round_closes_at_its_deadline(client: Client) -> None:
    spec = sgd(1.0)
    spec.coordination.rounds.buffer_size = 10
    spec.coordination.rounds.deadline_seconds = 0.4
    spec.coordination.rounds.max_active = 2
    name = client.create(ONES, spec).name
    member, _ = Member(client, name, "a"), Member(client, name, "silent")
    with expect_refusal() as told:
        Member(client, name, "b")
    assert (told.reason, told.metadata) == ("LIMIT_EXCEEDED", {"limit": "max_active", "value": "2"})
    begun = time.monotonic()
    member.step(2.0, 0)
    request = pb.PullParametersRequest(name=name, newer_than_step=0)
    messages = list(client.sessions.PullParameters(request, timeout=WAIT))
    assert 0.3 < time.monotonic() - begun < 5
    header = messages[0].header
    values = unpack(header.layout, b"".join(m.chunk.data for m in messages))
    assert header.step == 1
    np.testing.assert_array_equal(values["w"], np.full(4, 3.0, np.float32))


def test_a_round_does_not_wait_for_members_that_are_lost(client: Client) -> None:
    """There is no deadline, and the buffer cannot be filled any more."""
    spec = sgd(1.0)
    spec.coordination.rounds.buffer_size = 4
    name = client.create(ONES, spec).name
    a, lost, left = Member(client, name, "a"), Member(client, name, "b", lease=0.5), Member(client, name, "c")
    a.step(2.0, 0)
    left.leave()
    assert client.get(name).step == 0
    request = pb.PullParametersRequest(name=name, newer_than_step=0)
    messages = list(client.sessions.PullParameters(request, timeout=WAIT))
    assert messages[0].header.step == 1
    assert list_workers(client, name)[lost.worker].state == workers.WORKER_STATE_EXPIRED


def test_a_pull_that_waits_is_answered_when_a_snapshot_is_restored(tmp_path: Path) -> None:
    """Perhaps the worker waits that is to take the step."""
    with running_server(data_dir=tmp_path) as server, Client(server.address) as own:
        name = own.create(ONES, sgd()).name
        made = own.sessions.CreateSnapshot(pb.CreateSnapshotRequest(name=name), timeout=WAIT)
        own.step(name, ONES)
        request = pb.PullParametersRequest(name=name, newer_than_step=1)
        with ThreadPoolExecutor(1) as pool:
            pulled = pool.submit(lambda: list(own.sessions.PullParameters(request, timeout=WAIT)))
            with pytest.raises(TimeoutError):
                pulled.result(0.3)
            restore = pb.RestoreSnapshotRequest(name=made.snapshot.name)
            own.sessions.RestoreSnapshot(restore, timeout=WAIT)
            assert pulled.result(WAIT)[0].header.step == 0


def test_a_pull_that_waits_ends_with_its_deadline(client: Client) -> None:
    name = create(client)
    request = pb.PullParametersRequest(name=name, newer_than_step=0)
    with pytest.raises(grpc.RpcError) as failed:
        list(client.sessions.PullParameters(request, timeout=0.3))
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]


def test_streams_of_members_with_parameters(client: Client, pool: ThreadPoolExecutor) -> None:
    name = create(client, sync={})
    members = [Member(client, name, worker) for worker in "ab"]
    size = 3  # of "b", which comes first, and "w": 2*8 + 4*4 bytes

    def train(member: Member, value: float) -> list[pb.StepStreamResponse]:
        gradient = np.full(2, value, np.float64).tobytes() + np.full(4, value, np.float32).tobytes()
        messages = [
            plan_message(name, worker=member.worker, worker_epoch=member.epoch, pull=pb.PullOptions())
        ]
        for step in range(size):
            messages += step_messages(gradient, sequence=step + 1, parameters_step=step)
        return client.exchange(messages)[1:]

    found = list(pool.map(train, members, (1.0, 3.0)))
    for answers in found:
        assert [answer.result.step for answer in answers] == [1, 2, 3]
        last = np.frombuffer(answers[-1].chunk.data, np.float64, 2)
        np.testing.assert_array_equal(last, np.full(2, 1 - 3 * 0.5 * 2.0))


def break_off(client: Client, plan: pb.StepStreamRequest, messages: list[pb.StepStreamRequest]) -> None:
    """Sends the beginning of a step, and ends the call before the rest."""
    ended = threading.Event()

    def send() -> Iterator[pb.StepStreamRequest]:
        yield from (plan, *messages)
        ended.wait(0.5)  # until they have arrived
        call.cancel()

    call = client.sessions.StepStream(send(), timeout=WAIT)
    with pytest.raises(grpc.RpcError):
        list(call)


def break_off_within_a_chunk(
    client: Client, plan: pb.StepStreamRequest, messages: list[pb.StepStreamRequest]
) -> None:
    """The same over a data connection, which ends within the chunk that follows."""
    with RawStream(client) as stream:
        stream.go_over().plan(plan).send(*messages)
        begun = frame([chunk_message(2 << 20, bytes(1 << 20))])
        stream.socket.sendall(begun[: len(begun) // 2])
        stream.socket.shutdown(socket.SHUT_WR)  # a reset could lose what has not been read
        with pytest.raises(grpc.RpcError):
            next(stream.call)


@pytest.mark.parametrize("lose", [break_off, break_off_within_a_chunk])
def test_an_upload_that_breaks_off_goes_on_where_it_did(client: Client, lose: Any) -> None:
    values = {"w": np.zeros(1_000_000, np.float32)}
    spec = sgd(1.0)
    spec.coordination.rounds.buffer_size = 1
    name = client.create(values, spec).name
    join = workers.JoinSessionRequest(session=name, worker="w", lease_seconds=30)
    service = WorkerServiceStub(client.channel)
    plan = plan_message(name, worker="w", worker_epoch=service.JoinSession(join, timeout=WAIT).epoch)
    data = np.arange(1_000_000, dtype=np.float32).tobytes()
    messages = list(step_messages(data, sequence=1, parameters_step=0, upload_id=77))
    lose(client, plan, messages[:3])
    received = 2 << 20
    ends = time.monotonic() + WAIT
    while (planned := client.exchange([plan])[0].planned).upload_id == 0:
        assert time.monotonic() < ends
    assert (planned.upload_id, planned.received_bytes) == (77, received)
    begun: dict[str, Any] = {"sequence": 1, "parameters_step": 0, "byte_count": len(data)}

    def resume(upload_id: int, size: int) -> list[pb.StepStreamResponse]:
        start = pb.StepStart(**begun, upload_id=upload_id, resume_from=size)
        chunks = [chunk_message(at, data[at : at + (1 << 20)]) for at in range(size, len(data), 1 << 20)]
        return client.exchange([plan, pb.StepStreamRequest(step=start), *chunks])

    for upload_id, size in ((77, received + 4), (78, received)):
        with expect_refusal() as told:
            resume(upload_id, size)
        assert (told.reason, told.fields, told.applied) == ("STREAM_PROTOCOL", ["step.resume_from"], "no")
    result = resume(77, received)[1].result
    assert (result.outcome, client.get(name).step) == (pb.STEP_OUTCOME_ACCUMULATED, 1)
    np.testing.assert_array_equal(client.pull(name)["w"], np.frombuffer(data, np.float32))
    assert client.exchange([plan])[0].planned.upload_id == 0
    repeated = client.exchange([plan, *messages])[1].result
    assert repeated.replayed  # the digest is that of the whole


def test_what_has_arrived_is_dropped_with_the_membership(client: Client) -> None:
    values = {"w": np.zeros(1_000_000, np.float32)}
    name = client.create(values, spec_of(**{"async": {}})).name
    join = workers.JoinSessionRequest(session=name, worker="w", lease_seconds=30)
    service = WorkerServiceStub(client.channel)
    plan = plan_message(name, worker="w", worker_epoch=service.JoinSession(join, timeout=WAIT).epoch)
    data = bytes(values["w"].nbytes)
    break_off(client, plan, list(step_messages(data, sequence=1, parameters_step=0, upload_id=5))[:3])
    ends = time.monotonic() + WAIT
    while client.exchange([plan])[0].planned.upload_id != 5:
        assert time.monotonic() < ends
    epoch = service.JoinSession(join, timeout=WAIT).epoch
    again = plan_message(name, worker="w", worker_epoch=epoch)
    planned = client.exchange([again])[0].planned
    assert (planned.upload_id, planned.received_bytes) == (0, 0)


def test_deleting_the_session_ends_what_waits(client: Client, pool: ThreadPoolExecutor) -> None:
    name = create(client, sync={"min_replicas": 2})
    waiting = start(pool, Member(client, name, "w"), 1.0, 0)
    waits(client, name, "w")
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=name), timeout=WAIT)
    with expect_refusal() as told:
        waiting.result()
    assert told.reason == "SESSION_NOT_FOUND"


def test_a_change_of_the_coordination_decides_on_what_waits(client: Client, pool: ThreadPoolExecutor) -> None:
    name = create(client, sync={"min_replicas": 2})
    waiting = start(pool, Member(client, name, "w"), 1.0, 0)
    waits(client, name, "w")
    client.sessions.UpdateSession(pb.UpdateSessionRequest(name=name, spec=sgd()), timeout=WAIT)
    assert waiting.result().step == 1
