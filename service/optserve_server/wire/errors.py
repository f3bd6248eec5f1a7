"""Errors as gRPC statuses: the one table, and the one translation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import (  # type: ignore[import-untyped]
    BadRequest,
    ErrorInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from optserve_server.errors import DomainError, Reason

DOMAIN = "optserve.v1"
"""The domain of every ErrorInfo."""

DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata that carry the status with its details."""

PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata by which gRPC's own retries, which read no details, wait as long as RetryInfo says."""

APPLIED_KEY = "applied"
"""Metadata of every ErrorInfo: "no" if the request changed nothing, or "unknown"."""

CODES: Mapping[Reason, grpc.StatusCode] = {
    Reason.FIELD_REQUIRED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.OUT_OF_RANGE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.UNSUPPORTED_VALUE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.CONFLICTING_FIELDS: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.MALFORMED_NAME: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INVALID_PAGE_TOKEN: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.SESSION_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.SESSION_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.UNKNOWN_TENSOR: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.DUPLICATE_TENSOR: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.MISSING_TENSOR: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.SHAPE_MISMATCH: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.DTYPE_MISMATCH: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.BYTE_LENGTH_MISMATCH: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.NON_FINITE_GRADIENT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.SEQUENCE_GAP: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.SEQUENCE_REUSED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.SEQUENCE_EXPIRED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.STEP_MISMATCH: grpc.StatusCode.ABORTED,
    Reason.REQUEST_ID_REUSED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.STREAM_TRUNCATED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.STREAM_PROTOCOL: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.PARAMETERS_PENDING: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.INVALID_EXPRESSION: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.STEP_INCOMPLETE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.TRAINING_STOPPED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.SHARED_MEMORY_UNAVAILABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.REGION_NOT_FOUND: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.POINT_UNAVAILABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.LIMIT_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.MALFORMED_MESSAGE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.STREAM_IDLE: grpc.StatusCode.UNAVAILABLE,
    Reason.SHUTTING_DOWN: grpc.StatusCode.UNAVAILABLE,
    Reason.STORAGE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.STORAGE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.SESSION_DAMAGED: grpc.StatusCode.DATA_LOSS,
    Reason.SNAPSHOT_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.SNAPSHOT_DAMAGED: grpc.StatusCode.DATA_LOSS,
    Reason.SNAPSHOT_MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.DURABILITY_UNAVAILABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.FENCED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NOT_A_MEMBER: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NO_DATA_PLAN: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.SHARD_NOT_HELD: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.STALE: grpc.StatusCode.ABORTED,
    Reason.ROUND_CLOSED: grpc.StatusCode.ABORTED,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}
"""The status code of every reason."""


def error_status(error: DomainError) -> Status:
    """The status with its details: ErrorInfo, and BadRequest and RetryInfo where they apply."""
    code: Any = CODES[error.reason].value
    status = Status(code=code[0], message=error.message)
    fate = {APPLIED_KEY: "unknown" if error.reason is Reason.INTERNAL else "no"}
    _attach_detail(
        status, ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=fate | error.metadata)
    )
    if error.field is not None:
        violation = BadRequest.FieldViolation(field=error.field, description=error.message)
        _attach_detail(status, BadRequest(field_violations=[violation]))
    if error.retry_after is not None:
        delay = Duration(nanos=round(error.retry_after % 1 * 1e9), seconds=int(error.retry_after))
        _attach_detail(status, RetryInfo(retry_delay=delay))
    return status


def error_status_code(error: DomainError) -> grpc.StatusCode:
    """The status code of an error."""
    return CODES[error.reason]


def _attach_detail(status: Status, detail: Message) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)
