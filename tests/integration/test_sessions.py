"""Sessions over a real socket: made, described, listed, filled, deleted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from optserve.v1.initializer_spec_pb2 import InitializerSpec
from optserve.v1.session_pb2 import SESSION_STATE_AWAITING_PARAMETERS, SESSION_STATE_READY, SessionSpec
from tests.integration.client import Client, expect_refusal, sgd
from tests.support.server import running_server

ONES = {"w": np.ones((2, 3), np.float32)}


def test_inline_values_come_back(client: Client) -> None:
    values: dict[str, np.ndarray] = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([1.5, -2], np.float64),
    }
    session = client.create(values, seed=7)
    pulled = client.pull(session.name)
    assert {name: (a.dtype, a.tolist()) for name, a in pulled.items()} == {
        name: (a.dtype, a.tolist()) for name, a in values.items()
    }
    assert [(entry.name, entry.byte_offset) for entry in session.layout] == [("b", 0), ("w", 16)]
    assert (session.step, session.state, session.seed) == (0, SESSION_STATE_READY, 7)
    assert client.get(session.name) == session


def test_the_echo_is_resolved_and_asks_for_the_same(client: Client) -> None:
    spec = SessionSpec()
    spec.optimizer.adam.beta1 = 0.5
    spec.gradient.clip.by_value.max_value = 2
    first = client.create(ONES, spec)
    assert first.spec.optimizer.adam.epsilon == 1e-7
    assert first.spec.gradient.clip.by_value.min_value == -2
    assert [(group.group, list(group.slots)) for group in first.slots] == [("", ["m", "v"])]
    assert client.create(ONES, first.spec).spec == first.spec


def test_initializers_draw_on_the_server_by_seed_and_name(client: Client) -> None:
    def draw(seed: int) -> np.ndarray:
        request = pb.CreateSessionRequest(spec=sgd(), seed=seed)
        drawn = request.parameters.add(name="w").initializer
        drawn.dtype, drawn.shape[:] = tensor_pb2.DATA_TYPE_FLOAT64, [50, 20]
        drawn.spec.normal.stddev = 2
        return client.pull(client.sessions.CreateSession(request, timeout=20).session.name)["w"]

    assert draw(1).tobytes() == draw(1).tobytes() != draw(2).tobytes()
    assert 1.8 < draw(1).std() < 2.2


def test_initializers_draw_the_same_on_every_backend() -> None:
    def draw(backend: str) -> dict[str, bytes]:
        request = pb.CreateSessionRequest(spec=sgd(), seed=7)
        for dtype in (tensor_pb2.DATA_TYPE_FLOAT32, tensor_pb2.DATA_TYPE_FLOAT64):
            for kind in InitializerSpec.DESCRIPTOR.oneofs_by_name["initializer"].fields:
                made = request.parameters.add(name=f"{kind.name} {dtype}").initializer
                made.dtype, made.shape[:] = dtype, [6, 6]
                getattr(made.spec, kind.name).SetInParent()
                if kind.name == "constant":
                    made.spec.constant.value = 0.3
        with running_server(backend) as server, Client(server.address) as client:
            name = client.sessions.CreateSession(request, timeout=60).session.name
            return {key: value.tobytes() for key, value in client.pull(name).items()}

    assert draw("numpy") == draw("numba")


def test_uploaded_parameters_are_awaited(client: Client) -> None:
    request = pb.CreateSessionRequest(spec=sgd())
    upload = request.parameters.add(name="w").upload
    upload.dtype, upload.shape[:] = tensor_pb2.DATA_TYPE_FLOAT32, [3]
    session = client.sessions.CreateSession(request, timeout=20).session
    assert session.state == SESSION_STATE_AWAITING_PARAMETERS
    with expect_refusal() as told:
        client.step(session.name, {"w": np.ones(3, np.float32)})
    assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PARAMETERS_PENDING")
    values = np.array([1, 2, 3], np.float32)
    pushed = client.push(pb.PushHeader(name=session.name), values.tobytes())
    assert pushed.state == SESSION_STATE_READY
    assert client.pull(session.name)["w"].tolist() == [1, 2, 3]


def test_a_push_of_many_chunks_and_another_type(client: Client) -> None:
    session = client.create({"w": np.zeros(700_000, np.float32)})
    values = np.arange(700_000, dtype=np.float64)
    header = pb.PushHeader(name=session.name, wire_dtype=tensor_pb2.DATA_TYPE_FLOAT64, expected_step=0)
    client.push(header, values.tobytes())
    assert np.array_equal(client.pull(session.name)["w"], values.astype(np.float32))


@pytest.mark.parametrize("sent", [0, 8, 11, 13], ids=lambda n: f"{n} bytes")
def test_a_push_of_the_wrong_length_writes_nothing(client: Client, sent: int) -> None:
    session = client.create({"w": np.ones(3, np.float32)})
    with expect_refusal() as told:
        client.push(pb.PushHeader(name=session.name, byte_count=12), bytes(sent))
    reason, field = ("STREAM_TRUNCATED", "chunk") if sent < 12 else ("BYTE_LENGTH_MISMATCH", "chunk.data")
    assert (told.reason, told.fields) == (reason, [field])
    assert told.metadata == {"expected": "12", "actual": str(sent)}
    assert client.pull(session.name)["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("announced", [0, 11, 13, 2**63])
def test_a_push_that_announces_another_length_is_refused_before_its_bytes(
    client: Client, announced: int
) -> None:
    session = client.create({"w": np.ones(3, np.float32)})
    header, over = pb.PushHeader(name=session.name, byte_count=announced), threading.Event()

    def messages() -> Iterator[pb.PushParametersRequest]:
        yield pb.PushParametersRequest(header=header)
        over.wait(20)

    with expect_refusal() as told:
        client.sessions.PushParameters(messages(), timeout=10)
    over.set()
    assert (told.reason, told.fields) == ("BYTE_LENGTH_MISMATCH", ["header.byte_count"])
    assert told.metadata == {"expected": "12", "actual": str(announced)}
    assert client.pull(session.name)["w"].tolist() == [1, 1, 1]


def test_a_push_at_another_step_is_aborted(client: Client) -> None:
    session = client.create(ONES)
    with expect_refusal() as told:
        client.push(pb.PushHeader(name=session.name, expected_step=3), bytes(24))
    assert (told.code, told.reason) == (grpc.StatusCode.ABORTED, "STEP_MISMATCH")
    assert (told.fields, told.metadata) == (["header.expected_step"], {"expected": "3", "current": "0"})


def test_pages_hold_every_session_once() -> None:
    with running_server("numpy") as server, Client(server.address) as client:
        ids = [f"page-{index}" for index in range(5)]
        for session_id in ids:
            client.create(ONES, session_id=session_id)
        seen, token = [], ""
        for _ in range(3):
            answer = client.sessions.ListSessions(pb.ListSessionsRequest(page_size=2, page_token=token))
            seen.append([session.name for session in answer.sessions])
            token = answer.next_page_token
        assert [len(page) for page in seen] == [2, 2, 1]
        assert [name for page in seen for name in page] == [f"sessions/{session_id}" for session_id in ids]
        assert token == ""


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (pb.ListSessionsRequest(page_size=-1), "OUT_OF_RANGE", "page_size"),
        (pb.ListSessionsRequest(page_token="x"), "INVALID_PAGE_TOKEN", "page_token"),
    ],
)
def test_wrong_pages(client: Client, request_: pb.ListSessionsRequest, reason: str, field: str) -> None:
    with expect_refusal() as told:
        client.sessions.ListSessions(request_)
    assert (told.code, told.reason, told.fields) == (grpc.StatusCode.INVALID_ARGUMENT, reason, [field])


def test_a_deleted_session_is_gone(client: Client) -> None:
    session = client.create(ONES)
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))
    with expect_refusal() as told:
        client.get(session.name)
    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    assert told.metadata == {"name": session.name}


@pytest.mark.parametrize(
    "name", ["", "sessions/", "session/x", "sessions/X", "sessions/a/b", "sessions/" + "a" * 64]
)
def test_malformed_names(client: Client, name: str) -> None:
    with expect_refusal() as told:
        client.get(name)
    assert told.reason == ("MALFORMED_NAME" if name else "FIELD_REQUIRED")
    assert (told.code, told.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["name"])


def test_an_id_is_taken_once(client: Client) -> None:
    client.create(ONES, session_id="taken")
    with expect_refusal() as told:
        client.create(ONES, session_id="taken")
    assert (told.code, told.reason) == (grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS")
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name="sessions/taken"))


def test_a_repeated_request_makes_one_session(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(client.create, ONES, request_id="create-1") for _ in range(8)]
        names = {call.result(timeout=20).name for call in calls}
    assert len(names) == 1
    with expect_refusal() as told:
        client.create(ONES, request_id="create-1", seed=1)
    assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")
    assert told.fields == ["request_id"]


def test_a_repeated_delete_and_push_do_nothing_more(client: Client) -> None:
    session = client.create(ONES)
    header = pb.PushHeader(name=session.name, request_id="push-1")
    client.push(header, np.full((2, 3), 2, np.float32).tobytes())
    client.step(session.name, {"w": np.ones((2, 3), np.float32)})
    client.push(header, np.full((2, 3), 2, np.float32).tobytes())
    assert client.pull(session.name)["w"][0, 0] == 1.5
    with expect_refusal() as told:
        client.push(header, bytes(24))
    assert told.reason == "REQUEST_ID_REUSED"
    delete = pb.DeleteSessionRequest(name=session.name, request_id="delete-1")
    client.sessions.DeleteSession(delete)
    client.sessions.DeleteSession(delete)


def _parameter(name: str = "w", **fields: object) -> pb.CreateSessionRequest:
    request = pb.CreateSessionRequest(spec=sgd())
    request.parameters.add(name=name, **fields)  # type: ignore[arg-type]
    return request


def _tensor(dtype: int, shape: list[int], size: int) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(dtype=tensor_pb2.DataType.ValueType(dtype), shape=shape, data=bytes(size))


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (pb.CreateSessionRequest(), "FIELD_REQUIRED", "spec"),
        (pb.CreateSessionRequest(spec=SessionSpec()), "FIELD_REQUIRED", "spec.optimizer"),
        (pb.CreateSessionRequest(spec=sgd()), "FIELD_REQUIRED", "parameters"),
        (pb.CreateSessionRequest(spec=sgd(), session_id="A"), "MALFORMED_NAME", "session_id"),
        (pb.CreateSessionRequest(spec=sgd(), request_id="r" * 129), "MALFORMED_NAME", "request_id"),
        (pb.CreateSessionRequest(spec=sgd(-1)), "OUT_OF_RANGE", "spec.optimizer.sgd.learning_rate"),
        (_parameter(""), "FIELD_REQUIRED", "parameters[0].name"),
        (_parameter("a\n"), "MALFORMED_NAME", "parameters[0].name"),
        (_parameter(), "FIELD_REQUIRED", "parameters[0]"),
        (_parameter(value=_tensor(0, [1], 4)), "FIELD_REQUIRED", "parameters[0].value.dtype"),
        (_parameter(value=_tensor(99, [1], 4)), "UNSUPPORTED_VALUE", "parameters[0].value.dtype"),
        (_parameter(value=_tensor(1, [1], 2)), "DTYPE_MISMATCH", "parameters[0].value.dtype"),
        (_parameter(value=_tensor(3, [-1], 4)), "OUT_OF_RANGE", "parameters[0].value.shape"),
        (_parameter(value=_tensor(3, [2**62, 2**62], 0)), "OUT_OF_RANGE", "parameters[0].value.shape"),
        (_parameter(value=_tensor(3, [2], 9)), "BYTE_LENGTH_MISMATCH", "parameters[0].value.data"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_created(
    client: Client, request_: pb.CreateSessionRequest, reason: str, field: str
) -> None:
    with expect_refusal() as told:
        client.sessions.CreateSession(request_, timeout=20)
    assert (told.code, told.reason, told.fields) == (grpc.StatusCode.INVALID_ARGUMENT, reason, [field])
    assert told.domain == "optserve.v1"


def test_limits_are_held() -> None:
    limits = {"max_sessions": 1, "max_session_bytes": 1000, "max_message_bytes": 65536}
    with running_server("numpy", **limits) as server, Client(server.address) as client:
        with expect_refusal() as told:
            client.create({"w": np.ones(10_000, np.float32)})
        assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
        assert told.metadata == {"limit": "max_session_bytes", "value": "1000"}
        client.create(ONES)
        with expect_refusal() as told:
            client.create(ONES)
        assert told.metadata == {"limit": "max_sessions", "value": "1"}
        with expect_refusal() as told:
            client.step("sessions/x", {"w": np.ones(20_000, np.float32)})
        assert told.code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_parameters_that_fit_no_message_are_refused_before_the_step() -> None:
    with running_server("numpy", max_message_bytes=65536) as server, Client(server.address) as client:
        request = pb.CreateSessionRequest(spec=sgd())
        for name, size in (("w", 20_000), ("b", 1)):
            zeros = request.parameters.add(name=name).initializer
            zeros.dtype, zeros.shape[:] = tensor_pb2.DATA_TYPE_FLOAT32, [size]
            zeros.spec.zeros.SetInParent()
        session = client.sessions.CreateSession(request).session
        with expect_refusal() as told:
            client.step(session.name, {"b": np.ones(1, np.float32)}, pull=pb.PullOptions())
        assert told.metadata == {"limit": "max_message_bytes", "value": "65536"}
        assert client.get(session.name).step == 0


def test_a_session_changes_its_optimizer_once(client: Client) -> None:
    session = client.create(ONES, sgd(0.5), session_id="update")
    client.step(session.name, {"w": np.ones((2, 3), np.float32)})
    request = pb.UpdateSessionRequest(name=session.name, request_id="update-1", expected_step=1)
    request.spec.optimizer.momentum.learning_rate = 0.25
    answer = client.sessions.UpdateSession(request)
    assert answer.session.spec.optimizer.momentum.learning_rate == 0.25
    assert answer.session.step == 1
    (transfer,) = answer.transfers
    assert (list(transfer.carried), list(transfer.started)) == ([], list(answer.session.slots[0].slots))
    client.step(session.name, {"w": np.ones((2, 3), np.float32)})
    assert client.pull(session.name)["w"][0, 0] == 0.25
    assert client.sessions.UpdateSession(request) == answer
    request.spec.optimizer.momentum.learning_rate = 0.125
    with expect_refusal() as told:
        client.sessions.UpdateSession(request)
    assert told.reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    ("request_", "code", "reason", "field"),
    [
        (pb.UpdateSessionRequest(spec=sgd()), "INVALID_ARGUMENT", "FIELD_REQUIRED", "name"),
        (
            pb.UpdateSessionRequest(name="sessions/nobody", spec=sgd()),
            "NOT_FOUND",
            "SESSION_NOT_FOUND",
            "name",
        ),
        (pb.UpdateSessionRequest(name="sessions/kept"), "INVALID_ARGUMENT", "FIELD_REQUIRED", "spec"),
        (
            pb.UpdateSessionRequest(name="sessions/kept", spec=sgd(), expected_step=4),
            "ABORTED",
            "STEP_MISMATCH",
            "expected_step",
        ),
    ],
)
def test_what_cannot_be_updated(
    client: Client, request_: pb.UpdateSessionRequest, code: str, reason: str, field: str
) -> None:
    kept = client.create(ONES, session_id="kept")
    with expect_refusal() as told:
        client.sessions.UpdateSession(request_)
    assert (told.code.name, told.reason, told.fields) == (code, reason, [field])
    assert client.get(kept.name) == kept
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=kept.name))
