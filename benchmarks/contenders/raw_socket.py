"""Bytes alone over a plain TCP connection of two Python processes, received where they belong.

``python -m benchmarks.contenders.raw_socket N [serve]``
"""

from __future__ import annotations

import socket
import sys

import numpy as np

from benchmarks.contenders.server import serving
from benchmarks.contenders.worker import Parameters, serve


def receive(connection: socket.socket, view: memoryview) -> bool:
    """Fills the view; False if the other side has closed the connection."""
    filled = 0
    while filled < len(view):
        count = connection.recv_into(view[filled:])
        if not count:
            return False
        filled += count
    return True


def answer(byte_count: int) -> None:
    """The server: one client, every exchange into the same buffer."""
    view = memoryview(bytearray(byte_count))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while receive(connection, view):
                connection.sendall(view)


def main() -> None:
    """The client, or the server."""
    n = int(sys.argv[1])
    if len(sys.argv) > 2:
        answer(4 * n)
        return
    values = np.empty(n, np.float32)
    with (
        serving("raw_socket", n, "serve") as port,
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def step(gradient: Parameters) -> Parameters:
            connection.sendall(gradient.view(np.uint8).data)
            receive(connection, values.view(np.uint8).data)
            return values

        serve(step, n)


if __name__ == "__main__":
    main()
