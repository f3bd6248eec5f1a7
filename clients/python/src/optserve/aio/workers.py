"""Workers that train one session together, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self

from numpy.typing import DTypeLike

from optserve import coercion, errors
from optserve._codec.dtypes import Array
from optserve._codec.layout import Layout
from optserve._codec.sparse_rows import AnyGradients
from optserve._engine.overrides import Overrides
from optserve._engine.plan import PlanOptions
from optserve._engine.step_result import StepResult
from optserve.aio.awaitable import make_awaitable
from optserve.aio.connection import AsyncConnection
from optserve.aio.step_engine import AsyncStepEngine
from optserve.parameters import Pulling
from optserve.shards import Shard
from optserve.v1 import worker_service_pb2 as workers
from optserve.workers import RENEWALS_PER_LEASE, BaseMember, Member


class AsyncMember(BaseMember):
    """A worker's membership in a session; made by `AsyncSessionHandle.join`. See `Member`.

    The lease is renewed by every step and, while there is none, by a task. Leaving an ``async with`` block
    ends the membership.

    Args:
        connection: to the server.
        session: resource name of the session.
        layout: of the session.
        worker: name of the worker.
        joined: the server's answer.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        session: str,
        layout: Layout,
        worker: str,
        joined: workers.JoinSessionResponse,
    ) -> None:
        super().__init__(session, layout, worker, joined, connection.timeout)
        self._connection = connection
        self._engine = AsyncStepEngine(
            connection, session, layout, connection.timeout, member=self._membership
        )
        self._renewal = asyncio.create_task(self._renew_while_idle())
        connection.register_closable(self)

    async def step(
        self,
        gradients: AnyGradients,
        *,
        example_count: int | None = None,
        parameters_step: int | None = None,
        pull: Pulling = True,
        wire_dtype: DTypeLike | None = None,
        loss_scale: float | None = None,
        per_tensor_norms: bool = False,
        overrides: Overrides | None = None,
        into: Mapping[str, Array] | None = None,
        timeout: float | None = None,
    ) -> StepResult:
        """Contributes a gradient or a change of the parameters; see `Member.step`."""
        timeout = coercion.to_optional(coercion.to_seconds, timeout, "timeout")
        pulled = self._select_parameters(pull, wire_dtype, into)
        with self._shards.complete_with_step() as shards:
            result = await self._engine.step(
                gradients,
                PlanOptions(pulled, wire_dtype, per_tensor_norms),
                loss_scale=loss_scale,
                overrides=overrides,
                example_count=coercion.to_optional(coercion.to_int, example_count, "example_count"),
                parameters_step=self._parameters_step_of(parameters_step),
                completed_shards=shards,
                into=into,
                timeout=timeout,
            )
        return self._accept_result(result, pulled)

    pull = make_awaitable(Member.pull)
    release_shards = make_awaitable(Member.release_shards)
    renew = make_awaitable(Member.renew)

    async def shards(self, *, ahead: int = 1) -> AsyncIterator[Shard]:
        """Yields shards of the session's data plan until all are complete; see `Member.shards`."""
        count = coercion.to_int(ahead, "ahead")
        while (shard := await self._connection.call_sequence(self._shards.take(count))) is not None:
            yield shard

    async def examples(self, *arrays: Any, ahead: int = 1) -> AsyncIterator[Any]:
        """Yields the examples of each of `shards`: ``array[begin:end]``, a tuple for several arrays."""
        async for shard in self.shards(ahead=ahead):
            yield shard.select(arrays)

    async def leave(self, *, timeout: float | None = None) -> None:
        """Ends the membership; steps that wait are rejected. Does nothing if it has ended."""
        await self.close()
        await self._connection.call(self._make_leave(), timeout)

    async def close(self) -> None:
        """Stops renewing the lease, and does not leave: the membership ends with the lease."""
        self._renewal.cancel()
        await self._engine.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, errors.Fenced):
            await self.close()
        else:
            await self.leave()

    async def _renew_while_idle(self) -> None:
        interval = self._renewal_interval
        while True:
            while seconds := self._seconds_to_renewal():
                await asyncio.sleep(seconds)
            try:
                await self.renew(timeout=max(interval, 0.1))
            except errors.OptserveError as error:
                if not self._accept_renewal_error(error):
                    return
                await asyncio.sleep(interval / RENEWALS_PER_LEASE)
            else:
                self._error = None
