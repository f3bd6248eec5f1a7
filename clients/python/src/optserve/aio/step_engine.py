"""Step engine for asyncio: the steps of one worker over a channel."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from typing import Any, Protocol

import grpc

from optserve import coercion, errors
from optserve._codec.layout import Layout
from optserve._codec.payload import Payload
from optserve._codec.receive_buffers import Into
from optserve._codec.sparse_rows import AnyGradients
from optserve._engine.overrides import Overrides
from optserve._engine.pending_step import Observer, SubmittedStep
from optserve._engine.plan import PlanOptions
from optserve._engine.step_core import HALF_CLOSE_TIMEOUT_S, StepCore, make_step_start
from optserve._engine.step_protocol import Membership
from optserve._engine.step_result import StepResult
from optserve._transport.retry import Deadline, transfer_timeout
from optserve.aio.connection import AsyncConnection
from optserve.aio.grpc_channel import AsyncGrpcChannel
from optserve.progress import LARGE, ProgressOption, make_progress_bar


class AsyncWaiter(Observer, Protocol):
    """Waits for the answers to steps."""

    async def wait(self, step: AsyncPendingStep, timeout: float | None) -> None:
        """Returns when a step is settled; ``timeout`` in seconds, the waiter's own when None."""
        ...


class AsyncPendingStep(SubmittedStep[AsyncWaiter]):
    """A submitted step, like a future; made by `AsyncStepStream.submit`. It can be awaited."""

    async def result(self, timeout: float | None = None) -> StepResult:
        """Waits for the answer; see `PendingStep.result`."""
        if self._result is None:
            await self._engine.wait(self, coercion.to_optional(coercion.to_seconds, timeout, "timeout"))
        return self.result_or_raise()

    def __await__(self) -> Generator[Any, Any, StepResult]:
        return self.result().__await__()


