"""Control socket of a server: requests of the operator on the server's host."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import socket

from optserve_server.durability.backup_source import BackupSource
from optserve_server.durability.durability_manager import DurabilityManager
from optserve_server.errors import DomainError
from optserve_server.rpc.transport.accept_loop import AcceptLoop
from optserve_server.rpc.transport.descriptor_passing import get_peer_user

BEGIN, DONE = b"backup", b"done"
"""What a client sends: to begin a backup, and when its copy is complete."""

REQUEST_TIMEOUT_S = 10.0
"""Seconds within which a client must have sent its request."""

_ROOT = 0
_MAX_REQUEST_BYTES = 64
_MAX_CONNECTIONS = 8
_log = logging.getLogger(__name__)


class ControlSocket:
    """Lets a process on the server's host make a backup, for as long as its connection lasts.

    The socket lies in Linux' abstract namespace under a random name, which is in the file LOCK of the data
    directory: who may read that file may read the sessions as well. The kernel says who the peer is; any
    user but the server's and root is rejected.

    Args:
        durability_manager: has the data directory.
    """

    def __init__(self, durability_manager: DurabilityManager) -> None:
        self._durability_manager = durability_manager
        self._turn = asyncio.Lock()
        self._accept_loop = AcceptLoop(self._serve, "an operator could not connect", _MAX_CONNECTIONS)

    def start(self) -> None:
        """Listens, if the system has such sockets; it is no error if it has not."""
        name = f"optserve-control-{secrets.token_hex(16)}"
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(f"\0{name}")
            listener.listen()
        except (AttributeError, OSError) as error:
            _log.warning("no backups while the server runs: %s", error)
            return
        self._accept_loop.start_accepting(listener)
        self._durability_manager.catalog.announce_socket(name)

    async def stop(self) -> None:
        """Ends what clients have begun."""
        await self._accept_loop.close()

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.setblocking(False)
            if get_peer_user(connection) not in (os.geteuid(), _ROOT):
                _log.warning("another user's process asked for a backup and was turned away")
                return
            try:
                await self._serve_request(connection)
            except (OSError, TimeoutError) as error:
                _log.warning("an operator's connection broke off: %s", error)

    async def _serve_request(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        request = await asyncio.wait_for(loop.sock_recv(connection, _MAX_REQUEST_BYTES), REQUEST_TIMEOUT_S)
        if request != BEGIN:
            await _answer(connection, error="no such request")
        elif self._turn.locked():
            await _answer(connection, error="another backup is being made")
        else:
            async with self._turn:
                await self._make_backup(connection)

    async def _make_backup(self, connection: socket.socket) -> None:
        beginning = asyncio.ensure_future(self._durability_manager.begin_backup())
        try:
            # A shutdown does not leave files behind that nothing knows of.
            source = await asyncio.shield(beginning)
        except asyncio.CancelledError:
            await self._durability_manager.end_backup(await beginning)
            raise
        except (DomainError, OSError) as error:
            text = error.message if isinstance(error, DomainError) else str(error)
            _log.warning("no backup: %s", text)
            await _answer(connection, error=text)
            return
        try:
            await self._wait_for_copy(connection, source)
        finally:
            await self._durability_manager.end_backup(source)

    async def _wait_for_copy(self, connection: socket.socket, source: BackupSource) -> None:
        await _answer(connection, folder=str(source.folder))
        told = await asyncio.get_running_loop().sock_recv(connection, _MAX_REQUEST_BYTES)
        facts = {"moment": source.facts.moment, "sessions": source.facts.sessions}
        if told == DONE:
            _log.info("backup is complete", extra={"facts": facts})
        else:
            _log.warning("backup was not completed", extra={"facts": facts})


async def _answer(connection: socket.socket, **facts: str) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, json.dumps(facts).encode())
