"""A socket that takes connections, each served by a task of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from optserve_server.resources.descriptors import DescriptorReserve
from optserve_server.rpc.transport.accept_filter import peer_network

_log = logging.getLogger(__name__)

Work = Coroutine[Any, Any, None]


class AcceptLoop:
    """Takes connections until it is closed.

    Args:
        serve: what is done with one; it closes it.
        trouble: what the log says where one cannot be taken.
        most: how many may be served at once; None for any number. Others are closed.
        most_of_peer: the same of one peer.
        reserve: descriptors for connections when the process has no others left; None for none.
    """

    def __init__(
        self,
        serve: Callable[[socket.socket], Work],
        trouble: str,
        most: int | None = None,
        most_of_peer: int | None = None,
        reserve: DescriptorReserve | None = None,
    ) -> None:
        self._reserve = reserve
        self._serve, self._trouble = serve, trouble
        self._most, self._most_of_peer = most, most_of_peer
        self._of_peers: Counter[bytes] = Counter()
        self._served: set[asyncio.Task[None]] = set()
        self._others: set[asyncio.Task[None]] = set()

    def start_accepting(self, listener: socket.socket) -> None:
        """Begins to take connections at a socket, which is closed together with the accept loop."""
        listener.setblocking(False)
        self.start_task(self._accept_connections(listener))

    def start_task(self, work: Work) -> None:
        """Runs other work, which is cancelled when the accept loop is closed."""
        _start_task(work, self._others)

    async def close(self) -> None:
        """Takes no more connections, and serves none any longer."""
        tasks = [*self._others, *self._served]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept_connections(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    connection, address = await asyncio.get_running_loop().sock_accept(listener)
                except OSError as error:  # no descriptors are left, for example
                    if self._reserve is not None and self._reserve.give_up_one():
                        continue
                    _log.warning("%s: %s", self._trouble, error)
                    await asyncio.sleep(0.1)
                    continue
                peer = peer_network(address[0]) if isinstance(address, tuple) else b""
                if self._has_room_for(peer):
                    self._of_peers[peer] += 1
                    task = _start_task(self._serve(connection), self._served)
                    task.add_done_callback(partial(self._release, peer))
                else:
                    connection.close()
                await asyncio.sleep(0)  # where many wait to be taken, nothing above does

    def _has_room_for(self, peer: bytes) -> bool:
        if self._most is not None and len(self._served) >= self._most:
            return False
        return self._most_of_peer is None or self._of_peers[peer] < self._most_of_peer

    def _release(self, peer: bytes, _: asyncio.Task[None]) -> None:
        if self._reserve is not None:
            self._reserve.refill()
        self._of_peers[peer] -= 1
        if not self._of_peers[peer]:
            del self._of_peers[peer]


def _start_task(work: Work, tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task
