"""A small step of a session that is kept on the disk, taken by the event loop without a task.

Between its two parts it waits until its record is safe, and it goes on even where the call that
asked for it is gone. A task does that as well, and costs a small step as much as its arithmetic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns
from typing import Generic, Protocol, TypeVar

from optserve_server.rpc.meters import Meters
from optserve_server.sessions.changes import ChangeKind, step_pieces
from optserve_server.sessions.keeper import Keeper
from optserve_server.sessions.kept import Kept
from optserve_server.sessions.result import StepOptions
from optserve_server.sessions.staging import Staging
from optserve_server.storage.failpoints import passing
from optserve_server.storage.payload import size_of

T = TypeVar("T")


class Recorded(Protocol):
    """A step that is prepared; see `PreparedStep`."""

    @property
    def staging(self) -> Staging:
        """The gradient."""

    @property
    def options(self) -> StepOptions:
        """What the step asks for."""

    @property
    def changes(self) -> bool:
        """Whether it will change anything."""


R = TypeVar("R", bound=Recorded)


class Recording(Generic[R, T]):
    """Takes one step of a session that the caller has locked, and whose changes need a record alone.

    Args:
        keeper: keeps the session.
        kept: what it knows of it.
        meters: how long it takes.
        prepare, commit: as for `Execution.kept`.
    """

    def __init__(
        self,
        keeper: Keeper,
        kept: Kept,
        meters: Meters,
        prepare: Callable[[], R | None],
        commit: Callable[[R], T],
    ) -> None:
        self._keeper, self._kept, self._meters = keeper, kept, meters
        self._prepare, self._commit = prepare, commit
        self._session = kept.session
        self._begun = self._appended = perf_counter_ns()
        self._size = 0
        self._prepared: R | None = None
        self._done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    async def take(self) -> T | None:
        """Takes the step, and gives the lock back; None where it is not to be taken.

        Raises:
            DomainError: what preparing raises, STORAGE_FULL or STORAGE_UNAVAILABLE.
        """
        try:
            prepared = self._prepared = self._prepare()
            if prepared is None or not prepared.changes:
                return None if prepared is None else self._commit(prepared)
            with self._keeper.disk_state.refusing():
                self._append(prepared)
        finally:
            if not self._size:
                self._session.lock.release()
        return await self._done

    def _append(self, prepared: R) -> None:
        self._appended = perf_counter_ns()
        pieces = step_pieces(prepared.staging, prepared.options)
        self._keeper.append(self._kept, pieces, self._go_on)
        self._size = size_of(pieces)  # from here on, `_go_on` gives the lock back

    def _go_on(self, error: OSError | None) -> None:
        """Commits the step whose record is safe, or says why it is refused."""
        try:
            done = self._committed(error)
        except Exception as failure:
            if not self._done.done():
                self._done.set_exception(failure)
        else:
            passing("before-ack")
            if not self._done.done():
                self._done.set_result(done)
        finally:
            self._session.lock.release()

    def _committed(self, error: OSError | None) -> T:
        assert self._prepared is not None
        with self._keeper.disk_state.refusing():
            if error is not None:
                raise error
        begun = perf_counter_ns()
        self._meters.record.add(begun - self._appended)
        passing("before-apply")
        done = self._commit(self._prepared)
        passing("after-apply")
        self._meters.work.add(perf_counter_ns() - begun + self._appended - self._begun)
        self._keeper.changed(self._kept, ChangeKind.STEP, self._size)
        return done
