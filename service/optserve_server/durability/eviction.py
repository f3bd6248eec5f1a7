"""Sessions that nobody uses leave the memory and come back from their last snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from optserve_server.durability.durability_manager import Keeper
from optserve_server.durability.snapshot_codec import thaw
from optserve_server.errors import DomainError, Reason
from optserve_server.sessions.session import COMING, Session
from optserve_server.sessions.session_durability import Kept
from optserve_server.sessions.store import Store
from optserve_server.storage.damage import DamagedError

AT_ONCE = 1 << 20
"""Bytes of a session up to which it comes back while its caller waits."""


async def evict(keeper: Keeper, kept: Kept[Session], store: Store, unused: Callable[[], bool]) -> bool:
    """Saves a session and lets go of its memory.

    Args:
        keeper: keeps it.
        kept: of the session.
        store: where it is found.
        unused: whether still nobody uses it.

    Returns:
        Whether it has left; not if somebody came for it meanwhile.

    Raises:
        DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE; it stays.
    """
    session = kept.session
    if kept.changed:
        await keeper.save(kept)
    async with session.lock:
        # From here to the end nobody else gets a turn.
        if kept.changed or session.closed or session.activity.watcher_count or not unused():
            return False
        store.set_away(session, Return(keeper, kept, store).session)
        _empty(session)
        kept.copy = None
        return True


def _empty(session: Session) -> None:
    """Lets go of its arrays; what is left describes it. Whoever still holds it is sent away."""
    session.close(away=True)
    arenas = session.arenas
    arenas.parameters = {}
    arenas.partitions = {key: replace(p, arrays={}, matrices={}) for key, p in arenas.partitions.items()}
    session.watch = replace(session.watch, best=None)
    session.charge.lower_to(0)
    session.resident_bytes = 0


class Return:
    """The way back of one session.

    Args:
        keeper: keeps it.
        kept: of the session.
        store: where it is found.
    """

    def __init__(self, keeper: Keeper, kept: Kept[Session], store: Store) -> None:
        self._keeper, self._kept, self._store = keeper, kept, store
        self._byte_count = kept.session.resident_bytes
        self._coming: asyncio.Future[Session] | None = None

    def session(self) -> Session:
        """The session, as it was.

        Raises:
            DomainError: STORAGE_UNAVAILABLE with a time to wait while it is on its way,
                SESSION_DAMAGED where its snapshot is, or what the budget raises.
        """
        if self._byte_count <= AT_ONCE:
            return self._back()
        if self._coming is None:
            loop = asyncio.get_running_loop()
            self._coming = loop.create_task(self._keeper.in_thread(self._back))
        if not self._coming.done():
            text = "the session was not used for long, and is being brought back"
            raise DomainError(Reason.STORAGE_UNAVAILABLE, text, retry_after=COMING)
        coming, self._coming = self._coming, None
        return coming.result()

    def _back(self) -> Session:
        before, kept = self._kept.session, self._kept
        try:
            file = next(file for file in kept.folder.snapshots() if file.number == kept.saved_number)
            contents = self._keeper.catalog.read(file)
            session = thaw(contents, self._keeper.codec, before.id, before.arenas.backend, self._store.budget)
        except (DamagedError, OSError, StopIteration) as error:
            text = "the session's snapshot is damaged or cannot be read"
            raise DomainError(Reason.SESSION_DAMAGED, text, field="name") from error
        session.kept, kept.session = kept, session
        return session
