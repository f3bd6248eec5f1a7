"""Transfer of optimizer state when a session's specification is replaced."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from optserve import coercion, spec
from optserve.message_record import MessageRecord
from optserve.specs.session_spec import SessionSpec
from optserve.v1 import session_service_pb2 as wire


@dataclass(frozen=True)
class StateTransfer(MessageRecord, message=wire.StateTransfer):
    """Transfer of one group's state arrays, by name.

    Attributes:
        group: the group; empty for the default group.
        carried: kept unchanged.
        dropped: deleted.
        started: created with their initial values.
        restarted: whether the rule counts its steps from 1 again.
    """

    group: str
    carried: tuple[str, ...]
    dropped: tuple[str, ...]
    started: tuple[str, ...]
    restarted: bool


def make_update_request(
    name: str, wanted: SessionSpec, expected_step: int | None
) -> wire.UpdateSessionRequest:
    """Encodes the request, with a new request id."""
    request = wire.UpdateSessionRequest(
        name=name, request_id=uuid.uuid4().hex, spec=spec.encode_spec(SessionSpec.of(wanted, "spec"))
    )
    if expected_step is not None:
        request.expected_step = coercion.to_step(expected_step, "expected_step")
    return request
