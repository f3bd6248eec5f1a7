"""Events of a session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from optserve._engine.step_result import StepResult
from optserve._transport.retry import Deadline, Retry
from optserve.errors import OptserveError
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


class EventWatch:
    """Decoder of a watch's messages, which is repeated when its connection is lost.

    Args:
        retry: how often it is repeated.
        timeout: seconds in which a lost connection must be made again.

    Attributes:
        failures: calls that failed since the last message.
        deadline: of the attempts after the first of these failures.
    """

    def __init__(self, retry: Retry, timeout: float) -> None:
        self._retry, self._timeout = retry, timeout
        self._step: int | None = None
        self.failures, self.deadline = 0, Deadline(timeout)

    def decode(self, message: wire.WatchSessionResponse) -> Event | None:
        """Decodes a message; None for an event that this client does not know.

        The ``dropped`` of the first event after a lost connection counts the steps that were taken meanwhile.
        """
        self.failures = 0
        what, dropped = _decode_what(message), message.dropped
        if isinstance(what, Began) and self._step is not None:
            dropped += max(0, what.session.step - self._step)
        self._step = _step_after(what, self._step)
        return None if what is None else Event(message.time.ToDatetime(tzinfo=UTC), what, dropped)

    def compute_pause(self, error: OptserveError) -> float | None:
        """Seconds to wait after a call that failed before the session is watched again; None if it is not."""
        if not self.failures:
            self.deadline = Deadline(self._timeout)
        self.failures += 1
        return self._retry.compute_pause(self.failures, error, self.deadline)


def _step_after(what: What | None, step: int | None) -> int | None:
    """The session's step after an event, given that before it."""
    match what:
        case Began() | Updated():
            return what.session.step
        case StepResult() | Pushed():
            return what.step
        case _:
            return step


def _decode_what(message: wire.WatchSessionResponse) -> What | None:
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
