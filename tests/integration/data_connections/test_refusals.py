"""What is wrong with a message on a data connection, and how its sender is told."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

import grpc
import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Array, Client, Refusal, refused, sgd, step_messages
from tests.integration.data_connections.conftest import (
    LARGE,
    VALUES,
    calls_in_flight,
    gradient,
    header,
    small,
    step,
    whole,
)
from tests.integration.raw_stream import PREFIX, RawStream, framed
from tests.support.server import RunningServer
from tests.support.watching import resident, wait_until


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
        before = resident(own.process.pid)
        for _ in range(8):
            stream = stack.enter_context(RawStream(client)).go_over()
            stream.socket.sendall(PREFIX.pack(0, 64 << 20) + b"\xff" * 70_000)
        time.sleep(0.5)
        assert resident(own.process.pid) - before < 64 << 20
    wait_until(lambda: calls_in_flight(own) == 0)


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


@pytest.mark.parametrize("over", ["data connection", "gRPC"])
def test_an_answer_that_is_on_its_way_arrives_before_a_refusal(
    client: Client, stream: RawStream, over: str
) -> None:
    """Of the step before, which was taken: nobody would know otherwise whose refusal it is."""
    values: dict[str, Array] = {"w": np.zeros(4_000_000, np.float32)}
    name = client.create(values, sgd()).name
    messages = step(name, gradient(values), 1)
    messages.append(pb.StepStreamRequest(header=header(name, 2, tensors=["nope"])))
    if over == "gRPC":
        stream.say(*messages)
    else:
        stream.go_over().send(*messages)
    wait_until(lambda: client.get(name).step == 1)
    time.sleep(0.5)  # the refused header is read long before so long an answer is sent
    answers, why = answers_and_refusal(stream, over)
    assert answers[0].result.step == 1
    assert sum(len(answer.chunk.data) for answer in answers) == values["w"].nbytes
    assert why.fields == ["header.tensors[0]"]
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=name), timeout=10)


def answers_and_refusal(stream: RawStream, over: str) -> tuple[list[pb.StepStreamResponse], Refusal]:
    if over == "gRPC":
        answers: list[pb.StepStreamResponse] = []
        with refused() as why:
            answers.extend(pb.StepStreamResponse.FromString(answer) for answer in stream.call)
        return answers, why
    answers = whole(list(stream.answers()))
    with refused() as why:
        next(stream.call)
    return answers, why
