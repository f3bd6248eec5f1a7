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

PREFIX_BYTES = PREFIX.size

SHORT = 64 << 10
"""Bytes up to which a message is read whole; the payload of a longer one is received in place."""

HEAD = 4 << 10
"""Bytes of a longer message that are read at first."""

RUN = 512 << 10
"""Bytes that are received at once. The first write to memory can take a microsecond for each page."""

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

    async def receive_rest(self, place: memoryview) -> None:
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

    async def receive_whole(self) -> bytearray:
        """The message, in memory of its own, which grows as it comes; raises as `receive_rest`."""
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
        # What came and was not read yet is in the buffer from start to end.
        self._buffer, self._start, self._end = memoryview(bytearray(PREFIX_BYTES + SHORT)), 0, 0
        self._readable: asyncio.Future[None] | None = None
        self._is_watched = False
        self._unturned = 0

    async def read(self) -> Any:
        """The next message, good until the one after it is asked for: a buffer, `ReceivedMessage`, or EOF.

        Raises:
            DomainError: MALFORMED_MESSAGE, LIMIT_EXCEEDED or STREAM_TRUNCATED.
            CancelledError: the connection was lost.
        """
        if self._unturned >= TURN:  # a socket that is always ready would never wait
            await self._yield_to_event_loop()
        if self._end - self._start < PREFIX_BYTES and not await self._receive_until_buffered(PREFIX_BYTES):
            return aio.EOF
        start = self._start
        compressed, length = PREFIX.unpack_from(self._buffer, start)
        if compressed or length > self._max_message_bytes:
            raise self._head_error(compressed, length)
        self._meters.bytes_received += length
        self._unturned += MESSAGE + length
        size = PREFIX_BYTES + (length if length <= SHORT else HEAD)
        if self._end - start < size:
            await self._receive_until_buffered(size)
            start = self._start
        self._start = stop = start + size
        message = self._buffer[start + PREFIX_BYTES : stop]
        if length <= SHORT:
            return message
        return ReceivedMessage(bytearray(message), length, self._receive_exactly)

    def close(self) -> None:
        """Stops reading; the caller closes the socket."""
        if self._is_watched:
            self._loop.remove_reader(self._socket.fileno())
            self._is_watched = False

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
            raise self._connection_lost_error() from lost
        if sent < PREFIX_BYTES + size:
            await self._send_rest(parts, sent)
        self._call.heard = time.monotonic()
        self._meters.bytes_sent += size

    async def _receive_until_buffered(self, size: int) -> bool:
        """Receives until that many bytes are in the buffer; False if the client sent all before the first."""
        start, end = self._start, self._end
        if start == end:
            start = end = 0
        elif start + size > len(self._buffer):
            self._buffer[: end - start] = bytes(self._buffer[start:end])
            start, end = 0, end - start
        while end - start < size:
            received = await self._receive_some(self._buffer[end:])
            if not received:
                if end > start:
                    raise _truncation_error(end - start, size)
                return False
            end += received
        self._start, self._end = start, end
        return True

    async def _receive_exactly(self, place: memoryview) -> None:
        """Fills a place within a message."""
        filled = min(len(place), self._end - self._start)
        place[:filled] = self._buffer[self._start : self._start + filled]
        self._start += filled
        while filled < len(place):
            received = await self._receive_some(place[filled : filled + RUN])
            if not received:
                raise _truncation_error(filled, len(place))
            filled += received
            await self._note_progress(received)

    async def _receive_some(self, place: memoryview) -> int:
        """Receives at least one byte, or 0 when the client has sent all."""
        while True:
            try:
                return self._socket.recv_into(place)
            except NOT_READY:
                await self._wait_until_readable()
            except OSError as lost:
                raise self._connection_lost_error() from lost

    async def _wait_until_readable(self) -> None:
        self._readable = self._loop.create_future()
        if not self._is_watched:
            self._loop.add_reader(self._socket.fileno(), self._on_readable)
            self._is_watched = True
        await self._readable

    def _on_readable(self) -> None:
        readable = self._readable
        if readable is not None and not readable.done():
            readable.set_result(None)
        else:  # nothing is waited for, and the loop would call again and again
            self.close()

    async def _send_rest(self, parts: Sequence[Any], sent: int) -> None:
        """Sends what is left of a message after its first ``sent`` bytes."""
        for part in parts:
            if sent < len(part):
                await self._send_all(memoryview(part)[sent:])
            sent = max(0, sent - len(part))

    async def _send_all(self, left: memoryview) -> None:
        while left:
            try:
                sent = self._socket.send(left)
            except NOT_READY:
                await self._wait_until_writable()
                continue
            except OSError as lost:
                raise self._connection_lost_error() from lost
            left = left[sent:]
            if left:
                await self._note_progress(sent)

    def _connection_lost_error(self) -> asyncio.CancelledError:
        """Ends a task whose connection was lost; the call ends, its client may still be connected."""
        self._call.verdict = self._call.verdict or DomainError(
            Reason.STREAM_TRUNCATED, "the data connection was lost"
        )
        return asyncio.CancelledError()

    async def _note_progress(self, byte_count: int) -> None:
        """Notes progress of a long message and yields to other tasks: it may arrive without a pause."""
        self._call.heard = time.monotonic()
        self._unturned += byte_count
        if self._unturned >= TURN:
            await self._yield_to_event_loop()

    async def _yield_to_event_loop(self) -> None:
        self._unturned = 0
        await asyncio.sleep(0)

    async def _wait_until_writable(self) -> None:
        writable = self._loop.create_future()
        self._loop.add_writer(self._socket.fileno(), _resolve_future, writable)
        try:
            await writable
        finally:
            self._loop.remove_writer(self._socket.fileno())

    def _head_error(self, compressed: bool, length: int) -> DomainError:
        if compressed:
            return DomainError(Reason.MALFORMED_MESSAGE, "no message of a data connection is compressed")
        return DomainError(
            Reason.LIMIT_EXCEEDED,
            f"a message of {length} bytes, where {self._max_message_bytes} are the most",
            metadata={"limit": "max_message_bytes", "maximum": self._max_message_bytes, "actual": length},
        )


def _resolve_future(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _truncation_error(actual: int, expected: int) -> DomainError:
    return DomainError(
        Reason.STREAM_TRUNCATED,
        f"the data connection ended {expected - actual} bytes before its message did",
        metadata={"expected": expected, "actual": actual},
    )
