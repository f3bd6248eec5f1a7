"""The connection of a client for asyncio: its gRPC channel, and how calls are made on it."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal, Protocol, TypeVar

import grpc

from optserve import coercion, errors
from optserve._transport.base_connection import BaseConnection
from optserve._transport.call import Call, CallSequence, Download, Upload
from optserve._transport.retry import Deadline, Retry, transfer_timeout
from optserve._transport.stubs import Stubs
from optserve.aio.observed_call import ObservedCall
from optserve.progress import ProgressOption

T = TypeVar("T")


class AsyncClosable(Protocol):
    """An object that is closed together with a connection."""

    async def close(self) -> None:
        """Closes it; more than once does no harm."""
        ...


class AsyncConnection(BaseConnection):
    """A channel of ``grpc.aio``, and the defaults of every call; arguments as of `BaseConnection`.

    It belongs to the event loop that runs when it is made.

    Attributes:
        stubs: the server's methods.
    """

    def __init__(
        self,
        target: str,
        timeout: float | None,
        token: str | None,
        credentials: grpc.ChannelCredentials | None,
        retry: Retry | Literal["grpc"] | None,
        progress: ProgressOption,
    ) -> None:
        super().__init__(target, timeout, token, credentials, retry, progress)
        asyncio.get_running_loop()  # raises if there is none; gRPC would make one
        self._channel = (
            grpc.aio.insecure_channel(self.target, options=self.options)
            if credentials is None
            else grpc.aio.secure_channel(self.target, credentials, options=self.options)
        )
        self.stubs = Stubs(self._channel)
        self._closables: weakref.WeakSet[AsyncClosable] = weakref.WeakSet()

    async def call(self, call: Call[T], timeout: float | None = None) -> T:
        """Makes a unary call that may be made again.

        Raises:
            OptserveError: it failed.
        """
        method = call.method(self.stubs)

        async def attempt(left: float) -> Any:
            made = ObservedCall(method(call.request, timeout=left, metadata=self.metadata))
            return await made.wait(made.call)

        return call.decode(await self.run(attempt, timeout))

    async def call_sequence(self, calls: CallSequence[T], timeout: float | None = None) -> T:
        """Makes calls one after the other, each within ``timeout`` seconds; the default when None.

        Raises:
            OptserveError: one failed.
        """
        try:
            call = next(calls)
            while True:
                call = calls.send(await self.call(call, timeout))
        except StopIteration as end:
            result: T = end.value
            return result

    async def upload(self, upload: Upload[T], timeout: float | None) -> T:
        """Sends messages, from the first one again after a break.

        Raises:
            OptserveError: the server refused, or could not be reached.
            OSError: a file cannot be read.
        """
        if timeout is None:
            timeout = transfer_timeout(self.timeout, upload.byte_count)
        method = upload.method(self.stubs)

        async def attempt(left: float) -> Any:
            failures: list[Exception] = []
            sent = _send_messages(upload, failures)
            made = ObservedCall(method(sent, timeout=left, metadata=self.metadata))
            try:
                return await made.wait(made.call)
            except grpc.RpcError:
                if failures:  # gRPC cancelled the call because of it
                    raise failures[0] from None
                raise

        return upload.decode(await self.run(attempt, timeout))

    async def download(self, download: Download[T]) -> T:
        """Reads an answer of many messages; nothing is kept of a broken one.

        Raises:
            OptserveError: the server refused, or could not be reached.
        """

        async def attempt(left: float) -> Any:
            method = download.method(self.stubs)
            made = ObservedCall(method(download.request, timeout=left, metadata=self.metadata))
            messages = aiter(made.call)
            try:
                with download.begin() as reception:
                    while (message := await made.wait(anext(messages, None))) is not None:
                        if (result := reception.accept(message)) is not None:
                            return result
                raise errors.Unavailable("the stream ended before its answer")
            finally:
                made.cancel()

        return download.decode(await self.run(attempt, download.timeout))

    async def run(self, attempt: Callable[[float], Awaitable[T]], timeout: float | None = None) -> T:
        """Calls ``attempt`` with the seconds left, until it succeeds.

        Raises:
            OptserveError: the last failure.
        """
        deadline, count = Deadline(coercion.to_timeout(self.timeout, timeout)), 0
        while True:
            count += 1
            try:
                return await attempt(deadline.remaining())
            except grpc.RpcError as failure:
                error = errors.from_call(failure)
            except errors.Unavailable as unavailable:
                error = unavailable
            seconds = self.retry.compute_pause(count, error, deadline)
            if seconds is None:
                await asyncio.to_thread(self.add_error_context, error, count, deadline)
                raise error
            await asyncio.sleep(seconds)

    def register_closable(self, closable: AsyncClosable) -> None:
        """Has something closed before the connection is, for as long as it lives."""
        self._closables.add(closable)

    async def close(self) -> None:
        """Closes the channel; open streams end."""
        await asyncio.gather(*(closable.close() for closable in list(self._closables)))
        await self._channel.close()


async def _send_messages(upload: Upload[Any], failures: list[Exception]) -> AsyncIterator[bytes]:
    """Yields an upload's messages; notes what making them raises, which gRPC would drop."""
    messages = upload.messages()
    try:
        while True:
            if upload.reads_file:
                message = await asyncio.to_thread(next, messages, None)
            else:
                message = next(messages, None)
            if message is None:
                return
            yield message
    except Exception as failure:
        failures.append(failure)
        raise
    finally:
        with contextlib.suppress(ValueError):  # a thread makes the next message
            messages.close()
