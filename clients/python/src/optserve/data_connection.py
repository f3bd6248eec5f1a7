"""A TCP connection beside gRPC that the messages of one stream go over."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable

from optserve.v1 import session_service_pb2 as wire

GREETING = b"optserve data 1\n"
ACCEPTED = b"\1"
PREFIX = struct.Struct(">BI")
"""What is before each message, as in gRPC: whether it is compressed, and its length."""

CONNECT_SECONDS = 1.0
"""How long a server may take. Where its port cannot be reached, steps go over gRPC."""

ROOMS = 4
"""How many lengths of messages have memory that is used again."""

LONGEST_ROOM = 2 << 20
"""Longer messages have memory of their own."""


def host_and_port(target: str) -> tuple[str, int] | None:
    """What a gRPC target names; None where that is no single host and port."""
    address = target.rpartition("/")[2] if target.startswith("dns:") else target
    if address.startswith(("ipv4:", "ipv6:")):
        address = address.partition(":")[2]
    host, _, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not port.isascii() or not port.isdigit() or set(host) & set(",/[]"):
        return None
    return host, int(port)


class DataConnection:
    """Sends and receives messages; driven by one thread at a time.

    Args:
        host: name or address of the server.
        offer: where it takes the connection.

    Raises:
        OSError: there is no such server at that port.
    """

    def __init__(self, host: str, offer: wire.DataConnectionOffer) -> None:
        self._rooms: dict[int, bytearray] = {}
        self._prefix = memoryview(bytearray(PREFIX.size))
        self._socket = socket.create_connection((host, offer.port), CONNECT_SECONDS)
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

    def send(self, messages: Iterable[bytes]) -> None:
        """Sends messages.

        Raises:
            OSError: the connection is lost.
        """
        for message in messages:
            parts = PREFIX.pack(0, len(message)), message
            sent = self._socket.sendmsg(parts)
            for part in parts:
                if sent < len(part):
                    self._socket.sendall(memoryview(part)[sent:])
                sent = max(0, sent - len(part))

    def receive(self) -> bytearray | None:
        """Waits for a message, which is good until the next is waited for; None where none is to come.

        Raises:
            OSError: the connection is lost.
        """
        if not self._fill(self._prefix):
            return None
        _, length = PREFIX.unpack(self._prefix)
        room = self._rooms.get(length)
        if room is None:
            room = self._new_room(length)
        if length and not self._fill(memoryview(room)):
            raise ConnectionError("the data connection ended within a message")
        return room

    def finish(self) -> None:
        """Says that nothing more will be sent, and waits until the server has said the same."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while self._socket.recv(1 << 16):
                pass

    def interrupt(self) -> None:
        """Ends it from any thread; whoever waits is told."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes it; nobody may be waiting."""
        self._socket.close()

    def _fill(self, place: memoryview) -> bool:
        """Fills a place; False where the server has closed the connection before its first byte."""
        filled = self._socket.recv_into(place, 0, socket.MSG_WAITALL)
        while filled < len(place):  # after a signal
            if not filled:
                return False
            came = self._socket.recv_into(place[filled:], 0, socket.MSG_WAITALL)
            if not came:
                raise ConnectionError("the data connection ended within a message")
            filled += came
        return True

    def _new_room(self, length: int) -> bytearray:
        room = bytearray(length)
        if length <= LONGEST_ROOM:
            if len(self._rooms) == ROOMS:
                self._rooms.clear()
            self._rooms[length] = room
        return room
