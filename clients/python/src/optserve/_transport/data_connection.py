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

CONNECT_TIMEOUT_S = 1.0
"""How long a server may take. If its port cannot be reached in time, steps go over gRPC."""

HALF_CLOSE_TIMEOUT_S = 1.0
"""Seconds for a server to end a connection on which nothing more is sent."""

MAX_WHOLE_BYTES = 1 << 20
"""Messages up to this size are received whole; of longer ones, the payload goes straight to its place."""

HEAD_BYTES = 4 << 10
"""Bytes of a longer message that are received at first."""

MAX_PIECES = 512
"""Pieces of a message beyond which they are joined; systems take about a thousand at once."""


def host_and_port(target: str) -> tuple[str, int] | None:
    """What a gRPC target names; None where that is no single host and port."""
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
        rest: fills a buffer with as many of the bytes that come next.
    """

    __slots__ = ("head", "rest", "size")

    def __init__(self, head: bytearray, size: int, rest: Callable[[memoryview], None]) -> None:
        self.head, self.size, self.rest = head, size, rest

    def whole(self) -> bytearray:
        """Receives the rest, and returns the message in memory of its own."""
        message = bytearray(self.size)
        message[: len(self.head)] = self.head
        self.rest(memoryview(message)[len(self.head) :])
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
        self._short, self._head = bytearray(), bytearray(HEAD_BYTES)
        self._prefix = memoryview(bytearray(PREFIX.size))
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
            parts = PREFIX.pack(0, sum(map(len, pieces))), *pieces
            sent = self._socket.sendmsg(parts)
            for part in parts:
                if sent < len(part):
                    self._socket.sendall(memoryview(part)[sent:])
                sent = max(0, sent - len(part))

    def receive(self) -> Encoded | PartialMessage | None:
        """Waits for a message, which is good until the next is waited for; None at the end.

        Raises:
            OSError: the connection is lost.
        """
        if not self._fill(self._prefix):
            return None
        _, length = PREFIX.unpack(self._prefix)
        if length > MAX_WHOLE_BYTES:
            self._rest(memoryview(self._head))
            return PartialMessage(self._head, length, self._rest)
        if len(self._short) != length:
            self._short = bytearray(length)
        self._rest(memoryview(self._short))
        return self._short

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

    def _fill(self, place: memoryview) -> bool:
        """Fills a buffer; False if the server closed the connection before its first byte."""
        filled = self._socket.recv_into(place, 0, socket.MSG_WAITALL)
        while filled < len(place):  # after a signal
            if not filled:
                return False
            came = self._socket.recv_into(place[filled:], 0, socket.MSG_WAITALL)
            if not came:
                raise ConnectionError("the data connection ended within a message")
            filled += came
        return True

    def _rest(self, place: memoryview) -> None:
        """Fills a buffer within a message."""
        if place and not self._fill(place):
            raise ConnectionError("the data connection ended within a message")
