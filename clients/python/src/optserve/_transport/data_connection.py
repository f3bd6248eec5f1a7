"""A TCP connection beside gRPC that the messages of one stream go over."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from optserve._codec.framing import Encoded
from optserve.v1 import session_service_pb2 as wire

GREETING = b"optserve data 1\n"
ACCEPTED = b"\1"
PREFIX = struct.Struct(">BI")
"""What is before each message, as in gRPC: whether it is compressed, and its length."""

PREFIX_BYTES = PREFIX.size

CONNECT_TIMEOUT_S = 1.0
"""How long a server may take. If its port cannot be reached in time, steps go over gRPC."""

HALF_CLOSE_TIMEOUT_S = 1.0
"""Seconds for a server to end a connection on which nothing more is sent."""

MAX_WHOLE_BYTES = 1 << 20
"""Messages up to this size are received whole; of longer ones, the payload goes straight to its place."""

HEAD_BYTES = 4 << 10
"""Bytes of a longer message that are received at first, at least."""

BUFFER_BYTES = 64 << 10
"""Bytes that are received at once when a message is waited for."""

MAX_PIECES = 512
"""Pieces of a message beyond which they are joined; systems take about a thousand at once."""


def host_and_port(target: str) -> tuple[str, int] | None:
    """What a gRPC target names; None if that is no single host and port."""
    address = target[4:].rpartition("/")[2] if target.startswith("dns:") else target
    if address.startswith(("ipv4:", "ipv6:")):
        address = address.partition(":")[2]
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:  # which no name and no IPv4 address holds
        return None
    if not host or not port.isascii() or not port.isdigit() or set(host) & set(",/[]"):
        return None
    return host, int(port)


class PartialMessage:
    """A long message whose first bytes are there; the rest is received before the next message.

    Args:
        head: the first bytes; they are good until the next message.
        size: bytes of the message.
        receive_rest: fills a buffer with as many of the bytes that come next.
    """

    __slots__ = ("head", "receive_rest", "size")

    def __init__(self, head: bytearray, size: int, receive_rest: Callable[[memoryview], None]) -> None:
        self.head, self.size, self.receive_rest = head, size, receive_rest

    def receive_whole(self) -> bytearray:
        """Receives the rest, and returns the message in memory of its own."""
        message = bytearray(self.size)
        message[: len(self.head)] = self.head
        self.receive_rest(memoryview(message)[len(self.head) :])
        return message


class DataConnection:
    """Sends and receives messages; one thread at a time sends, and one receives.

    Args:
        host: name or address of the server.
        offer: where it takes the connection.

    Raises:
        OSError: the server cannot be reached at that port.
    """

    def __init__(self, host: str, offer: wire.DataConnectionOffer) -> None:
        # What came, and where it is.
        self._buffer, self._start, self._end = memoryview(bytearray(BUFFER_BYTES)), 0, 0
        self._message = bytearray()
        self._socket = socket.create_connection((host, offer.port), CONNECT_TIMEOUT_S)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._socket.sendall(GREETING + offer.ticket)
            if self._socket.recv(1) != ACCEPTED:
                raise ConnectionRefusedError("what listens there takes no data connection of this stream")
            self._socket.settimeout(None)
        except BaseException:
            self._socket.close()
            raise

    def send(self, messages: Iterable[Sequence[Any]]) -> None:
        """Sends messages, each in pieces (contiguous buffers of bytes) that stay where they are.

        Raises:
            OSError: the connection is lost.
        """
        for message in messages:
            pieces = message if len(message) <= MAX_PIECES else (b"".join(message),)
            size = sum(map(len, pieces))
            parts = PREFIX.pack(0, size), *pieces
            sent = self._socket.sendmsg(parts)
            if sent < PREFIX_BYTES + size:
                self._send_rest(parts, sent)

    def receive(self) -> Encoded | PartialMessage | None:
        """Waits for a message, which is good until the next is waited for; None at the end.

        Raises:
            OSError: the connection is lost.
        """
        start, end = self._start, self._end
        if start == end:
            start, end = 0, self._socket.recv_into(self._buffer)
            if not end:
                return None
        while end - start < PREFIX_BYTES:
            start, end = 0, self._receive_more(start, end)
        _, length = PREFIX.unpack_from(self._buffer, start)
        start += PREFIX_BYTES
        stop = start + length
        if stop <= end:
            self._start, self._end = stop, end
            return self._buffer[start:stop]
        self._start = self._end = 0
        here = end - start
        if length > MAX_WHOLE_BYTES:
            head = bytearray(self._buffer[start:end])
            if here < HEAD_BYTES:
                head += bytes(HEAD_BYTES - here)
                self._receive_exactly(memoryview(head)[here:])
            return PartialMessage(head, length, self._receive_exactly)
        if len(self._message) != length:
            self._message = bytearray(length)
        self._message[:here] = self._buffer[start:end]
        self._receive_exactly(memoryview(self._message)[here:])
        return self._message

    def finish(self) -> None:
        """Half-closes the connection, and waits until the server has closed it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(HALF_CLOSE_TIMEOUT_S)
            while self._socket.recv(1 << 16):
                pass

    def interrupt(self) -> None:
        """Ends the connection from any thread; waits raise OSError."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the socket; no thread may be waiting."""
        self._socket.close()

    def _send_rest(self, parts: Sequence[Any], sent: int) -> None:
        """Sends what is left of a message after its first ``sent`` bytes."""
        for part in parts:
            if sent < len(part):
                self._socket.sendall(memoryview(part)[sent:])
            sent = max(0, sent - len(part))

    def _receive_more(self, start: int, end: int) -> int:
        """Moves what came to the front of the buffer, and returns how much there is with what comes."""
        self._buffer[: end - start] = self._buffer[start:end]
        return end - start + self._receive_into(self._buffer[end - start :], 0)

    def _receive_exactly(self, place: memoryview) -> None:
        """Fills a buffer within a message."""
        filled = 0
        while filled < len(place):
            filled += self._receive_into(place[filled:], socket.MSG_WAITALL)

    def _receive_into(self, place: memoryview, flags: int) -> int:
        received = self._socket.recv_into(place, 0, flags)
        if not received:
            raise ConnectionError("the data connection ended within a message")
        return received
