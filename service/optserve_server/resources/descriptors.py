"""File descriptors of this process: how many are open, and which are sockets of a TCP port."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


class DescriptorReserve:
    """Descriptors that are held so that work can go on when the process has no others left. Thread-safe.

    What opens a file calls `open_file`, which gives up held descriptors one by one until it succeeds:
    a connection that waits to be accepted may take one. `close_file` takes them back at once.
    """

    def __init__(self) -> None:
        self._count, self._null = 0, -1
        self._held: list[int] = []
        self._lock = threading.Lock()

    def hold(self, count: int) -> None:
        """Holds so many descriptors from now on, and one more.

        Raises:
            OSError: the process has none left.
        """
        self._null, self._count = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), count
        self.refill()

    def open_file(self, open_: Callable[[], T]) -> T:
        """Returns what ``open_`` returns, and gives it descriptors if it fails because none is left.

        Raises:
            OSError: what ``open_`` raises, if nothing is left to be given up.
        """
        self.refill()
        while True:
            try:
                return open_()
            except OSError as error:
                if error.errno != errno.EMFILE or not self.give_up_one():
                    raise

    def run(self, work: Callable[[], T]) -> T:
        """Returns what ``work`` returns, which opens files and closes them again; it may be begun repeatedly.

        Raises:
            OSError: as of `open_file`.
        """
        try:
            return self.open_file(work)
        finally:
            self.refill()

    def close_file(self, descriptor: int) -> None:
        """Closes a file; its descriptor is held if there are too few, so that nothing else takes it."""
        with self._lock:
            if len(self._held) < self._count:
                os.dup2(self._null, descriptor, inheritable=False)
                self._held.append(descriptor)
            else:
                os.close(descriptor)

    def give_up_one(self) -> bool:
        """Closes a held descriptor; returns whether there was one."""
        with self._lock:
            if not self._held:
                return False
            os.close(self._held.pop())
            return True

    def refill(self) -> None:
        """Holds as many as there are to be, if the process has so many left."""
        if len(self._held) == self._count:
            return
        with self._lock, contextlib.suppress(OSError):
            while len(self._held) < self._count:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


STORAGE_RESERVE, OPERATIONS_RESERVE = DescriptorReserve(), DescriptorReserve()
"""What the journal and snapshots open, and what the port for operators does."""


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
    return len(_list_descriptors())


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
    for name in _list_descriptors():
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


def _list_descriptors() -> list[str]:
    return OPERATIONS_RESERVE.run(lambda: os.listdir("/proc/self/fd"))
