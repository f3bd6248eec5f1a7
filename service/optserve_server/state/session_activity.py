"""Activity of a session: counters for the metrics, and events for watchers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime

from optserve_server.state.step_result import StepOutcome, StepResult

EVENTS_KEPT = 1024
"""Events that wait for a watcher before the oldest are dropped."""


@dataclass(frozen=True)
class Updated:
    """The specification was replaced."""


@dataclass(frozen=True)
class Pushed:
    """Parameters were written; the session's step."""

    step: int


@dataclass(frozen=True)
class Contributed:
    """A worker's step became a part of a step of several; its own result."""

    result: StepResult


@dataclass(frozen=True)
class Deleted:
    """The session was deleted; ``expired`` if because of its lease."""

    expired: bool


@dataclass(frozen=True)
class Event:
    """What happened, and when (UTC)."""

    time: datetime
    what: object


class SessionActivity:
    """Activity of one session. Cheap if there is no watcher: every step passes through it.

    Attributes:
        outcomes: answered steps by outcome, without repeated answers.
        used: when the session was last used, by the monotonic clock.
        expired: whether its lease has ended it.
        watchers: receivers of events.
    """

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(StepOutcome, 0)
        self.used = time.monotonic()
        self.expired = False
        self.watchers: tuple[Watcher, ...] = ()

    def publish(self, what: object) -> None:
        """Sends an event to the watchers that it concerns; thread-safe."""
        if not self.watchers:
            return
        event = Event(datetime.now(UTC), what)
        is_no_step = isinstance(what, Contributed) or (
            isinstance(what, StepResult) and what.outcome is not StepOutcome.APPLIED
        )
        for watcher in self.watchers:
            if not (is_no_step and watcher.is_for_steps):
                watcher.add_event(event)

    def watch(self, *, is_for_steps: bool = False) -> Watcher:
        """Adds a watcher, which watches until it is passed to `remove_watcher`.

        Args:
            is_for_steps: whether it gets no events of contributions that are no step. A thousand workers
                may wait for the end of a round that each of them contributes to.
        """
        watcher = Watcher(is_for_steps=is_for_steps)
        self.watchers = (*self.watchers, watcher)
        return watcher

    def remove_watcher(self, watcher: Watcher) -> None:
        """Removes a watcher."""
        self.watchers = tuple(other for other in self.watchers if other is not watcher)

    def publish_deleted(self) -> None:
        """Sends the event of the session's deletion."""
        self.publish(Deleted(self.expired))


class Watcher:
    """Queue of events of one watcher. Created and read on an event loop.

    Args:
        capacity: how many events wait before the oldest is dropped.
        is_for_steps: whether it gets no events of contributions that are no step.
    """

    def __init__(self, capacity: int = EVENTS_KEPT, *, is_for_steps: bool = False) -> None:
        self.is_for_steps = is_for_steps
        self._events: deque[Event] = deque()
        self._capacity = capacity
        self._dropped = 0
        self._loop = asyncio.get_running_loop()
        self._there = asyncio.Event()

    def add_event(self, event: Event) -> None:
        """Adds an event; called by any thread."""
        self._loop.call_soon_threadsafe(self._append_event, event)

    async def next(self) -> tuple[Event, int]:
        """The next event, and how many were dropped before it."""
        while not self._events:
            self._there.clear()
            await self._there.wait()
        dropped, self._dropped = self._dropped, 0
        return self._events.popleft(), dropped

    def _append_event(self, event: Event) -> None:
        if len(self._events) >= self._capacity:
            self._events.popleft()
            self._dropped += 1
        self._events.append(event)
        self._there.set()
