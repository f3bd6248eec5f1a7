"""The handle of one training session, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import Any, Self

import grpc
from numpy.typing import DTypeLike

from optserve import coercion, errors
from optserve._codec.dtypes import Array
from optserve._codec.sparse_rows import AnyGradients
from optserve._engine.overrides import Overrides
from optserve._engine.step_protocol import Membership
from optserve._engine.step_result import StepResult
from optserve._transport.call import Call
from optserve.aio.awaitable import Opening, make_awaitable, make_opening
from optserve.aio.connection import AsyncConnection
from optserve.aio.observed_call import ObservedCall
from optserve.aio.snapshots import AsyncSnapshots
from optserve.aio.step_engine import AsyncStepEngine
from optserve.aio.stream import AsyncStepStream
from optserve.aio.workers import AsyncMember
from optserve.base_session import BaseSessionHandle
from optserve.events import Event, EventWatch
from optserve.parameters import Pulling
from optserve.session import SessionHandle
from optserve.session_calls import make_delete, make_get_worker
from optserve.session_info import SessionInfo
from optserve.v1 import session_service_pb2 as wire
from optserve.v1.worker_service_pb2 import JoinSessionResponse


class AsyncSessionHandle(BaseSessionHandle):
    """A session on a server; see `AsyncClient.create_session`, `AsyncClient.session` and `SessionHandle`.

    Each handle is one worker. Steps of several tasks are taken one after the other. A step whose task is
    cancelled may have been applied: repeating it with the same gradients applies them once.

    Args:
        connection: to the server.
        info: the session as the server described it.
        worker: name and next sequence of its worker; a random name when None.
    """

    def __init__(
        self, connection: AsyncConnection, info: SessionInfo, worker: Membership | None = None
    ) -> None:
        super().__init__(info)
        self._connection = connection
        self._engine = AsyncStepEngine(connection, info.name, info.layout, connection.timeout, member=worker)

    @property
    def snapshots(self) -> AsyncSnapshots:
        """The session's snapshots on the server's disk, and as files."""
        return AsyncSnapshots(self._connection, self.name, self._accept_restored)

    async def step(
        self,
        gradients: AnyGradients,
        *,
        pull: Pulling = False,
        wire_dtype: DTypeLike | None = None,
        expected_step: int | None = None,
        loss_scale: float | None = None,
        validate_only: bool = False,
        per_tensor_norms: bool = False,
        overrides: Overrides | None = None,
        into: Mapping[str, Array] | None = None,
        timeout: float | None = None,
    ) -> StepResult:
        """Takes one step; see `SessionHandle.step`. The gradients must not be changed meanwhile."""
        timeout = coercion.to_optional(coercion.to_seconds, timeout, "timeout")
        result = await self._engine.step(
            gradients,
            self._select_options(pull, wire_dtype, per_tensor_norms, validate_only, into),
            expected_step=expected_step,
            loss_scale=loss_scale,
            overrides=overrides,
            into=into,
            timeout=timeout,
            progress=self._connection.progress,
        )
        return self._accept_step(result)

    def stream(
        self,
        *,
        pull: Pulling = False,
        wire_dtype: DTypeLike | None = None,
        window: int = 8,
        worker: str | None = None,
        timeout: float | None = None,
    ) -> Opening[AsyncStepStream]:
        """Opens a stream for many steps; use it in an ``async with`` block. See `SessionHandle.stream`."""
        seconds = coercion.to_timeout(self._connection.timeout, timeout)
        get = None if worker is None else make_get_worker(self.name, worker)

        async def make() -> AsyncStepStream:
            numbered = None if get is None else (await self._connection.call(get, timeout))[1]
            return AsyncStepStream(
                self._connection, self.name, self.layout, pull, wire_dtype, window, seconds, numbered
            )

        return Opening(make())

    pull = make_awaitable(SessionHandle.pull)
    push = make_awaitable(SessionHandle.push)
    report = make_awaitable(SessionHandle.report)
    update = make_awaitable(SessionHandle.update)
    join = make_opening(SessionHandle.join, AsyncMember)
    workers = make_awaitable(SessionHandle.workers)
    history = make_awaitable(SessionHandle.history)
    read_history_points = make_awaitable(SessionHandle.read_history_points)
    plot = make_awaitable(SessionHandle.plot)
    get = make_awaitable(SessionHandle.get)

    async def watch(self) -> AsyncGenerator[Event, None]:
        """Yields the session's events until it is deleted or the iterator is closed.

        Close the iterator (``contextlib.aclosing``) when it is left early. See `SessionHandle.watch`.
        """
        connection = self._connection
        watch = EventWatch(connection.retry, connection.timeout)
        request = wire.WatchSessionRequest(name=self.name)
        while True:
            begun: Any = connection.stubs.sessions.WatchSession(request, metadata=connection.metadata)
            call, messages = ObservedCall(begun), aiter(begun)
            try:
                while (message := await call.wait(anext(messages, None))) is not None:
                    event = watch.decode(message)
                    if event is not None:
                        yield event
                return
            except grpc.RpcError as failure:
                error = errors.from_call(failure)
            finally:
                call.cancel()
            pause = watch.compute_pause(error)
            if pause is None:
                await asyncio.to_thread(connection.add_error_context, error, watch.failures, watch.deadline)
                raise error
            await asyncio.sleep(pause)

    async def delete(self, *, timeout: float | None = None) -> None:
        """Deletes the session and everything it holds."""
        await self._engine.disconnect()
        await self._connection.call(make_delete(self.name), timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keeps the session on the server."""

    async def _join(self, worker: str, join: Call[JoinSessionResponse], timeout: float | None) -> AsyncMember:
        joined = await self._connection.call(join, timeout)
        return AsyncMember(self._connection, self.name, self.layout, worker, joined)
