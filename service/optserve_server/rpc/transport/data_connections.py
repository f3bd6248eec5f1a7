"""Data connections: the port, and tickets that are valid for one connection each."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from typing import NamedTuple

from optserve_server.errors import DomainError, Reason
from optserve_server.rpc.transport.accept_loop import AcceptLoop

GREETING = b"optserve data 1\n"
"""What a client says first, before its ticket."""

ACCEPTED = b"\1"
"""What the server answers where the ticket is good."""

TICKET_BYTES = 32
CLAIM_TIMEOUT_S = 10.0
"""How long a ticket is good, and how long a connection may take to show one."""

MAX_UNAUTHENTICATED_CONNECTIONS = 256
"""How many connections may be without a ticket at once."""

MAX_UNAUTHENTICATED_OF_PEER = 128
"""The same of one peer."""

LINGER_SECONDS = 60.0
"""How long a client that is still sending may take to notice that its stream has ended."""

SILENT_SECONDS = 5.0
"""The same of one that sends nothing."""

_SILENCE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 3))
"""After how many seconds of silence the system asks whether the client is there, how often, and
how many times."""


class Offer(NamedTuple):
    """An invitation to make a data connection.

    Attributes:
        port: TCP port.
        ticket: what to say there.
        server_port: where the server listens to calls.
    """

    port: int
    ticket: bytes
    server_port: int


class DataConnections:
    """Accepts data connections, each for the call whose ticket it shows.

    Args:
        max_connections: connections of streams beyond which no more are offered; 0 for no limit.

    Attributes:
        count: connections of streams.
    """

    def __init__(self, max_connections: int = 0) -> None:
        self.count = 0
        self._max_connections = max_connections
        self._port = self._server_port = 0
        self._claims: dict[bytes, asyncio.Future[socket.socket]] = {}
        self._accept_loop = AcceptLoop(
            self._match_ticket,
            "a client could not make its data connection",
            MAX_UNAUTHENTICATED_CONNECTIONS,
            MAX_UNAUTHENTICATED_OF_PEER,
        )

    @property
    def is_listening(self) -> bool:
        """Whether clients can make data connections."""
        return self._port > 0

    def start(self, host: str, port: int, server_port: int) -> None:
        """Listens.

        Args:
            host: address or name.
            port: 0 for a free one.
            server_port: where the server listens to calls.

        Raises:
            OSError: the address cannot be bound.
        """
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        listener = socket.create_server(address[:2], family=family, dualstack_ipv6=both)
        self._port, self._server_port = listener.getsockname()[1], server_port
        self._accept_loop.start_accepting(listener)

    async def stop(self) -> None:
        """Closes the port, and every connection that no stream uses."""
        self._port = 0
        await self._accept_loop.close()

    def make_offer(self) -> Offer | None:
        """A new offer, good for some seconds; None if the server takes no data connections, or no more."""
        if not self._port or 0 < self._max_connections <= self.count + len(self._claims):
            return None
        ticket = secrets.token_bytes(TICKET_BYTES)
        loop = asyncio.get_running_loop()
        self._claims[ticket] = loop.create_future()
        loop.call_later(CLAIM_TIMEOUT_S, self.withdraw_ticket, ticket)
        return Offer(self._port, ticket, self._server_port)

    def withdraw_ticket(self, ticket: bytes) -> None:
        """Makes a ticket worthless, and closes the connection of one that showed it."""
        claim = self._claims.pop(ticket, None)
        if claim is not None and not claim.cancel():
            claim.result().close()

    async def claim_connection(self, ticket: bytes) -> socket.socket:
        """Returns the connection that showed a ticket; its owner passes it to `close_gracefully`.

        Raises:
            DomainError: STREAM_PROTOCOL if there is none.
        """
        claim = self._claims.get(ticket)
        if claim is not None:
            await asyncio.wait((claim,))
        if self._claims.pop(ticket, None) is None:  # never offered, or withdrawn meanwhile
            raise DomainError(
                Reason.STREAM_PROTOCOL,
                "no data connection has shown this ticket in time",
                field="data_connection.ticket",
            )
        assert claim is not None
        self.count += 1
        return claim.result()

    def close_gracefully(self, connection: socket.socket) -> None:
        """Says that nothing more comes, and closes a connection once its client has heard that."""
        self._accept_loop.start_task(self._half_close_and_drain(connection))

    async def _match_ticket(self, connection: socket.socket) -> None:
        """Hands a connection to the call whose ticket it shows, or closes it without a word."""
        accepted = False
        try:
            _set_socket_options(connection)
            ticket = await asyncio.wait_for(_read_ticket(connection), CLAIM_TIMEOUT_S)
            claim = self._claims.get(ticket)
            if claim is not None and not claim.done():
                connection.send(ACCEPTED)
                claim.set_result(connection)
                accepted = True
        except (OSError, TimeoutError):
            pass
        finally:
            if not accepted:
                connection.close()

    async def _half_close_and_drain(self, connection: socket.socket) -> None:
        # To close it while bytes wait to be read would take back answers that are on their way.
        try:
            with connection, contextlib.suppress(OSError, TimeoutError):
                connection.shutdown(socket.SHUT_WR)
                await asyncio.wait_for(_discard_received(connection), LINGER_SECONDS)
        finally:
            self.count -= 1


def _set_socket_options(connection: socket.socket) -> None:
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _SILENCE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


async def _read_ticket(connection: socket.socket) -> bytes:
    """What a client shows.

    Raises:
        OSError: it is none of ours.
    """
    said = b""
    while len(said) < len(GREETING) + TICKET_BYTES:
        left = len(GREETING) + TICKET_BYTES - len(said)
        part = await asyncio.get_running_loop().sock_recv(connection, left)
        said += part
        if not part or not said.startswith(GREETING[: len(said)]):
            raise ConnectionAbortedError("this is no client of a data connection")
    return said[len(GREETING) :]


async def _discard_received(connection: socket.socket) -> None:
    loop, place = asyncio.get_running_loop(), bytearray(1 << 16)
    while await asyncio.wait_for(loop.sock_recv_into(connection, place), SILENT_SECONDS):
        await asyncio.sleep(0)  # one that sends fast would let no other task run
