"""Eviction of unused sessions, and reload from their last snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from optserve_server.durability.durability_manager import DurabilityManager
from optserve_server.durability.snapshot_codec import decode_snapshot
from optserve_server.errors import DomainError, Reason
from optserve_server.sessions.session import Session
from optserve_server.sessions.session_durability import SessionDurability
from optserve_server.sessions.store import Store
from optserve_server.state.session_state import RELOAD_RETRY_AFTER_S
from optserve_server.storage.damage import DamagedError

MAX_INLINE_RELOAD_BYTES = 1 << 20
"""Bytes of a session up to which it is reloaded while its caller waits."""


async def evict_session(
    durability_manager: DurabilityManager,
    durability: SessionDurability[Session],
    store: Store,
    unused: Callable[[], bool],
) -> bool:
    """Saves a session and lets go of its memory.

    Args:
        durability_manager: keeps it.
        durability: of the session.
        store: where it is found.
        unused: whether it is still unused.

    Returns:
        Whether it has left; False if a caller used it meanwhile.

    Raises:
        DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE; it stays.
    """
    session = durability.session
    if durability.has_unsaved_changes:
        await durability_manager.save_session(durability)
    async with session.lock:
        # From here to the end no other task runs.
        if durability.has_unsaved_changes or session.closed or session.activity.watchers or not unused():
            return False
        store.register_evicted(session, Reload(durability_manager, durability, store).get_session)
        _release_arrays(session)
        durability.copy = None
        return True


def _release_arrays(session: Session) -> None:
    """Releases its arrays and keeps its description; users of the object get an error."""
    session.close(away=True)
    arenas = session.arenas
    arenas.parameters = {}
    arenas.partitions = {key: replace(p, arrays={}, matrices={}) for key, p in arenas.partitions.items()}
    session.monitors = replace(session.monitors, best=None)
    session.charge.lower_to(0)
    session.resident_bytes = 0


class Reload:
    """Reload of one evicted session.

    Args:
        durability_manager: keeps it.
        durability: of the session.
        store: where it is found.
    """

    def __init__(
        self, durability_manager: DurabilityManager, durability: SessionDurability[Session], store: Store
    ) -> None:
        self._durability_manager, self._kept, self._store = durability_manager, durability, store
        self._byte_count = durability.session.resident_bytes
        self._coming: asyncio.Future[Session] | None = None

    def get_session(self) -> Session:
        """The session, as it was.

        Raises:
            DomainError: STORAGE_UNAVAILABLE with a time to wait while it is on its way,
                SESSION_DAMAGED if its snapshot is, or what the budget raises.
        """
        if self._byte_count <= MAX_INLINE_RELOAD_BYTES:
            return self._load_session()
        if self._coming is None:
            loop = asyncio.get_running_loop()
            self._coming = loop.create_task(self._durability_manager.in_thread(self._load_session))
        if not self._coming.done():
            text = "the session was not used for long, and is being brought back"
            raise DomainError(Reason.STORAGE_UNAVAILABLE, text, retry_after=RELOAD_RETRY_AFTER_S)
        coming, self._coming = self._coming, None
        return coming.result()

    def _load_session(self) -> Session:
        before, durability = self._kept.session, self._kept
        try:
            file = next(
                file for file in durability.folder.snapshots() if file.number == durability.saved_number
            )
            contents = self._durability_manager.catalog.read_snapshot(file)
            session = decode_snapshot(
                contents, self._durability_manager.codec, before.id, before.arenas.backend, self._store.budget
            )
        except (DamagedError, OSError, StopIteration) as error:
            text = "the session's snapshot is damaged or cannot be read"
            raise DomainError(Reason.SESSION_DAMAGED, text, field="name") from error
        session.durability, durability.session = durability, session
        return session
