"""Errors by status and reason, decoded once.

Every failed call raises a subclass of `OptserveError`, named for its gRPC status. Switch on
the class or on `OptserveError.reason`, never on the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from optserve.specs.enums import ErrorReason as Reason

__all__ = [
    "Abandoned",
    "Aborted",
    "AlreadyExists",
    "Cancelled",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Fenced",
    "Internal",
    "InvalidArgument",
    "NotAMember",
    "NotFound",
    "OptserveError",
    "PermissionDenied",
    "Reason",
    "ResourceExhausted",
    "RoundClosed",
    "Stale",
    "StepMismatch",
    "TrainingStopped",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]

M = TypeVar("M", bound=Message)
DOMAIN = "optserve.v1"
DETAILS_KEY = "grpc-status-details-bin"


class OptserveError(Exception):
    """A call that failed.

    Args:
        message: what was wrong, in a sentence.
        reason: the contract's reason; None if the error does not come from the server, or its reason
            is newer than this client.
        field: path of the wrong field within the request, or None.
        metadata: facts about the error, as text.
        retry_after: seconds after which a retry may succeed, or None.
        request_id: the call's id in the server's log, or None.
        applied: False if the call changed nothing; None if that is not known: repeating the same call
            settles it.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | None = None,
        field: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        applied: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.request_id = request_id
        self.applied = applied

    def __str__(self) -> str:
        reason = f"{self.reason.name}: " if self.reason is not None else ""
        where = f" ({self.field})" if self.field else ""
        return f"{reason}{self.message}{where}"


class InvalidArgument(OptserveError):
    """The request is wrong; nothing was applied."""


class NotFound(OptserveError):
    """There is no such session, or snapshot."""


class AlreadyExists(OptserveError):
    """There is already a session of that name."""


class FailedPrecondition(OptserveError):
    """The session's state does not allow it."""


class Aborted(OptserveError):
    """The session has changed since; read its state and try again."""


class StepMismatch(Aborted):
    """The session has another step than expected."""

    @property
    def current_step(self) -> int:
        """The session's step."""
        return int(self.metadata["current"])


class TrainingStopped(FailedPrecondition):
    """Early stopping has ended the training."""

    @property
    def best_step(self) -> int:
        """The step at which the best value was reported."""
        return int(self.metadata["best_step"])


class Stale(Aborted):
    """A worker's gradient was computed too many steps ago; pull, and compute it again."""

    @property
    def current_step(self) -> int:
        """The session's step."""
        return int(self.metadata["current"])


class RoundClosed(Stale):
    """The round of a worker's contribution is closed; pull, and take part in the current one."""


class Fenced(FailedPrecondition):
    """A worker's membership has ended: it left, its lease ran out, or it joined again; join again."""


class NotAMember(FailedPrecondition):
    """The session takes steps of members only; join it."""


class ShardNotHeld(FailedPrecondition):
    """A step completes a shard that its worker does not hold, or not any more; acquire others."""


class Abandoned(OptserveError):
    """An earlier step of the same stream failed, so this one was not applied."""


class ResourceExhausted(OptserveError):
    """A limit of the server was reached."""


class Unavailable(OptserveError):
    """The server could not be reached, or is shutting down; see `applied`."""


class DeadlineExceeded(OptserveError):
    """There was no answer within the deadline; see `applied`."""


class Cancelled(OptserveError):
    """The call was cancelled."""


class PermissionDenied(OptserveError):
    """The caller may not do this."""


class Unauthenticated(OptserveError):
    """The token is missing or not valid."""


class Unimplemented(OptserveError):
    """The server does not have this method."""


class DataLoss(OptserveError):
    """The files of a session or a snapshot are damaged."""


class Internal(OptserveError):
    """A defect of the server; report it with the request id."""


BY_CODE: dict[grpc.StatusCode, type[OptserveError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: Internal,
    grpc.StatusCode.DATA_LOSS: DataLoss,
}
_OWN_CANCELLATIONS = ("Locally cancelled by application!", "Channel closed!")
"""Texts of gRPC for calls that this program cancelled. A server that goes away cancels some as well."""

BY_REASON: dict[Reason, type[OptserveError]] = {
    Reason.STEP_MISMATCH: StepMismatch,
    Reason.TRAINING_STOPPED: TrainingStopped,
    Reason.STALE: Stale,
    Reason.ROUND_CLOSED: RoundClosed,
    Reason.FENCED: Fenced,
    Reason.NOT_A_MEMBER: NotAMember,
    Reason.SHARD_NOT_HELD: ShardNotHeld,
}


def from_call(failure: grpc.RpcError) -> OptserveError:
    """Returns the typed error of a failed call."""
    call = cast(grpc.Call, failure)  # what gRPC raises; its types do not say so
    trailers = dict(call.trailing_metadata() or ())
    details = list(_parse_details(trailers.get(DETAILS_KEY)))
    info = _first_detail(details, error_details_pb2.ErrorInfo())
    ours = info.domain == DOMAIN
    reason = Reason[info.reason] if ours and info.reason in Reason.__members__ else None
    retry = _first_detail(details, error_details_pb2.RetryInfo())
    violations = _first_detail(details, error_details_pb2.BadRequest()).field_violations
    cls = BY_CODE.get(call.code(), OptserveError)
    if call.code() is grpc.StatusCode.CANCELLED and not details and call.details() not in _OWN_CANCELLATIONS:
        cls = Unavailable
    if reason is not None:
        cls = BY_REASON.get(reason, cls)
    return cls(
        call.details() or call.code().name,
        reason=reason,
        field=violations[0].field if violations else None,
        metadata={key: value for key, value in info.metadata.items() if key != "applied"},
        retry_after=retry.retry_delay.ToTimedelta().total_seconds()
        if retry.HasField("retry_delay")
        else None,
        request_id=info.metadata.get("request_id") or _decode_text(trailers.get("x-request-id")),
        applied=None if not ours or info.metadata.get("applied") == "unknown" else False,
    )


def _parse_details(packed: str | bytes | None) -> Iterator[AnyMessage]:
    if isinstance(packed, bytes):
        try:
            yield from status_pb2.Status.FromString(packed).details
        except DecodeError:
            return  # the details of a proxy; the status code is valid


def _first_detail(details: list[AnyMessage], empty: M) -> M:
    """The first detail of the type of ``empty``, or ``empty`` itself."""
    for detail in details:
        if detail.Unpack(empty):
            break
    return empty


def _decode_text(value: str | bytes | None) -> str | None:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value
