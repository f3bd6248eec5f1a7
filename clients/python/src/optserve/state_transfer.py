"""Transfer of optimizer state when a session's specification is replaced."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from optserve import coercion, spec
from optserve._transport.call import Call
from optserve.message_record import MessageRecord
from optserve.session_info import SessionInfo
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


def make_update(
    name: str, wanted: SessionSpec, expected_step: int | None
) -> Call[tuple[SessionInfo, dict[str, StateTransfer]]]:
    """Returns the call that replaces a specification, with a new request id.

    Its result is the changed session, and the transfer of state by group.
    """
    request = wire.UpdateSessionRequest(
        name=name, request_id=uuid.uuid4().hex, spec=spec.encode_spec(SessionSpec.of(wanted, "spec"))
    )
    if expected_step is not None:
        request.expected_step = coercion.to_step(expected_step, "expected_step")

    def decode(answer: wire.UpdateSessionResponse) -> tuple[SessionInfo, dict[str, StateTransfer]]:
        transfers = {transfer.group: StateTransfer.from_message(transfer) for transfer in answer.transfers}
        return SessionInfo.from_message(answer.session), transfers

    return Call(lambda stubs: stubs.sessions.UpdateSession, request, decode)
