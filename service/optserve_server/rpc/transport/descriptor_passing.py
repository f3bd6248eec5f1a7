"""Passing of descriptors of shared memory to clients on this host, over a unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import struct

from optserve_server.rpc.transport.accept_loop import AcceptLoop
from optserve_server.shared_memory.regions import NAME_BYTES, Region, Regions

CLAIM_TIMEOUT_S = 10.0
"""How long a region waits to be fetched."""

_PEER = struct.Struct("3i")
"""What SO_PEERCRED gives: process, user and group."""

_log = logging.getLogger(__name__)


class DescriptorPassing:
    """Hands descriptors over a unix socket, and drops a region when its client is gone.

    The socket lies in Linux' abstract namespace: no file remains of it, and it is reached from
    the same network namespace alone, which is what a client on loopback shares with the
    server, in containers too. The kernel says who the peer is. A connection stands for its
    region: the kernel ends it when the client ends, however that may be.

    Args:
        regions: what there is to fetch.

    Attributes:
        name: of the socket, without its leading zero byte; empty if there is none.
    """

    def __init__(self, regions: Regions) -> None:
        self.name = ""
        self._regions = regions
        self._accept_loop = AcceptLoop(
            self._serve_claim, "a client could not fetch its memory", regions.max_descriptors
        )

    def start(self) -> None:
        """Listens, where the system has such sockets; it is no error if it has not."""
        name = f"optserve-{secrets.token_hex(16)}"
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except (AttributeError, OSError) as error:
            _log.warning("no memory is shared with clients: %s", error)
            return
        try:
            listener.bind(f"\0{name}")
            listener.listen()
        except OSError as error:
            _log.warning("no memory is shared with clients: %s", error)
            listener.close()
            return
        self.name = name
        self._accept_loop.start_accepting(listener)

    async def stop(self) -> None:
        """Ends every connection, and so drops every region."""
        self.name = ""
        await self._accept_loop.close()
        self._regions.drop_all()

    def schedule_expiry(self, region: Region) -> None:
        """Drops a region that is not fetched in time."""
        timer = asyncio.get_running_loop().call_later(CLAIM_TIMEOUT_S, self._drop_unclaimed, region)
        region.on_drop[timer] = timer.cancel

    def _drop_unclaimed(self, region: Region) -> None:
        if not region.claimed:
            self._regions.drop(region)

    async def _serve_claim(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, TimeoutError):
            connection.setblocking(False)
            if not is_same_user(connection):
                _log.warning("another user's process asked for shared memory and was turned away")
                return
            loop = asyncio.get_running_loop()
            told = await asyncio.wait_for(loop.sock_recv(connection, 4 * NAME_BYTES), CLAIM_TIMEOUT_S)
            region = self._regions.claim(told.decode("ascii", "replace"))
            if region is not None:
                await self._send_descriptors(region, connection)

    async def _send_descriptors(self, region: Region, connection: socket.socket) -> None:
        """Stays until the client ends the connection, or the region is dropped."""

        def end() -> None:
            # Cancelling would do as well, but an exception keeps what its frames know.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

        region.on_drop[end] = end
        try:
            socket.send_fds(connection, [b"\1"], region.descriptors())
            region.close_descriptors()
            await asyncio.get_running_loop().sock_recv(connection, 1)
        finally:
            self._regions.drop(region)


def is_same_user(connection: socket.socket) -> bool:
    """Whether the process at the other end of a unix socket runs as this one's user."""
    return get_peer_user(connection) == os.geteuid()


def get_peer_user(connection: socket.socket) -> int:
    """The user of the process at the other end of a unix socket."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(told)[1])
