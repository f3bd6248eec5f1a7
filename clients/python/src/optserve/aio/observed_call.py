"""Calls of ``grpc.aio`` whose outcome is the server's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

import grpc

from optserve import errors

T = TypeVar("T")

SENDING_FAILED = "Internal error from Core"
"""Details of gRPC's own status when a message cannot be sent."""

STATUS_WAITS, STATUS_WAIT_S = 100, 0.005
"""How often the status of a server is looked for after that, and seconds between two times."""


class ObservedCall:
    """A call, and how it ended.

    gRPC replaces the status of a call that ends while a message is sent by an internal error of its own, and
    raises CancelledError for a call that was cancelled, as if the waiting task had been.

    Args:
        call: was begun.
    """

    def __init__(self, call: Any) -> None:
        self.call = call
        self._failure: Exception | None = None
        call.add_done_callback(self._note_end)

    async def wait(self, operation: Awaitable[T]) -> T:
        """Waits for an operation of the call.

        Raises:
            grpc.RpcError: the call failed or was cancelled.
            Unavailable: it ended too early.
            asyncio.CancelledError: this task was cancelled; the call is as well.
        """
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        try:
            return await operation
        except asyncio.CancelledError:
            if task.cancelling() > before or self._failure is None:
                raise
            raise self._failure from None
        except grpc.RpcError as failure:
            if self._failure is None:
                await self._wait_for_status()
            raise self._failure or failure from None

    def cancel(self) -> None:
        """Ends the call at once."""
        self.call.cancel()

    async def _wait_for_status(self) -> None:
        """Waits for the server's status, which may come just after gRPC's own."""
        for _ in range(STATUS_WAITS):
            self._note_end(self.call)
            if self._failure is not None:
                return
            await asyncio.sleep(STATUS_WAIT_S)
        self._failure = errors.Unavailable("the call ended while a message was sent")

    def _note_end(self, call: Any) -> None:
        """Notes the status of the ended call, unless it is known or gRPC's own."""
        code, details = _take(call.code()), _take(call.details())
        if self._failure is not None or details == SENDING_FAILED:
            return
        if code is grpc.StatusCode.OK:
            self._failure = errors.Unavailable("the call ended before all messages were sent")
        else:
            initial, trailing = _take(call.initial_metadata()), _take(call.trailing_metadata())
            self._failure = grpc.aio.AioRpcError(code, initial, trailing, details)


def _take(coroutine: Coroutine[Any, Any, T]) -> T:
    """Returns the result of a coroutine that need not wait, as those of an ended call."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("the call has not ended")
