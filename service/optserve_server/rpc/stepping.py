"""What a unary and a streamed step have in common."""

from __future__ import annotations

from optserve_server.errors import DomainError, Reason
from optserve_server.sessions.prepared import PreparedStep
from optserve_server.sessions.reading import Pull, Values
from optserve_server.sessions.result import StepResult
from optserve_server.sessions.session import Session


def check_pull(session: Session, pull: Pull | None, max_bytes: int = 0) -> None:
    """Refuses a pull before the step that it belongs to is taken.

    Args:
        session: the session.
        pull: what is to be sent; None for nothing.
        max_bytes: how much one message may hold; 0 for a stream.

    Raises:
        DomainError: what `Session.check_pull` raises, or LIMIT_EXCEEDED.
    """
    if pull is None:
        return
    byte_count = sum(tensor.byte_count for tensor in session.check_pull(pull))
    if max_bytes and byte_count > max_bytes:
        raise DomainError(
            Reason.LIMIT_EXCEEDED,
            f"{byte_count} bytes of parameters do not fit into one message; use StepStream",
            metadata={"limit": "max_message_bytes", "value": max_bytes},
        )


def stepped(session: Session, pull: Pull | None, prepared: PreparedStep) -> tuple[StepResult, Values | None]:
    """Takes a step, and copies the values that follow it."""
    result = prepared.commit()
    return result, None if pull is None else session.values(pull.tensors, pull.dtype, pull.point)
