"""The end of a server's life: calls in flight are finished, new ones are sent away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from optserve_server.errors import DomainError, Reason

T = TypeVar("T")

RETRY_AFTER = 1.0
"""Seconds after which a refused client may try again, here or elsewhere."""


class Drain:
    """Counts calls in flight and knows whether the server is shutting down."""

    def __init__(self) -> None:
        self.draining = False
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._waiting: set[asyncio.Task[Any]] = set()

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
            raise DomainError(Reason.SHUTTING_DOWN, "the server is shutting down", retry_after=RETRY_AFTER)

    async def interruptible(self, task: asyncio.Task[Any], wait: Coroutine[Any, Any, T]) -> T:
        """Awaits what a drain may interrupt: an open stream's wait for its next step.

        Args:
            task: the one that waits.
            wait: for what.

        Raises:
            DomainError: SHUTTING_DOWN.
        """
        if self.draining:
            wait.close()
        self.check()
        self._waiting.add(task)
        try:
            return await wait
        except asyncio.CancelledError:
            if self.draining:
                task.uncancel()
            self.check()
            raise
        finally:
            self._waiting.discard(task)

    async def finish(self, grace: float) -> None:
        """Sends new calls away and waits up to ``grace`` seconds for those in flight."""
        self.draining = True
        for task in self._waiting:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)
