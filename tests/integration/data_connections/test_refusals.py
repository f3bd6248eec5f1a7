"""Rejected messages on a data connection, and the errors that their sender gets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable

import grpc
import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Array, Client, Refusal, expect_refusal, sgd, step_messages
from tests.integration.data_connections.conftest import (
    LARGE,
    VALUES,
    calls_in_flight,
    gradient,
    plan,
    small,
    step,
    whole,
)
from tests.integration.raw_stream import PREFIX, RawStream, frame
from tests.support.server import RunningServer
from tests.support.watching import resident, wait_until


def test_a_compressed_message_is_refused(client: Client, stream: RawStream, name: str) -> None:
    message = plan(name).SerializeToString()
    stream.go_over().socket.sendall(PREFIX.pack(1, len(message)) + message)
    assert stream.answer() is None
    with expect_refusal() as why:
        next(stream.call)
    assert (why.code, why.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    assert client.get(name).step == 0


@pytest.mark.parametrize("length", [(64 << 20) + 1, 2**32 - 1])
def test_a_message_that_is_too_long_is_refused_by_its_length(stream: RawStream, length: int) -> None:
    stream.go_over().socket.sendall(PREFIX.pack(0, length) + b"its beginning")
    assert stream.answer() is None
    with expect_refusal() as why:
        next(stream.call)
    assert (why.code, why.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
    expected = {"limit": "max_message_bytes", "maximum": str(64 << 20), "actual": str(length)}
    assert why.metadata == expected


def test_a_message_that_is_no_message_is_refused(stream: RawStream) -> None:
    stream.go_over().send(b"\xff" * 40)
    assert stream.answer() is None
    with expect_refusal() as why:
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


@pytest.mark.parametrize("left", [1, 5, 8])
def test_an_end_within_a_message_is_no_end(client: Client, stream: RawStream, name: str, left: int) -> None:
    """Nor is one within the five bytes before it."""
    data = frame(small()[:1])
    stream.go_over().plan(plan(name)).send(*small())
    assert len(data) > 8
    stream.socket.sendall(data[:left])
    stream.socket.shutdown(socket.SHUT_WR)
    answers = list(stream.answers())
    assert len(answers) == 1
    with expect_refusal() as why:
        next(stream.call)
    assert (why.code, why.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "STREAM_TRUNCATED")
    assert int(why.metadata["actual"]) < int(why.metadata["expected"])
    assert client.get(name).step == 1


def test_an_end_within_a_gradient_is_told(client: Client, stream: RawStream, name: str) -> None:
    stream.go_over().plan(plan(name)).send(small()[0])
    stream.socket.shutdown(socket.SHUT_WR)
    assert stream.answer() is None
    with expect_refusal() as why:
        next(stream.call)
    assert why.reason == "STREAM_TRUNCATED"
    assert client.get(name).step == 0


@pytest.mark.parametrize(
    ("bad", "code", "reason", "field"),
    [
        (
            lambda name: [plan(name, tensors=["nobody"])],
            "INVALID_ARGUMENT",
            "UNKNOWN_TENSOR",
            "plan.tensors[0]",
        ),
        (lambda name: [plan("sessions/nobody")], "NOT_FOUND", "SESSION_NOT_FOUND", "plan.session"),
        (
            lambda name: step_messages(gradient(VALUES), expected_step=17),
            "ABORTED",
            "STEP_MISMATCH",
            "step.expected_step",
        ),
        (
            lambda name: step_messages(gradient(VALUES), byte_count=1),
            "INVALID_ARGUMENT",
            "BYTE_LENGTH_MISMATCH",
            "step.byte_count",
        ),
    ],
)
def test_answers_come_before_an_error_and_the_error_over_the_call(
    client: Client,
    stream: RawStream,
    name: str,
    bad: Callable[[str], Iterable[pb.StepStreamRequest]],
    code: str,
    reason: str,
    field: str,
) -> None:
    good = [m for _ in range(3) for m in small()]
    stream.go_over().plan(plan(name)).send(*good, *bad(name), *small())
    answers = whole(list(stream.answers()))
    assert [m.result.step for m in answers] == [1, 2, 3]
    with expect_refusal() as why:
        next(stream.call)
    assert (why.code.name, why.reason, why.fields) == (code, reason, [field])
    assert why.applied == "no"
    assert client.get(name).step == 3


def test_a_refused_upload_is_read_on_until_its_client_knows(client: Client, stream: RawStream) -> None:
    """So that the answers before it are not lost with it, however much was on its way."""
    name = client.create({"w": np.ones(LARGE, np.float32)}, sgd()).name
    data = bytes(4 * LARGE)
    good, bad = step(data), list(step_messages(data, expected_step=17))
    stream.go_over().plan(plan(name))
    stream.socket.sendall(frame(good + bad * 20))
    assert len(b"".join(m.chunk.data for m in whole(list(stream.answers())))) == 4 * LARGE
    with expect_refusal() as why:
        next(stream.call)
    assert why.reason == "STEP_MISMATCH"
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=name), timeout=10)


@pytest.mark.parametrize("over", ["data connection", "gRPC"])
def test_an_answer_that_is_on_its_way_arrives_before_a_refusal(
    client: Client, stream: RawStream, over: str
) -> None:
    """The error follows the answer to the step before, so that the client knows which step it is about."""
    values: dict[str, Array] = {"w": np.zeros(4_000_000, np.float32)}
    name = client.create(values, sgd()).name
    messages = [*step(gradient(values), 1), plan(name, tensors=["nope"])]
    if over == "gRPC":
        stream.plan(plan(name, "me")).say(*messages)
    else:
        stream.go_over().plan(plan(name, "me")).send(*messages)
    wait_until(lambda: client.get(name).step == 1)
    time.sleep(0.5)  # the refused plan is read long before so long an answer is sent
    answers, why = answers_and_refusal(stream, over)
    assert answers[0].result.step == 1
    assert sum(len(answer.chunk.data) for answer in answers) == values["w"].nbytes
    assert why.fields == ["plan.tensors[0]"]
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=name), timeout=10)


def answers_and_refusal(stream: RawStream, over: str) -> tuple[list[pb.StepStreamResponse], Refusal]:
    if over == "gRPC":
        answers: list[pb.StepStreamResponse] = []
        with expect_refusal() as why:
            answers.extend(pb.StepStreamResponse.FromString(answer) for answer in stream.call)
        return answers, why
    answers = whole(list(stream.answers()))
    with expect_refusal() as why:
        next(stream.call)
    return answers, why
