"""What becomes of optimizer state when a session changes its specification."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from optserve import coercion, spec
from optserve.specs.session_spec import SessionSpec
from optserve.v1 import session_service_pb2 as wire


@dataclass(frozen=True)
class StateTransfer:
    """What became of one group's state arrays, by name.

    Attributes:
        group: the group; empty for the default group.
        carried: kept as they were.
        dropped: no longer there.
        started: there from now on, with their first values.
        restarted: whether the rule counts its steps from 1 again.
    """

    group: str
    carried: tuple[str, ...]
    dropped: tuple[str, ...]
    started: tuple[str, ...]
    restarted: bool

    @classmethod
    def of(cls, message: wire.StateTransfer) -> StateTransfer:
        """The transfer that a server reported."""
        return cls(
            group=message.group,
            carried=tuple(message.carried),
            dropped=tuple(message.dropped),
            started=tuple(message.started),
            restarted=message.restarted,
        )


def request_of(name: str, wanted: SessionSpec, expected_step: int | None) -> wire.UpdateSessionRequest:
    """The request, under an id of its own."""
    request = wire.UpdateSessionRequest(
        name=name, request_id=uuid.uuid4().hex, spec=spec.encode(SessionSpec.of(wanted, "spec"))
    )
    if expected_step is not None:
        request.expected_step = coercion.step(expected_step, "expected_step")
    return request
