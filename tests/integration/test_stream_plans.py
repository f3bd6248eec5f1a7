"""Plans of step streams: what they are answered with, and how long they hold."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from optserve.v1.session_pb2 import PARAMETER_POINT_AVERAGE, SessionSpec
from tests.integration.client import (
    DTYPES,
    Client,
    expect_refusal,
    plan_message,
    sgd,
    step_messages,
    tensor,
    unpack,
)

MIXED = {
    "a": np.zeros((3, 1), np.float32),
    "b": np.zeros(1, np.float64),
    "c": np.zeros((), np.float32),
    "d": np.zeros((0, 2), np.float64),
    "e": np.zeros((2, 2), np.float64),
}
ONES = {"w": np.ones(2, np.float32)}
GRADIENT = ONES["w"].tobytes()
FLOAT16, FLOAT32, FLOAT64 = (
    tensor_pb2.DATA_TYPE_FLOAT16,
    tensor_pb2.DATA_TYPE_FLOAT32,
    tensor_pb2.DATA_TYPE_FLOAT64,
)


class Stream:
    """A stream that is spoken to message by message."""

    def __init__(self, client: Client) -> None:
        self._outbox: queue.SimpleQueue[pb.StepStreamRequest | None] = queue.SimpleQueue()
        self._call = client.sessions.StepStream(iter(self._outbox.get, None), timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outbox.put(None)
        self._call.cancel()

    def plan(self, name: str, **fields: Any) -> pb.StepPlanned:
        self._outbox.put(plan_message(name, **fields))
        answer = next(self._call)
        assert [field.name for field, _ in answer.ListFields()] == ["planned"]
        return answer.planned

    def step(self, data: bytes = GRADIENT, **fields: Any) -> pb.StepStreamResponse:
        """A step whose answer is one message."""
        for message in step_messages(data, **fields):
            self._outbox.put(message)
        answer: pb.StepStreamResponse = next(self._call)
        assert answer.HasField("result")
        return answer


@pytest.fixture
def stream(client: Client) -> Iterator[Stream]:
    with Stream(client) as stream:
        yield stream


@pytest.fixture
def name(client: Client) -> str:
    return client.create(ONES).name


def read_layout(layout: Any) -> list[tuple[str, int, int, int]]:
    """Names, types, and places; every tensor must be aligned and follow the one before."""
    place = 0
    for entry in layout:
        size = DTYPES[entry.dtype].itemsize
        assert entry.byte_offset == place
        assert entry.byte_offset % size == 0
        assert entry.byte_count == size * int(np.prod(entry.shape, dtype=np.int64))
        place += entry.byte_count
    return [(entry.name, entry.dtype, entry.byte_offset, entry.byte_count) for entry in layout]


WIDER_FIRST = [
    ("b", FLOAT64, 0, 8),
    ("d", FLOAT64, 8, 0),
    ("e", FLOAT64, 8, 32),
    ("a", FLOAT32, 40, 12),
    ("c", FLOAT32, 52, 4),
]
HALVES = [
    ("b", FLOAT16, 0, 2),
    ("d", FLOAT16, 2, 0),
    ("e", FLOAT16, 2, 8),
    ("a", FLOAT16, 10, 6),
    ("c", FLOAT16, 16, 2),
]


class TestLayouts:
    def test_wider_types_come_first_in_a_session_and_what_is_pulled_of_it(self, client: Client) -> None:
        session = client.create(MIXED)
        assert read_layout(session.layout) == WIDER_FIRST
        assert read_layout(client.get(session.name).layout) == WIDER_FIRST
        request = pb.PullParametersRequest(name=session.name)
        (answer,) = client.sessions.PullParameters(request, timeout=20)
        assert read_layout(answer.header.layout) == WIDER_FIRST
        assert (answer.header.byte_count, len(answer.chunk.data)) == (56, 56)

    def test_groups_keep_their_order_within_a_type(self, client: Client) -> None:
        spec = sgd()
        spec.groups.add(name="late", tensors=["b", "a"])
        session = client.create(MIXED, spec)
        assert [name for name, *_ in read_layout(session.layout)] == ["d", "e", "b", "c", "a"]

    def test_of_a_plan(self, client: Client, stream: Stream) -> None:
        name = client.create(MIXED).name
        planned = stream.plan(name, pull=pb.PullOptions(wire_dtype=FLOAT16))
        assert (planned.step, planned.next_sequence) == (0, 0)
        assert (read_layout(planned.gradients.tensors), planned.gradients.byte_count) == (WIDER_FIRST, 56)
        assert (read_layout(planned.parameters.tensors), planned.parameters.byte_count) == (HALVES, 18)

    def test_of_gradients_in_another_type_and_of_some_tensors(self, client: Client, stream: Stream) -> None:
        name = client.create(MIXED).name
        planned = stream.plan(name, gradient_dtype=FLOAT16)
        assert (read_layout(planned.gradients.tensors), planned.gradients.byte_count) == (HALVES, 18)
        assert not planned.HasField("parameters")
        planned = stream.plan(name, tensors=["c", "e"], pull=pb.PullOptions(tensors=["a", "b"]))
        assert read_layout(planned.gradients.tensors) == [("e", FLOAT64, 0, 32), ("c", FLOAT32, 32, 4)]
        assert read_layout(planned.parameters.tensors) == [("b", FLOAT64, 0, 8), ("a", FLOAT32, 8, 12)]

    def test_of_whole_tensors_before_rows(self, client: Client, stream: Stream) -> None:
        """The rows follow in the order of the plan, whatever their types."""
        name = client.create(MIXED).name
        planned = stream.plan(name, tensors=["c", "b"], sparse_tensors=["a", "e"])
        assert read_layout(planned.gradients.tensors) == [("b", FLOAT64, 0, 8), ("c", FLOAT32, 8, 4)]
        assert planned.gradients.byte_count == 12
        data = np.float64(2).tobytes() + np.float32(4).tobytes()
        data += np.float32(6).tobytes() + np.array([8, 10], np.float64).tobytes()
        rows = [tensor(np.array([2], np.int32)), tensor(np.array([1], np.int64))]
        assert stream.step(data, row_indices=rows).result.step == 1
        after = {key: value.tolist() for key, value in client.pull(name).items()}
        assert after == {"a": [[0], [0], [-3]], "b": [-1], "c": -2, "d": [], "e": [[0, 0], [-4, -5]]}

    def test_of_rows_alone(self, client: Client, stream: Stream) -> None:
        planned = stream.plan(client.create(MIXED).name, sparse_tensors=["e"])
        assert planned.gradients == tensor_pb2.ByteLayout()

    def test_bytes_are_where_the_plan_says(self, client: Client, stream: Stream) -> None:
        name = client.create(MIXED).name
        planned = stream.plan(name, pull=pb.PullOptions())
        data = bytearray(planned.gradients.byte_count)
        for number, entry in enumerate(planned.gradients.tensors, start=2):
            values = np.full(entry.shape, number, DTYPES[entry.dtype]).tobytes()
            data[entry.byte_offset : entry.byte_offset + entry.byte_count] = values
        answer = stream.step(bytes(data))
        for number, entry in enumerate(planned.gradients.tensors, start=2):
            assert (client.pull(name)[entry.name] == -number / 2).all()
        sent = unpack(planned.parameters.tensors, answer.chunk.data)
        assert {key: value.tobytes() for key, value in sent.items()} == {
            key: value.tobytes() for key, value in client.pull(name).items()
        }


class TestSequences:
    def test_a_plan_says_what_its_worker_must_send_next(self, client: Client, stream: Stream) -> None:
        name = client.create(ONES).name
        assert stream.plan(name, worker="w").next_sequence == 1
        for sequence in (1, 2):
            answer = stream.step(sequence=sequence)
            assert (answer.result.worker, answer.result.sequence) == ("", sequence)
        client.step(name, ONES, worker="w", sequence=3)
        client.step(name, ONES, worker="v", sequence=1)
        planned = stream.plan(name, worker="w")
        assert (planned.step, planned.next_sequence) == (4, 4)
        assert stream.plan(name, worker="v").next_sequence == 2
        assert stream.plan(name, worker="new").next_sequence == 1
        assert stream.plan(name).next_sequence == 0

    def test_so_does_a_session(self, client: Client, name: str) -> None:
        def next_of(worker: str) -> int:
            request = pb.GetSessionRequest(name=name, worker=worker)
            return client.sessions.GetSession(request, timeout=20).next_sequence

        for sequence in (1, 2):
            client.step(name, ONES, worker="w", sequence=sequence)
        with expect_refusal():
            client.step(name, {"w": np.full(2, np.nan, np.float32)}, worker="w", sequence=3)
        client.step(name, ONES, worker="w", sequence=3, validate_only=True)
        assert (next_of("w"), next_of("v"), next_of("")) == (3, 1, 0)
        with expect_refusal() as told:
            next_of("w" * 129)
        assert (told.reason, told.fields) == ("MALFORMED_NAME", ["worker"])

    def test_a_result_names_its_worker_and_sequence(self, client: Client, name: str) -> None:
        result = client.step(name, ONES, worker="w", sequence=1).result
        assert (result.worker, result.sequence, result.replayed) == ("w", 1, False)
        result = client.step(name, ONES, worker="w", sequence=1).result
        assert (result.worker, result.sequence, result.replayed) == ("w", 1, True)
        result = client.step(name, ONES).result
        assert (result.worker, result.sequence) == ("", 0)


class TestManyPlans:
    def test_one_changes_tensors_types_worker_and_pull_between_steps(
        self, client: Client, stream: Stream
    ) -> None:
        name = client.create({"a": np.zeros(1), "b": np.zeros(1)}).name
        stream.plan(name)
        assert not stream.step(np.array([2.0, 4.0]).tobytes()).HasField("chunk")
        stream.plan(name, tensors=["b"], worker="w", gradient_dtype=FLOAT16, pull=pb.PullOptions())
        answer = stream.step(np.array([2], np.float16).tobytes(), sequence=1)
        assert answer.parameters_step == 2
        assert np.frombuffer(answer.chunk.data).tolist() == [-1, -3]
        stream.plan(name, per_tensor_norms=True)
        norms = stream.step(np.array([3.0, 4.0]).tobytes()).result.tensor_norms
        assert {norm.name: norm.norm for norm in norms} == {"a": 3, "b": 4}

    def test_a_plan_again_without_a_step_is_answered_again(self, stream: Stream, name: str) -> None:
        first = stream.plan(name, worker="w", pull=pb.PullOptions())
        assert stream.plan(name, worker="w", pull=pb.PullOptions()) == first
        assert stream.step(sequence=1).result.step == 1

    def test_a_stream_goes_from_session_to_session(self, client: Client, stream: Stream) -> None:
        names = [client.create(ONES).name for _ in range(3)]
        for turn in range(1, 3):
            for name in names:
                assert stream.plan(name).step == turn - 1
                assert stream.step().result.step == turn

    def test_plans_and_steps_that_nobody_waits_for_are_answered_in_order(
        self, client: Client, name: str
    ) -> None:
        other = client.create({"w": np.ones(300_000, np.float32)}).name
        messages = []
        for turn in range(4):
            messages += [plan_message(name, worker="w"), *step_messages(GRADIENT, sequence=turn + 1)]
            messages += [plan_message(other, pull=pb.PullOptions()), *step_messages(bytes(1_200_000))]
        answers = client.exchange(messages)
        found = [
            "plan" if answer.HasField("planned") else f"step {answer.result.step}"
            for answer in answers
            if not answer.HasField("chunk") or answer.HasField("result")
        ]
        assert found == [text for turn in range(1, 5) for text in ["plan", f"step {turn}"] * 2]

    def test_a_wrong_plan_ends_the_stream(self, client: Client, stream: Stream, name: str) -> None:
        stream.plan(name)
        assert stream.step().result.step == 1
        with expect_refusal() as told:
            stream.plan(name, tensors=["nobody"])
        assert (told.reason, told.fields) == ("UNKNOWN_TENSOR", ["plan.tensors[0]"])
        assert client.get(name).step == 1


class TestChangesOfTheSession:
    def test_a_plan_outlives_an_update(self, client: Client, stream: Stream, name: str) -> None:
        stream.plan(name, worker="w", pull=pb.PullOptions())
        assert np.frombuffer(stream.step(sequence=1).chunk.data, np.float32).tolist() == [0.5, 0.5]
        spec = SessionSpec()
        spec.optimizer.momentum.learning_rate = 0.25
        spec.optimizer.momentum.momentum = 0.5
        client.sessions.UpdateSession(pb.UpdateSessionRequest(name=name, spec=spec), timeout=20)
        for sequence, expected in ((2, 0.25), (3, -0.125)):  # v = 0.25, then 0.5 * 0.25 + 0.25
            answer = stream.step(sequence=sequence)
            assert np.frombuffer(answer.chunk.data, np.float32).tolist() == [expected] * 2

    def test_a_plan_that_an_update_makes_wrong_is_refused(self, client: Client, stream: Stream) -> None:
        spec = sgd()
        spec.weight_average.decay = 0.5
        name = client.create(ONES, spec).name
        stream.plan(name, pull=pb.PullOptions(point=PARAMETER_POINT_AVERAGE))
        assert stream.step().result.step == 1
        client.sessions.UpdateSession(pb.UpdateSessionRequest(name=name, spec=sgd()), timeout=20)
        with expect_refusal() as told:
            stream.step()
        assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "POINT_UNAVAILABLE")
        assert told.fields == ["plan.pull.point"]
        assert client.get(name).step == 1

    def test_a_plan_outlives_a_push_and_a_report(self, client: Client, stream: Stream, name: str) -> None:
        stream.plan(name, pull=pb.PullOptions())
        client.push(pb.PushHeader(name=name), np.full(2, 5, np.float32).tobytes())
        report = pb.ReportMetricsRequest(name=name)
        report.metrics.add(name="loss", value=1.0)
        client.sessions.ReportMetrics(report, timeout=20)
        assert np.frombuffer(stream.step().chunk.data, np.float32).tolist() == [4.5, 4.5]

    @pytest.mark.parametrize("made_again", [False, True])
    def test_a_session_that_was_deleted_while_its_stream_was_idle(
        self, client: Client, stream: Stream, made_again: bool
    ) -> None:
        """Another one of its name is another one."""
        session = client.create(ONES)
        stream.plan(session.name)
        assert stream.step().result.step == 1
        client.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name), timeout=20)
        if made_again:
            client.create(ONES, session_id=session.name.removeprefix("sessions/"))
        with expect_refusal() as told:
            stream.step()
        assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
        assert (told.fields, told.metadata) == (["plan.session"], {"name": session.name})
        if made_again:
            assert client.get(session.name).step == 0

    def test_a_stream_goes_on_with_another_plan_after_its_session_was_deleted(
        self, client: Client, stream: Stream
    ) -> None:
        session = client.create(ONES)
        stream.plan(session.name)
        client.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name), timeout=20)
        client.create(ONES, session_id=session.name.removeprefix("sessions/"))
        assert stream.plan(session.name).step == 0
        assert stream.step().result.step == 1

    def test_parameters_that_are_still_to_be_uploaded(self, client: Client, stream: Stream) -> None:
        request = pb.CreateSessionRequest(spec=sgd())
        upload = request.parameters.add(name="w").upload
        upload.dtype, upload.shape[:] = FLOAT32, [2]
        name = client.sessions.CreateSession(request, timeout=20).session.name
        with expect_refusal() as told:
            stream.plan(name)
        assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PARAMETERS_PENDING")
        client.push(pb.PushHeader(name=name), GRADIENT)
        with Stream(client) as another:
            another.plan(name)
            assert another.step().result.step == 1
