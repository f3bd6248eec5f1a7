"""Drain: the end of a server's life."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Self

from optserve_server.errors import DomainError, Reason

RETRY_AFTER_S = 1.0
"""Seconds after which a refused client may try again, here or elsewhere."""


def shutting_down_error() -> DomainError:
    """SHUTTING_DOWN, with the seconds after which a client may try again."""
    return DomainError(Reason.SHUTTING_DOWN, "the server is shutting down", retry_after=RETRY_AFTER_S)


class Drain:
    """State of the end of a server's life: new calls are rejected, waits are interrupted.

    Attributes:
        draining: whether the server is shutting down.
        refused: when a call was last rejected for that, by the monotonic clock.
        waiting: waits that `begin` interrupts if they are idle.
    """

    def __init__(self) -> None:
        self.draining = False
        self.refused = 0.0
        self.waiting: set[Interruptible] = set()

    def reject_if_draining(self) -> None:
        """Refuses what is new.

        Raises:
            DomainError: SHUTTING_DOWN.
        """
        if self.draining:
            self.refused = time.monotonic()
            raise shutting_down_error()

    def make_interruptible(self) -> Interruptible:
        """A wait of the current task that a drain may interrupt, such as that for a stream's next step."""
        task = asyncio.current_task()
        assert task is not None  # coroutines run in tasks
        return Interruptible(self, task)

    def begin_draining(self) -> None:
        """Rejects new calls from now on, and interrupts waits."""
        self.draining = True
        for wait in tuple(self.waiting):
            wait.interrupt()


class Interruptible(contextlib.AbstractContextManager["Interruptible"]):
    """See `Drain.make_interruptible`. Raises SHUTTING_DOWN if a drain has begun, or begins meanwhile.

    Attributes:
        is_idle: whether it may be interrupted now. A loop clears it while it serves a message.
    """

    def __init__(self, drain: Drain, task: asyncio.Task[Any]) -> None:
        self._drain, self._task = drain, task
        self.is_idle = True

    def __enter__(self) -> Self:
        self._drain.reject_if_draining()
        self._drain.waiting.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._drain.waiting.discard(self)
        if self.is_idle and kind is asyncio.CancelledError and self._drain.draining:
            self._task.uncancel()
            self._drain.reject_if_draining()

    def interrupt(self) -> None:
        """Cancels the wait if it is idle."""
        if self.is_idle:
            self._task.cancel()
