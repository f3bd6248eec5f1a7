"""Events of a session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc

from optserve import errors
from optserve._engine.step_result import StepResult
from optserve._transport.connection import Connection
from optserve._transport.retry import Deadline
from optserve.metrics import MetricsReport
from optserve.parameters import Parameters
from optserve.session_info import SessionInfo
from optserve.v1 import session_service_pb2 as wire
from optserve.workers import Worker


@dataclass(frozen=True)
class Began:
    """The first event, also after a lost connection: the session at that moment."""

    session: SessionInfo


@dataclass(frozen=True)
class Updated:
    """The specification was replaced: the changed session."""

    session: SessionInfo


@dataclass(frozen=True)
class Pushed:
    """Parameters were written; the session's step."""

    step: int


@dataclass(frozen=True)
class Deleted:
    """The session was deleted; ``expired`` if because of its lease."""

    expired: bool


@dataclass(frozen=True)
class Joined:
    """A worker became a member; an earlier epoch of it has ended."""

    worker: Worker


@dataclass(frozen=True)
class Ended:
    """A membership ended: the worker left, or its lease ran out, as its state says."""

    worker: Worker


@dataclass(frozen=True)
class Contributed:
    """A worker's step became a part of one of several, which is an event of its own (`CoordinationSync`)."""

    result: StepResult


What = Began | StepResult | Updated | Pushed | MetricsReport | Deleted | Joined | Ended | Contributed


@dataclass(frozen=True)
class Event:
    """An event.

    Attributes:
        time: when it happened, in UTC.
        what: the event; a `StepResult` for a step, a `MetricsReport` for a report.
        dropped: number of events before it that were dropped, because they were not read in time; for a
            `Began` after a lost connection, the steps that were taken meanwhile.
    """

    time: datetime
    what: What
    dropped: int


def watch(connection: Connection, name: str) -> Iterator[Event]:
    """Yields the events of a session until it is deleted. Closing the iterator ends the watch.

    If the connection is lost, the session is watched again, with attempts until the connection's time-out.
    The events after that begin with a further `Began`, whose ``dropped`` counts the steps that were taken
    meanwhile; other events of that time are lost.

    Raises:
        NotFound: there is no such session, or not any more.
        Unavailable: the server could not be reached again.
    """
    step, failures, deadline = None, 0, Deadline(connection.timeout)
    while True:
        call = connection.sessions.WatchSession(
            wire.WatchSessionRequest(name=name), metadata=connection.metadata
        )
        try:
            for message in call:
                failures = 0
                what, dropped = _decode_event(message), message.dropped
                if isinstance(what, Began) and step is not None:
                    dropped += max(0, what.session.step - step)
                step = _step_after(what, step)
                if what is not None:
                    yield Event(message.time.ToDatetime(tzinfo=UTC), what, dropped)
            return
        except grpc.RpcError as failure:
            error = errors.from_call(failure)
        finally:
            call.cancel()
        if not failures:
            deadline = Deadline(connection.timeout)
        failures += 1
        if not connection.retry.wait_before_retry(
            failures, error, deadline, connection.sleep_while_connecting
        ):
            connection.add_error_context(error, failures, deadline)
            raise error


def _step_after(what: What | None, step: int | None) -> int | None:
    """The session's step after an event, given that before it."""
    match what:
        case Began() | Updated():
            return what.session.step
        case StepResult() | Pushed():
            return what.step
        case _:
            return step


def _decode_event(message: wire.WatchSessionResponse) -> What | None:
    """Decodes a message; None for an event that this client does not know."""
    match message.WhichOneof("event"):
        case "began":
            return Began(SessionInfo.from_message(message.began))
        case "step":
            return StepResult.from_message(message.step, Parameters(), message.step.worker)
        case "updated":
            return Updated(SessionInfo.from_message(message.updated))
        case "pushed":
            return Pushed(message.pushed.step)
        case "reported":
            return MetricsReport.from_message(message.reported)
        case "deleted":
            return Deleted(message.deleted.expired)
        case "joined":
            return Joined(Worker.from_message(message.joined))
        case "ended":
            return Ended(Worker.from_message(message.ended))
        case "contributed":
            result = message.contributed
            return Contributed(StepResult.from_message(result, Parameters(), result.worker))
        case _:
            return None
