"""File descriptors of this process: how many are open, and which are connections of a listener."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
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


def count_descriptors(port: int) -> DescriptorCount:
    """Counts open descriptors, and connections accepted at a TCP port.

    gRPC does not say how many connections it has; the kernel does. Takes some microseconds for each
    descriptor.
    """
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    accepted = sum(_is_accepted_at(number, port) for number in numbers)
    return DescriptorCount(len(numbers), resource.getrlimit(resource.RLIMIT_NOFILE)[0], accepted)


def _is_accepted_at(descriptor: int, port: int) -> bool:
    """Whether a descriptor is a connection that was accepted at a TCP port."""
    with contextlib.suppress(OSError):  # it is no socket, has no peer, or was closed meanwhile
        unowned = socket.socket(fileno=descriptor)
        try:
            name = unowned.getsockname()
            return isinstance(name, tuple) and name[1] == port and bool(unowned.getpeername())
        finally:
            unowned.detach()
    return False
