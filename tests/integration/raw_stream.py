"""A stream of steps whose data connection is a bare socket, so that tests may do with it as they like."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Client

GREETING = b"optserve data 1\n"
ACCEPTED = b"\1"
PREFIX = struct.Struct(">BI")
SECONDS = 20.0
"""Bound on every wait."""


def frame(messages: Iterable[pb.StepStreamRequest | bytes]) -> bytes:
    """Messages as they stand on a data connection."""
    encoded = [m if isinstance(m, bytes) else m.SerializeToString() for m in messages]
    return b"".join(PREFIX.pack(0, len(message)) + message for message in encoded)


def asking(ticket: bytes = b"") -> pb.StepStreamRequest:
    """A request for a data connection, or to go over to it."""
    return pb.StepStreamRequest(data_connection=pb.DataConnectionRequest(ticket=ticket))


def receive_exactly(connection: socket.socket, length: int) -> bytes:
    """Receives ``length`` bytes, or those before the end of the connection."""
    data = b""
    while len(data) < length and (part := connection.recv(length - len(data))):
        data += part
    return data


def receive_rest(connection: socket.socket) -> bytes:
    """What a server says until it closes the connection, whether it closes or resets it."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            data += part
    return data


def reset(connection: socket.socket) -> None:
    """Ends a connection as a process does that is killed with unread bytes."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class RawStream:
    """A call of StepStream and its data connection.

    Args:
        client: whose call it is.
        host: where data connections are made.
        seconds: bound on the call.
    """

    def __init__(self, client: Client, host: str = "127.0.0.1", seconds: float = SECONDS) -> None:
        self._host = host
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        method = client.channel.stream_stream("/optserve.v1.SessionService/StepStream")
        self.call = method(iter(self._outbox.get, None), timeout=seconds)
        self.socket = socket.socket()
        self._moved = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outbox.put(None)
        self.call.cancel()
        self.socket.close()

    def say(self, *messages: pb.StepStreamRequest) -> None:
        """Sends messages over the call."""
        for message in messages:
            self._moved |= bool(message.data_connection.ticket)
            self._outbox.put(message.SerializeToString())

    def read_answer(self) -> pb.StepStreamResponse:
        """The next answer over the call."""
        return pb.StepStreamResponse.FromString(next(self.call))

    def offer(self) -> pb.DataConnectionOffer:
        """What the server offers."""
        self.say(asking())
        return self.read_answer().data_connection

    def knock(self, said: bytes, port: int) -> bytes:
        """Connects, says something, and gives the server's first byte; nothing where it closes."""
        self.socket.close()
        self.socket = socket.create_connection((self._host, port), SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(said)
        return self.socket.recv(1)

    def go_over(self) -> Self:
        """Makes the data connection, as the contract says."""
        offer = self.offer()
        assert self.knock(GREETING + offer.ticket, offer.port) == ACCEPTED
        self.say(asking(offer.ticket))
        return self

    def plan(self, plan: pb.StepStreamRequest) -> Self:
        """Sends a plan over the connection in use, and takes its answer."""
        if self._moved:
            self.send(plan)
            answer = pb.StepStreamResponse.FromString(self.answer() or b"")
        else:
            self.say(plan)
            answer = self.read_answer()
        assert answer.HasField("planned")
        return self

    def send(self, *messages: pb.StepStreamRequest | bytes) -> None:
        """Sends messages over the data connection, in one go."""
        self.socket.sendall(frame(messages))

    def answer(self) -> bytes | None:
        """The next answer over the data connection; None if it ended in order."""
        prefix = receive_exactly(self.socket, PREFIX.size)
        if not prefix:
            return None
        compressed, length = PREFIX.unpack(prefix)
        assert not compressed
        message = receive_exactly(self.socket, length)
        assert len(message) == length
        return message

    def answers(self) -> Iterator[bytes]:
        """Answers until the data connection ends in order."""
        return iter(self.answer, None)

    def finish(self) -> list[bytes]:
        """Says that nothing more comes, and gives the answers left; the call must end well."""
        self.socket.shutdown(socket.SHUT_WR)
        self._outbox.put(None)
        left = list(self.answers())
        assert list(self.call) == []
        return left
