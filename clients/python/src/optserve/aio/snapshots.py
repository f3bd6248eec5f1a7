"""Snapshots of a session, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from optserve.aio.awaitable import make_awaitable
from optserve.aio.connection import AsyncConnection
from optserve.file_access import FileLike
from optserve.progress import ProgressOption
from optserve.session_info import SessionInfo
from optserve.snapshots import Snapshot, Snapshots, make_export, write_file


class AsyncSnapshots:
    """A session's snapshots, as `AsyncSessionHandle.snapshots`; see `Snapshots`.

    Args:
        connection: to the server.
        name: the session's resource name.
        accept_restored: called with the restored session, which it returns.
    """

    def __init__(
        self, connection: AsyncConnection, name: str, accept_restored: Callable[[SessionInfo], SessionInfo]
    ) -> None:
        self._connection, self._name, self._accept_restored = connection, name, accept_restored

    create = make_awaitable(Snapshots.create)
    list = make_awaitable(Snapshots.list)
    delete = make_awaitable(Snapshots.delete)
    restore = make_awaitable(Snapshots.restore)
    fork = make_awaitable(Snapshots.fork)

    async def export(
        self,
        place: FileLike,
        step: int | str | Snapshot | None = None,
        *,
        timeout: float | None = None,
        progress: ProgressOption = None,
    ) -> int:
        """Writes the session as a safetensors file, in a thread; see `Snapshots.export`."""
        export = make_export(self._connection, self._name, step, timeout, progress)
        found, data = await self._connection.download(export)
        await asyncio.to_thread(write_file, place, data)
        return found
