"""Where the messages of a stream of steps come from and go to: its call, or a data connection."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from grpc import aio

from optserve.v1 import session_service_pb2 as pb
from optserve_server.errors import DomainError, Reason
from optserve_server.rpc.context import calls
from optserve_server.rpc.context.meters import Meters
from optserve_server.rpc.transport.data_connection import DataConnection
from optserve_server.rpc.transport.data_connections import CLAIM_TIMEOUT_S, DataConnections, Offer

Context = aio.ServicerContext[Any, Any]


class Messages:
    """The messages of one stream, encoded.

    Args:
        context: the call.
        data: where a data connection may be made.
        meters: count its bytes.
        max_message_bytes: the longest message that comes over one.

    Attributes:
        read: gives the next message, or EOF; one that is long may be `Arriving`.
        write: sends one.
        copies: whether `write_pieces` copies the pieces before it waits.
    """

    def __init__(
        self, context: Context, data: DataConnections, meters: Meters, max_message_bytes: int
    ) -> None:
        self.read: Callable[[], Awaitable[Any]] = context.read
        self.write: Callable[[bytes], Awaitable[None]] = context.write
        self._context, self._data = context, data
        self._meters, self._max_message_bytes = meters, max_message_bytes
        self.copies = True
        self._connection: DataConnection | None = None
        self._offer: Offer | None = None
        self._socket: socket.socket | None = None

    async def connect(self, request: pb.DataConnectionRequest) -> None:
        """Offers a data connection, or goes over to it.

        Raises:
            DomainError: STREAM_PROTOCOL.
        """
        if self._socket is not None:
            raise _out_of_place("the stream has a data connection already", "data_connection")
        if not request.ticket:
            await self.write(self._offered().SerializeToString())
            return
        if self._offer is None or request.ticket != self._offer.ticket:
            raise _out_of_place(
                "this is not the ticket that the stream was offered", "data_connection.ticket"
            )
        self._socket = await self._data.claimed(request.ticket)
        call = calls.current.get()
        assert call is not None  # every handler runs within the boundary
        connection = DataConnection(self._socket, call, self._meters, self._max_message_bytes)
        self.read, self.write, self._connection = connection.read, connection.write, connection
        self.copies = False

    async def write_pieces(self, pieces: Sequence[Any]) -> None:
        """Sends a message that lies in pieces, which may be changed when this returns."""
        if self._connection is None:
            await self.write(b"".join(pieces))
        else:
            await self._connection.write_pieces(pieces)

    def close(self) -> None:
        """Ends the data connection, if there is one."""
        if self._socket is not None:
            self._data.end(self._socket)
        elif self._offer is not None:
            self._data.withdraw(self._offer.ticket)

    def _offered(self) -> pb.StepStreamResponse:
        offer = pb.DataConnectionOffer()
        if self._offer is None and self._context.peer().startswith(("ipv4:", "ipv6:")):
            self._offer = self._data.offer()
        if self._offer is not None:
            offer.port, offer.ticket, offer.server_port = self._offer
            offer.claim_within.seconds = int(CLAIM_TIMEOUT_S)
        return pb.StepStreamResponse(data_connection=offer)


def _out_of_place(text: str, field: str) -> DomainError:
    return DomainError(Reason.STREAM_PROTOCOL, text, field=field)
