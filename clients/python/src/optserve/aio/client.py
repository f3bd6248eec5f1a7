"""The client for asyncio: sessions and functions of one server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Literal, Self

import grpc

from optserve import errors
from optserve._engine.step_protocol import Membership
from optserve._transport.call import Call
from optserve._transport.retry import Retry
from optserve.aio.awaitable import Opening, make_awaitable, make_opening
from optserve.aio.connection import AsyncConnection
from optserve.aio.session import AsyncSessionHandle
from optserve.client import Client
from optserve.file_access import FileLike, open_to_read
from optserve.progress import ProgressOption
from optserve.session_calls import Creation, make_list
from optserve.session_info import SessionInfo
from optserve.snapshots import make_import


def connect(
    target: str,
    *,
    timeout: float | None = 60.0,
    token: str | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    retry: Retry | Literal["grpc"] | None = None,
    progress: ProgressOption = None,
) -> Opening[AsyncClient]:
    """Returns a client, to be awaited or entered, as in ``async with optserve.aio.connect(...) as client``.

    Arguments and errors are those of `optserve.connect`. Steps use gRPC, and neither shared memory nor data
    connections. The client belongs to the running event loop, and is not to be used in a forked child.
    """

    async def make() -> AsyncClient:
        return AsyncClient(AsyncConnection(target, timeout, token, credentials, retry, progress))

    return Opening(make())


class AsyncClient:
    """A client of one server, which `connect` returns. Any number of tasks may use it.

    Args:
        connection: to the server.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    create_session = make_opening(Client.create_session, AsyncSessionHandle)
    session = make_opening(Client.session, AsyncSessionHandle)
    capabilities = make_awaitable(Client.capabilities)
    health = make_awaitable(Client.health)
    evaluate_schedule = make_awaitable(Client.evaluate_schedule)
    loss = make_awaitable(Client.loss)
    activation = make_awaitable(Client.activation)
    activation_gradient = make_awaitable(Client.activation_gradient)
    estimate_complexity = make_awaitable(Client.estimate_complexity)

    async def import_session(
        self,
        place: FileLike,
        *,
        session_id: str = "",
        timeout: float | None = None,
        progress: ProgressOption = None,
    ) -> AsyncSessionHandle:
        """Creates a session from a file, which a thread reads; see `Client.import_session`."""
        with contextlib.ExitStack() as stack:
            file, byte_count = await asyncio.to_thread(stack.enter_context, open_to_read(place))
            upload = make_import(self._connection, file, byte_count, session_id, progress)
            return AsyncSessionHandle(self._connection, await self._connection.upload(upload, timeout))

    async def sessions(
        self, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[SessionInfo]:
        """Yields the server's sessions in the order of their names; see `Client.sessions`."""
        token = ""
        while True:
            page, token = await self._connection.call(make_list(page_size, token), timeout)
            for session in page:
                yield session
            if not token:
                return

    async def close(self) -> None:
        """Closes the connection; sessions remain on the server."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _create_session(
        self, creation: Creation, timeout: float | None, progress: ProgressOption
    ) -> AsyncSessionHandle:
        """Creates a session and uploads its parameters; deletes the session if that fails."""
        handle = AsyncSessionHandle(self._connection, await self._connection.call(creation.call, timeout))
        if creation.upload:
            try:
                await handle.push(creation.upload, timeout=timeout, progress=progress)
            except BaseException:
                with contextlib.suppress(errors.OptserveError):  # the first error is raised
                    await handle.delete()
                raise
        return handle

    async def _open_session(
        self, get: Call[tuple[SessionInfo, Membership | None]], timeout: float | None
    ) -> AsyncSessionHandle:
        return AsyncSessionHandle(self._connection, *await self._connection.call(get, timeout))
