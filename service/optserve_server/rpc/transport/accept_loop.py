"""A socket that takes connections, each served by a task of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

_log = logging.getLogger(__name__)

Work = Coroutine[Any, Any, None]


class AcceptLoop:
    """Takes connections until it is closed.

    Args:
        serve: what is done with one; it closes it.
        trouble: what the log says where one cannot be taken.
        most: how many may be served at once; None for any number. Others are closed.
    """

    def __init__(self, serve: Callable[[socket.socket], Work], trouble: str, most: int | None = None) -> None:
        self._serve, self._trouble, self._most = serve, trouble, most
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
                    connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                except OSError as error:  # no descriptors are left, for example
                    _log.warning("%s: %s", self._trouble, error)
                    await asyncio.sleep(0.1)
                    continue
                if self._most is None or len(self._served) < self._most:
                    _start_task(self._serve(connection), self._served)
                else:
                    connection.close()
                await asyncio.sleep(0)  # where many wait to be taken, nothing above does


def _start_task(work: Work, tasks: set[asyncio.Task[None]]) -> None:
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
