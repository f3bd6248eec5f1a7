"""Where work runs: short work at once, long work in a thread, each session's in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

from optserve_server.sessions.incoming import Incoming
from optserve_server.sessions.session import PreparedStep, Session

T = TypeVar("T")


class Execution:
    """Runs work on sessions.

    Args:
        executor: threads for long work.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._tasks: set[asyncio.Task[Any]] = set()

    async def alone(self, session: Session, work: Callable[[], T]) -> T:
        """Runs ``work`` while nothing else touches the session."""
        if session.is_small:
            async with session.lock:
                return work()
        return await self.to_its_end(self._locked(session, work))

    async def take(self, session: Session, incoming: Incoming, commit: Callable[[PreparedStep], T]) -> T:
        """Takes a step: prepares and commits it while nothing else touches the session.

        What must be safe before anything moves, a journal's record, belongs between the two.
        """
        if session.is_small and not session.lock.locked():
            return commit(session.prepare(incoming))  # nobody else gets a turn in between
        return await self.alone(session, lambda: commit(session.prepare(incoming)))

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Runs ``work`` beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits ``work``, which goes on to its end when the call that waits is cancelled.

        A thread cannot be stopped, so what it works on must stay locked until it is done.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _locked(self, session: Session, work: Callable[[], T]) -> T:
        async with session.lock:
            return await self.in_thread(work)
