"""What fails is a typed error with its reason, field and facts, and changes nothing."""

from __future__ import annotations

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

import optserve
from optserve import ParameterPoint, Reason, Retry, errors, optimizers
from optserve.v1 import capabilities_service_pb2 as capabilities_pb2
from tests.support.server import running_server

ADAM = optimizers.Adam(learning_rate=0.1)


@pytest.fixture
def unchanged(session):
    """The session, which must be as it was when the test ends."""
    before = session.pull()
    yield session
    after = session.pull()
    assert (after["w"].tobytes(), after["b"].tobytes()) == (before["w"].tobytes(), before["b"].tobytes())
    assert session.get().step == 0
    assert session.step({"w": np.ones(3)}).step == 1, "no refused step has used up a number"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("gradient", "reason", "facts"),
    [
        ({"v": np.ones(3)}, Reason.UNKNOWN_TENSOR, {"tensor": "v"}),
        ({"b": np.ones(4)}, Reason.SHAPE_MISMATCH, {"tensor": "b", "expected": "[2,2]", "actual": "[4]"}),
        ({"w": np.array([1, np.nan, np.inf])}, Reason.NON_FINITE_GRADIENT, {"tensor": "w", "count": "2"}),
    ],
)
def test_a_wrong_gradient(unchanged, streamed, gradient, reason, facts):
    with unchanged.stream() as stream, pytest.raises(errors.InvalidArgument) as caught:
        (stream if streamed else unchanged).step(gradient)
    assert caught.value.reason is reason
    assert facts.items() <= caught.value.metadata.items()
    assert caught.value.field
    assert reason.name in str(caught.value)


@pytest.mark.parametrize("shared_memory", [False, True])
def test_no_gradient_at_all_after_others(session, shared_memory):
    with session.stream(shared_memory=shared_memory, pull=True) as stream:
        assert [stream.step({"w": np.ones(3)}).step for _ in range(3)] == [1, 2, 3]
        for step in (stream.step, stream.submit, session.step):
            with pytest.raises(ValueError, match="gradients is empty, but must have"):
                step({})
        assert stream.step({"w": np.ones(3)}).step == 4


@pytest.mark.parametrize("values", [np.ones(3, int), np.ones(3, complex), np.array(["a", "b", "c"])])
def test_an_element_type_that_the_wire_does_not_know(unchanged, values):
    with pytest.raises(TypeError, match=r"gradients\['w'\]"):
        unchanged.step({"w": values})
    with pytest.raises(TypeError, match=r"values\['w'\]"):
        unchanged.push({"w": values})
    with unchanged.stream() as stream, pytest.raises(TypeError):
        stream.submit({"w": values})


def test_parameters_are_of_two_types_only(client):
    with pytest.raises(TypeError, match="float16"):
        client.create_session({"w": np.ones(3, np.float16)}, ADAM)


@pytest.mark.parametrize("wire_dtype", ["int32", "complex128"])
def test_a_wire_type_that_there_is_not(unchanged, wire_dtype):
    with pytest.raises(TypeError, match="wire_dtype"):
        unchanged.step({"w": np.ones(3)}, wire_dtype=wire_dtype)
    with pytest.raises(TypeError, match="wire_dtype"):
        unchanged.pull(wire_dtype=wire_dtype)


def test_an_unexpected_step(unchanged):
    for act in (
        lambda: unchanged.step({"w": np.ones(3)}, expected_step=4),
        lambda: unchanged.push({"w": np.ones(3)}, expected_step=4),
    ):
        with pytest.raises(errors.StepMismatch) as caught:
            act()
        assert caught.value.reason is Reason.STEP_MISMATCH
        assert caught.value.current_step == 0
        assert isinstance(caught.value, errors.Aborted)


def test_a_point_that_the_session_does_not_keep(unchanged):
    with pytest.raises(errors.FailedPrecondition) as caught:
        unchanged.pull(point=ParameterPoint.AVERAGE)
    assert caught.value.reason is Reason.POINT_UNAVAILABLE
    with pytest.raises(errors.FailedPrecondition):
        unchanged.step({"w": np.ones(3)}, pull=ParameterPoint.LOOKAHEAD)


def test_a_pull_of_nothing_or_of_the_unknown(unchanged):
    with pytest.raises(ValueError, match="None means all"):
        unchanged.pull([])
    for names, reason in (["w", "v"], Reason.UNKNOWN_TENSOR), (["w", "w"], Reason.DUPLICATE_TENSOR):
        with pytest.raises(errors.InvalidArgument) as caught:
            unchanged.pull(names)
        assert caught.value.reason is reason
        assert caught.value.field == "tensors[1]"


def test_nothing_to_push_or_to_step_on(unchanged):
    with pytest.raises(ValueError, match="no parameter"):
        unchanged.push({})
    with unchanged.stream() as stream, pytest.raises(ValueError, match="gradients is empty, but must have"):
        stream.submit({})


