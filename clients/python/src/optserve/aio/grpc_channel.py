"""A channel of steps over ``grpc.aio``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

from optserve import errors
from optserve._transport.base_connection import Metadata
from optserve._transport.channel import Pieces
from optserve.aio.observed_call import ObservedCall

_Outbox = asyncio.Queue[Iterable[Pieces] | None]


class AsyncGrpcChannel:
    """One bidirectional call; gRPC sends from a task of its own.

    Args:
        method: the callable of a stream of bytes both ways.
        metadata: sent with the call.
    """

    def __init__(self, method: Any, metadata: Metadata) -> None:
        self._loop = asyncio.get_running_loop()
        self._outbox: _Outbox = asyncio.Queue()
        self._call = ObservedCall(method(_take_messages(self._outbox), metadata=metadata))
        self._messages: AsyncIterator[bytes] = aiter(self._call.call)

    def send(self, messages: Iterable[Pieces], idle: bool = False) -> None:
        """Sends messages in the background."""
        self._outbox.put_nowait(messages)

    async def receive(self) -> bytes | None:
        """Waits for a message; None if the call ended without an error.

        Raises:
            grpc.RpcError, Unavailable: the call failed.
        """
        return await self._call.wait(anext(self._messages, None))

    def cancel(self) -> None:
        """Ends the call at once, and the task that sends."""
        _cancel(self._call, self._outbox)

    async def finish(self, timeout: float) -> None:
        """Half-closes the call, and waits some seconds for the server to end it."""
        self._outbox.put_nowait(None)
        with contextlib.suppress(grpc.RpcError, errors.Unavailable, TimeoutError):
            async with asyncio.timeout(timeout):
                await self.receive()
        self.cancel()

    def __del__(self) -> None:
        # Garbage is also collected in other threads, and after the loop has ended.
        if hasattr(self, "_messages") and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_cancel, self._call, self._outbox)


def _cancel(call: ObservedCall, outbox: _Outbox) -> None:
    call.cancel()
    outbox.put_nowait(None)  # the task continues if the call has ended already


async def _take_messages(outbox: _Outbox) -> AsyncIterator[bytes]:
    while (messages := await outbox.get()) is not None:
        for pieces in messages:
            yield b"".join(pieces)
