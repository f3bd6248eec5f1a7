"""Data connections of step streams, with a client that is a bare socket against a real server."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_pb2 import SessionSpec
from tests.integration.client import Client, refused, sgd, step_messages
from tests.integration.hasty_server import CLAIM_SECONDS, STRANGERS
from tests.integration.raw_stream import (
    ACCEPTED,
    GREETING,
    PREFIX,
    SECONDS,
    RawStream,
    asking,
    framed,
    reset,
    taken,
    told,
)
from tests.integration.test_limits import resident
from tests.integration.test_operations import samples
from tests.support.certificates import Authority
from tests.support.server import RunningServer, run_to_end, running_server

VALUES = {"b": np.ones(2), "w": np.ones(4, np.float32)}
RNG = np.random.default_rng(0)
LARGE = 300_007
TICKET = "data_connection.ticket"


def adam() -> SessionSpec:
    spec = SessionSpec()
    spec.optimizer.adam.learning_rate = 0.01
    return spec


def gradient(values: dict[str, np.ndarray[Any, Any]]) -> bytes:
    """Random bytes of a gradient, in the layout's order: float32 before float64."""
    by_dtype = sorted(values.items(), key=lambda item: item[1].dtype.itemsize)
    return b"".join(RNG.standard_normal(v.shape).astype(v.dtype).tobytes() for _, v in by_dtype)


def header(name: str, sequence: int = 0, **fields: object) -> pb.StepHeader:
    head = pb.StepHeader(name=name, **fields)  # type: ignore[arg-type]
    head.options.pull.SetInParent()
    if sequence:
        head.options.worker, head.options.sequence = "me", sequence
    return head


def step(name: str, data: bytes, sequence: int = 0, chunk: int = 1 << 20) -> list[pb.StepStreamRequest]:
    return list(step_messages(header(name, sequence), data, chunk))


def small(name: str, sequence: int = 0) -> list[pb.StepStreamRequest]:
    return step(name, gradient(VALUES), sequence)


def whole(answers: list[bytes]) -> list[pb.StepStreamResponse]:
    return [pb.StepStreamResponse.FromString(answer) for answer in answers]


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def descriptors(server: RunningServer) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


@pytest.fixture
def name(client: Client) -> Iterator[str]:
    session = client.create(VALUES, adam())
    yield session.name
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name), timeout=10)


@pytest.fixture
def stream(client: Client) -> Iterator[RawStream]:
    with RawStream(client) as stream:
        yield stream


def by_call(client: Client, messages: list[pb.StepStreamRequest]) -> list[bytes]:
    """The answers to these messages over gRPC, as bytes."""
    with RawStream(client) as stream:
        stream.say(*messages)
        stream._outbox.put(None)
        return list(stream.call)


def renamed(messages: list[pb.StepStreamRequest], name: str) -> list[pb.StepStreamRequest]:
    copies = []
    for message in messages:
        copy = pb.StepStreamRequest.FromString(message.SerializeToString())
        if copy.HasField("header"):
            copy.header.name = name
        copies.append(copy)
    return copies


# Steps and their answers


def in_one_go(stream: RawStream, messages: list[pb.StepStreamRequest]) -> None:
    stream.send(*messages)


def one_by_one(stream: RawStream, messages: list[pb.StepStreamRequest]) -> None:
    for message in messages:
        stream.send(message)


def byte_by_byte(stream: RawStream, messages: list[pb.StepStreamRequest]) -> None:
    data = framed(messages)
    for i in range(len(data)):
        stream.socket.send(data[i : i + 1])


def in_odd_pieces(stream: RawStream, messages: list[pb.StepStreamRequest]) -> None:
    """Pieces that end within prefixes and within messages, with pauses."""
    data, pieces = framed(messages), random.Random(0)
    while data:
        length = pieces.choice((1, 3, 4, 6, 40, 200))
        stream.socket.sendall(data[:length])
        data = data[length:]
        time.sleep(0.0005)


