"""Changes of sessions, where they are kept on a disk: checked, made safe, made, answered."""

from __future__ import annotations

from functools import partial
from typing import Any

from google.protobuf.message import Message

from optserve_server.rpc.execution import Execution
from optserve_server.sessions.changes import Change, ChangeKind, Request
from optserve_server.sessions.keeper import Keeper
from optserve_server.sessions.kept import Answered, Kept
from optserve_server.sessions.prepared import Prepared
from optserve_server.sessions.session import Session
from optserve_server.storage.failpoints import passing
from optserve_server.wire.answers import answer_to


class Changing:
    """Changes sessions.

    Args:
        execution: where work runs.
        keeper: keeps sessions; None where all are held in memory alone.
    """

    def __init__(self, execution: Execution, keeper: Keeper | None) -> None:
        self._execution = execution
        self._keeper = keeper

    async def make(self, session: Session, change: Change, request: Request) -> Message:
        """Makes a change, and returns its answer.

        Raises:
            DomainError: what `Change.prepare` raises, STORAGE_FULL or STORAGE_UNAVAILABLE.
        """
        if session.kept is None or self._keeper is None:
            return await self._execution.alone(session, partial(_changed, session, change))
        made = self._kept_change(self._keeper, session, change, request)
        return await self._execution.to_its_end(made)

    async def _kept_change(
        self, keeper: Keeper, session: Session, change: Change, request: Request
    ) -> Message:
        async with session.lock:
            place = partial(self._execution.placed, session)
            prepared = await place(partial(change.prepare, session))
            kept = session.kept
            if kept is None:  # deleted meanwhile, which the preparation tells
                return await place(partial(_committed, session, change.kind, prepared))
            try:
                pieces = partial(change.pieces, keeper.codec, request)
                byte_count = await keeper.record(kept, pieces)
            except BaseException:
                prepared.give_up()
                raise
            passing("before-apply")
            answer = await place(partial(_committed, session, change.kind, prepared))
            passing("after-apply")
            await place(partial(remember, kept, request, change.kind, answer))
            keeper.changed(kept, change.kind, byte_count)
        passing("before-ack")
        return answer


def _changed(session: Session, change: Change) -> Message:
    """Makes a change, and its answer."""
    return _committed(session, change.kind, change.prepare(session))


def _committed(session: Session, kind: ChangeKind, prepared: Prepared[Any]) -> Message:
    """Makes a change that was prepared, and its answer."""
    return answer_to(kind, session, prepared.commit())


def remember(kept: Kept, request: Request, kind: ChangeKind, answer: Message) -> None:
    """Keeps the answer to a request that is answered once."""
    if request.key:
        kept.answered.append(Answered(request, kind, answer.SerializeToString()))
