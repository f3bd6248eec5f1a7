"""WatchSession: the stream of a session's events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial

from optserve.v1 import session_service_pb2 as pb
from optserve_server.rpc.context import calls
from optserve_server.rpc.context.drain import Drain
from optserve_server.rpc.execution.execution import Execution
from optserve_server.sessions.session import Session
from optserve_server.state.session_activity import Deleted, Updated
from optserve_server.wire.messages.events import event_to, first_event_to


async def wait_for_step(session: Session, step: int, drain: Drain) -> None:
    """Returns when the session has reached a step, or was restored at an earlier one.

    The workers that are to take that step may wait for it themselves.

    Raises:
        DomainError: SESSION_NOT_FOUND, or SHUTTING_DOWN.
    """
    interruptible = drain.make_interruptible()
    watcher = session.activity.watch(is_for_steps=True)
    try:
        before = session.step
        while before <= session.step < step:
            before = session.step
            session.check_open()
            with interruptible, calls.suspend_idle_timeout():
                await watcher.next()
    finally:
        session.activity.remove_watcher(watcher)


async def stream_events(
    session: Session, drain: Drain, execution: Execution
) -> AsyncIterator[pb.WatchSessionResponse]:
    """The messages of a watch, until the session is deleted.

    Raises:
        DomainError: SHUTTING_DOWN.
    """
    session.check_open()
    interruptible = drain.make_interruptible()
    watcher = session.activity.watch()
    try:
        count = len(session.layout.entries)
        calls.note_answer_size(count)  # the first event describes the session, and so does an update
        yield await execution.run_or_offload(count, partial(first_event_to, session, datetime.now(UTC)))
        while True:
            with interruptible, calls.suspend_idle_timeout():
                event, dropped = await watcher.next()
            execution.meters.events_dropped += dropped
            make = partial(event_to, session, event, dropped)
            yield await execution.run_or_offload(count, make) if isinstance(event.what, Updated) else make()
            if isinstance(event.what, Deleted):
                return
    finally:
        session.activity.remove_watcher(watcher)
