"""Eviction of unused sessions, and their unchanged return."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_pb2 import Session
from tests.integration.client import Client, plan_message, refusal, step_messages
from tests.recovery.test_durability import LARGE, VALUES, adam, gradient, kill, running, state

T = TypeVar("T")

LEASE = 0.6


def list_sessions(client: Client) -> dict[str, Session]:
    page = client.sessions.ListSessions(pb.ListSessionsRequest(), timeout=20)
    return {session.name: session for session in page.sessions}


def until_away(client: Client, name: str) -> Session:
    """Looks at the list, which is no use of a session, until the memory is free."""
    deadline = time.monotonic() + 20
    while (found := list_sessions(client)[name]).resident_bytes:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def patient(call: Callable[[], T]) -> T:
    """A large session is reloaded in the background; on a slow machine its lease is soon over again."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            told = refusal(error)
            assert (told.reason, told.code) == ("STORAGE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
            assert told.retry_seconds is not None
            assert time.monotonic() < deadline
            time.sleep(told.retry_seconds)


@pytest.mark.parametrize("values", [VALUES, LARGE], ids=["small", "large"])
def test_a_session_leaves_and_comes_back(tmp_path: Path, values: dict[str, np.ndarray]) -> None:
    spec = adam()
    spec.lease.seconds = LEASE
    with running(tmp_path) as (server, client):
        name = client.create(values, spec).name

        def step(number: int) -> pb.StepResult:
            data = gradient(number, values)
            return patient(lambda: client.step(name, data, worker="w", sequence=number).result)

        for number in range(1, 4):
            step(number)
        before = patient(lambda: state(client, name))
        away = until_away(client, name)
        assert (away.step, away.spec, away.layout) == (3, before[0].spec, before[0].layout)
        assert patient(lambda: client.get(name)) == before[0]
        assert patient(lambda: state(client, name)) == before
        assert step(3).replayed
        result = step(4)
        assert (result.step, result.durable_step) == (4, 4)
        after = patient(lambda: state(client, name))
        until_away(client, name)
        kill(server)
    with running(tmp_path) as (_, client):
        assert state(client, name) == after


def test_an_open_stream_goes_on(tmp_path: Path) -> None:
    spec = adam()
    spec.lease.seconds = LEASE
    with running(tmp_path) as (_, client):
        name = client.create(VALUES, spec).name
        data = b"".join(gradient(1)[key].tobytes() for key in ("b", "w"))

        def messages() -> Iterator[pb.StepStreamRequest]:
            yield from step_messages(data)
            until_away(client, name)
            yield from step_messages(data)

        assert [answer.result.step for answer in client.stream(name, messages())] == [1, 2]


def test_a_plan_outlives_its_sessions_absence(tmp_path: Path) -> None:
    """Its worker's sequence, its pull and its norms are those of before; what was answered stays so."""
    spec = adam()
    spec.lease.seconds = LEASE
    with running(tmp_path) as (_, client):
        name, like = client.create(VALUES, spec).name, client.create(VALUES, adam()).name
        data = [b"".join(gradient(seed)[key].tobytes() for key in ("b", "w")) for seed in (1, 2, 3)]
        plan = pb.StepPlan(session=name, worker="w", pull=pb.PullOptions(), per_tensor_norms=True)

        def messages() -> Iterator[pb.StepStreamRequest]:
            for sequence in (1, 2, 3):
                yield from step_messages(data[sequence - 1], sequence=sequence)
                until_away(client, name)
                yield from step_messages(data[sequence - 1], sequence=sequence)

        def send_steps() -> Iterator[pb.StepStreamRequest]:
            for sequence in (1, 2, 3):
                yield from step_messages(data[sequence - 1], sequence=sequence)

        answers = client.stream(plan, messages())
        plan.session = like
        expected = client.stream(plan, send_steps())
        assert [answer.result.replayed for answer in answers] == [False, True] * 3
        assert [len(answer.result.tensor_norms) for answer in answers] == [2] * 6
        assert [answer.chunk.data for answer in answers[::2]] == [answer.chunk.data for answer in expected]
        assert [answer.chunk.data for answer in answers[1::2]] == [answer.chunk.data for answer in expected]


def test_what_is_held_in_memory_alone_stays(tmp_path: Path) -> None:
    spec = adam()
    spec.lease.seconds = 0.1
    with running(tmp_path, durability="ephemeral") as (_, client):
        made = client.create(VALUES, spec)
        time.sleep(1.5)
        assert list_sessions(client)[made.name].resident_bytes == made.resident_bytes


def test_the_servers_own_lease(tmp_path: Path) -> None:
    with running(tmp_path, session_lease_seconds=LEASE, max_memory_bytes="1MiB") as (_, client):
        values = {"w": np.ones(40_000, np.float32)}
        names = []
        for _ in range(3):  # the limit admits one of 480 KB at a time
            names.append(client.create(values, adam()).name)
            until_away(client, names[-1])
        for name in names:
            client.step(name, values)
            until_away(client, name)
        assert [session.step for session in list_sessions(client).values()] == [1, 1, 1]


def test_an_upload_may_outlast_the_lease(tmp_path: Path) -> None:
    spec = adam()
    spec.lease.seconds = LEASE
    with running(tmp_path) as (_, client):
        name = client.create(LARGE, spec).name
        data = b"".join(value.tobytes() for value in gradient(1, LARGE).values())

        def slowly() -> Iterator[pb.StepStreamRequest]:
            yield plan_message(name)
            for message in step_messages(data, chunk=len(data) // 8 + 1):
                yield message
                time.sleep(LEASE / 2)

        assert client.exchange(slowly())[1].result.step == 1
