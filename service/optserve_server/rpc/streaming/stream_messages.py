"""Source and sink of the messages of a stream of steps: its call, or a data connection."""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from grpc import aio

from optserve._codec.framing import ChunkAhead, ChunkView, Framing
from optserve.v1 import session_service_pb2 as pb
from optserve_server.errors import DomainError, Reason
from optserve_server.rpc.context import calls
from optserve_server.rpc.context.meters import Meters
from optserve_server.rpc.middleware.call_interceptor import LONG_REQUEST_BYTES, UNREADABLE, parse_framed
from optserve_server.rpc.transport.data_connection import DataConnection, Message, ReceivedMessage
from optserve_server.rpc.transport.data_connections import CLAIM_TIMEOUT_S, DataConnections, Offer
from optserve_server.sessions.store import Limits

Context = aio.ServicerContext[Any, Any]
Chunk = ChunkView | ChunkAhead

REQUESTS = Framing(pb.StepStreamRequest)


class StreamMessages:
    """The messages of one stream, encoded.

    Args:
        context: the call.
        data: where a data connection may be made.
        meters: count its bytes.
        limits: of messages.

    Attributes:
        read: receives the next message, or EOF; a long one may be a `ReceivedMessage`.
        write_pieces: sends a message that lies in pieces, which may be changed when it returns.
        copies: whether `write_pieces` copies the pieces before it waits.
    """

    def __init__(self, context: Context, data: DataConnections, meters: Meters, limits: Limits) -> None:
        self.read: Callable[[], Awaitable[Any]] = context.read
        self.write_pieces: Callable[[Sequence[Any]], Awaitable[None]] = self._write_to_call
        call = calls.current.get()
        assert call is not None  # handlers run within the interceptor
        self._call = call
        self._context, self._data = context, data
        self._meters, self._max_tensors = meters, limits.max_tensors
        self._max_message_bytes = limits.max_message_bytes
        self.copies = True
        self._connection: DataConnection | None = None
        self._offer: Offer | None = None
        self._socket: socket.socket | None = None

    async def switch_to_data_connection(self, request: pb.DataConnectionRequest) -> None:
        """Offers a data connection, or goes over to it.

        Raises:
            DomainError: STREAM_PROTOCOL.
        """
        if self._socket is not None:
            raise _stream_protocol_error("the stream has a data connection already", "data_connection")
        if not request.ticket:
            await self.write_pieces((self._make_offer().SerializeToString(),))
            return
        if self._offer is None or request.ticket != self._offer.ticket:
            raise _stream_protocol_error(
                "this is not the ticket that the stream was offered", "data_connection.ticket"
            )
        self._socket = await self._data.claim_connection(request.ticket)
        connection = DataConnection(self._socket, self._call, self._meters, self._max_message_bytes)
        self.read, self.write_pieces = connection.read, connection.write_pieces
        self._connection = connection
        self.copies = False

    async def decode_message(
        self, message: Message, chunk_bytes: int | None = None
    ) -> tuple[pb.StepStreamRequest, Chunk | None]:
        """Decodes a message and counts its bytes.

        Args:
            message: what `read` returned.
            chunk_bytes: length of the chunk that it is likely to have, 0 for no chunk; None if unknown.

        Returns:
            The message, and its chunk, which stays where it was received or is still on its way.

        Raises:
            DomainError: MALFORMED_MESSAGE.
        """
        self._call.heard = time.monotonic()
        try:
            if isinstance(message, ReceivedMessage):
                known = REQUESTS.parse_head(message.head, message.size, message.receive_rest)
                if known is not None:
                    others, ahead = known
                    return REQUESTS.decode_fields(message.head, others), ahead
                message = await message.receive_whole()
            elif self._connection is None:
                self._meters.bytes_received += len(message)
            if chunk_bytes is not None and len(message) - chunk_bytes <= LONG_REQUEST_BYTES:
                sized = REQUESTS.split_sized(message, chunk_bytes)
                if sized is not None:
                    return sized
            if len(message) > LONG_REQUEST_BYTES:
                parsed: tuple[pb.StepStreamRequest, Chunk | None] = await parse_framed(
                    message, REQUESTS.split, self._max_tensors
                )
                return parsed
            return REQUESTS.split(message)
        except (DecodeError, ValueError) as error:
            raise DomainError(Reason.MALFORMED_MESSAGE, UNREADABLE) from error

    def close(self) -> None:
        """Ends the data connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
        if self._socket is not None:
            self._data.close_gracefully(self._socket)
        elif self._offer is not None:
            self._data.withdraw_ticket(self._offer.ticket)

    async def _write_to_call(self, pieces: Sequence[Any]) -> None:
        message = b"".join(pieces)
        self._meters.bytes_sent += len(message)
        await self._context.write(message)

    def _make_offer(self) -> pb.StepStreamResponse:
        offer = pb.DataConnectionOffer()
        if self._offer is None and self._context.peer().startswith(("ipv4:", "ipv6:")):
            self._offer = self._data.make_offer()
        if self._offer is not None:
            offer.port, offer.ticket, offer.server_port = self._offer
            offer.claim_within.seconds = int(CLAIM_TIMEOUT_S)
        return pb.StepStreamResponse(data_connection=offer)


def _stream_protocol_error(text: str, field: str) -> DomainError:
    return DomainError(Reason.STREAM_PROTOCOL, text, field=field)
