"""Events of a session as messages."""

from __future__ import annotations

from datetime import datetime

from optserve.v1 import session_service_pb2 as pb
from optserve_server.coordination.membership import Member, MemberState
from optserve_server.sessions.session import Session
from optserve_server.state.metrics_report import MetricsReport
from optserve_server.state.session_activity import Contributed, Deleted, Event, Pushed, Updated
from optserve_server.state.step_result import StepResult
from optserve_server.wire.messages.metrics import report_to
from optserve_server.wire.messages.sessions import fill_session
from optserve_server.wire.messages.steps import result_to
from optserve_server.wire.messages.workers import worker_to


def first_event_to(session: Session, now: datetime) -> pb.WatchSessionResponse:
    """The first message of a watch."""
    response = pb.WatchSessionResponse()
    fill_session(response.began, session)
    response.time.FromDatetime(now)
    return response


def event_to(session: Session, event: Event, dropped: int) -> pb.WatchSessionResponse:
    """A message about an event.

    Args:
        session: what it happened to.
        event: what happened.
        dropped: how many events before it were dropped.
    """
    response = pb.WatchSessionResponse(dropped=dropped)
    response.time.FromDatetime(event.time)
    what = event.what
    if isinstance(what, Updated):
        fill_session(response.updated, session)
    elif isinstance(what, Pushed):
        response.pushed.step = what.step
        response.pushed.SetInParent()
    elif isinstance(what, MetricsReport):
        response.reported.CopyFrom(report_to(what))
    elif isinstance(what, Deleted):
        response.deleted.expired = what.expired
        response.deleted.SetInParent()
    elif isinstance(what, StepResult):
        response.step.CopyFrom(result_to(what))
    elif isinstance(what, Contributed):
        response.contributed.CopyFrom(result_to(what.result))
    elif isinstance(what, Member):
        member = worker_to(what, session.coordinator.membership.clock())
        (response.joined if what.state is MemberState.ACTIVE else response.ended).CopyFrom(member)
    return response
