"""Every reason of the contract that one server gives, with its code, and that nothing was applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from optserve.v1 import function_service_pb2 as functions
from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from optserve.v1.error_reason_pb2 import ErrorReason
from optserve.v1.session_pb2 import PARAMETER_POINT_AVERAGE, ParameterPoint, SessionSpec
from tests.integration.client import (
    Client,
    expect_refusal,
    name_arrays,
    plan_message,
    sgd,
    step_messages,
    tensor,
)

ONES = {"w": np.ones(2, np.float32), "b": np.ones(2, np.float32)}
GRADIENT = bytes(16)


def make_spec() -> SessionSpec:
    """A specification that accumulates and stops early."""
    spec = sgd()
    spec.gradient.accumulation_steps = 2
    spec.early_stopping.monitor = "loss"
    spec.early_stopping.patience = 0
    return spec


def step(client: Client, name: str, **options: object) -> None:
    client.step(name, ONES, **options)


def report(client: Client, name: str, loss: float, request_id: str = "") -> None:
    request = pb.ReportMetricsRequest(name=name, request_id=request_id)
    request.metrics.add(name="loss", value=loss)
    client.sessions.ReportMetrics(request, timeout=20)


def update(client: Client, name: str, **fields: object) -> None:
    client.sessions.UpdateSession(pb.UpdateSessionRequest(name=name, spec=sgd(), **fields), timeout=20)


def repeat_request(client: Client, name: str) -> None:
    """Another content under a request id that was used."""
    key = f"{name} again"
    report(client, name, 1.0, key)
    report(client, name, 2.0, key)


def incomplete(client: Client, name: str) -> None:
    client.sessions.UpdateSession(pb.UpdateSessionRequest(name=name, spec=make_spec()), timeout=20)
    step(client, name)
    update(client, name)


def missing(client: Client, name: str) -> None:
    client.sessions.UpdateSession(pb.UpdateSessionRequest(name=name, spec=make_spec()), timeout=20)
    client.step(name, {"w": ONES["w"]})


def stop_early(client: Client, name: str) -> None:
    client.sessions.UpdateSession(pb.UpdateSessionRequest(name=name, spec=make_spec()), timeout=20)
    for loss in (1.0, 2.0):
        report(client, name, loss)
    step(client, name)


def use_expired_sequence(client: Client, name: str) -> None:
    for sequence in range(1, 66):
        step(client, name, worker="w", sequence=sequence)
    step(client, name, worker="w", sequence=1)


def reuse_sequence(client: Client, name: str) -> None:
    step(client, name, worker="w", sequence=1)
    step(client, name, worker="w", sequence=1, loss_scale=2.0)


def pending(client: Client, name: str) -> None:
    request = pb.CreateSessionRequest(spec=sgd())
    upload = request.parameters.add(name="w").upload
    upload.dtype, upload.shape[:] = tensor_pb2.DATA_TYPE_FLOAT32, [2]
    step(client, client.sessions.CreateSession(request, timeout=20).session.name)


def too_large(client: Client, name: str) -> None:
    """A tensor of 4 PiB."""
    request = pb.CreateSessionRequest(spec=sgd())
    upload = request.parameters.add(name="w").upload
    upload.dtype, upload.shape[:] = tensor_pb2.DATA_TYPE_FLOAT32, [1 << 50]
    client.sessions.CreateSession(request, timeout=20)


def formula(client: Client, name: str) -> None:
    request = functions.ComputeLossRequest(prediction=tensor(ONES["w"]), target=tensor(ONES["w"]))
    request.loss.custom.expression = "y_pred."
    client.functions.ComputeLoss(request, timeout=20)


def unreadable(client: Client, name: str) -> None:
    client.channel.unary_unary("/optserve.v1.SessionService/GetSession")(b"\xff\xff", timeout=20)


def import_damaged(client: Client, name: str) -> None:
    chunk = tensor_pb2.Chunk(data=b"no snapshot")
    message = pb.ImportSnapshotRequest(header=pb.ImportHeader(byte_count=len(chunk.data)), chunk=chunk)
    client.sessions.ImportSnapshot(iter([message]), timeout=20)


def short(client: Client, name: str) -> None:
    request = pb.StepRequest(name=name, gradients=name_arrays(ONES))
    request.gradients[0].tensor.data = bytes(7)
    client.sessions.Step(request, timeout=20)


def pull(client: Client, name: str, **fields: object) -> None:
    step(client, name, pull=pb.PullOptions(**fields))


PROVOKED: Mapping[str, tuple[str, Callable[[Client, str], object]]] = {
    "FIELD_REQUIRED": ("INVALID_ARGUMENT", lambda c, n: c.get("")),
    "OUT_OF_RANGE": ("INVALID_ARGUMENT", lambda c, n: step(c, n, loss_scale=0.0)),
    "UNSUPPORTED_VALUE": (
        "INVALID_ARGUMENT",
        lambda c, n: pull(c, n, point=ParameterPoint.ValueType(99)),
    ),
    "CONFLICTING_FIELDS": ("INVALID_ARGUMENT", lambda c, n: step(c, n, sequence=1)),
    "MALFORMED_NAME": ("INVALID_ARGUMENT", lambda c, n: c.get("sessions/A")),
    "INVALID_PAGE_TOKEN": (
        "INVALID_ARGUMENT",
        lambda c, n: c.sessions.ListSessions(pb.ListSessionsRequest(page_token="x"), timeout=20),
    ),
    "SESSION_NOT_FOUND": ("NOT_FOUND", lambda c, n: c.get("sessions/nobody")),
    "SESSION_EXISTS": ("ALREADY_EXISTS", lambda c, n: c.create(ONES, session_id=n.removeprefix("sessions/"))),
    "UNKNOWN_TENSOR": ("INVALID_ARGUMENT", lambda c, n: c.step(n, {"v": ONES["w"]})),
    "DUPLICATE_TENSOR": ("INVALID_ARGUMENT", lambda c, n: pull(c, n, tensors=["w", "w"])),
    "MISSING_TENSOR": ("INVALID_ARGUMENT", missing),
    "SHAPE_MISMATCH": ("INVALID_ARGUMENT", lambda c, n: c.step(n, {"w": np.ones(3, np.float32)})),
    "DTYPE_MISMATCH": ("INVALID_ARGUMENT", lambda c, n: c.step(n, {"w": np.ones(2, np.int32)})),
    "BYTE_LENGTH_MISMATCH": ("INVALID_ARGUMENT", short),
    "NON_FINITE_GRADIENT": ("INVALID_ARGUMENT", lambda c, n: c.step(n, {"w": ONES["w"] * np.inf})),
    "SEQUENCE_GAP": ("FAILED_PRECONDITION", lambda c, n: step(c, n, worker="w", sequence=2)),
    "SEQUENCE_REUSED": ("FAILED_PRECONDITION", reuse_sequence),
    "SEQUENCE_EXPIRED": ("FAILED_PRECONDITION", use_expired_sequence),
    "STEP_MISMATCH": ("ABORTED", lambda c, n: update(c, n, expected_step=7)),
    "REQUEST_ID_REUSED": ("FAILED_PRECONDITION", repeat_request),
    "STREAM_TRUNCATED": (
        "INVALID_ARGUMENT",
        lambda c, n: c.stream(n, list(step_messages(GRADIENT))[:1]),
    ),
    "STREAM_PROTOCOL": ("INVALID_ARGUMENT", lambda c, n: c.exchange(step_messages(GRADIENT))),
    "PARAMETERS_PENDING": ("FAILED_PRECONDITION", pending),
    "POINT_UNAVAILABLE": ("FAILED_PRECONDITION", lambda c, n: pull(c, n, point=PARAMETER_POINT_AVERAGE)),
    "LIMIT_EXCEEDED": ("RESOURCE_EXHAUSTED", too_large),
    "INVALID_EXPRESSION": ("INVALID_ARGUMENT", formula),
    "STEP_INCOMPLETE": ("FAILED_PRECONDITION", incomplete),
    "TRAINING_STOPPED": ("FAILED_PRECONDITION", stop_early),
    "MALFORMED_MESSAGE": ("INVALID_ARGUMENT", unreadable),
    "REGION_NOT_FOUND": ("FAILED_PRECONDITION", lambda c, n: c.exchange([plan_message(n, region="r")])),
    "SNAPSHOT_NOT_FOUND": (
        "NOT_FOUND",
        lambda c, n: c.sessions.ForkSession(pb.ForkSessionRequest(name=f"{n}/snapshots/7"), timeout=20),
    ),
    "SNAPSHOT_MALFORMED": ("INVALID_ARGUMENT", import_damaged),
    "DURABILITY_UNAVAILABLE": (
        "FAILED_PRECONDITION",
        lambda c, n: c.sessions.CreateSnapshot(pb.CreateSnapshotRequest(name=n), timeout=20),
    ),
}

ELSEWHERE: Mapping[str, str] = {
    "UNAUTHENTICATED": "tests/integration/test_namespaces.py",
    "QUOTA_EXCEEDED": "tests/integration/test_namespaces.py",
    "STREAM_IDLE": "tests/integration/test_limits.py",
    "SHUTTING_DOWN": "tests/integration/test_process.py",
    "SHARED_MEMORY_UNAVAILABLE": "tests/integration/test_shared_memory.py",
    "STORAGE_FULL": "tests/recovery/test_failing_disk.py",
    "STORAGE_UNAVAILABLE": "tests/recovery/test_failing_disk.py",
    "SESSION_DAMAGED": "tests/recovery/test_damaged_directory.py",
    "SNAPSHOT_DAMAGED": "tests/recovery/test_snapshots.py",
    "FENCED": "tests/integration/test_workers.py",
    "NOT_A_MEMBER": "tests/integration/test_workers.py",
    "NO_DATA_PLAN": "tests/integration/test_data_plan.py",
    "SHARD_NOT_HELD": "tests/integration/test_data_plan.py",
    "STALE": "tests/integration/test_workers.py",
    "ROUND_CLOSED": "tests/integration/test_workers.py",
    "INTERNAL": "tests/service/rpc/test_call_interceptor.py",
}
"""Reasons that need a server or workers of their own, and where they are provoked."""


@pytest.mark.parametrize("reason", PROVOKED)
def test_a_reason_has_its_code_and_says_that_nothing_was_applied(client: Client, reason: str) -> None:
    code, provoke = PROVOKED[reason]
    session = client.create(ONES)
    with expect_refusal() as told:
        provoke(client, session.name)
    assert (told.code.name, told.reason, told.domain) == (code, reason, "optserve.v1")
    assert told.applied == "no"
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name), timeout=20)


def test_every_reason_is_provoked() -> None:
    stated = {name.removeprefix("ERROR_REASON_") for name, _ in ErrorReason.items()} - {"UNSPECIFIED"}
    assert not PROVOKED.keys() & ELSEWHERE.keys()
    assert stated == PROVOKED.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("reason", ELSEWHERE)
def test_the_other_reasons_are_provoked_where_it_says(pytestconfig: pytest.Config, reason: str) -> None:
    assert reason in (pytestconfig.rootpath / ELSEWHERE[reason]).read_text()