class AsyncStepEngine(StepCore[AsyncPendingStep]):
    """Sends steps, several of them in flight at once, for any number of tasks of one event loop.

    Args:
        connection: to the server.
        name: of the session.
        layout: of the session.
        timeout: seconds to wait for an answer, lengthened for what is sent and received.
        window: how many steps may be under way at once.
        member: the worker, and the membership that its steps are taken in; a random name when None.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        name: str,
        layout: Layout,
        timeout: float,
        window: int = 1,
        member: Membership | None = None,
    ) -> None:
        super().__init__(connection, name, layout, None, timeout, window, member, AsyncPendingStep)
        self._connection = connection
        self._lock = asyncio.Lock()
        self._channel: AsyncGrpcChannel | None = None
        connection.register_closable(self)

    async def step(
        self,
        gradients: AnyGradients,
        options: PlanOptions,
        *,
        expected_step: int | None = None,
        loss_scale: float | None = None,
        overrides: Overrides | None = None,
        example_count: int | None = None,
        parameters_step: int | None = None,
        completed_shards: Sequence[int] = (),
        into: Into = None,
        timeout: float | None = None,
        progress: ProgressOption = False,
    ) -> StepResult:
        """Takes a step and waits for its answer; see `SessionHandle.step`."""
        try:
            async with asyncio.timeout(timeout):
                await self._lock.acquire()
        except TimeoutError:
            late = f"other steps took longer than {timeout:g} s"
            raise errors.DeadlineExceeded(late, applied=False) from None
        try:
            stated = None if timeout is None else Deadline(timeout)
            step = await self._prepare_step(gradients, options, copy=False)
            step.start = make_step_start(
                options,
                expected_step,
                loss_scale,
                overrides,
                parameters_step,
                example_count,
                completed_shards,
            )
            step.into = into
            byte_count = step.plan.transfer_bytes
            deadline = stated or Deadline(transfer_timeout(self._timeout, byte_count))
            if progress is False or (progress is None and byte_count < LARGE):
                return await self._run_step(step, deadline)
            with make_progress_bar("step", byte_count, progress) as step.bar:
                return await self._run_step(step, deadline)
        finally:
            self._lock.release()

    async def submit(
        self,
        gradients: AnyGradients,
        options: PlanOptions,
        *,
        expected_step: int | None = None,
        loss_scale: float | None = None,
        overrides: Overrides | None = None,
    ) -> AsyncPendingStep:
        """Hands over a step without waiting for its answer; see `StepStream.submit`."""
        async with self._lock:
            step = await self._prepare_step(gradients, options, copy=True)
            step.start = make_step_start(options, expected_step, loss_scale, overrides)
            self._protocol.add_step(step)
            self._send_unsent(self._channel or self._open_channel())
            return step

    async def wait(self, step: AsyncPendingStep, timeout: float | None) -> None:
        """Waits until a step is done; see `StepEngine.wait`."""
        async with self._lock:
            while not step.is_resolved:
                await self._settle_oldest_step(self._answer_deadline(timeout))

    async def flush(self) -> None:
        """Waits until every step is done."""
        async with self._lock:
            while self._protocol.waiting:
                await self._settle_oldest_step(self._answer_deadline(None))
            self._raise_unraised()

    async def close(self) -> None:
        """Ends the channel; whether unanswered steps are applied is left open."""
        self._closed = True
        if not self._lock.locked():
            await self._finish_channel()
        elif self._channel is not None:
            self._channel.cancel()  # the task that waits for an answer ends the rest

    async def disconnect(self) -> None:
        """Ends the channel until the next step."""
        async with self._lock:
            await self._finish_channel()

    async def _prepare_step(
        self, gradients: AnyGradients, options: PlanOptions, copy: bool
    ) -> AsyncPendingStep:
        """Makes a step when the window admits it."""
        if self._closed:
            raise RuntimeError("the stream, or its client, is closed")
        gradients = coercion.to_mapping(gradients, "gradients")
        while len(self._protocol.waiting) >= self._window:
            await self._settle_oldest_step(self._answer_deadline(None))
        self._raise_unraised()
        step = self._collect_step(gradients, options, copy, shared=False)
        if step is not None:
            return step
        payload = Payload.of_gradients(self._layout, gradients, options.wire_dtype)
        return self._plan_step(payload, gradients, options, copy, None)

    async def _run_step(self, step: AsyncPendingStep, deadline: Deadline) -> StepResult:
        """Takes a step that is waited for at once."""
        self._protocol.add_step(step)
        try:
            while not step.is_resolved:
                await self._settle_oldest_step(deadline)
        except BaseException:
            if not step.is_resolved:
                # The arrays are the caller's again, and so is the decision whether to go on.
                self._cancel_channel()
                self._protocol.withdraw_step(step)
            raise
        return step.result_or_raise()

    async def _settle_oldest_step(self, deadline: Deadline) -> None:
        """Reads the answer to the oldest step, connecting again if that helps.

        Raises:
            Unavailable: it did not help; the step stays unanswered.
            DeadlineExceeded: no answer arrived in time; the step stays pending.
        """
        attempts = 0
        while True:
            attempts += 1
            try:
                async with asyncio.timeout(deadline.remaining()):
                    await self._read_oldest_result()
                return
            except TimeoutError:
                error: errors.OptserveError = errors.Cancelled("the wait for an answer was cancelled")
            except grpc.RpcError as failure:
                error = errors.from_call(failure)
            except errors.OptserveError as failure:
                error = failure
            except BaseException:
                self._cancel_channel()  # an answer may have been read in part
                raise
            self._cancel_channel()
            try:
                pause = self._decide_retry(error, attempts, deadline)
            except errors.OptserveError as final:
                await asyncio.to_thread(self._connection.add_error_context, final, attempts, deadline)
                raise
            if pause is None:
                return
            await asyncio.sleep(pause)

    async def _read_oldest_result(self) -> None:
        """Sends what is due, and reads up to the answer to the oldest step."""
        channel = self._channel or self._open_channel()
        if self._protocol.epoch and self._protocol.may_resume:
            await self._read_message(channel)
        self._send_unsent(channel)
        while not await self._read_message(channel):
            pass

    async def _read_message(self, channel: AsyncGrpcChannel) -> bool:
        """Reads the next message; whether it was the last one of the answer to the oldest step."""
        message = await channel.receive()
        if message is None:
            raise errors.Unavailable("the stream ended before its answer")
        return self._accept_message(message)

    def _send_unsent(self, channel: AsyncGrpcChannel) -> None:
        protocol = self._protocol
        while protocol.sent < len(protocol.waiting):
            channel.send(*protocol.take_unsent())

    def _open_channel(self) -> AsyncGrpcChannel:
        if self._closed:
            raise errors.Cancelled("the stream was closed")
        self._channel = AsyncGrpcChannel(self._connection.stubs.streams.step, self._connection.metadata)
        self._channel.send([(self._protocol.begin_stream(),)])
        return self._channel

    async def _finish_channel(self) -> None:
        """Ends the channel, with a word to the server if nothing is under way."""
        channel = self._channel
        if self._protocol.waiting or channel is None:
            self._cancel_channel()
            return
        self._channel = None
        self._mark_all_unsent()
        await channel.finish(HALF_CLOSE_TIMEOUT_S)

    def _cancel_channel(self) -> None:
        """Ends the channel at once; what was sent is to be sent again."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.cancel()
        self._mark_all_unsent()
