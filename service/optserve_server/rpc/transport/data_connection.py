"""A stream's messages over a TCP connection of their own.

HTTP/2 costs a streamed step more than its bytes do: gRPC copies them five times where a socket
copies them twice, and hands each message from thread to thread.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from grpc import aio

from optserve._codec.framing import Encoded
from optserve_server.errors import DomainError, Reason
from optserve_server.rpc.context.calls import Call
from optserve_server.rpc.context.meters import Meters

PREFIX = struct.Struct(">BI")
"""What is before each message, as in gRPC: whether it is compressed, which it never is, and its length."""

SHORT = 64 << 10
"""Bytes up to which a message is read whole; the payload of a longer one is received in place."""

HEAD = 4 << 10
"""Bytes of a longer message that are read at first."""

TURN = 1 << 20
"""Bytes after which others get their turn, however fast more of them come."""

MESSAGE = TURN // 64
"""Bytes that a message counts as beside its own: many small ones take longer than their bytes."""


NOT_READY = (BlockingIOError, InterruptedError)
"""Errors of a socket that has to be waited for."""


class ReceivedMessage:
    """A long message whose first bytes have arrived; the rest is to be read before the next message.

    Args:
        head: the first bytes; they are good until the next message.
        size: of the message.
        receive: fills a place with what comes next.

    Attributes:
        head: its first bytes.
        size: its length in bytes.
    """

    __slots__ = ("_came", "_receive", "head", "size")

    def __init__(
        self, head: bytearray, size: int, receive: Callable[[memoryview], Awaitable[object]]
    ) -> None:
        self.head, self.size, self._receive = head, size, receive
        self._came: memoryview | None = None

    async def rest(self, place: memoryview) -> None:
        """Receives what follows the head; when asked again, copies it from where it was received.

        Args:
            place: of that length.

        Raises:
            DomainError: STREAM_TRUNCATED.
        """
        if self._came is None:
            await self._receive(place)
            self._came = place
        else:
            place[:] = self._came

    async def whole(self) -> bytearray:
        """The message, in memory of its own, which grows as it comes; raises as `rest`."""
        message = bytearray(self.head)
        while self._came is None and (left := self.size - len(message)):
            begun = len(message)
            message += bytes(min(left, begun))
            with memoryview(message)[begun:] as place:
                await self._receive(place)
        if self._came is not None:
            message += self._came
        self._came = memoryview(message)[len(self.head) :]
        return message


Message = Encoded | ReceivedMessage


class DataConnection:
    """Reads and writes messages as the context of a streaming call does, in one task each.

    Args:
        connection: the socket, which does not block; the caller closes it.
        call: that the messages belong to.
        meters: count bytes.
        max_message_bytes: the longest message that is read.
    """

    def __init__(self, connection: socket.socket, call: Call, meters: Meters, max_message_bytes: int) -> None:
        self._socket, self._call, self._meters = connection, call, meters
        self._max_message_bytes = max_message_bytes
        self._loop = asyncio.get_running_loop()
        self._prefix = memoryview(bytearray(PREFIX.size))
        self._short = bytearray()
        self._head = bytearray(HEAD)
        self._unturned = 0

    async def read(self) -> Any:
        """The next message, good until the one after it is asked for: a bytearray, `Arriving`, or EOF.

        Raises:
            DomainError: MALFORMED_MESSAGE, LIMIT_EXCEEDED or STREAM_TRUNCATED.
            CancelledError: the connection was lost.
        """
        self._unturned += MESSAGE
        if self._unturned >= TURN:  # a socket that is always ready would never wait
            await self._yield()
        if not await self._receive(self._prefix):
            return aio.EOF
        compressed, length = PREFIX.unpack(self._prefix)
        if compressed:
            raise DomainError(Reason.MALFORMED_MESSAGE, "no message of a data connection is compressed")
        if length > self._max_message_bytes:
            raise self._too_long(length)
        self._call.heard = time.monotonic()
        self._meters.bytes_received += length
        self._unturned += length
        if length > SHORT:
            await self._rest(memoryview(self._head))
            return ReceivedMessage(self._head, length, self._rest)
        if len(self._short) != length:
            self._short = bytearray(length)
        await self._rest(memoryview(self._short))
        return self._short

    async def write_pieces(self, pieces: Sequence[Any]) -> None:
        """Sends a message that lies in pieces (contiguous buffers of bytes), which stay where they are.

        Raises:
            CancelledError: the connection was lost.
        """
        size = sum(map(len, pieces))
        parts = PREFIX.pack(0, size), *pieces
        try:
            sent = self._socket.sendmsg(parts)
        except NOT_READY:
            sent = 0
        except OSError as lost:
            raise self._loss_error() from lost
        for part in parts:
            if sent < len(part):
                await self._send(memoryview(part)[sent:])
            sent = max(0, sent - len(part))
        self._call.heard = time.monotonic()
        self._meters.bytes_sent += size

    async def _rest(self, place: memoryview) -> None:
        """Fills a place within a message."""
        if place and not await self._receive(place):
            raise _truncation_error(0, len(place))

    async def _receive(self, place: memoryview) -> bool:
        """Fills a place; False if the client has sent all before its first byte."""
        filled = 0
        while filled < len(place):
            try:
                received = self._socket.recv_into(place[filled:])
            except NOT_READY:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
                continue
            except OSError as lost:
                raise self._loss_error() from lost
            filled += received
            if not received:
                if filled:
                    raise _truncation_error(filled, len(place))
                return False
            if filled < len(place):
                await self._count_moved(received)
        return True

    async def _send(self, left: memoryview) -> None:
        while left:
            try:
                sent = self._socket.send(left)
            except NOT_READY:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
                continue
            except OSError as lost:
                raise self._loss_error() from lost
            left = left[sent:]
            if left:
                await self._count_moved(sent)

    def _loss_error(self) -> asyncio.CancelledError:
        """Ends a task whose connection was lost; the call ends, its client may still be connected."""
        self._call.verdict = self._call.verdict or DomainError(
            Reason.STREAM_TRUNCATED, "the data connection was lost"
        )
        return asyncio.CancelledError()

    async def _count_moved(self, byte_count: int) -> None:
        """Notes progress of a long message and yields to other tasks: it may arrive without a pause."""
        self._call.heard = time.monotonic()
        self._unturned += byte_count
        if self._unturned >= TURN:
            await self._yield()

    async def _yield(self) -> None:
        self._unturned = 0
        await asyncio.sleep(0)

    async def _ready(self, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
        """Waits until the socket is."""
        ready = self._loop.create_future()
        add(self._socket.fileno(), _settle, ready)
        try:
            await ready
        finally:
            remove(self._socket.fileno())

    def _too_long(self, length: int) -> DomainError:
        return DomainError(
            Reason.LIMIT_EXCEEDED,
            f"a message of {length} bytes, where {self._max_message_bytes} are the most",
            metadata={"limit": "max_message_bytes", "maximum": self._max_message_bytes, "actual": length},
        )


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _truncation_error(actual: int, expected: int) -> DomainError:
    return DomainError(
        Reason.STREAM_TRUNCATED,
        f"the data connection ended {expected - actual} bytes before its message did",
        metadata={"expected": expected, "actual": actual},
    )