@pytest.mark.parametrize("sent", [in_one_go, one_by_one, byte_by_byte, in_odd_pieces])
def test_answers_are_those_of_the_call_bit_by_bit(
    client: Client, stream: RawStream, name: str, sent: Callable[..., None]
) -> None:
    messages = [m for i in range(12) for m in small(name, i + 1)]
    stream.go_over()
    sent(stream, messages)
    answers = stream.finish()
    beside = client.create(VALUES, adam()).name
    assert answers == by_call(client, renamed(messages, beside))
    assert [m.result.step for m in whole(answers)] == list(range(1, 13))
    assert client.pull(name)["w"].tobytes() == client.pull(beside)["w"].tobytes()
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=beside))


@pytest.mark.parametrize("chunk", [1 << 20, 333_333])
def test_large_gradients_come_and_go_in_chunks(client: Client, stream: RawStream, chunk: int) -> None:
    large = {"w": np.ones(LARGE, np.float32)}
    one, two = (client.create(large, adam()).name for _ in range(2))
    messages = [m for _ in range(4) for m in step(one, gradient(large), chunk=chunk)]
    stream.go_over().send(*messages)
    answers = stream.finish()
    expected = by_call(client, renamed(messages, two))
    assert b"".join(m.chunk.data for m in whole(answers)) == b"".join(m.chunk.data for m in whole(expected))
    assert [m.result for m in whole(answers)] == [m.result for m in whole(expected)]
    assert client.pull(one)["w"].tobytes() == client.pull(two)["w"].tobytes()
    for made in (one, two):
        client.sessions.DeleteSession(pb.DeleteSessionRequest(name=made))


def test_lone_steps_are_answered_one_at_a_time(stream: RawStream, name: str) -> None:
    stream.go_over()
    for i in range(200):
        [head, chunk] = small(name, i + 1)
        head.chunk.CopyFrom(chunk.chunk)
        stream.send(head)
        answer = stream.answer()
        assert answer is not None
        assert pb.StepStreamResponse.FromString(answer).result.step == i + 1
    assert stream.finish() == []


def test_a_stream_goes_over_between_two_steps(client: Client, stream: RawStream, name: str) -> None:
    stream.say(*small(name, 1))
    assert stream.heard().result.step == 1
    offer = stream.offer()
    stream.say(*small(name, 2))
    assert stream.heard().result.step == 2
    assert stream.knock(GREETING + offer.ticket, offer.port) == ACCEPTED
    stream.say(*small(name, 3), asking(offer.ticket))
    assert stream.heard().result.step == 3
    stream.send(*small(name, 4))
    assert [m.result.step for m in whole(stream.finish())] == [4]


def test_an_empty_message_is_a_message(stream: RawStream) -> None:
    stream.go_over().send(b"")
    assert stream.answer() is None
    with refused() as why:
        next(stream.call)
    assert (why.reason, why.fields) == ("STREAM_PROTOCOL", ["header"])


def test_an_unused_offer_costs_a_stream_nothing(stream: RawStream, name: str) -> None:
    assert stream.offer().port
    stream.say(*small(name))
    assert stream.heard().result.step == 1
    stream._outbox.put(None)
    assert list(stream.call) == []


# Tickets, and who shows them


def test_offers_say_what_the_contract_says(server: RunningServer, stream: RawStream) -> None:
    offer = stream.offer()
    assert len(offer.ticket) == 32
    assert 0 < offer.port != offer.server_port == int(server.address.rpartition(":")[2])
    assert offer.claim_within.seconds == 10


def test_an_offer_asked_for_twice_is_the_same(stream: RawStream) -> None:
    assert stream.offer() == stream.offer()


def test_no_two_streams_are_offered_one_ticket(client: Client, stream: RawStream) -> None:
    with RawStream(client) as other:
        assert stream.offer().ticket != other.offer().ticket


def strangers() -> dict[str, Callable[[pb.DataConnectionOffer], bytes]]:
    return {
        "wrong ticket": lambda offer: GREETING + bytes(32),
        "no greeting": lambda offer: offer.ticket + offer.ticket,
        "another version": lambda offer: b"optserve data 2\n" + offer.ticket,
        "garbage": lambda offer: b"\0" * 48,
        "HTTP": lambda offer: b"GET / HTTP/1.1\r\n\r\n",
        "HTTP/2": lambda offer: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "one wrong byte": lambda offer: b"x",
    }


