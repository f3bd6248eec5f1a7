"""A stream of steps with several in flight, for asyncio."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Self

from numpy.typing import DTypeLike

from optserve._codec.layout import Layout
from optserve._codec.sparse_rows import AnyGradients
from optserve._engine.overrides import Overrides
from optserve._engine.step_protocol import Membership
from optserve._engine.step_result import StepResult
from optserve.aio.awaitable import make_awaitable
from optserve.aio.connection import AsyncConnection
from optserve.aio.step_engine import AsyncPendingStep, AsyncStepEngine
from optserve.base_stream import BaseStepStream
from optserve.parameters import Pulling
from optserve.stream import StepStream


class AsyncStepStream(BaseStepStream):
    """A pipelined stream of steps; see `AsyncSessionHandle.stream` and `StepStream`.

    If a task is cancelled while it waits for an answer, the stream connects again at the next call, and
    sends the steps without an answer again; each is applied once.

    Args:
        connection: to the server.
        name: of the session.
        layout: of the session.
        pull: what to return with each answer.
        wire_dtype: element type of gradients, and of parameters if ``pull`` names none.
        window: maximum number of steps in flight, from 1 to 64.
        timeout: seconds to wait for an answer.
        worker: name and next sequence of its worker; a random name when None.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        name: str,
        layout: Layout,
        pull: Pulling,
        wire_dtype: DTypeLike | None,
        window: int,
        timeout: float,
        worker: Membership | None = None,
    ) -> None:
        super().__init__(layout, pull, wire_dtype, window)
        self._engine = AsyncStepEngine(connection, name, layout, timeout, self._window, worker)

    async def submit(
        self,
        gradients: AnyGradients,
        *,
        expected_step: int | None = None,
        loss_scale: float | None = None,
        per_tensor_norms: bool = False,
        overrides: Overrides | None = None,
    ) -> AsyncPendingStep:
        """Submits a step without waiting for its answer; see `StepStream.submit`."""
        return await self._engine.submit(
            gradients,
            self._select_options(per_tensor_norms),
            expected_step=expected_step,
            loss_scale=loss_scale,
            overrides=overrides,
        )

    step = make_awaitable(StepStream.step)

    async def steps(self, gradients: Iterable[AnyGradients]) -> AsyncIterator[StepResult]:
        """Takes a step with each of the gradients, a window of them in flight; yields results in order."""
        pending: deque[AsyncPendingStep] = deque()
        for gradient in gradients:
            pending.append(await self.submit(gradient))
            if len(pending) >= self._window:
                yield await pending.popleft()
        while pending:
            yield await pending.popleft()

    async def flush(self) -> None:
        """Waits until every step is answered; see `StepStream.flush`."""
        await self._engine.flush()

    async def close(self) -> None:
        """Ends the stream without waiting; steps without an answer may or may not be applied."""
        await self._engine.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            await self.close()
