"""Our server, with a thread that reports how much of its memory is in use.

Resident memory alone says little about growth: the C library keeps what was freed, and how much
that is depends on how many messages have ever been under way at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client, Listener
from pathlib import Path

from optserve_server.__main__ import main
from optserve_server.resources.memory import resident_bytes
from tests.support.server import RunningServer, running_server

ADDRESS = "PROBE_ADDRESS"
"""Variable with the unix socket that is to be answered on."""


class _Mallinfo(ctypes.Structure):
    """What mallinfo2(3) of glibc 2.33 and later returns."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def measure_resident_bytes() -> int:
    """Resident bytes of this process, but for what lies free in the C library's heap."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo
    return resident_bytes() - int(mallinfo2().fordblks)


@contextlib.contextmanager
def run_probed_server(backend: str) -> Iterator[tuple[RunningServer, Callable[[], int]]]:
    """A server, and a function that asks it for `measure_resident_bytes`, until the block ends."""
    with contextlib.ExitStack() as stack:
        address = str(Path(stack.enter_context(tempfile.TemporaryDirectory()), "probe"))
        variables = {ADDRESS: address}
        server = stack.enter_context(running_server(backend, module=__name__, variables=variables))
        connection = stack.enter_context(Client(address, "AF_UNIX"))

        def ask() -> int:
            connection.send_bytes(b"?")
            return int(connection.recv_bytes())

        yield server, ask


def _answer(listener: Listener) -> None:
    with listener.accept() as connection, contextlib.suppress(EOFError):
        while connection.recv_bytes():
            connection.send_bytes(str(measure_resident_bytes()).encode())


if __name__ == "__main__":
    with Listener(os.environ[ADDRESS], "AF_UNIX") as listening:
        threading.Thread(target=_answer, args=(listening,), daemon=True).start()
        sys.exit(main())