def test_a_session_that_there_is_not(client, session):
    gone = client.session(session.name)
    with pytest.raises(errors.NotFound) as caught:
        client.session("never-made")
    assert caught.value.reason is Reason.SESSION_NOT_FOUND
    assert caught.value.metadata["name"] == "sessions/never-made"
    assert caught.value.request_id
    other = client.create_session({"w": np.zeros(1)}, ADAM)
    gone = client.session(other.name)
    other.delete()
    for act in (
        lambda: gone.step({"w": np.ones(1)}),
        gone.pull,
        gone.delete,
        lambda: gone.push({"w": np.ones(1)}),
    ):
        with pytest.raises(errors.NotFound):
            act()
    with gone.stream() as stream, pytest.raises(errors.NotFound):
        stream.step({"w": np.ones(1)})


def test_a_session_that_there_is_already(client, session):
    with pytest.raises(errors.AlreadyExists) as caught:
        client.create_session({"w": np.zeros(1)}, ADAM, session_id=session.name.removeprefix("sessions/"))
    assert caught.value.reason is Reason.SESSION_EXISTS


def test_a_hyperparameter_out_of_range_is_named(client):
    with pytest.raises(errors.InvalidArgument) as caught:
        client.create_session({"w": np.zeros(1)}, optimizers.Adam(beta1=1.5))
    assert caught.value.reason is Reason.OUT_OF_RANGE
    assert caught.value.field == "spec.optimizer.adam.beta1"


def test_a_limit_of_the_server():
    with running_server("numpy", max_sessions=1) as server, optserve.connect(server.address) as client:
        client.create_session({"w": np.zeros(1)}, ADAM)
        with pytest.raises(errors.ResourceExhausted) as caught:
            client.create_session({"w": np.zeros(1)}, ADAM)
    assert caught.value.reason is Reason.LIMIT_EXCEEDED
    assert caught.value.metadata["limit"] == "max_sessions"


def test_a_failed_upload_leaves_no_session(client, monkeypatch):
    def refuse(*_args, **_options):
        raise errors.Unavailable("the network went away")

    monkeypatch.setattr(optserve.SessionHandle, "push", refuse)
    with pytest.raises(errors.Unavailable):
        client.create_session({"w": np.zeros(400_000)}, ADAM, session_id="half-made")
    with pytest.raises(errors.NotFound):
        client.session("half-made")


def test_a_refused_step_of_a_stream_abandons_those_behind_it(session):
    good, bad = {"w": np.ones(3)}, {"w": np.full(3, np.nan)}
    with session.stream() as stream:
        pending = [stream.submit(g) for g in (good, bad, good, good)]
        assert pending[0].result().step == 1
        with pytest.raises(errors.InvalidArgument) as caught:
            pending[1].result()
        for behind in pending[2:]:
            with pytest.raises(errors.Abandoned) as abandoned:
                behind.result()
            assert abandoned.value.__cause__ is caught.value
        assert session.get().step == 1
        assert stream.step(good).step == 2, "the stream goes on"


def test_a_failure_that_nobody_asks_for_is_raised_by_the_stream(session):
    bad = {"w": np.full(3, np.nan)}
    with pytest.raises(errors.InvalidArgument), session.stream() as stream:
        stream.submit(bad)
    with session.stream(window=1) as stream:
        stream.submit(bad)
        with pytest.raises(errors.InvalidArgument):
            stream.submit({"w": np.ones(3)})
        stream.submit({"w": np.ones(3)})
    assert session.get().step == 1


def test_a_closed_stream_takes_nothing(session):
    with session.stream() as stream:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        stream.submit({"w": np.ones(3)})
    with pytest.raises(ValueError, match="window"):
        session.stream(window=65)


def find_closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_is_not_there():
    retry = Retry(attempts=3, initial=0.01)
    with optserve.connect(find_closed_port(), retry=retry, timeout=5) as client:
        with pytest.raises(errors.Unavailable) as caught:
            client.health()
        assert caught.value.reason is None
        with pytest.raises(errors.Unavailable):
            client.create_session({"w": np.zeros(1)}, ADAM)


