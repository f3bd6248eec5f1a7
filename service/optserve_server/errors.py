"""Errors that a caller can cause; translated to gRPC statuses in one place.

``wire/errors.py`` turns a `DomainError` into a gRPC status; its table gives every
`Reason` its code. Nothing else in the service knows about status codes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    """The members of ``optserve.v1.ErrorReason``, without their prefix."""

    FIELD_REQUIRED = "FIELD_REQUIRED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNSUPPORTED_VALUE = "UNSUPPORTED_VALUE"
    CONFLICTING_FIELDS = "CONFLICTING_FIELDS"
    MALFORMED_NAME = "MALFORMED_NAME"
    INVALID_PAGE_TOKEN = "INVALID_PAGE_TOKEN"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    SESSION_EXISTS = "SESSION_EXISTS"
    UNKNOWN_TENSOR = "UNKNOWN_TENSOR"
    DUPLICATE_TENSOR = "DUPLICATE_TENSOR"
    MISSING_TENSOR = "MISSING_TENSOR"
    SHAPE_MISMATCH = "SHAPE_MISMATCH"
    DTYPE_MISMATCH = "DTYPE_MISMATCH"
    BYTE_LENGTH_MISMATCH = "BYTE_LENGTH_MISMATCH"
    NON_FINITE_GRADIENT = "NON_FINITE_GRADIENT"
    SEQUENCE_GAP = "SEQUENCE_GAP"
    SEQUENCE_REUSED = "SEQUENCE_REUSED"
    SEQUENCE_EXPIRED = "SEQUENCE_EXPIRED"
    STEP_MISMATCH = "STEP_MISMATCH"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    STREAM_TRUNCATED = "STREAM_TRUNCATED"
    STREAM_PROTOCOL = "STREAM_PROTOCOL"
    PARAMETERS_PENDING = "PARAMETERS_PENDING"
    POINT_UNAVAILABLE = "POINT_UNAVAILABLE"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    INTERNAL = "INTERNAL"
    INVALID_EXPRESSION = "INVALID_EXPRESSION"
    STEP_INCOMPLETE = "STEP_INCOMPLETE"
    TRAINING_STOPPED = "TRAINING_STOPPED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    MALFORMED_MESSAGE = "MALFORMED_MESSAGE"
    STREAM_IDLE = "STREAM_IDLE"
    SHARED_MEMORY_UNAVAILABLE = "SHARED_MEMORY_UNAVAILABLE"
    REGION_NOT_FOUND = "REGION_NOT_FOUND"
    STORAGE_FULL = "STORAGE_FULL"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    SESSION_DAMAGED = "SESSION_DAMAGED"
    SNAPSHOT_NOT_FOUND = "SNAPSHOT_NOT_FOUND"
    SNAPSHOT_DAMAGED = "SNAPSHOT_DAMAGED"
    SNAPSHOT_MALFORMED = "SNAPSHOT_MALFORMED"
    DURABILITY_UNAVAILABLE = "DURABILITY_UNAVAILABLE"
    FENCED = "FENCED"
    NOT_A_MEMBER = "NOT_A_MEMBER"
    STALE = "STALE"
    ROUND_CLOSED = "ROUND_CLOSED"
    NO_DATA_PLAN = "NO_DATA_PLAN"
    SHARD_NOT_HELD = "SHARD_NOT_HELD"


class DomainError(Exception):
    """An error that the caller can act on.

    Args:
        reason: what clients switch on.
        message: a sentence for people; may quote what the caller sent, never internals.
        field: path of the wrong field within the request, if one is.
        metadata: facts that clients may use, as text.
        retry_after: seconds after which a retry can help, if one can.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        field: str | None = None,
        metadata: Mapping[str, object] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.metadata = {key: str(value) for key, value in (metadata or {}).items()}
        self.retry_after = retry_after

    def prefix_field(self, path: str) -> None:
        """Puts ``path`` before the field."""
        if self.field is None:
            self.field = path
        else:
            self.field = f"{path}{'' if self.field.startswith('[') else '.'}{self.field}"


def out_of_range_error(
    field: str | None, actual: object, allowed: str, message: str | None = None
) -> DomainError:
    """OUT_OF_RANGE: a number that is not allowed; the message says so in general if none is given."""
    text = message or f"{field} is {actual}, but must be {allowed}"
    metadata = {"range": allowed, "actual": actual}
    return DomainError(Reason.OUT_OF_RANGE, text, field=field, metadata=metadata)


def mismatch_error(
    reason: Reason, field: str | None, expected: object, actual: object, message: str | None = None
) -> DomainError:
    """SHAPE_MISMATCH or DTYPE_MISMATCH; the message says what was expected if none is given."""
    text = message or f"{field} is {actual}, but must be {expected}"
    return DomainError(reason, text, field=field, metadata={"expected": expected, "actual": actual})


def conflict_error(field: str, message: str) -> DomainError:
    """CONFLICTING_FIELDS: a field that contradicts another one."""
    return DomainError(Reason.CONFLICTING_FIELDS, message, field=field)


class within(contextlib.AbstractContextManager[None]):
    """Puts ``path`` before the field of any `DomainError` that passes through.

    A class, because every step passes it: as a generator it would take longer than
    most of what it encloses.
    """

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DomainError):
            error.prefix_field(self._path)
