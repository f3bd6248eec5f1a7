"""Contributions on the event loop: their waits, and what is due without a call.

A contribution that waits holds a future, but neither a thread nor its session's lock.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from optserve_server.coordination.contribution import Contribution
from optserve_server.coordination.coordinator import Held
from optserve_server.coordination.due_changes import next_due_change
from optserve_server.coordination.membership import Member, MemberState
from optserve_server.coordination.membership_change import EndMemberships, Join
from optserve_server.coordination.shard_change import Acquired, AcquireShards, ReleaseShards
from optserve_server.errors import DomainError
from optserve_server.rpc.context import calls
from optserve_server.rpc.context.drain import shutting_down_error
from optserve_server.rpc.execution.execution import Execution
from optserve_server.rpc.execution.shielded_coroutine import ShieldedCoroutine
from optserve_server.sessions.session import Session
from optserve_server.state.read_parameters import Reply
from optserve_server.state.session_change import Change
from optserve_server.state.step_result import StepResult
from optserve_server.stepping.step import fill_reply_and_report

T = TypeVar("T", covariant=True)

WAITS_PER_LEASE = 3
"""Calls that wait for shards within one lease, which each of them renews."""

_log = logging.getLogger(__name__)


class Coordination:
    """Makes contributions, and changes of members.

    Args:
        execution: makes changes of sessions.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._timers: weakref.WeakKeyDictionary[Session, asyncio.TimerHandle] = weakref.WeakKeyDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[Held, Session] = {}
        self._is_stopping = False

    def contribute(
        self, session: Session, contribution: Contribution, reply: Reply | None
    ) -> Awaitable[StepResult]:
        """The result of a contribution, which may wait for others; it is made even if its caller leaves.

        Raises:
            DomainError: what `Contribution.prepare` raises, or the error of the step that it was to become
                a part of; nothing was applied.
        """
        return ShieldedCoroutine(self._commit_contribution(session, contribution, reply))

    def join(self, session: Session, worker: str, lease_seconds: float) -> Awaitable[Member]:
        """Makes a worker a member."""
        return ShieldedCoroutine(self._commit_change(session, Join(worker, lease_seconds)))

    def leave(self, session: Session, worker: str, epoch: int) -> Awaitable[None]:
        """Ends a membership, if it has not ended."""
        return ShieldedCoroutine(
            self._commit_change(session, EndMemberships(MemberState.LEFT, [(worker, epoch)]))
        )

    async def acquire_shards(
        self, session: Session, worker: str, epoch: int, count: int, wait_seconds: float
    ) -> Acquired:
        """The shards that a member holds after it leased some; waits while others hold all that are left.

        Raises:
            DomainError: what `AcquireShards.prepare` raises, or SHUTTING_DOWN.
        """
        ends = math.inf
        while True:
            if self._is_stopping:
                raise shutting_down_error()
            acquired: Acquired = await ShieldedCoroutine(
                self._commit_change(session, AcquireShards(worker, epoch, count))
            )
            if acquired.wait is None:
                return acquired
            longest = acquired.wait.member.lease_seconds / WAITS_PER_LEASE
            ends = min(ends, time.monotonic() + min(wait_seconds, longest))
            try:
                async with asyncio.timeout(ends - time.monotonic()):
                    await self._wait_for_decision(session, acquired.wait)
            except TimeoutError:
                return acquired

    def release_shards(
        self, session: Session, worker: str, epoch: int, shards: Sequence[int]
    ) -> Awaitable[None]:
        """Gives shards of a member back."""
        return ShieldedCoroutine(self._commit_change(session, ReleaseShards(worker, epoch, shards)))

    def schedule_timers(self, sessions: Iterable[Session]) -> None:
        """Has leases and deadlines of sessions that were recovered run."""
        for session in sessions:
            self._schedule_timer(session)

    async def stop(self) -> None:
        """Rejects contributions that wait, because the server is shutting down."""
        self._is_stopping = True
        for timer in self._timers.values():
            timer.cancel()
        for session in {id(session): session for session in self._waiting.values()}.values():
            await self._execution.run_exclusively(
                session, partial(session.coordinator.reconsider_all, shutting_down_error())
            )

    async def _commit_contribution(
        self, session: Session, contribution: Contribution, reply: Reply | None
    ) -> StepResult:
        while True:
            if self._is_stopping:
                raise shutting_down_error()
            apply = partial(Contribution.execute_decision, reply=reply)
            outcome = await self._execution.commit(session, contribution, apply)
            await self._commit_due_changes(session)
            if isinstance(outcome, StepResult):
                return outcome
            await self._wait_for_decision(session, outcome)
            if outcome.error is not None:
                raise outcome.error
            if outcome.result is not None:
                result = outcome.result
                if reply is not None:
                    answer = partial(fill_reply_and_report, session, result, reply, None)
                    await self._execution.run_exclusively(session, answer)
                return result

    async def _wait_for_decision(self, session: Session, held: Held) -> None:
        loop = asyncio.get_running_loop()
        decided = asyncio.Event()
        held.add_done_callback(partial(loop.call_soon_threadsafe, decided.set))
        self._waiting[held] = session
        try:
            with calls.suspend_idle_timeout():
                await decided.wait()
        finally:
            self._waiting.pop(held, None)

    async def _commit_change(self, session: Session, change: Change[Session, Any]) -> Any:
        done = await self._execution.commit(session, change, _commit_prepared)
        await self._commit_due_changes(session)
        return done

    async def _commit_due_changes(self, session: Session) -> None:
        """Does what is due: ends memberships whose leases have run out, takes steps that are complete."""
        coordinator = session.coordinator
        while not session.closed and (change := next_due_change(coordinator)) is not None:
            try:
                await self._execution.commit(session, change, _commit_prepared)
            except Exception as error:
                if not isinstance(error, DomainError):
                    _log.exception("a step of contributions failed")
                await self._execution.run_exclusively(session, partial(coordinator.handle_failed_step, error))
                break
        self._schedule_timer(session)

    def _schedule_timer(self, session: Session) -> None:
        """Sets the timer for what is due next."""
        timer = self._timers.pop(session, None)
        if timer is not None:
            timer.cancel()
        due_at = session.coordinator.next_due_time()
        if due_at < math.inf and not (session.closed or self._is_stopping):
            loop = asyncio.get_running_loop()
            delay = max(0.0, due_at - session.coordinator.membership.clock())
            self._timers[session] = loop.call_later(delay, self._on_due, weakref.ref(session))

    def _on_due(self, reference: weakref.ref[Session]) -> None:
        session = reference()
        if session is not None:
            task = asyncio.get_running_loop().create_task(self._commit_due_changes(session))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


class Committed(Protocol[T]):
    """A change that was prepared."""

    @property
    def commit(self) -> Callable[[], T]:
        """Makes it."""


def _commit_prepared(prepared: Committed[T]) -> T:
    return prepared.commit()