@pytest.mark.parametrize("who", strangers())
def test_strangers_are_sent_away_without_a_word(stream: RawStream, name: str, who: str) -> None:
    """And at once: none of them would be waited for."""
    offer = stream.offer()
    began = time.monotonic()
    with contextlib.suppress(ConnectionResetError):
        assert stream.knock(strangers()[who](offer), offer.port) == b""
    assert time.monotonic() - began < 5
    assert stream.knock(GREETING + offer.ticket, offer.port) == ACCEPTED
    stream.say(asking(offer.ticket))
    stream.send(*small(name))
    assert len(stream.finish()) == 1


def test_a_ticket_is_good_for_one_connection(stream: RawStream, name: str) -> None:
    offer = stream.offer()
    assert stream.knock(GREETING + offer.ticket, offer.port) == ACCEPTED
    with socket.create_connection(("127.0.0.1", offer.port), SECONDS) as second:
        second.sendall(GREETING + offer.ticket)
        assert told(second) == b""
    stream.say(asking(offer.ticket))
    with socket.create_connection(("127.0.0.1", offer.port), SECONDS) as third:
        third.sendall(GREETING + offer.ticket)
        assert told(third) == b""
    stream.send(*small(name))
    assert len(stream.finish()) == 1


def test_a_ticket_ends_with_its_stream(client: Client, stream: RawStream) -> None:
    with RawStream(client) as other:
        offer = other.offer()
        with socket.create_connection(("127.0.0.1", offer.port), SECONDS) as waiting:
            waiting.sendall(GREETING + offer.ticket)
            assert taken(waiting, 1) == ACCEPTED
            other.call.cancel()
            assert told(waiting) == b"", "a connection that its stream has not claimed is closed"
    assert stream.knock(GREETING + offer.ticket, offer.port) == b""


def test_another_streams_ticket_is_refused(client: Client, stream: RawStream, name: str) -> None:
    with RawStream(client) as other:
        theirs = other.offer()
        assert stream.offer().ticket != theirs.ticket
        assert other.knock(GREETING + theirs.ticket, theirs.port) == ACCEPTED
        stream.say(asking(theirs.ticket))
        with refused() as why:
            next(stream.call)
        assert (why.code, why.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "STREAM_PROTOCOL")
        assert why.fields == [TICKET]
        other.say(asking(theirs.ticket))
        other.send(*small(name))
        assert len(other.finish()) == 1, "theirs goes on"


@pytest.mark.parametrize("ticket", [b"x", bytes(32), bytes(1000)], ids=["short", "zeros", "long"])
def test_a_ticket_that_was_never_offered_is_refused(stream: RawStream, ticket: bytes) -> None:
    stream.say(asking(ticket))
    with refused() as why:
        next(stream.call)
    assert (why.reason, why.fields) == ("STREAM_PROTOCOL", [TICKET])


def test_a_request_for_another_connection_is_refused(stream: RawStream) -> None:
    stream.go_over().send(asking())
    assert stream.answer() is None
    with refused() as why:
        next(stream.call)
    assert (why.reason, why.fields) == ("STREAM_PROTOCOL", ["data_connection"])


def test_a_request_within_a_step_is_refused(client: Client, stream: RawStream, name: str) -> None:
    stream.go_over().send(small(name)[0], asking())
    assert stream.answer() is None
    with refused() as why:
        next(stream.call)
    assert why.reason == "STREAM_PROTOCOL"
    assert client.get(name).step == 0


@pytest.mark.parametrize("field", ["header", "chunk"])
def test_a_request_stands_alone(client: Client, stream: RawStream, name: str, field: str) -> None:
    request, parts = asking(), small(name)
    request.MergeFrom(parts[0] if field == "header" else parts[1])
    stream.say(request)
    with refused() as why:
        next(stream.call)
    assert (why.reason, why.fields) == ("STREAM_PROTOCOL", ["data_connection"])
    assert client.get(name).step == 0


