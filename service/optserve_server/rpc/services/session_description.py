"""Descriptions of sessions in answers, made beside the event loop if the session has many tensors."""

from __future__ import annotations

from functools import partial

from optserve.v1 import session_pb2
from optserve_server.rpc.context import calls
from optserve_server.rpc.execution.execution import Execution
from optserve_server.sessions.session import Session
from optserve_server.wire.messages.sessions import fill_session


async def describe_session(execution: Execution, message: session_pb2.Session, session: Session) -> None:
    """Writes a session into a message of the running call's answer."""
    count = len(session.layout.entries)
    await execution.run_or_offload(count, partial(fill_session, message, session))
    calls.note_answer_size(count)
