"""What is wrong with a step is told by code, reason and field, and nothing is changed by it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from optserve.v1.session_pb2 import PARAMETER_POINT_AVERAGE, ParameterPoint, Session, SessionSpec
from tests.integration.client import Client, Refusal, named, refused, step_messages

INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
G = {"w": np.full((2, 3), 0.5, np.float32), "b": np.full(2, 0.25)}
BYTES = G["w"].tobytes() + G["b"].tobytes()
NAN = {"w": np.full((2, 3), np.nan, np.float32), "b": G["b"]}


@dataclass
class Expected:
    code: grpc.StatusCode
    reason: str
    fields: list[str]
    metadata: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def session(client: Client) -> Iterator[Session]:
    session = begun(client)
    yield session
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))


def begun(client: Client) -> Session:
    """An Adam session that two steps of a worker have filled with state."""
    spec = SessionSpec()
    spec.optimizer.adam.SetInParent()
    values = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1.0, -1.0])}
    session = client.create(values, spec)
    for sequence in (1, 2):
        client.step(session.name, G, worker="a", sequence=sequence)
    return session


def held(client: Client, session: Session) -> tuple[Session, dict[str, bytes]]:
    """Everything that can be seen of a session."""
    values = {name: value.tobytes() for name, value in client.pull(session.name).items()}
    return client.get(session.name), values


def check(client: Client, session: Session, expected: Expected, send: Callable[[], object]) -> None:
    before = held(client, session)
    with refused() as told:
        send()
    assert_told(told, expected)
    assert held(client, session) == before
    # What cannot be seen, optimizer state and records, shows in the next step.
    undisturbed = begun(client)
    for name in (session.name, undisturbed.name):
        assert client.step(name, G, worker="a", sequence=3).result.step == 3
    assert held(client, session)[1] == held(client, undisturbed)[1]


def assert_told(told: Refusal, expected: Expected) -> None:
    assert (told.code, told.reason, told.fields) == (expected.code, expected.reason, expected.fields)
    assert expected.metadata.items() <= told.metadata.items()
    assert told.domain == "optserve.v1"


def request(name: str, gradients: dict[str, Any] = G, **options: Any) -> pb.StepRequest:
    return pb.StepRequest(name=name, gradients=named(gradients), options=pb.StepOptions(**options))


def short(name: str) -> pb.StepRequest:
    step = request(name)
    step.gradients[0].tensor.data = step.gradients[0].tensor.data[:-1]
    return step


def twice(name: str) -> pb.StepRequest:
    step = request(name)
    step.gradients.append(step.gradients[0])
    return step


UNARY = {
    "wrong name": (
        lambda name: request(name, {"v": G["w"]}),
        Expected(INVALID, "UNKNOWN_TENSOR", ["gradients[0].name"], {"tensor": "v"}),
    ),
    "twice": (twice, Expected(INVALID, "DUPLICATE_TENSOR", ["gradients[2].name"], {"tensor": "w"})),
    "wrong shape": (
        lambda name: request(name, {"w": G["w"].T}),
        Expected(
            INVALID,
            "SHAPE_MISMATCH",
            ["gradients[0].tensor.shape"],
            {"tensor": "w", "expected": "[2,3]", "actual": "[3,2]"},
        ),
    ),
    "wrong dtype": (
        lambda name: request(name, {"w": np.ones((2, 3), np.int32)}),
        Expected(INVALID, "DTYPE_MISMATCH", ["gradients[0].tensor.dtype"], {"actual": "int32"}),
    ),
    "wrong byte length": (
        short,
        Expected(
            INVALID,
            "BYTE_LENGTH_MISMATCH",
            ["gradients[0].tensor.data"],
            {"tensor": "w", "expected": "24", "actual": "23"},
        ),
    ),
    "no tensor at all": (
        lambda name: request(name, {}),
        Expected(INVALID, "FIELD_REQUIRED", ["gradients"]),
    ),
    "nan": (
        lambda name: request(name, NAN),
        Expected(INVALID, "NON_FINITE_GRADIENT", ["gradients[0].tensor.data"], {"tensor": "w", "count": "6"}),
    ),
    "sequence with another content": (
        lambda name: request(name, {"b": G["b"]}, worker="a", sequence=2),
        Expected(INVALID, "SEQUENCE_REUSED", ["options.sequence"]),
    ),
    "gap": (
        lambda name: request(name, worker="a", sequence=9),
        Expected(PRECONDITION, "SEQUENCE_GAP", ["options.sequence"], {"expected": "3", "actual": "9"}),
    ),
    "sequence without worker": (
        lambda name: request(name, sequence=9),
        Expected(INVALID, "CONFLICTING_FIELDS", ["options.sequence"]),
    ),
    "wrong expected_step": (
        lambda name: request(name, expected_step=5),
        Expected(
            grpc.StatusCode.ABORTED,
            "STEP_MISMATCH",
            ["options.expected_step"],
            {"expected": "5", "current": "2"},
        ),
    ),
    "loss scale": (
        lambda name: request(name, loss_scale=0),
        Expected(INVALID, "OUT_OF_RANGE", ["options.loss_scale"]),
    ),
    "worker": (
        lambda name: request(name, worker="w" * 129, sequence=1),
        Expected(INVALID, "MALFORMED_NAME", ["options.worker"]),
    ),
    "pull of an unknown tensor": (
        lambda name: request(name, pull=pb.PullOptions(tensors=["v"])),
        Expected(INVALID, "UNKNOWN_TENSOR", ["options.pull.tensors[0]"]),
    ),
    "pull of a point that is not kept": (
        lambda name: request(name, pull=pb.PullOptions(point=PARAMETER_POINT_AVERAGE)),
        Expected(PRECONDITION, "POINT_UNAVAILABLE", ["options.pull.point"]),
    ),
    "pull of an unknown point": (
        lambda name: request(name, pull=pb.PullOptions(point=ParameterPoint.ValueType(9))),
        Expected(INVALID, "UNSUPPORTED_VALUE", ["options.pull.point"]),
    ),
    "pull in whole numbers": (
        lambda name: request(name, pull=pb.PullOptions(wire_dtype=tensor_pb2.DATA_TYPE_INT32)),
        Expected(INVALID, "DTYPE_MISMATCH", ["options.pull.wire_dtype"]),
    ),
}


@pytest.mark.parametrize("case", UNARY)
def test_a_refused_step(client: Client, session: Session, case: str) -> None:
    make, expected = UNARY[case]
    check(client, session, expected, lambda: client.sessions.Step(make(session.name), timeout=20))


def header(name: str, **fields: Any) -> pb.StepHeader:
    options = {
        key: fields.pop(key) for key in ("worker", "sequence", "expected_step", "pull") if key in fields
    }
    return pb.StepHeader(name=name, options=pb.StepOptions(**options), **fields)


def chunk(start: int, data: bytes) -> pb.StepStreamRequest:
    return pb.StepStreamRequest(chunk=tensor_pb2.Chunk(byte_offset=start, data=data))


def head(name: str) -> pb.StepStreamRequest:
    return pb.StepStreamRequest(header=header(name))


NAN_BYTES = NAN["w"].tobytes() + NAN["b"].tobytes()

STREAMED = {
    "cut in the middle": (
        lambda name: [head(name), chunk(0, BYTES[:30])],
        Expected(INVALID, "STREAM_TRUNCATED", ["chunk"], {"expected": "40", "actual": "30"}),
    ),
    "cut after the header": (
        lambda name: [head(name)],
        Expected(INVALID, "STREAM_TRUNCATED", ["chunk"], {"expected": "40", "actual": "0"}),
    ),
    "a header too early": (
        lambda name: [head(name), chunk(0, BYTES[:30]), head(name)],
        Expected(INVALID, "STREAM_PROTOCOL", ["header"], {"expected": "40", "actual": "30"}),
    ),
    "no header": (lambda name: [chunk(0, BYTES)], Expected(INVALID, "STREAM_PROTOCOL", ["header"])),
    "a gap": (
        lambda name: [head(name), chunk(0, BYTES[:8]), chunk(16, BYTES[16:])],
        Expected(INVALID, "STREAM_PROTOCOL", ["chunk.byte_offset"], {"expected": "8", "actual": "16"}),
    ),
    "too many bytes": (
        lambda name: [head(name), chunk(0, BYTES + b"more")],
        Expected(INVALID, "BYTE_LENGTH_MISMATCH", ["chunk.data"], {"expected": "40", "actual": "44"}),
    ),
    "no name": (lambda name: [head("")], Expected(INVALID, "FIELD_REQUIRED", ["header.name"])),
    "wrong name": (
        lambda name: step_messages(header(name, tensors=["w", "v"]), BYTES),
        Expected(INVALID, "UNKNOWN_TENSOR", ["header.tensors[1]"], {"tensor": "v"}),
    ),
    "twice": (
        lambda name: step_messages(header(name, tensors=["w", "w"]), BYTES),
        Expected(INVALID, "DUPLICATE_TENSOR", ["header.tensors[1]"], {"tensor": "w"}),
    ),
    "wrong dtype": (
        lambda name: step_messages(header(name, gradient_dtype=tensor_pb2.DATA_TYPE_INT64), BYTES),
        Expected(INVALID, "DTYPE_MISMATCH", ["header.gradient_dtype"], {"actual": "int64"}),
    ),
    "nan": (
        lambda name: step_messages(header(name), NAN_BYTES),
        Expected(INVALID, "NON_FINITE_GRADIENT", ["chunk.data"], {"tensor": "w", "count": "6"}),
    ),
    "sequence with another content": (
        lambda name: step_messages(header(name, worker="a", sequence=2), bytes(40)),
        Expected(INVALID, "SEQUENCE_REUSED", ["header.options.sequence"]),
    ),
    "a gap in the sequence": (
        lambda name: step_messages(header(name, worker="a", sequence=4), BYTES),
        Expected(PRECONDITION, "SEQUENCE_GAP", ["header.options.sequence"], {"expected": "3"}),
    ),
    "wrong expected_step": (
        lambda name: step_messages(header(name, expected_step=1), BYTES),
        Expected(
            grpc.StatusCode.ABORTED, "STEP_MISMATCH", ["header.options.expected_step"], {"current": "2"}
        ),
    ),
    "pull of an unknown tensor": (
        lambda name: step_messages(header(name, pull=pb.PullOptions(tensors=["v"])), BYTES),
        Expected(INVALID, "UNKNOWN_TENSOR", ["header.options.pull.tensors[0]"]),
    ),
}


@pytest.mark.parametrize("case", STREAMED)
def test_a_refused_streamed_step(client: Client, session: Session, case: str) -> None:
    make, expected = STREAMED[case]
    check(client, session, expected, lambda: client.stream(make(session.name)))


def test_a_cancelled_stream_changes_nothing(client: Client, session: Session) -> None:
    before = held(client, session)

    over = threading.Event()

    def unfinished() -> Iterator[pb.StepStreamRequest]:
        yield head(session.name)
        yield chunk(0, BYTES[:30])
        over.wait(20)

    call = client.sessions.StepStream(unfinished(), timeout=20)
    assert "x-request-id" in dict(call.initial_metadata())
    call.cancel()
    over.set()
    assert held(client, session) == before


def test_another_sessions_name_is_not_found(client: Client) -> None:
    with refused() as told:
        client.step("sessions/nobody", G)
    assert_told(
        told, Expected(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", ["name"], {"name": "sessions/nobody"})
    )
