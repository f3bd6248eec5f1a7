"""Shards of a data plan on a real server: leases, waits, and what is rejected."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import worker_service_pb2 as workers
from optserve.v1.session_pb2 import DataPlanState, SessionSpec
from tests.integration.client import Client, expect_refusal, plan_message, sgd, step_messages
from tests.integration.test_workers import ONES, WAIT, Member


def with_plan(**plan: int) -> SessionSpec:
    spec = sgd(0.5)
    spec.data_plan.example_count = 10
    spec.data_plan.shard_size = 4
    for field, value in plan.items():
        setattr(spec.data_plan, field, value)
    return spec


def acquire(member: Member, **fields: Any) -> workers.AcquireShardsResponse:
    stated = {"session": member.session, "worker": member.worker, "worker_epoch": member.epoch, **fields}
    return member.service.AcquireShards(workers.AcquireShardsRequest(**stated), timeout=WAIT)


def release(member: Member, *shards: int, **fields: Any) -> None:
    stated = {"session": member.session, "worker": member.worker, "worker_epoch": member.epoch, **fields}
    member.service.ReleaseShards(workers.ReleaseShardsRequest(shards=shards, **stated), timeout=WAIT)


def numbers(response: workers.AcquireShardsResponse) -> list[int]:
    return [shard.number for shard in response.shards]


def state(client: Client, name: str) -> DataPlanState:
    response = client.sessions.GetSession(pb.GetSessionRequest(name=name), timeout=WAIT)
    return response.session.data_plan


def test_shards_are_leased_completed_and_counted(client: Client) -> None:
    name = client.create(ONES, with_plan(epochs=2)).name
    assert state(client, name) == DataPlanState(shard_count=6)
    a, b = Member(client, name, "a"), Member(client, name, "b")
    held = acquire(a, count=2)
    assert numbers(held) == numbers(acquire(a, count=2)) == [0, 1]
    assert {shard.end - shard.begin for shard in held.shards} <= {2, 4}
    assert numbers(acquire(b, count=3)) == [2, 3, 4]
    a.step(1.0, 0, completed_shards=[1])
    release(b, 3)
    assert state(client, name) == DataPlanState(shard_count=6, completed=1, leased=3)
    assert numbers(acquire(a, count=2)) == [0, 3]
    b.leave()
    release(a)
    assert state(client, name) == DataPlanState(shard_count=6, completed=1)
    last = acquire(a, count=1024)
    assert numbers(last) == [0, 2, 3, 4, 5]
    assert [shard.epoch for shard in last.shards] == [0, 0, 1, 1, 1]
    a.step(1.0, 1, completed_shards=numbers(last))
    assert acquire(a) == workers.AcquireShardsResponse(finished=True)
    assert state(client, name) == DataPlanState(shard_count=6, completed=6, epoch=2)


def test_a_call_waits_for_shards_of_others(client: Client) -> None:
    name = client.create(ONES, with_plan()).name
    a, b = Member(client, name, "a"), Member(client, name, "b")
    held = numbers(acquire(a, count=3))
    began = time.monotonic()
    assert acquire(b, wait_seconds=0) == workers.AcquireShardsResponse()
    assert acquire(b, wait_seconds=0.2) == workers.AcquireShardsResponse()
    assert time.monotonic() - began >= 0.2
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(acquire, b)
        release(a, held[1])
        assert numbers(waiting.result(WAIT)) == held[1:2]
        b.step(1.0, 0, completed_shards=held[1:2])
        waiting = pool.submit(acquire, b)
        a.step(1.0, 0, completed_shards=[held[0], held[2]])
        assert waiting.result(WAIT) == workers.AcquireShardsResponse(finished=True)


def test_what_is_wrong_is_rejected(client: Client) -> None:
    name, other = client.create(ONES, with_plan()).name, client.create(ONES, sgd(0.5)).name
    member, without = Member(client, name, "a"), Member(client, other, "a")
    for call in (acquire, release):
        with expect_refusal() as told:
            call(without)
        assert (told.reason, told.code) == ("NO_DATA_PLAN", grpc.StatusCode.FAILED_PRECONDITION)
        with expect_refusal() as told:
            call(member, worker="b", worker_epoch=7)
        assert told.reason == "NOT_A_MEMBER"
        with expect_refusal() as told:
            call(member, worker="")
        assert (told.reason, told.fields) == ("FIELD_REQUIRED", ["worker"])
        with expect_refusal() as told:
            call(member, session="sessions/none")
        assert (told.reason, told.fields) == ("SESSION_NOT_FOUND", ["session"])
    with expect_refusal() as told:
        acquire(member, count=1025)
    assert (told.reason, told.fields) == ("OUT_OF_RANGE", ["count"])
    for seconds in (-1.0, float("nan")):
        with expect_refusal() as told:
            acquire(member, wait_seconds=seconds)
        assert (told.reason, told.fields) == ("OUT_OF_RANGE", ["wait_seconds"])
    assert numbers(acquire(member)) == [0]
    with expect_refusal() as told:
        member.step(1.0, 0, completed_shards=[0, 1])
    assert (told.reason, told.code) == ("SHARD_NOT_HELD", grpc.StatusCode.FAILED_PRECONDITION)
    assert (told.fields, told.applied) == (["options.completed_shards[1]"], "no")
    member.epoch = 0
    with expect_refusal() as told:
        member.repeat(1.0, 0, completed_shards=[0])
    assert (told.reason, told.fields) == ("FIELD_REQUIRED", ["options.worker_epoch"])


def test_a_stream_completes_shards(client: Client) -> None:
    name = client.create(ONES, with_plan()).name
    member = Member(client, name, "a")
    (shard,) = numbers(acquire(member))
    gradient = b"".join(ONES[entry].tobytes() for entry in ("b", "w"))
    plan = plan_message(name, worker="a", worker_epoch=member.epoch)
    for completed, reason in ((shard + 1, "SHARD_NOT_HELD"), (shard, "")):
        messages = [plan, *step_messages(gradient, sequence=1, completed_shards=[completed])]
        if reason:
            with expect_refusal() as told:
                client.exchange(messages)
            assert (told.reason, told.fields) == (reason, ["step.completed_shards[0]"])
        else:
            client.exchange(messages)
    assert state(client, name).completed == 1


@pytest.mark.parametrize(
    ("plan", "reason", "field"),
    [
        ({"shard_size": 0}, "OUT_OF_RANGE", "spec.data_plan.shard_size"),
        ({"example_count": 0}, "OUT_OF_RANGE", "spec.data_plan.example_count"),
        ({"epochs": 0}, "OUT_OF_RANGE", "spec.data_plan.epochs"),
        ({"seed": -1}, "OUT_OF_RANGE", "spec.data_plan.seed"),
        ({"epochs": 1 << 62}, "OUT_OF_RANGE", "spec.data_plan.epochs"),
    ],
)
def test_a_wrong_plan_is_rejected(client: Client, plan: dict[str, int], reason: str, field: str) -> None:
    with expect_refusal() as told:
        client.create(ONES, with_plan(**plan))
    assert (told.reason, told.fields) == (reason, [field])