@pytest.fixture(scope="module")
def hasty() -> Iterator[RunningServer]:
    with running_server(module="tests.integration.hasty_server") as server:
        yield server


def test_who_says_nothing_is_sent_away_in_time(hasty: RunningServer) -> None:
    with Client(hasty.address) as client, RawStream(client) as stream, RawStream(client) as idle:
        offer, unused = stream.offer(), idle.offer()
        silent, begun, shown = (
            socket.create_connection(("127.0.0.1", offer.port), SECONDS) for _ in range(3)
        )
        with silent, begun, shown:
            begun.sendall(GREETING + offer.ticket[:31])
            shown.sendall(GREETING + unused.ticket)
            assert taken(shown, 1) == ACCEPTED
            began = time.monotonic()
            assert told(silent) == told(begun) == told(shown) == b""
            assert 0.7 * CLAIM_SECONDS < time.monotonic() - began < CLAIM_SECONDS + 3
        assert stream.knock(GREETING + offer.ticket, offer.port) == b"", "the ticket has expired"


def test_a_ticket_that_nobody_shows_ends_its_stream(hasty: RunningServer) -> None:
    with Client(hasty.address) as client, RawStream(client) as stream:
        stream.say(asking(stream.offer().ticket))
        began = time.monotonic()
        with refused() as why:
            next(stream.call)
        assert (why.reason, why.fields) == ("STREAM_PROTOCOL", [TICKET])
        assert 0.7 * CLAIM_SECONDS < time.monotonic() - began < CLAIM_SECONDS + 3


def test_a_ticket_may_be_shown_after_the_stream_has_gone_over(hasty: RunningServer) -> None:
    with Client(hasty.address) as client, RawStream(client) as stream:
        offer = stream.offer()
        stream.say(asking(offer.ticket))
        time.sleep(0.2)
        assert stream.knock(GREETING + offer.ticket, offer.port) == ACCEPTED
        stream.send(*small(client.create(VALUES).name))
        assert len(stream.finish()) == 1


def test_an_expired_ticket_is_followed_by_steps_over_the_call(hasty: RunningServer) -> None:
    with Client(hasty.address) as client, RawStream(client) as stream:
        stream.offer()
        time.sleep(CLAIM_SECONDS + 0.2)
        stream.say(*small(client.create(VALUES).name))
        assert stream.heard().result.step == 1


def test_only_so_many_may_be_strangers(hasty: RunningServer) -> None:
    """Those beyond are sent away at once, and when the others have gone there is room again."""
    with Client(hasty.address) as client, RawStream(client) as stream, contextlib.ExitStack() as stack:
        offer = stream.offer()
        knock = partial(socket.create_connection, ("127.0.0.1", offer.port), SECONDS)
        for _ in range(STRANGERS):
            stack.enter_context(knock())
        time.sleep(0.2)
        with knock() as beyond:
            began = time.monotonic()
            assert told(beyond) == b""
            assert time.monotonic() - began < 0.5 * CLAIM_SECONDS
        time.sleep(CLAIM_SECONDS + 0.3)
        with RawStream(client) as later:
            later.go_over().send(*small(client.create(VALUES).name))
            assert len(later.finish()) == 1


# What is wrong with a message


