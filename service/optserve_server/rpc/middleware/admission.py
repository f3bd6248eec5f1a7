"""Who may come in, who is in, and who has to go."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

from optserve_server.errors import DomainError, Reason
from optserve_server.resources.budget import Kind
from optserve_server.rpc.authentication.identity import Caller, Identities
from optserve_server.rpc.context.calls import Call
from optserve_server.rpc.context.drain import RETRY_AFTER_S, Drain

_SILENT = frozenset({"/optserve.v1.SessionService/WatchSession"})
"""Streams that may be silent for as long as nothing happens."""


class Admission:
    """Lets calls in.

    Args:
        identities: who may call.
        drain: whether the server still takes calls.
        stream_idle_seconds: how long a stream may be silent; 0 for ever.
    """

    def __init__(self, identities: Identities, drain: Drain, stream_idle_seconds: float = 0.0) -> None:
        self.identities = identities
        self._drain = drain
        self._idle = stream_idle_seconds
        self._inside: set[Call] = set()

    def caller(self, metadata: object) -> Caller:
        """Who makes the call of this metadata.

        Raises:
            DomainError: UNAUTHENTICATED.
        """
        return self.identities.of(metadata)

    def check(self, call: Call) -> None:
        """Refuses a call before anything of it is read.

        Raises:
            DomainError: SHUTTING_DOWN, LIMIT_EXCEEDED or QUOTA_EXCEEDED.
        """
        self._drain.check()
        call.caller.namespace.budget.check(Kind.REQUESTS, 1)

    @contextlib.contextmanager
    def inside(self, call: Call) -> Iterator[None]:
        """Counts a call while it is answered.

        Raises:
            DomainError: as `check`.
        """
        budget = call.caller.namespace.budget
        with self._drain.call():
            budget.take(Kind.REQUESTS, 1)
            call.task = asyncio.current_task()
            self._inside.add(call)
            try:
                yield
            finally:
                self._inside.discard(call)
                call.charge = None
                budget.give(Kind.REQUESTS, 1)

    def sweep(self) -> None:
        """Reads tokens again where they have changed, and ends calls that may not go on."""
        self.identities.refresh()
        silent_since = time.monotonic() - self._idle
        for call in tuple(self._inside):
            if not self.identities.still(call.caller):
                call.end(DomainError(Reason.UNAUTHENTICATED, "the token is no longer valid"))
            elif self._idle and call.moves and call.heard < silent_since and call.method not in _SILENT:
                call.end(_silence(self._idle))


def _silence(seconds: float) -> DomainError:
    return DomainError(
        Reason.STREAM_IDLE,
        f"nothing came for {seconds:g} seconds",
        metadata={"seconds": f"{seconds:g}"},
        retry_after=RETRY_AFTER_S,
    )
