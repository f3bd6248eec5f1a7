"""Where work runs: short work at once, long work in a thread, each session's in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from functools import partial
from time import perf_counter_ns
from typing import Any, TypeVar

from optserve_server.rpc.meters import Meters
from optserve_server.rpc.recording import R, Recording
from optserve_server.sessions.changes import ChangeKind, step_pieces
from optserve_server.sessions.incoming import Incoming
from optserve_server.sessions.keeper import Keeper
from optserve_server.sessions.prepared import PreparedStep
from optserve_server.sessions.session import MANY_TENSORS, Session
from optserve_server.storage.failpoints import passing

T = TypeVar("T")


class Execution:
    """Runs work on sessions.

    Args:
        executor: threads for long work.
        keeper: keeps sessions on a disk; None where all are held in memory alone.

    Attributes:
        meters: how long it all takes.
    """

    def __init__(self, executor: Executor, keeper: Keeper | None = None) -> None:
        self._executor = executor
        self._keeper = keeper
        self.meters = Meters()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def alone(self, session: Session, work: Callable[[], T]) -> T:
        """Runs ``work`` while nothing else touches the session."""
        if not session.is_small:
            return await self.to_its_end(self._locked(session, work))
        asked = perf_counter_ns()
        async with session.lock:
            begun = perf_counter_ns()
            done = work()
            self.meters.work.add(perf_counter_ns() - begun)
        self.meters.queue.add(begun - asked)
        return done

    async def placed(self, session: Session, work: Callable[[], T]) -> T:
        """Runs ``work`` on a session that the caller has locked: short work at once, long work in a thread.

        Whoever waits must do so to the end, as in `to_its_end`.
        """
        return work() if session.is_small else await self.in_thread(work)

    async def take(self, session: Session, incoming: Incoming, commit: Callable[[PreparedStep], T]) -> T:
        """Takes a step: both parts while nothing else touches the session.

        Where the session is kept, a record of it is made safe between the two.

        Raises:
            DomainError: what `Session.prepare` raises, STORAGE_FULL or STORAGE_UNAVAILABLE.
        """
        if session.kept is not None:
            taken = await self.kept(session, partial(_prepared, session, incoming), commit)
            assert taken is not None
            return taken
        if self.inline(session, incoming) and not session.lock.locked():
            begun = perf_counter_ns()
            done = commit(session.prepare(incoming))  # nobody else gets a turn in between
            self.meters.work.add(perf_counter_ns() - begun)
            return done
        return await self.alone(session, lambda: commit(session.prepare(incoming)))

    @staticmethod
    def inline(session: Session, incoming: Incoming) -> bool:
        """Whether a step that comes now is computed at once, on the event loop."""
        return session.is_small or (incoming.is_brief and not session.lock.locked())

    async def kept(
        self, session: Session, prepare: Callable[[], R | None], commit: Callable[[R], T]
    ) -> T | None:
        """Takes the step of a session that is kept on the disk.

        Args:
            session: the session.
            prepare: measures the step, in its turn, and gives what is to be recorded; None where
                the step is not to be taken.
            commit: takes it.
        """
        keeper = self._keeper
        assert keeper is not None
        if session.is_small:
            asked = perf_counter_ns()
            await session.lock.acquire()
            self.meters.queue.add(perf_counter_ns() - asked)
            kept = session.kept
            if kept is not None and keeper.appends(kept):
                return await Recording(keeper, kept, self.meters, prepare, commit).take()
            session.lock.release()
        return await self.to_its_end(self._kept(keeper, session, prepare, commit))

    async def _kept(
        self,
        keeper: Keeper,
        session: Session,
        prepare: Callable[[], R | None],
        commit: Callable[[R], T],
    ) -> T | None:
        asked = perf_counter_ns()
        async with session.lock:
            begun = perf_counter_ns()
            self.meters.queue.add(begun - asked)
            prepared = await self.placed(session, prepare)
            kept = session.kept
            if prepared is None:
                return None
            if kept is None or not prepared.changes:
                return await self.placed(session, partial(commit, prepared))
            recording = perf_counter_ns()
            byte_count = await keeper.record(kept, partial(step_pieces, prepared.staging, prepared.options))
            recorded = perf_counter_ns() - recording
            self.meters.record.add(recorded)
            passing("before-apply")
            done = await self.placed(session, partial(commit, prepared))
            passing("after-apply")
            self.meters.work.add(perf_counter_ns() - begun - recorded)
            keeper.changed(kept, ChangeKind.STEP, byte_count)
        passing("before-ack")
        return done

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Runs ``work`` beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def for_each(self, count: int, work: Callable[[], T]) -> T:
        """Runs ``work`` that does something for each of ``count`` tensors: for many of them in a thread."""
        return work() if count <= MANY_TENSORS else await self.in_thread(work)

    async def to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits ``work``, which goes on to its end when the call that waits is cancelled.

        A thread cannot be stopped, so what it works on must stay locked until it is done.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _locked(self, session: Session, work: Callable[[], T]) -> T:
        asked = perf_counter_ns()
        async with session.lock:
            begun = perf_counter_ns()
            done = await self.in_thread(work)
            self.meters.work.add(perf_counter_ns() - begun)
        self.meters.queue.add(begun - asked)
        return done


def _prepared(session: Session, incoming: Incoming) -> PreparedStep:
    """A step on a gradient that nobody changes until it is taken."""
    if session.kept is not None and incoming.staging.foreign:
        incoming = Incoming.whole(session, session.kept.own(incoming.staging), incoming.options)
    return session.prepare(incoming)
