"""File descriptors of this process: how many are open, and which are sockets of a TCP port."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class DescriptorCount:
    """Open descriptors.

    Attributes:
        total: all of them.
        limit: RLIMIT_NOFILE.
        connections: connections that clients made to a port of this process.
    """

    total: int
    limit: int
    connections: int


@dataclass(frozen=True)
class AcceptedConnection:
    """A connection that was accepted at a TCP port.

    Attributes:
        descriptor: its descriptor, which may be closed at any time.
        peer: address and port of the client.
    """

    descriptor: int
    peer: tuple[str, int]


def count_descriptors(port: int) -> DescriptorCount:
    """Counts open descriptors, and connections accepted at a TCP port.

    gRPC does not say how many connections it has; the kernel does. Takes some microseconds for each
    descriptor.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return DescriptorCount(count_open_descriptors(), limit, len(list_accepted(port)))


def count_open_descriptors() -> int:
    """How many descriptors are open."""
    return len(os.listdir("/proc/self/fd"))


def list_accepted(port: int) -> list[AcceptedConnection]:
    """Connections that were accepted at a TCP port, in the order of their descriptors."""
    found = []
    for descriptor, unowned in _iterate_sockets(port):
        with contextlib.suppress(OSError):  # it listens, or its peer has gone
            found.append(AcceptedConnection(descriptor, unowned.getpeername()[:2]))
    return found


def duplicate_listeners(port: int) -> list[socket.socket]:
    """Duplicates of the sockets that listen at a TCP port, to set their options."""
    return [
        # `socket.dup` would make it block, which concerns its owner.
        socket.socket(fileno=os.dup(descriptor))
        for descriptor, unowned in _iterate_sockets(port)
        if unowned.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ]


def shut_down(connection: AcceptedConnection) -> bool:
    """Ends a connection whose descriptor another library owns, which then closes it; whether it was there."""
    # The duplicate stays the same connection between the check and the end.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.descriptor)) as own:
        if own.getpeername()[:2] == connection.peer:
            own.shutdown(socket.SHUT_RDWR)
            return True
    return False


def _iterate_sockets(port: int) -> Iterator[tuple[int, socket.socket]]:
    """Open sockets that are bound to a TCP port; each is usable until the next is asked for."""
    for name in os.listdir("/proc/self/fd"):
        try:
            unowned = socket.socket(fileno=int(name))
        except OSError:  # it is no socket, or was closed meanwhile
            continue
        try:
            bound = unowned.getsockname()
            is_tcp = unowned.family in (socket.AF_INET, socket.AF_INET6)
            if is_tcp and unowned.type == socket.SOCK_STREAM and bound[1] == port:
                yield int(name), unowned
        except OSError:
            continue
        finally:
            unowned.detach()
