"""Answers to requests that change a session, made from the outcome of the change.

Requests that are answered once get theirs from here, so that the same answer can be made when
a change is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from optserve.v1 import session_service_pb2 as pb
from optserve_server.sessions.session import Session
from optserve_server.state.session_change import ChangeKind
from optserve_server.wire.messages import metrics
from optserve_server.wire.messages.sessions import fill_session, transfer_to
from optserve_server.wire.messages.snapshots import snapshot_to

_TYPES: Mapping[ChangeKind, type[Message]] = {
    ChangeKind.CREATE: pb.CreateSessionResponse,
    ChangeKind.FORK: pb.ForkSessionResponse,
    ChangeKind.IMPORT: pb.ImportSnapshotResponse,
    ChangeKind.PUSH: pb.PushParametersResponse,
    ChangeKind.UPDATE: pb.UpdateSessionResponse,
    ChangeKind.REPORT: pb.ReportMetricsResponse,
    ChangeKind.RESTORE_WEIGHTS: pb.RestoreSnapshotResponse,
    ChangeKind.RESTORE: pb.RestoreSnapshotResponse,
    ChangeKind.SAVE: pb.CreateSnapshotResponse,
    ChangeKind.DROP: pb.DeleteSnapshotResponse,
    ChangeKind.DELETE: pb.DeleteSessionResponse,
}
_KINDS = {answer: kind for kind, answer in _TYPES.items()}


def answer_to(kind: ChangeKind, session: Session, outcome: Any) -> Message:
    """The answer to a change.

    Args:
        kind: what was asked.
        session: the session after it.
        outcome: what `Prepared.commit` returned; the snapshot that was made, for SAVE.
    """
    make: Callable[..., Message] = _TYPES[kind]
    match kind:
        case ChangeKind.REPORT:
            return metrics.report_to(outcome)
        case ChangeKind.UPDATE:
            update = pb.UpdateSessionResponse(transfers=map(transfer_to, outcome))
            fill_session(update.session, session)
            return update
        case ChangeKind.SAVE:
            return make(snapshot=snapshot_to(session.id, outcome))
        case ChangeKind.DROP | ChangeKind.DELETE:
            return make()
    answer: Any = make()
    fill_session(answer.session, session)
    return answer  # type: ignore[no-any-return]


def encode_answer(kind: ChangeKind, session: Session, outcome: object) -> bytes:
    """The answer to a change as it is kept."""
    return answer_to(kind, session, outcome).SerializeToString()


def decode_answer(kind: ChangeKind, data: bytes) -> Message:
    """An answer that was kept."""
    return _TYPES[kind].FromString(data)


def change_kind(answer: Message) -> ChangeKind:
    """What was asked for, by its answer."""
    return _KINDS[type(answer)]
