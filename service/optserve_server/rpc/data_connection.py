"""A stream's messages over a TCP connection of their own.

HTTP/2 costs a streamed step more than its bytes do: gRPC copies them five times where a socket
copies them twice, and hands each message from thread to thread.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from grpc import aio

from optserve_server.errors import DomainError, Reason
from optserve_server.rpc.calls import Call
from optserve_server.rpc.meters import Meters

PREFIX = struct.Struct(">BI")
"""What is before each message, as in gRPC: whether it is compressed, which it never is, and its length."""

ROOMS = 4
"""How many lengths of messages have memory that is used again."""

LONGEST_ROOM = 2 << 20
"""Longer messages have memory of their own."""

TURN = 1 << 20
"""Bytes after which others get their turn, however fast more of them come."""

MESSAGE = TURN // 64
"""Bytes that a message counts as beside its own: many small ones take longer than their bytes."""


class DataConnection:
    """Reads and writes messages as the context of a streaming call does, in one task each.

    Args:
        connection: the socket, which does not block; whoever gives it closes it.
        call: that the messages belong to.
        meters: count bytes.
        max_message_bytes: the longest message that is read.
    """

    def __init__(self, connection: socket.socket, call: Call, meters: Meters, max_message_bytes: int) -> None:
        self._socket, self._call, self._meters = connection, call, meters
        self._max_message_bytes = max_message_bytes
        self._loop = asyncio.get_running_loop()
        self._prefix = memoryview(bytearray(PREFIX.size))
        self._rooms: dict[int, bytearray] = {}
        self._unturned = 0

    async def read(self) -> Any:
        """The next message (a bytearray), good until the one after it is asked for; EOF where there is none.

        Raises:
            DomainError: MALFORMED_MESSAGE, LIMIT_EXCEEDED or STREAM_TRUNCATED.
            CancelledError: the connection was lost.
        """
        if not await self._receive(self._prefix):
            return aio.EOF
        compressed, length = PREFIX.unpack(self._prefix)
        if compressed:
            raise DomainError(Reason.MALFORMED_MESSAGE, "no message of a data connection is compressed")
        if length > self._max_message_bytes:
            raise self._too_long(length)
        message = self._room(length)
        if length and not await self._receive(memoryview(message)):
            raise _truncated(0, length)
        self._call.heard = time.monotonic()
        self._meters.bytes_received += length
        await self._give_turn(length)
        return message

    async def write(self, message: bytes) -> None:
        """Sends a message.

        Raises:
            CancelledError: the connection was lost.
        """
        parts = PREFIX.pack(0, len(message)), message
        sent = self._try(lambda: self._socket.sendmsg(parts)) or 0
        for part in parts:
            if sent < len(part):
                await self._send(memoryview(part)[sent:])
            sent = max(0, sent - len(part))
        self._call.heard = time.monotonic()
        self._meters.bytes_sent += len(message)
        await self._give_turn(len(message))

    async def _receive(self, place: memoryview) -> bool:
        """Fills a place; False where the client has sent all before its first byte."""
        filled = 0
        while filled < len(place):
            came = self._try(lambda: self._socket.recv_into(place[filled:]))  # noqa: B023 - called at once
            if came is None:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
            elif came:
                filled += came
            elif filled:
                raise _truncated(filled, len(place))
            else:
                return False
        return True

    async def _send(self, left: memoryview) -> None:
        while left:
            sent = self._try(lambda: self._socket.send(left))  # noqa: B023 - called at once
            if sent is None:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
            else:
                left = left[sent:]

    def _try(self, operation: Callable[[], int]) -> int | None:
        """How many bytes went; None where the socket is not ready."""
        try:
            return operation()
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as lost:
            # Whatever task it is, the call ends, and its client may still be there to be told.
            self._call.verdict = self._call.verdict or _lost()
            raise asyncio.CancelledError from lost

    async def _ready(self, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
        """Waits until the socket is."""
        ready = self._loop.create_future()
        add(self._socket.fileno(), _settle, ready)
        try:
            await ready
        finally:
            remove(self._socket.fileno())

    def _room(self, length: int) -> bytearray:
        """Memory for a message; for one of a length that came before, the same."""
        room = self._rooms.get(length)
        if room is None:
            room = bytearray(length)
            if length <= LONGEST_ROOM:
                if len(self._rooms) == ROOMS:
                    self._rooms.clear()
                self._rooms[length] = room
        return room

    async def _give_turn(self, byte_count: int) -> None:
        """Lets others run: a socket that is always ready would never wait."""
        self._unturned += byte_count + MESSAGE
        if self._unturned >= TURN:
            self._unturned = 0
            await asyncio.sleep(0)

    def _too_long(self, length: int) -> DomainError:
        return DomainError(
            Reason.LIMIT_EXCEEDED,
            f"a message of {length} bytes, where {self._max_message_bytes} are the most",
            metadata={"limit": "max_message_bytes", "maximum": self._max_message_bytes, "actual": length},
        )


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _lost() -> DomainError:
    return DomainError(Reason.STREAM_TRUNCATED, "the data connection was lost")


def _truncated(actual: int, expected: int) -> DomainError:
    return DomainError(
        Reason.STREAM_TRUNCATED,
        f"the data connection ended {expected - actual} bytes before its message did",
        metadata={"expected": expected, "actual": actual},
    )