def test_a_compressed_message_is_refused(client: Client, stream: RawStream, name: str) -> None:
    message = small(name)[0].SerializeToString()
    stream.go_over().socket.sendall(PREFIX.pack(1, len(message)) + message)
    assert stream.answer() is None
    with refused() as why:
        next(stream.call)
    assert (why.code, why.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    assert client.get(name).step == 0


@pytest.mark.parametrize("length", [(64 << 20) + 1, 2**32 - 1])
def test_a_message_that_is_too_long_is_refused_by_its_length(stream: RawStream, length: int) -> None:
    stream.go_over().socket.sendall(PREFIX.pack(0, length) + b"its beginning")
    assert stream.answer() is None
    with refused() as why:
        next(stream.call)
    assert (why.code, why.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
    expected = {"limit": "max_message_bytes", "maximum": str(64 << 20), "actual": str(length)}
    assert why.metadata == expected


def test_a_message_that_is_no_message_is_refused(stream: RawStream) -> None:
    stream.go_over().send(b"\xff" * 40)
    assert stream.answer() is None
    with refused() as why:
        next(stream.call)
    assert why.reason == "MALFORMED_MESSAGE"


def test_a_message_takes_no_memory_before_it_comes(own: RunningServer) -> None:
    """What says that it is 64 MiB long, and begins with nothing that is known."""
    with Client(own.address) as client, contextlib.ExitStack() as stack:
        before = resident(own)
        for _ in range(8):
            stream = stack.enter_context(RawStream(client)).go_over()
            stream.socket.sendall(PREFIX.pack(0, 64 << 20) + b"\xff" * 70_000)
        time.sleep(0.5)
        assert resident(own) - before < 64 << 20
    eventually(lambda: calls_in_flight(own) == 0)


@pytest.mark.parametrize("left", [1, 5, 30])
def test_an_end_within_a_message_is_no_end(client: Client, stream: RawStream, name: str, left: int) -> None:
    """Nor is one within the five bytes before it."""
    data = framed(small(name)[:1])
    stream.go_over().send(*small(name))
    sent = data[:left] if left < 10 else data[:-1]
    stream.socket.sendall(sent)
    stream.socket.shutdown(socket.SHUT_WR)
    answers = list(stream.answers())
    assert len(answers) == 1
    with refused() as why:
        next(stream.call)
    assert (why.code, why.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "STREAM_TRUNCATED")
    assert int(why.metadata["actual"]) < int(why.metadata["expected"])
    assert client.get(name).step == 1


def test_an_end_within_a_gradient_is_told(client: Client, stream: RawStream, name: str) -> None:
    stream.go_over().send(small(name)[0])
    stream.socket.shutdown(socket.SHUT_WR)
    assert stream.answer() is None
    with refused() as why:
        next(stream.call)
    assert why.reason == "STREAM_TRUNCATED"
    assert client.get(name).step == 0


def unknown_tensor(name: str) -> pb.StepHeader:
    return header(name, tensors=["nobody"])


def unknown_session(name: str) -> pb.StepHeader:
    return header("sessions/nobody")


def wrong_step(name: str) -> pb.StepHeader:
    head = header(name)
    head.options.expected_step = 17
    return head


@pytest.mark.parametrize(
    ("wrong", "code", "reason", "fields"),
    [
        (unknown_tensor, "INVALID_ARGUMENT", "UNKNOWN_TENSOR", ["header.tensors[0]"]),
        (unknown_session, "NOT_FOUND", "SESSION_NOT_FOUND", []),
        (wrong_step, "ABORTED", "STEP_MISMATCH", []),
    ],
)
def test_answers_come_before_an_error_and_the_error_over_the_call(
    client: Client,
    stream: RawStream,
    name: str,
    wrong: Callable[[str], pb.StepHeader],
    code: str,
    reason: str,
    fields: list[str],
) -> None:
    good, bad = [m for _ in range(3) for m in small(name)], step_messages(wrong(name), gradient(VALUES))
    stream.go_over().send(*good, *bad, *small(name))
    answers = whole(list(stream.answers()))
    assert [m.result.step for m in answers] == [1, 2, 3]
    with refused() as why:
        next(stream.call)
    assert (why.code.name, why.reason) == (code, reason)
    assert [f for f in why.fields if f in fields] == fields
    assert client.get(name).step == 3


def test_a_refused_upload_is_read_on_until_its_client_knows(client: Client, stream: RawStream) -> None:
    """So that the answers before it are not lost with it, however much was on its way."""
    name = client.create({"w": np.ones(LARGE, np.float32)}, sgd()).name
    data = bytes(4 * LARGE)
    good, bad = step(name, data), list(step_messages(header(name, tensors=["nobody"]), data))
    stream.go_over()
    stream.socket.sendall(framed(good + bad * 20))
    assert len(b"".join(m.chunk.data for m in whole(list(stream.answers())))) == 4 * LARGE
    with refused() as why:
        next(stream.call)
    assert why.reason == "UNKNOWN_TENSOR"
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=name), timeout=10)


