"""What goes over a data connection: steps and their answers."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Callable

import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Client, expect_refusal, sgd
from tests.integration.data_connections.conftest import (
    LARGE,
    VALUES,
    adam,
    gradient,
    plan,
    small,
    step,
    whole,
)
from tests.integration.raw_stream import ACCEPTED, GREETING, RawStream, asking, frame
from tests.integration.test_operations import samples
from tests.support.server import RunningServer


def by_call(
    client: Client, planned: pb.StepStreamRequest, messages: list[pb.StepStreamRequest]
) -> list[bytes]:
    """The answers to these steps over gRPC, as bytes."""
    with RawStream(client) as stream:
        stream.plan(planned).say(*messages)
        stream._outbox.put(None)
        return list(stream.call)


def in_one_go(stream: RawStream, messages: list[pb.StepStreamRequest]) -> None:
    stream.send(*messages)


def one_by_one(stream: RawStream, messages: list[pb.StepStreamRequest]) -> None:
    for message in messages:
        stream.send(message)


def byte_by_byte(stream: RawStream, messages: list[pb.StepStreamRequest]) -> None:
    data = frame(messages)
    for i in range(len(data)):
        stream.socket.send(data[i : i + 1])


def in_odd_pieces(stream: RawStream, messages: list[pb.StepStreamRequest]) -> None:
    """Pieces that end within prefixes and within messages, with pauses."""
    data, pieces = frame(messages), random.Random(0)
    while data:
        length = pieces.choice((1, 3, 4, 6, 40, 200))
        stream.socket.sendall(data[:length])
        data = data[length:]
        time.sleep(0.0005)


@pytest.mark.parametrize("sent", [in_one_go, one_by_one, byte_by_byte, in_odd_pieces])
def test_answers_are_those_of_the_call_bit_by_bit(
    client: Client, stream: RawStream, name: str, sent: Callable[..., None]
) -> None:
    messages = [m for i in range(12) for m in small(i + 1)]
    stream.go_over().plan(plan(name, "me"))
    sent(stream, messages)
    answers = stream.finish()
    beside = client.create(VALUES, adam()).name
    assert answers == by_call(client, plan(beside, "me"), messages)
    assert [m.result.step for m in whole(answers)] == list(range(1, 13))
    assert client.pull(name)["w"].tobytes() == client.pull(beside)["w"].tobytes()
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=beside))


@pytest.mark.parametrize("chunk", [1 << 20, 333_333])
def test_large_gradients_come_and_go_in_chunks(client: Client, stream: RawStream, chunk: int) -> None:
    large = {"w": np.ones(LARGE, np.float32)}
    one, two = (client.create(large, adam()).name for _ in range(2))
    messages = [m for _ in range(4) for m in step(gradient(large), chunk=chunk)]
    stream.go_over().plan(plan(one)).send(*messages)
    answers = stream.finish()
    expected = by_call(client, plan(two), messages)
    assert b"".join(m.chunk.data for m in whole(answers)) == b"".join(m.chunk.data for m in whole(expected))
    assert [m.result for m in whole(answers)] == [m.result for m in whole(expected)]
    assert client.pull(one)["w"].tobytes() == client.pull(two)["w"].tobytes()
    for made in (one, two):
        client.sessions.DeleteSession(pb.DeleteSessionRequest(name=made))


def test_lone_steps_are_answered_one_at_a_time(stream: RawStream, name: str) -> None:
    stream.go_over().plan(plan(name, "me"))
    for i in range(200):
        [head, chunk] = small(i + 1)
        head.chunk.CopyFrom(chunk.chunk)
        stream.send(head)
        answer = stream.answer()
        assert answer is not None
        assert pb.StepStreamResponse.FromString(answer).result.step == i + 1
    assert stream.finish() == []


def test_a_stream_goes_over_between_two_steps(client: Client, stream: RawStream, name: str) -> None:
    stream.plan(plan(name, "me")).say(*small(1))
    assert stream.read_answer().result.step == 1
    offer = stream.offer()
    stream.say(*small(2))
    assert stream.read_answer().result.step == 2
    assert stream.knock(GREETING + offer.ticket, offer.port) == ACCEPTED
    stream.say(*small(3), asking(offer.ticket))
    assert stream.read_answer().result.step == 3
    stream.send(*small(4))
    assert [m.result.step for m in whole(stream.finish())] == [4]


def test_an_empty_message_is_a_message(stream: RawStream) -> None:
    stream.go_over().send(b"")
    assert stream.answer() is None
    with expect_refusal() as why:
        next(stream.call)
    assert (why.reason, why.fields) == ("STREAM_PROTOCOL", ["step"])


def test_an_unused_offer_costs_a_stream_nothing(stream: RawStream, name: str) -> None:
    assert stream.offer().port
    stream.plan(plan(name)).say(*small())
    assert stream.read_answer().result.step == 1
    stream._outbox.put(None)
    assert list(stream.call) == []


def test_metrics_count_the_bytes_of_data_connections(own: RunningServer) -> None:
    with Client(own.address) as client:
        values = {"w": np.ones(LARGE, np.float32)}
        name = client.create(values, sgd()).name
        before = samples(own)
        with RawStream(client) as stream:
            stream.go_over().plan(plan(name)).send(*step(bytes(4 * LARGE)))
            assert len(b"".join(m.chunk.data for m in whole(stream.finish()))) == 4 * LARGE
        after = samples(own)
        for way in ("received", "sent"):
            key = f"optserve_message_bytes_{way}_total", ""
            assert 4 * LARGE <= after[key] - before[key] < 4 * LARGE + 2000
        client.sessions.DeleteSession(pb.DeleteSessionRequest(name=name), timeout=10)


def test_many_streams_at_once_have_each_its_own(client: Client) -> None:
    """Their steps alternate, and each stream gets the answers to its own."""
    names = [client.create({"w": np.full(4, i, np.float32)}, sgd()).name for i in range(16)]
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(RawStream(client)).go_over().plan(plan(n, "me")) for n in names]
        for turn, stream in itertools.product(range(5), streams):
            stream.send(*step(np.full(4, 2.0, np.float32).tobytes(), turn + 1))
        for i, stream in enumerate(streams):
            answers = whole(stream.finish())
            assert [m.result.step for m in answers] == [1, 2, 3, 4, 5]
            last = np.frombuffer(answers[-1].chunk.data, np.float32)
            assert last.tolist() == [i - 5.0] * 4
    for name in names:
        client.sessions.DeleteSession(pb.DeleteSessionRequest(name=name), timeout=10)
