"""Execution of work on sessions: choice of the thread, and the sequence of every change.

Check, record, apply, acknowledge: every change of a session goes through `Execution.commit`,
whether it is a step or a push, durable or not, short or long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from time import perf_counter_ns, time
from typing import TypeVar

from optserve_server.durability.durability_manager import DurabilityManager
from optserve_server.rpc.context.meters import Meters
from optserve_server.rpc.execution.shielded_coroutine import ShieldedCoroutine
from optserve_server.sessions.session import Session
from optserve_server.state.session_change import Change, Checked
from optserve_server.state.session_state import MANY_TENSORS
from optserve_server.storage import failpoints

CREATOR_THREADS = 8
"""Sessions of all namespaces that are made at once."""

T = TypeVar("T")
P = TypeVar("P", bound=Checked)


class Execution:
    """Runs work on sessions: short work on the event loop, long work in threads.

    Args:
        executor: threads for long work.
        durability_manager: makes sessions durable; None if all are held in memory alone.
        clock: the time, Unix time in seconds.

    Attributes:
        meters: durations of the phases of a step.
    """

    def __init__(
        self,
        executor: Executor,
        durability_manager: DurabilityManager | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        self._executor = executor
        self._creators = ThreadPoolExecutor(CREATOR_THREADS, thread_name_prefix="create")
        self._durability_manager = durability_manager
        self._clock = clock
        self.meters = Meters()

    def commit(self, session: Session, change: Change[Session, P], apply: Callable[[P], T]) -> Awaitable[T]:
        """Makes a change while nothing else touches the session, to its end even if the caller leaves.

        Args:
            session: the session.
            change: what is to be done.
            apply: applies what was prepared, and makes the answer while the session is still locked.

        Returns:
            What ``apply`` returned.

        Raises:
            DomainError: what `Change.prepare` raises, STORAGE_FULL or STORAGE_UNAVAILABLE; nothing
                was applied.
        """
        return ShieldedCoroutine(self._commit_exclusively(session, change, apply))

    async def _commit_exclusively(
        self, session: Session, change: Change[Session, P], apply: Callable[[P], T]
    ) -> T:
        asked = perf_counter_ns()
        await session.lock.acquire()
        try:
            begun, session.changed_at = perf_counter_ns(), self._clock()
            inline = session.is_small or change.is_brief
            prepare = partial(change.prepare, session)
            prepared = prepare() if inline else await self.in_thread(prepare)
            durability, durability_manager = session.durability, self._durability_manager
            if durability_manager is None or durability is None or not prepared.has_changes:
                done = apply(prepared) if inline else await self.in_thread(partial(apply, prepared))
            else:
                recording = perf_counter_ns()
                try:
                    byte_count = await durability_manager.record_change(durability, change)
                except BaseException:
                    prepared.roll_back()
                    raise
                recorded = perf_counter_ns()
                if failpoints.armed:
                    failpoints.hit_failpoint("before-apply")
                done = apply(prepared) if inline else await self.in_thread(partial(apply, prepared))
                if failpoints.armed:
                    failpoints.hit_failpoint("after-apply")
                durability_manager.count_change(durability, change.kind, byte_count)
                self.meters.record.add_duration(recorded - recording)
                begun += recorded - recording
        finally:
            session.lock.release()
        self.meters.record_work(begun - asked, perf_counter_ns() - begun)
        if failpoints.armed:
            failpoints.hit_failpoint("before-ack")
        return done

    def run_exclusively(self, session: Session, work: Callable[[], T]) -> Awaitable[T]:
        """Runs work that changes nothing while nothing else touches the session."""
        return ShieldedCoroutine(self._run_exclusively(session, work))

    async def _run_exclusively(self, session: Session, work: Callable[[], T]) -> T:
        asked = perf_counter_ns()
        async with session.lock:
            begun = perf_counter_ns()
            done = work() if session.is_small else await self.in_thread(work)
        self.meters.record_work(begun - asked, perf_counter_ns() - begun)
        return done

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Runs ``work`` beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def create(self, work: Callable[[], T]) -> T:
        """Runs ``work`` that makes a session, which may take minutes, where it delays no other work."""
        return await asyncio.get_running_loop().run_in_executor(self._creators, work)

    def close(self) -> None:
        """Begins no more work in threads; what runs is not waited for."""
        for executor in (self._creators, self._executor):
            executor.shutdown(wait=False, cancel_futures=True)

    async def run_or_offload(self, count: int, work: Callable[[], T]) -> T:
        """Runs ``work`` that does something for each of ``count`` tensors: for many of them in a thread."""
        return work() if count <= MANY_TENSORS else await self.in_thread(work)
