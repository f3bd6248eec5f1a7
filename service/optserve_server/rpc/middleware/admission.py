"""Admission control: authentication, quotas, calls in flight, idle time-out."""

from __future__ import annotations

import asyncio
import contextlib
import time

from optserve_server.errors import DomainError, Reason
from optserve_server.resources.budget import Kind
from optserve_server.rpc.authentication.identity import Identities
from optserve_server.rpc.context.calls import Call
from optserve_server.rpc.context.drain import RETRY_AFTER_S, Drain


class Admission:
    """Admits calls, counts them, and ends those that may not continue.

    Args:
        identities: identifies callers.
        drain: whether the server still takes calls.
        stream_idle_seconds: how long a stream may be silent; 0 for no limit.
    """

    def __init__(self, identities: Identities, drain: Drain, stream_idle_seconds: float = 0.0) -> None:
        self.identities = identities
        self._drain = drain
        self._idle = stream_idle_seconds
        self._inside: set[Call] = set()
        self._empty = asyncio.Event()

    @property
    def call_count(self) -> int:
        """Calls being answered."""
        return len(self._inside)

    def enter(self, call: Call, metadata: object) -> None:
        """Identifies the caller of a call and counts the call, before anything of it is read.

        Raises:
            DomainError: UNAUTHENTICATED, SHUTTING_DOWN, LIMIT_EXCEEDED or QUOTA_EXCEEDED; the call
                was not counted.
        """
        caller = self.identities.anybody or self.identities.authenticate(metadata)
        if self._drain.draining:
            self._drain.check()
        caller.namespace.budget.take(Kind.REQUESTS, 1)
        call.caller, call.task = caller, asyncio.current_task()
        self._inside.add(call)

    def leave(self, call: Call) -> None:
        """Stops counting a call; does nothing if it is not counted."""
        if call in self._inside:
            assert call.caller is not None
            self._inside.remove(call)
            call.charge = None
            call.caller.namespace.budget.give(Kind.REQUESTS, 1)
            if self._drain.draining and not self._inside:
                self._empty.set()

    async def drain(self, grace: float) -> None:
        """Rejects new calls and waits up to ``grace`` seconds for those being answered."""
        self._drain.begin()
        if self._inside:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), grace)

    def end_expired_calls(self) -> None:
        """Reads tokens again where they have changed, and ends calls that may not go on."""
        self.identities.refresh()
        silent_since = time.monotonic() - self._idle
        for call in tuple(self._inside):
            if call.caller is not None and not self.identities.is_valid(call.caller):
                call.end(DomainError(Reason.UNAUTHENTICATED, "the token is no longer valid"))
            elif self._idle and call.moves and call.heard < silent_since:
                call.end(_idle_error(self._idle))


def _idle_error(seconds: float) -> DomainError:
    return DomainError(
        Reason.STREAM_IDLE,
        f"nothing came for {seconds:g} seconds",
        metadata={"seconds": f"{seconds:g}"},
        retry_after=RETRY_AFTER_S,
    )