class Answering(grpc.GenericRpcHandler):
    """A server that answers every call with the statuses it was given, then with success."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.metadata = []

    def service(self, details):
        self.metadata.append(dict(details.invocation_metadata))
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, _request, context):
        if self.statuses:
            status = self.statuses.pop(0)
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
            context.abort(code, status.message)
        return capabilities_pb2.GetCapabilitiesResponse(backend="answered").SerializeToString()


@contextlib.contextmanager
def answering(*statuses, credentials=None):
    handler = Answering(*statuses)
    server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}", handler
    finally:
        server.stop(None).wait(10)


def status(code, *details):
    made = status_pb2.Status(code=code, message="said the server")
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        made.details.append(packed)
    return made


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (code_pb2.INVALID_ARGUMENT, errors.InvalidArgument),
        (code_pb2.OUT_OF_RANGE, errors.InvalidArgument),
        (code_pb2.NOT_FOUND, errors.NotFound),
        (code_pb2.ALREADY_EXISTS, errors.AlreadyExists),
        (code_pb2.FAILED_PRECONDITION, errors.FailedPrecondition),
        (code_pb2.ABORTED, errors.Aborted),
        (code_pb2.RESOURCE_EXHAUSTED, errors.ResourceExhausted),
        (code_pb2.UNAVAILABLE, errors.Unavailable),
        (code_pb2.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (code_pb2.CANCELLED, errors.Unavailable),  # without an ErrorInfo: the server went away
        (code_pb2.PERMISSION_DENIED, errors.PermissionDenied),
        (code_pb2.UNAUTHENTICATED, errors.Unauthenticated),
        (code_pb2.UNIMPLEMENTED, errors.Unimplemented),
        (code_pb2.INTERNAL, errors.Internal),
        (code_pb2.UNKNOWN, errors.OptserveError),
        (code_pb2.DATA_LOSS, errors.DataLoss),
    ],
)
def test_every_status_has_its_class(code, expected):
    with (
        answering(status(code)) as (address, _),
        optserve.connect(address, retry=Retry(attempts=1)) as client,
        pytest.raises(errors.OptserveError) as caught,
    ):
        client.capabilities()
    assert type(caught.value) is expected
    assert (caught.value.message, caught.value.reason) == ("said the server", None)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_recognised(reason):
    info = error_details_pb2.ErrorInfo(
        reason=reason.name, domain="optserve.v1", metadata={"request_id": "r1"}
    )
    request = error_details_pb2.BadRequest.FieldViolation(field="a.b")
    bad = error_details_pb2.BadRequest(field_violations=[request])
    with (
        answering(status(code_pb2.INTERNAL, info, bad)) as (address, _),
        optserve.connect(address) as client,
        pytest.raises(errors.OptserveError) as caught,
    ):
        client.capabilities()
    assert (caught.value.reason, caught.value.field, caught.value.request_id) == (reason, "a.b", "r1")


@pytest.mark.parametrize(
    ("reason", "domain"), [("NEWER_THAN_THIS", "optserve.v1"), ("INTERNAL", "elsewhere")]
)
def test_a_reason_of_another_world_is_none(reason, domain):
    info = error_details_pb2.ErrorInfo(reason=reason, domain=domain)
    with (
        answering(status(code_pb2.INTERNAL, info)) as (address, _),
        optserve.connect(address) as client,
        pytest.raises(errors.Internal) as caught,
    ):
        client.capabilities()
    assert caught.value.reason is None


@pytest.mark.parametrize(
    ("domain", "metadata", "applied"),
    [
        ("optserve.v1", {}, False),
        ("optserve.v1", {"applied": "no", "other": "x"}, False),
        ("optserve.v1", {"applied": "unknown", "other": "x"}, None),
        ("elsewhere", {"applied": "no"}, None),
        (None, {}, None),
    ],
)
def test_an_error_says_whether_anything_was_applied(domain, metadata, applied):
    infos = [error_details_pb2.ErrorInfo(reason="INTERNAL", domain=domain, metadata=metadata)] * bool(domain)
    with (
        answering(status(code_pb2.INTERNAL, *infos)) as (address, _),
        optserve.connect(address) as client,
        pytest.raises(errors.Internal) as caught,
    ):
        client.capabilities()
    assert caught.value.applied is applied
    assert "applied" not in caught.value.metadata


def test_what_is_unavailable_is_tried_again_and_waits_as_long_as_it_is_told():
    info = error_details_pb2.ErrorInfo(reason="SHUTTING_DOWN", domain="optserve.v1")
    wait = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=300_000_000))
    unavailable = status(code_pb2.UNAVAILABLE, info, wait)
    retry = Retry(attempts=3, initial=0.001)
    with (
        answering(unavailable, unavailable) as (address, handler),
        optserve.connect(address, retry=retry) as client,
    ):
        assert client.capabilities().backend == "answered"
        assert len(handler.metadata) == 3
    with (
        answering(*[unavailable] * 9) as (address, handler),
        optserve.connect(address, retry=retry, timeout=0.5) as client,
    ):
        with pytest.raises(errors.Unavailable) as caught:
            client.capabilities()
        assert caught.value.retry_after == pytest.approx(0.3)
        assert caught.value.reason is Reason.SHUTTING_DOWN
        assert len(handler.metadata) == 2, "a third attempt would begin after the deadline"


def test_what_is_refused_is_not_tried_again():
    with (
        answering(status(code_pb2.INVALID_ARGUMENT)) as (address, handler),
        optserve.connect(address) as client,
    ):
        with pytest.raises(errors.InvalidArgument):
            client.capabilities()
        assert len(handler.metadata) == 1


def test_a_token_goes_with_every_call_also_over_secure_channels():
    with answering(credentials=grpc.local_server_credentials()) as (address, handler):
        secure = grpc.local_channel_credentials()
        with optserve.connect(address, token="secret", credentials=secure) as client:
            assert client.capabilities().backend == "answered"
        assert handler.metadata[0]["authorization"] == "Bearer secret"