# Ends of all kinds


@pytest.fixture(scope="module")
def own() -> Iterator[RunningServer]:
    """A server whose descriptors nobody else opens."""
    with running_server(metrics_port=0) as server:
        yield server


def ended(stream: RawStream) -> grpc.StatusCode:
    """How a call ended that has no answers."""
    with pytest.raises(grpc.RpcError) as error:
        next(stream.call)
    code: grpc.StatusCode = error.value.code()
    return code


def calls_in_flight(server: RunningServer) -> float:
    return samples(server)["optserve_calls_in_flight", ""]


def vanish_within_an_upload(stream: RawStream, name: str) -> None:
    stream.go_over()
    data = framed(step(name, bytes(4 * LARGE)))
    stream.socket.sendall(data[: len(data) // 2])
    reset(stream.socket)
    assert ended(stream) is not grpc.StatusCode.DEADLINE_EXCEEDED


def vanish_before_a_step(stream: RawStream, name: str) -> None:
    reset(stream.go_over().socket)
    assert ended(stream) is not grpc.StatusCode.DEADLINE_EXCEEDED


def close_within_an_upload(stream: RawStream, name: str) -> None:
    stream.go_over()
    data = framed(step(name, bytes(4 * LARGE)))
    stream.socket.sendall(data[: len(data) // 2])
    stream.socket.close()
    assert ended(stream) is grpc.StatusCode.INVALID_ARGUMENT


def cancel_the_call(stream: RawStream, name: str) -> None:
    stream.go_over()
    data = framed(step(name, bytes(4 * LARGE)))
    stream.socket.sendall(data[: len(data) // 2])
    stream.call.cancel()
    assert told(stream.socket) == b""


def cancel_before_the_ticket(stream: RawStream, name: str) -> None:
    offer = stream.offer()
    assert stream.knock(GREETING + offer.ticket, offer.port) == ACCEPTED
    stream.call.cancel()
    assert told(stream.socket) == b""


VANISHINGS = [
    vanish_within_an_upload,
    vanish_before_a_step,
    close_within_an_upload,
    cancel_the_call,
    cancel_before_the_ticket,
]


@pytest.mark.parametrize("vanish", VANISHINGS)
def test_clients_that_vanish_leave_nothing(own: RunningServer, vanish: Callable[..., None]) -> None:
    with Client(own.address) as client:
        name = client.create({"w": np.ones(LARGE, np.float32)}, sgd()).name
        with RawStream(client) as stream:
            vanish(stream, name)
        eventually(lambda: calls_in_flight(own) == 0)
        before = descriptors(own)
        for _ in range(20):
            with RawStream(client) as stream:
                vanish(stream, name)
        eventually(lambda: calls_in_flight(own) == 0)
        eventually(lambda: descriptors(own) <= before)
        assert client.get(name).step == 0
        client.sessions.DeleteSession(pb.DeleteSessionRequest(name=name), timeout=10)
    assert not [line for line in own.log() if line["level"] in ("warning", "error")]


def test_fifty_streams_that_end_well_leave_nothing(own: RunningServer) -> None:
    with Client(own.address) as client:
        name = client.create(VALUES).name
        counts = []
        for _ in range(51):
            with RawStream(client) as stream:
                stream.go_over().send(*small(name))
                assert len(stream.finish()) == 1
            counts.append(descriptors(own))
        eventually(lambda: descriptors(own) <= counts[0])
        assert client.get(name).step == 51


def test_an_answer_that_nobody_reads_holds_nobody_up(own: RunningServer) -> None:
    with Client(own.address) as client:
        name = client.create({"w": np.ones(LARGE, np.float32)}, sgd()).name
        other = client.create(VALUES).name
        messages = framed(m for _ in range(40) for m in step(name, bytes(4 * LARGE)))
        with RawStream(client) as deaf, RawStream(client) as stream:
            deaf.go_over().socket.settimeout(0.5)
            with pytest.raises(TimeoutError):  # the server waits until its answers are read
                deaf.socket.sendall(messages)
            stream.go_over()
            for i in range(5):
                stream.send(*small(other))
                answer = stream.answer()
                assert answer is not None
                assert pb.StepStreamResponse.FromString(answer).result.step == i + 1
        eventually(lambda: calls_in_flight(own) == 0)


def test_metrics_count_the_bytes_of_data_connections(own: RunningServer) -> None:
    with Client(own.address) as client:
        values = {"w": np.ones(LARGE, np.float32)}
        name = client.create(values, sgd()).name
        before = samples(own)
        with RawStream(client) as stream:
            stream.go_over().send(*step(name, bytes(4 * LARGE)))
            assert len(b"".join(m.chunk.data for m in whole(stream.finish()))) == 4 * LARGE
        after = samples(own)
        for way in ("received", "sent"):
            key = f"optserve_message_bytes_{way}_total", ""
            assert 4 * LARGE <= after[key] - before[key] < 4 * LARGE + 2000
        client.sessions.DeleteSession(pb.DeleteSessionRequest(name=name), timeout=10)


def test_a_drain_ends_an_idle_data_connection_at_once() -> None:
    with running_server(grace_seconds=60) as server, Client(server.address) as client:
        name = client.create(VALUES).name
        with RawStream(client) as stream:
            stream.go_over().send(*small(name))
            assert stream.answer()
            server.process.terminate()
            assert stream.answer() is None
            with refused() as why:
                next(stream.call)
            assert (why.code, why.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert server.process.wait(10) == 0


def test_a_drain_finishes_the_step_that_has_begun() -> None:
    with running_server(grace_seconds=20) as server, Client(server.address) as client:
        name = client.create(VALUES).name
        with RawStream(client) as stream:
            first, rest = small(name)
            stream.go_over().send(first)
            client.get(name)
            time.sleep(0.1)
            server.process.terminate()
            eventually(lambda: "SHUTTING_DOWN" in refusal_of(client, name))
            stream.send(rest)
            assert [m.result.step for m in whole(list(stream.answers()))] == [1]
            with refused() as why:
                next(stream.call)
            assert why.reason == "SHUTTING_DOWN"
        assert server.process.wait(10) == 0


def refusal_of(client: Client, name: str) -> str:
    try:
        client.get(name)
    except grpc.RpcError as error:
        return "SHUTTING_DOWN" if "shutting down" in str(error.details()) else ""
    return ""


def test_a_drain_gives_up_strangers_and_streams_after_its_grace() -> None:
    with running_server(grace_seconds=0.3) as server, Client(server.address) as client:
        name = client.create(VALUES).name
        with RawStream(client) as stream, RawStream(client) as waiting:
            stream.go_over().send(small(name)[0])
            offer = waiting.offer()
            silent = socket.create_connection(("127.0.0.1", offer.port), SECONDS)
            with silent:
                assert waiting.knock(GREETING + offer.ticket, offer.port) == ACCEPTED
                server.process.terminate()
                assert server.process.wait(10) == 0
                assert told(silent) == told(stream.socket) == told(waiting.socket) == b""


def test_a_silent_data_connection_ends() -> None:
    with running_server(stream_idle_seconds=1) as server, Client(server.address) as client:
        name = client.create(VALUES).name
        with RawStream(client) as stream:
            stream.go_over()
            for _ in range(3):
                time.sleep(0.6)
                stream.send(*small(name))
                assert stream.answer(), "one that moves lives"
            began = time.monotonic()
            assert stream.answer() is None
            assert 0.9 < time.monotonic() - began < 4
            with refused() as why:
                next(stream.call)
            assert why.reason == "STREAM_IDLE"
        assert client.get(name).step == 3


# Who may, and where


def token_for(path: Path, namespace: str) -> str:
    made = run_to_end("token", "--tokens-file", str(path), "--namespace", namespace)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def test_tokens_hold_for_data_connections(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    alices, bobs = token_for(path, "alice"), token_for(path, "bob")
    with (
        running_server(tokens_file=path) as server,
        Client(server.address, token=alices) as alice,
        Client(server.address, token=bobs) as bob,
        Client(server.address) as nobody,
    ):
        name = alice.create(VALUES).name
        with RawStream(nobody) as stream:
            stream.say(asking())
            with refused() as why:
                next(stream.call)
            assert why.reason == "UNAUTHENTICATED"
        with RawStream(bob) as stream:
            stream.go_over().send(*small(name))
            assert stream.answer() is None
            with refused() as why:
                next(stream.call)
            assert (why.code, why.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
        with RawStream(alice) as stream:
            stream.go_over().send(*small(name))
            assert stream.answer()
            text = path.read_text()
            path.write_text(text[text.rindex("[[tokens]]") :])  # bob's alone
            assert stream.answer() is None
            with refused() as why:
                next(stream.call)
            assert why.reason == "UNAUTHENTICATED"


@pytest.mark.parametrize("how", ["off", "TLS", "unix"])
def test_where_none_are_offered(tmp_path: Path, how: str) -> None:
    authority, credentials, settings = Authority(), None, {"data_port": "off"}
    if how == "TLS":
        settings = {k: str(v) for k, v in authority.pair().write(tmp_path).items()}
        credentials = authority.credentials()
    elif how == "unix":
        settings = {"unix_socket": str(tmp_path / "socket")}
    with running_server(**settings) as server:
        address = f"unix:{tmp_path / 'socket'}" if how == "unix" else server.address
        with Client(address, credentials) as client, RawStream(client) as stream:
            assert stream.offer() == pb.DataConnectionOffer()
            name = client.create(VALUES).name
            stream.say(*small(name))
            assert stream.heard().result.step == 1, "and steps go over the call"
            stream.say(asking(b"x" * 32))
            with refused() as why:
                next(stream.call)
            assert (why.reason, why.fields) == ("STREAM_PROTOCOL", [TICKET])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_a_port_that_was_chosen_is_taken() -> None:
    port = free_port()
    with (
        running_server(data_port=port) as server,
        Client(server.address) as client,
        RawStream(client) as stream,
    ):
        assert stream.offer().port == port
        assert server.stop() == 0
    socket.create_server(("127.0.0.1", port)).close()


def test_a_port_that_is_in_use_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        done = run_to_end("--backend=numpy", "--port=0", "--metrics-port=off", f"--data-port={port}")
    assert done.returncode == 1
    assert f"data_port {port} cannot be bound" in done.stderr
    assert "Traceback" not in done.stderr


def test_connections_over_ipv6() -> None:
    with running_server(host="::1") as server:
        port = server.address.rpartition(":")[2]
        with Client(f"[::1]:{port}") as client, RawStream(client, "::1") as stream:
            name = client.create(VALUES).name
            stream.go_over().send(*small(name))
            assert len(stream.finish()) == 1


def test_a_server_of_all_addresses_is_reached_at_each() -> None:
    flags = {"host": "0.0.0.0", "allow_plaintext_beyond_loopback": "true"}
    with running_server(**flags) as server:
        port = server.address.rpartition(":")[2]
        for host in ("127.0.0.1", "127.0.0.2"):
            with Client(f"{host}:{port}") as client, RawStream(client, host) as stream:
                name = client.create(VALUES).name
                stream.go_over().send(*small(name))
                assert len(stream.finish()) == 1


def test_many_streams_at_once_have_each_its_own(client: Client) -> None:
    """Their steps come in turn, and each stream gets the answers to its own."""
    names = [client.create({"w": np.full(4, i, np.float32)}, sgd()).name for i in range(16)]
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(RawStream(client)).go_over() for _ in names]
        for turn, (i, stream) in itertools.product(range(5), enumerate(streams)):
            stream.send(*step(names[i], np.full(4, 2.0, np.float32).tobytes(), turn + 1))
        for i, stream in enumerate(streams):
            answers = whole(stream.finish())
            assert [m.result.step for m in answers] == [1, 2, 3, 4, 5]
            last = np.frombuffer(answers[-1].chunk.data, np.float32)
            assert last.tolist() == [i - 5.0] * 4
    for name in names:
        client.sessions.DeleteSession(pb.DeleteSessionRequest(name=name), timeout=10)
