"""Execution of work on sessions: choice of the thread, and the sequence of every change.

Check, record, apply, acknowledge: every change of a session goes through `Execution.commit`,
whether it is a step or a push, durable or not, short or long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from functools import partial
from time import perf_counter_ns, time
from typing import TypeVar

from optserve_server.durability.durability_manager import DurabilityManager
from optserve_server.resources.fair_queue import Flow
from optserve_server.resources.fair_threads import FairThreads
from optserve_server.rpc.context import calls
from optserve_server.rpc.context.calls import Call
from optserve_server.rpc.context.loop_turns import LoopTurns
from optserve_server.rpc.context.meters import Meters
from optserve_server.rpc.execution.shielded_coroutine import ShieldedCoroutine
from optserve_server.sessions.session import Session
from optserve_server.state.session_change import Change, Checked
from optserve_server.state.session_state import MANY_TENSORS
from optserve_server.storage import failpoints

CREATOR_THREADS = 8
"""Sessions of all namespaces that are made at once."""

MAX_CREATIONS = 2
"""The same of one namespace."""

T = TypeVar("T")
P = TypeVar("P", bound=Checked)


class Execution:
    """Runs work on sessions: short work on the event loop, long work in threads.

    Args:
        threads: for long work of one namespace; there is one more for the others.
        durability_manager: makes sessions durable; None if all are held in memory alone.
        clock: the time, Unix time in seconds.

    Attributes:
        meters: durations of the phases of a step.
        turns: turns of the event loop.
    """

    def __init__(
        self,
        threads: int,
        durability_manager: DurabilityManager | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        self._threads = FairThreads(threads, "step")
        self._creators = FairThreads(MAX_CREATIONS, "create", CREATOR_THREADS)
        self.turns = LoopTurns()
        self._durability_manager = durability_manager
        self._clock = clock
        self.meters = Meters()

    async def commit(
        self,
        session: Session,
        change: Change[Session, P],
        apply: Callable[[P], T],
        call: Call | None = None,
    ) -> T:
        """Makes a change while nothing else touches the session: once begun, to its end.

        Args:
            session: the session.
            change: what is to be done.
            apply: applies what was prepared, and makes the answer while the session is still locked.
            call: the call that asks for it, if the change is not to begin when that has ended.

        Returns:
            What ``apply`` returned.

        Raises:
            DomainError: what `Change.prepare` raises, STORAGE_FULL or STORAGE_UNAVAILABLE; nothing
                was applied.
        """
        inline = session.is_small or change.is_brief
        if inline and session.durability is None and not session.lock.is_held:
            # What waits for nothing cannot be interrupted, and nothing else runs meanwhile.
            return await self._make_change(session, change, apply, call, perf_counter_ns())
        return await ShieldedCoroutine(self._commit_exclusively(session, change, apply, call))

    async def _commit_exclusively(
        self, session: Session, change: Change[Session, P], apply: Callable[[P], T], call: Call | None
    ) -> T:
        asked = perf_counter_ns()
        async with session.lock:
            return await self._make_change(session, change, apply, call, asked)

    async def _make_change(
        self,
        session: Session,
        change: Change[Session, P],
        apply: Callable[[P], T],
        call: Call | None,
        asked: int,
    ) -> T:
        """Checks, records and applies a change.

        Args:
            session: the session, which nothing else touches.
            change: the change.
            apply: as of `commit`.
            call: as of `commit`.
            asked: when its turn was asked for, by the performance counter in nanoseconds.
        """
        if call is not None and call.has_ended:
            raise CancelledError
        begun, session.changed_at = perf_counter_ns(), self._clock()
        inline, flow = session.is_small or change.is_brief, session.budget
        if inline:
            prepared = change.prepare(session)
        else:
            prepared = await self.in_thread(partial(_begin, partial(change.prepare, session), call), flow)
        durability, durability_manager = session.durability, self._durability_manager
        if durability_manager is None or durability is None or not prepared.has_changes:
            done = apply(prepared) if inline else await self.in_thread(partial(apply, prepared), flow)
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
            done = apply(prepared) if inline else await self.in_thread(partial(apply, prepared), flow)
            if failpoints.armed:
                failpoints.hit_failpoint("after-apply")
            durability_manager.count_change(durability, change.kind, byte_count)
            self.meters.record.add_duration(recorded - recording)
            begun += recorded - recording
        self.meters.queue.add_duration(begun - asked)
        self.meters.compute.add_duration(perf_counter_ns() - begun)
        if failpoints.armed:
            failpoints.hit_failpoint("before-ack")
        return done

    def run_exclusively(
        self, session: Session, work: Callable[[], T], call: Call | None = None
    ) -> Awaitable[T]:
        """Runs work that changes nothing while nothing else touches the session.

        Args:
            session: the session.
            work: what is run.
            call: the call that asks for it, if the work is not to begin when that has ended.
        """
        return ShieldedCoroutine(self._run_exclusively(session, work, call))

    async def _run_exclusively(self, session: Session, work: Callable[[], T], call: Call | None) -> T:
        asked = perf_counter_ns()
        async with session.lock:
            begun, run = perf_counter_ns(), partial(_begin, work, call)
            done = run() if session.is_small else await self.in_thread(run, session.budget)
        self.meters.queue.add_duration(begun - asked)
        self.meters.compute.add_duration(perf_counter_ns() - begun)
        return done

    async def in_thread(self, work: Callable[[], T], flow: Flow | None = None) -> T:
        """Runs ``work`` beside the event loop, in its namespace's turn.

        Args:
            work: what is run.
            flow: whose work it is; the running call's if None.
        """
        return await asyncio.wrap_future(self._threads.submit(flow or calls.current_flow(), work))

    async def create(self, work: Callable[[], T], check: Callable[[], None] | None = None) -> T:
        """Runs ``work`` that makes a session, which may take minutes, where it delays no other work.

        Args:
            work: what is run.
            check: called before; what it raises is raised instead.
        """

        def check_and_work() -> T:
            if check is not None:
                check()
            return work()

        with calls.suspend_idle_timeout():
            return await asyncio.wrap_future(self._creators.submit(calls.current_flow(), check_and_work))

    def close(self) -> None:
        """Begins no more work in threads; what runs is not waited for."""
        for threads in (self._creators, self._threads):
            threads.close()

    async def run_or_offload(self, count: int, work: Callable[[], T]) -> T:
        """Runs ``work`` that does something for each of ``count`` tensors: for many of them in a thread."""
        return work() if count <= MANY_TENSORS else await self.in_thread(work)


def _begin(work: Callable[[], T], call: Call | None) -> T:
    """Runs ``work``.

    Raises:
        CancelledError: the call that asked for it has ended.
    """
    if call is not None and call.has_ended:
        raise CancelledError
    return work()
