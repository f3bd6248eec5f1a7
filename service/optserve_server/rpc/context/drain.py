"""The end of a server's life: calls in flight are finished, new ones are sent away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from optserve_server.errors import DomainError, Reason

RETRY_AFTER_S = 1.0
"""Seconds after which a refused client may try again, here or elsewhere."""


class Drain:
    """Counts calls in flight and knows whether the server is shutting down.

    Attributes:
        draining: whether it is.
        in_flight: how many calls there are.
        waiting: tasks that `finish` may interrupt.
    """

    def __init__(self) -> None:
        self.draining = False
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.waiting: set[asyncio.Task[Any]] = set()

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Counts a call.

        Raises:
            DomainError: SHUTTING_DOWN.
        """
        self.check()
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    def check(self) -> None:
        """Refuses what is new.

        Raises:
            DomainError: SHUTTING_DOWN.
        """
        if self.draining:
            raise DomainError(Reason.SHUTTING_DOWN, "the server is shutting down", retry_after=RETRY_AFTER_S)

    def interruptible(self, task: asyncio.Task[Any]) -> contextlib.AbstractContextManager[None]:
        """While a task waits for what a drain may interrupt: an open stream's next step.

        It raises SHUTTING_DOWN at its beginning or its end, and may be used again.
        """
        return _Interruptible(self, task)

    async def finish(self, grace: float) -> None:
        """Sends new calls away and waits up to ``grace`` seconds for those in flight."""
        self.draining = True
        for task in self.waiting:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)


class _Interruptible(contextlib.AbstractContextManager[None]):
    """See `Drain.interruptible`. Not a generator: every streamed step waits in it."""

    def __init__(self, drain: Drain, task: asyncio.Task[Any]) -> None:
        self._drain, self._task = drain, task

    def __enter__(self) -> None:
        if self._drain.draining:
            self._drain.check()
        self._drain.waiting.add(self._task)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._drain.waiting.discard(self._task)
        if kind is not None and issubclass(kind, asyncio.CancelledError) and self._drain.draining:
            self._task.uncancel()
            self._drain.check()
