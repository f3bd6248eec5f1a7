"""Admission control: authentication, quotas, calls in flight, idle time-out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter

from optserve_server.errors import DomainError, Reason
from optserve_server.resources.budget import Kind
from optserve_server.rpc.authentication.identity import Identities
from optserve_server.rpc.context.calls import Call
from optserve_server.rpc.context.drain import RETRY_AFTER_S, Drain, shutting_down_error

MAX_HEALTH_CALLS = 64
"""Calls of the health service at once, which need no token; the oldest is ended for one more."""

HEALTH_REQUEST_TIMEOUT_S = 5.0
"""Seconds within which the request of a health check has to arrive."""

LAST_ANSWERS_S = 0.5
"""Seconds for answers on their way when calls are ended, or connections closed."""

QUIET_S = 0.1
"""Seconds without a rejected call after which a draining server closes its connections."""

MAX_QUIET_WAIT_S = 0.5
"""Seconds that it waits for that at most."""

_log = logging.getLogger(__name__)


class Admission:
    """Admits calls, counts them, and ends those that may not continue.

    Args:
        identities: identifies callers.
        drain: whether the server still takes calls.
        stream_idle_seconds: how long a stream may be silent; 0 for no limit.

    Attributes:
        cut_count: calls that a drain has ended.
    """

    def __init__(self, identities: Identities, drain: Drain, stream_idle_seconds: float = 0.0) -> None:
        self.identities = identities
        self._drain = drain
        self._idle = stream_idle_seconds
        self._inside: set[Call] = set()
        self._health_calls: dict[Call, None] = {}  # oldest first
        self._empty = asyncio.Event()
        self.cut_count = 0

    @property
    def call_count(self) -> int:
        """Calls being answered."""
        return len(self._inside)

    @property
    def health_call_count(self) -> int:
        """Calls of the health service being answered."""
        return len(self._health_calls)

    def list_calls(self) -> list[Call]:
        """Calls being answered, those of the health service among them."""
        return [*self._inside, *self._health_calls]

    def enter(self, call: Call, metadata: object) -> None:
        """Identifies the caller of a call and counts the call, before anything of it is read.

        Raises:
            DomainError: UNAUTHENTICATED, SHUTTING_DOWN, LIMIT_EXCEEDED or QUOTA_EXCEEDED; the call
                was not counted.
        """
        caller = self.identities.anybody or self.identities.authenticate(metadata)
        if self._drain.draining:
            self._drain.reject_if_draining()
        caller.namespace.budget.reserve(Kind.REQUESTS, 1)
        call.caller, call.task = caller, asyncio.current_task()
        self._inside.add(call)

    def enter_health(self, call: Call, metadata: object) -> None:
        """Counts a call of the health service: it needs no token, and is answered while the server drains.

        Callers without a token have slots of their own, so that they take none from others. A new call
        ends the oldest if all are in use: checks are short, and who watches can watch again.
        """
        if len(self._health_calls) >= MAX_HEALTH_CALLS:
            oldest = next(iter(self._health_calls))
            del self._health_calls[oldest]
            oldest.cancel_with_error(_health_limit_error())
        call.task = asyncio.current_task()
        self._health_calls[call] = None

    def release_call(self, call: Call) -> None:
        """Stops counting a call; does nothing if it is not counted."""
        if call.caller is None:
            self._health_calls.pop(call, None)
        elif call in self._inside:
            self._inside.remove(call)
            call.charge = None
            call.caller.namespace.budget.release(Kind.REQUESTS, 1)
            if self._drain.draining and not self._inside:
                self._empty.set()

    async def drain(self, grace: float) -> None:
        """Rejects new calls, waits up to ``grace`` seconds for those being answered, and ends the others.

        It returns when no call was rejected for a moment: gRPC cancels calls that come while it closes
        its connections, without a reason, and clients that were rejected wait before they call again.
        """
        self._drain.begin_draining()
        await self._wait_until_empty(grace)
        if self._inside:
            cut = Counter(call.method for call in self._inside)
            _log.warning("calls cut", extra={"facts": {"calls": cut.total(), "methods": dict(cut)}})
            self.cut_count += cut.total()
            for call in tuple(self._inside):
                call.cancel_with_error(shutting_down_error())
            await self._wait_until_empty(LAST_ANSWERS_S)
        until = time.monotonic() + MAX_QUIET_WAIT_S
        while time.monotonic() < min(until, self._drain.refused + QUIET_S):
            await asyncio.sleep(QUIET_S / 4)

    async def _wait_until_empty(self, seconds: float) -> None:
        if self._inside:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)

    def end_expired_calls(self) -> None:
        """Reads tokens again where they have changed, and ends calls that may not go on."""
        self.identities.reload_if_changed()
        now = time.monotonic()
        silent_since = now - self._idle
        for call in tuple(self._health_calls):
            if call.moves and call.heard < now - HEALTH_REQUEST_TIMEOUT_S:
                call.cancel_with_error(_idle_error(HEALTH_REQUEST_TIMEOUT_S))
        for call in tuple(self._inside):
            assert call.caller is not None
            if not self.identities.is_valid(call.caller):
                call.cancel_with_error(DomainError(Reason.UNAUTHENTICATED, "the token is no longer valid"))
            elif self._idle and call.moves and call.heard < silent_since:
                call.cancel_with_error(_idle_error(self._idle))


def _health_limit_error() -> DomainError:
    return DomainError(
        Reason.LIMIT_EXCEEDED,
        f"newer health checks need the place of this one, of which there are {MAX_HEALTH_CALLS}",
        metadata={"limit": "health_calls", "value": MAX_HEALTH_CALLS},
        retry_after=RETRY_AFTER_S,
    )


def _idle_error(seconds: float) -> DomainError:
    return DomainError(
        Reason.STREAM_IDLE,
        f"nothing came for {seconds:g} seconds",
        metadata={"seconds": f"{seconds:g}"},
        retry_after=RETRY_AFTER_S,
    )
