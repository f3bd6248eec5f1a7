"""Bytes alone over a plain TCP connection of two Python processes.

``python -m benchmarks.contenders.raw_socket N messages|whole [serve]``: in messages
of 1 MiB, each with its length before it, received as `bytes` and put into its place, which
is what a stream of chunks does; or whole, received where it belongs, which is the limit.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable

import numpy as np

from benchmarks.contenders.server import serving
from benchmarks.contenders.worker import Parameters, serve

CHUNK_BYTES = 1 << 20
LENGTH = struct.Struct("<Q")

Send = Callable[[socket.socket, memoryview], None]
Receive = Callable[[socket.socket, memoryview], bool]


def send_whole(connection: socket.socket, view: memoryview) -> None:
    """All bytes."""
    connection.sendall(view)


def receive_whole(connection: socket.socket, view: memoryview) -> bool:
    """Fills the view; False if the other side has left."""
    filled = 0
    while filled < len(view):
        count = connection.recv_into(view[filled:])
        if not count:
            return False
        filled += count
    return True


def send_messages(connection: socket.socket, view: memoryview) -> None:
    """All bytes, message by message."""
    for start in range(0, len(view), CHUNK_BYTES):
        chunk = view[start : start + CHUNK_BYTES]
        connection.sendmsg([LENGTH.pack(len(chunk))], [], socket.MSG_MORE)
        connection.sendall(chunk)


def receive_messages(connection: socket.socket, view: memoryview) -> bool:
    """Fills the view from messages; False if the other side has left."""
    filled = 0
    while filled < len(view):
        header = connection.recv(LENGTH.size, socket.MSG_WAITALL)
        if not header:
            return False
        message = connection.recv(LENGTH.unpack(header)[0], socket.MSG_WAITALL)
        view[filled : filled + len(message)] = message
        filled += len(message)
    return True


WAYS: dict[str, tuple[Send, Receive]] = {
    "messages": (send_messages, receive_messages),
    "whole": (send_whole, receive_whole),
}


def answer(byte_count: int, send: Send, receive: Receive) -> None:
    """The server: one client, every exchange into the same buffer."""
    view = memoryview(bytearray(byte_count))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while receive(connection, view):
                send(connection, view)


def main() -> None:
    """The client, or the server."""
    n, way = int(sys.argv[1]), sys.argv[2]
    send, receive = WAYS[way]
    if len(sys.argv) > 3:
        answer(4 * n, send, receive)
        return
    values = np.empty(n, np.float32)
    view = values.view(np.uint8).data
    with serving("raw_socket", n, way, "serve") as port, connect(port) as connection:

        def step(gradient: Parameters) -> Parameters:
            send(connection, gradient.view(np.uint8).data)
            receive(connection, view)
            return values

        serve(step, n)


def connect(port: int) -> socket.socket:
    """A connection to the server."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


if __name__ == "__main__":
    main()
