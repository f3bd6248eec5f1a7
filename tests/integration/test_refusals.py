"""Rejected steps: code, reason and field of the error, and an unchanged session."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from optserve.v1.session_pb2 import PARAMETER_POINT_AVERAGE, ParameterPoint, Session, SessionSpec
from tests.integration.client import (
    Client,
    Refusal,
    chunk_message,
    expect_refusal,
    name_arrays,
    plan_message,
    step_messages,
    tensor,
)

M = TypeVar("M", bound=Message)
INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
G = {"w": np.full((2, 3), 0.5, np.float32), "b": np.full(2, 0.25)}
BYTES = G["b"].tobytes() + G["w"].tobytes()
NAN = {"w": np.full((2, 3), np.nan, np.float32), "b": G["b"]}


@dataclass
class Expected:
    code: grpc.StatusCode
    reason: str
    fields: list[str]
    metadata: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def session(client: Client) -> Iterator[Session]:
    session = begin_session(client)
    yield session
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))


def begin_session(client: Client) -> Session:
    """An Adam session that two steps of a worker have filled with state."""
    spec = SessionSpec()
    spec.optimizer.adam.SetInParent()
    values = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1.0, -1.0])}
    session = client.create(values, spec)
    for sequence in (1, 2):
        client.step(session.name, G, worker="a", sequence=sequence)
    return session


def observe(client: Client, session: Session) -> tuple[Session, dict[str, bytes]]:
    """Everything that can be seen of a session."""
    values = {name: value.tobytes() for name, value in client.pull(session.name).items()}
    return client.get(session.name), values


def check(client: Client, session: Session, expected: Expected, send: Callable[[], object]) -> None:
    before = observe(client, session)
    with expect_refusal() as told:
        send()
    assert_told(told, expected)
    assert observe(client, session) == before
    # What cannot be seen, optimizer state and records, shows in the next step.
    undisturbed = begin_session(client)
    for name in (session.name, undisturbed.name):
        assert client.step(name, G, worker="a", sequence=3).result.step == 3
    assert observe(client, session)[1] == observe(client, undisturbed)[1]


def assert_told(told: Refusal, expected: Expected) -> None:
    assert (told.code, told.reason, told.fields) == (expected.code, expected.reason, expected.fields)
    assert expected.metadata.items() <= told.metadata.items()
    assert (told.domain, told.applied) == ("optserve.v1", "no")


def request(name: str, gradients: dict[str, Any] = G, **options: Any) -> pb.StepRequest:
    return pb.StepRequest(name=name, gradients=name_arrays(gradients), options=pb.StepOptions(**options))


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
        Expected(PRECONDITION, "SEQUENCE_REUSED", ["options.sequence"], {"expected": "3", "actual": "2"}),
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
    "an unknown field of the options": (
        lambda name: pb.StepRequest(
            name=name, gradients=name_arrays(G), options=with_unknown_field(pb.StepOptions())
        ),
        Expected(INVALID, "UNSUPPORTED_VALUE", ["options"]),
    ),
    "an unknown field of the pull": (
        lambda name: request(name, pull=with_unknown_field(pb.PullOptions())),
        Expected(INVALID, "UNSUPPORTED_VALUE", ["options.pull"]),
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


NAN_BYTES = NAN["b"].tobytes() + NAN["w"].tobytes()
Messages = list[pb.StepStreamRequest]


def make_stream(name: str, data: bytes = BYTES, plan: dict[str, Any] | None = None, **step: Any) -> Messages:
    """A stream of one step."""
    return [plan_message(name, **(plan or {})), *step_messages(data, **step)]


def begin_step_only(name: str, plan: dict[str, Any] | None = None, **step: Any) -> Messages:
    """A stream that begins a step and sends none of its bytes, so that nothing but its beginning is wrong."""
    return make_stream(name, BYTES, plan, **step)[:2]


FROM_A: dict[str, Any] = {"worker": "a"}
UNKNOWN_FIELD = b"\xa8\x7d\x01"
"""Field 2005 of no message, with the value 1."""


def with_unknown_field(message: M) -> M:
    """A message with a field of a later version of the contract."""
    message.MergeFromString(UNKNOWN_FIELD)
    return message


STREAMED: dict[str, tuple[Callable[[str], Messages], Expected]] = {
    "cut in the middle": (
        lambda name: [*begin_step_only(name), chunk_message(0, BYTES[:30])],
        Expected(INVALID, "STREAM_TRUNCATED", ["chunk"], {"expected": "40", "actual": "30"}),
    ),
    "cut after its beginning": (
        begin_step_only,
        Expected(INVALID, "STREAM_TRUNCATED", ["chunk"], {"expected": "40", "actual": "0"}),
    ),
    "a step too early": (
        lambda name: [*begin_step_only(name), chunk_message(0, BYTES[:30]), *step_messages(BYTES)],
        Expected(INVALID, "STREAM_PROTOCOL", ["step"], {"expected": "40", "actual": "30"}),
    ),
    "a plan too early": (
        lambda name: [*begin_step_only(name), chunk_message(0, BYTES[:30]), plan_message(name)],
        Expected(INVALID, "STREAM_PROTOCOL", ["plan"], {"expected": "40", "actual": "30"}),
    ),
    "a request for a data connection too early": (
        lambda name: [
            *begin_step_only(name),
            pb.StepStreamRequest(data_connection=pb.DataConnectionRequest()),
        ],
        Expected(INVALID, "STREAM_PROTOCOL", ["data_connection"], {"expected": "40", "actual": "0"}),
    ),
    "a chunk without a step": (
        lambda name: [plan_message(name), chunk_message(0, BYTES)],
        Expected(INVALID, "STREAM_PROTOCOL", ["chunk"]),
    ),
    "an empty message": (
        lambda name: [plan_message(name), pb.StepStreamRequest()],
        Expected(INVALID, "STREAM_PROTOCOL", ["step"]),
    ),
    "a step before any plan": (
        lambda name: list(step_messages(BYTES)),
        Expected(INVALID, "STREAM_PROTOCOL", ["plan"]),
    ),
    "a plan beside a chunk": (
        lambda name: [
            pb.StepStreamRequest(plan=pb.StepPlan(session=name), chunk=tensor_pb2.Chunk(data=BYTES))
        ],
        Expected(INVALID, "STREAM_PROTOCOL", ["plan"]),
    ),
    "a plan beside a step": (
        lambda name: [
            pb.StepStreamRequest(plan=pb.StepPlan(session=name), step=pb.StepStart(byte_count=40)),
            chunk_message(0, BYTES),
        ],
        Expected(INVALID, "STREAM_PROTOCOL", ["plan"]),
    ),
    "a gap": (
        lambda name: [*begin_step_only(name), chunk_message(0, BYTES[:8]), chunk_message(16, BYTES[16:])],
        Expected(INVALID, "STREAM_PROTOCOL", ["chunk.byte_offset"], {"expected": "8", "actual": "16"}),
    ),
    "too many bytes": (
        lambda name: make_stream(name, BYTES + b"more", byte_count=40),
        Expected(INVALID, "BYTE_LENGTH_MISMATCH", ["chunk.data"], {"expected": "40", "actual": "44"}),
    ),
    "no session": (lambda name: make_stream(""), Expected(INVALID, "FIELD_REQUIRED", ["plan.session"])),
    "a malformed session": (
        lambda name: make_stream("sessions/"),
        Expected(INVALID, "MALFORMED_NAME", ["plan.session"]),
    ),
    "another session": (
        lambda name: make_stream("sessions/nobody"),
        Expected(
            grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", ["plan.session"], {"name": "sessions/nobody"}
        ),
    ),
    "wrong name": (
        lambda name: make_stream(name, plan={"tensors": ["w", "v"]}),
        Expected(INVALID, "UNKNOWN_TENSOR", ["plan.tensors[1]"], {"tensor": "v"}),
    ),
    "twice": (
        lambda name: make_stream(name, plan={"tensors": ["w", "w"]}),
        Expected(INVALID, "DUPLICATE_TENSOR", ["plan.tensors[1]"], {"tensor": "w"}),
    ),
    "wrong dtype": (
        lambda name: make_stream(name, plan={"gradient_dtype": tensor_pb2.DATA_TYPE_INT64}),
        Expected(INVALID, "DTYPE_MISMATCH", ["plan.gradient_dtype"], {"actual": "int64"}),
    ),
    "a worker's name": (
        lambda name: make_stream(name, plan={"worker": "w" * 129}),
        Expected(INVALID, "MALFORMED_NAME", ["plan.worker"]),
    ),
    "a region that is not there": (
        lambda name: make_stream(name, plan={"region": "0" * 64}),
        Expected(PRECONDITION, "REGION_NOT_FOUND", ["plan.region"]),
    ),
    "pull of an unknown tensor": (
        lambda name: make_stream(name, plan={"pull": pb.PullOptions(tensors=["v"])}),
        Expected(INVALID, "UNKNOWN_TENSOR", ["plan.pull.tensors[0]"]),
    ),
    "pull of a point that is not kept": (
        lambda name: make_stream(name, plan={"pull": pb.PullOptions(point=PARAMETER_POINT_AVERAGE)}),
        Expected(PRECONDITION, "POINT_UNAVAILABLE", ["plan.pull.point"]),
    ),
    "pull in whole numbers": (
        lambda name: make_stream(name, plan={"pull": pb.PullOptions(wire_dtype=tensor_pb2.DATA_TYPE_INT32)}),
        Expected(INVALID, "DTYPE_MISMATCH", ["plan.pull.wire_dtype"]),
    ),
    "nan": (
        lambda name: make_stream(name, NAN_BYTES),
        Expected(INVALID, "NON_FINITE_GRADIENT", ["chunk.data"], {"tensor": "w", "count": "6"}),
    ),
    "sequence with another content": (
        lambda name: make_stream(name, bytes(40), FROM_A, sequence=2),
        Expected(PRECONDITION, "SEQUENCE_REUSED", ["step.sequence"], {"expected": "3", "actual": "2"}),
    ),
    "a gap in the sequence": (
        lambda name: begin_step_only(name, FROM_A, sequence=4),
        Expected(PRECONDITION, "SEQUENCE_GAP", ["step.sequence"], {"expected": "3", "actual": "4"}),
    ),
    "no sequence": (
        lambda name: begin_step_only(name, FROM_A),
        Expected(INVALID, "CONFLICTING_FIELDS", ["step.sequence"]),
    ),
    "a sequence without a worker": (
        lambda name: begin_step_only(name, sequence=3),
        Expected(INVALID, "CONFLICTING_FIELDS", ["step.sequence"]),
    ),
    "wrong expected_step": (
        lambda name: begin_step_only(name, expected_step=1),
        Expected(
            grpc.StatusCode.ABORTED,
            "STEP_MISMATCH",
            ["step.expected_step"],
            {"expected": "1", "current": "2"},
        ),
    ),
    "no byte_count": (
        lambda name: begin_step_only(name, byte_count=0),
        Expected(INVALID, "BYTE_LENGTH_MISMATCH", ["step.byte_count"], {"expected": "40", "actual": "0"}),
    ),
    "wrong byte_count": (
        lambda name: begin_step_only(name, byte_count=41),
        Expected(INVALID, "BYTE_LENGTH_MISMATCH", ["step.byte_count"], {"expected": "40", "actual": "41"}),
    ),
    "loss scale": (
        lambda name: begin_step_only(name, loss_scale=0.0),
        Expected(INVALID, "OUT_OF_RANGE", ["step.loss_scale"]),
    ),
    "row indices that the plan knows nothing of": (
        lambda name: begin_step_only(name, row_indices=[tensor(np.zeros(1, np.int32))]),
        Expected(INVALID, "CONFLICTING_FIELDS", ["step.row_indices"]),
    ),
    "an unknown field of the plan": (
        lambda name: [pb.StepStreamRequest(plan=with_unknown_field(pb.StepPlan(session=name)))],
        Expected(INVALID, "UNSUPPORTED_VALUE", ["plan"]),
    ),
    "an unknown field of the plan's pull": (
        lambda name: make_stream(name, plan={"pull": with_unknown_field(pb.PullOptions())}),
        Expected(INVALID, "UNSUPPORTED_VALUE", ["plan.pull"]),
    ),
    "an unknown field of a step": (
        lambda name: [
            plan_message(name),
            pb.StepStreamRequest(step=with_unknown_field(pb.StepStart(byte_count=40))),
        ],
        Expected(INVALID, "UNSUPPORTED_VALUE", ["step"]),
    ),
    "an unknown field of an override": (
        lambda name: begin_step_only(
            name, overrides=[with_unknown_field(pb.HyperparameterOverride(name="learning_rate", value=1.0))]
        ),
        Expected(INVALID, "UNSUPPORTED_VALUE", ["step.overrides[0]"]),
    ),
}


@pytest.mark.parametrize("case", STREAMED)
def test_a_refused_streamed_step(client: Client, session: Session, case: str) -> None:
    make, expected = STREAMED[case]
    check(client, session, expected, lambda: client.exchange(make(session.name)))


def test_a_cancelled_stream_changes_nothing(client: Client, session: Session) -> None:
    before = observe(client, session)

    over = threading.Event()

    def send_part() -> Iterator[pb.StepStreamRequest]:
        yield from begin_step_only(session.name)
        yield chunk_message(0, BYTES[:30])
        over.wait(20)

    call = client.sessions.StepStream(send_part(), timeout=20)
    assert "x-request-id" in dict(call.initial_metadata())
    call.cancel()
    over.set()
    assert observe(client, session) == before


def test_another_sessions_name_is_not_found(client: Client) -> None:
    with expect_refusal() as told:
        client.step("sessions/nobody", G)
    assert_told(
        told, Expected(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", ["name"], {"name": "sessions/nobody"})
    )
